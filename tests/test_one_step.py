"""Runs with T = 1, and fewer steps than inputs have: what is said of a run is what it was trained for."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import TINY
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.training.networks import check_network

WORDS = ["--model.width=2", "--optimizer.epochs=1", "--timesteps=1", "--precision=fp32", "--compile=off"]
PLAIN = ["--data.augmentation.crop=0", "--data.augmentation.flip=false"]


def test_frames_with_one_step_are_trained_and_scored(tmp_path):
    pairs = [(torch.rand(1, 2, 16, 16), k % 3) for k in range(12)]
    frames = sd.samples_of(pairs, "abc", over_time=True)
    recipe = sd.load_recipe("fashion-small", [*WORDS, "--optimizer.batch_size=4", *PLAIN])
    sd.train(recipe, tmp_path / "run", data=sd.Splits(frames, None, frames))
    assert list(json.loads((tmp_path / "run/result.json").read_text())["test_accuracy"]) == ["1"]


def test_spikes_of_a_run_are_those_of_its_own_steps(tmp_path):
    recipe = sd.load_recipe("fashion-small", [*TINY[:4], *WORDS[1:]])
    sd.train(recipe, tmp_path / "run")
    result = json.loads((tmp_path / "run/result.json").read_text())
    trained = sd.load(tmp_path / "run")
    found = trained.evaluate(sd.data.load(recipe.data, 1).test, 1)
    assert list(result["test_accuracy"]) == ["1"]
    assert result["spikes_per_sample"] == pytest.approx(found.spikes_per_sample)
    assert result["firing_rates"] == pytest.approx(found.firing_rates)


def test_of_frames_fewer_steps_can_be_asked_for():
    network = sd.create_model("resnet18", 3, width=2, in_channels=2)
    frames, labels = 20 * torch.rand(4, 5, 2, 8, 8), torch.arange(5) % 3
    some = sd.evaluate(network, [(frames, labels)], [1, 2])
    first = sd.evaluate(network, [(frames[:2], labels)], [1, 2])
    assert some.score == first.score
    assert some.firing_rates == first.firing_rates
    whole = sd.evaluate(network, [(frames, labels)], [2, 4])
    assert whole.score[2] == some.score[2]
    assert whole.firing_rates != some.firing_rates


# ---------------------------------------------------------------- networks that would train and never be finished


class AnotherWay(nn.Module):
    """Of a signal the rate, which is a plain tensor from there on."""

    def __init__(self):
        super().__init__()
        self.first, self.neuron, self.last = nn.Linear(4, 4), sd.LIF(sd.Neuron()), nn.Linear(4, 2)

    def forward(self, x):
        x = self.neuron(self.first(x))
        return self.last(x.rate if hasattr(x, "rate") else x)


class Remembers(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


def test_a_network_that_cannot_be_evaluated_on_spikes_is_refused_before_training():
    network = sd.Network(AnotherWay())
    with pytest.raises(sd.SpikedistillError, match="plain tensor"):
        check_network(network, torch.zeros(1, 4), 2, spikes=True)
    check_network(network, torch.zeros(1, 4), 2, spikes=False)


def test_what_no_file_of_weights_holds_is_refused_before_training():
    network = sd.Network(nn.Sequential(nn.Linear(4, 4), sd.LIF(sd.Neuron()), Remembers(4, 2)))
    with pytest.raises(ValueError, match="the network keeps body.2._extra_state, which are no tensors"):
        check_network(network, torch.zeros(1, 4), 2, spikes=True)


def test_shared_batch_norm_becomes_that_of_a_process():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SyncBatchNorm(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    model[1].running_mean.fill_(0.5)
    network = sd.to_spiking(model, stages=())
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    assert any("SyncBatchNorm became batch norm of each process" in note for note in network.notes)
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network.eval()(images, timesteps=None).logits, model(images))
    assert network(images, timesteps=2).logits.shape == (3, 2)


# ---------------------------------------------------------------- what a network does to its input


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.neuron, self.last = nn.Linear(4, 4), sd.LIF(sd.Neuron()), nn.Linear(4, 2)

    def forward(self, x):
        x -= 1.0
        return self.last(self.neuron(self.first(x)))


@pytest.mark.parametrize("rule", [sd.ANN(), sd.Rate(2), sd.BPTT(2)], ids=lambda rule: type(rule).__name__)
def test_a_network_does_not_change_the_batch(rule):
    learner, images = sd.SelfDistillation(sd.Network(InPlace()), rule, branches=()), torch.ones(3, 4)
    learner(images)
    assert images.eq(1).all()


class Named(nn.Module):
    def forward(self, x):
        x = x.transpose(dim0=1, dim1=2).permute(dims=(0, 2, 1))
        first, second = x.split(split_size=2, dim=1)
        return first + second


class Writes(nn.Module):
    def forward(self, x):
        x[:, :2] = 0
        return x


def test_tensors_own_names_of_arguments_and_a_clear_word_about_writing():
    x = torch.randn(2, 4, 3)
    network = sd.Network(Named(), sample_dims=2)
    torch.testing.assert_close(network(x, timesteps=2).logits, x[:, :2] + x[:, 2:])
    with pytest.raises(sd.SpikedistillError, match=r"a signal cannot be written into, at .*test_one_step.py"):
        sd.Network(Writes(), sample_dims=2)(x, timesteps=2)


def test_predict_repairs_a_recording_as_training_did(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("spikedistill.training.trained.Trained.load", lambda folder, trust: Asked(seen))
    assert main(["predict", str(tmp_path), "a.aedat", "--data.events.repair", "true"]) == 0
    assert main(["predict", str(tmp_path), "a.dat", "--data.scenes.repair", "true"]) == 0
    assert main(["predict", str(tmp_path), "a.dat"]) == 0
    assert seen == [True, True, False]


class Asked:
    """A trained network that only notes what it was asked for."""

    precision, timesteps = "fp32", 2

    def __init__(self, seen):
        self.seen = seen

    def prepared(self, file, repair):
        self.seen.append(repair)

    def said(self, inputs, precision):
        return "cat", []
