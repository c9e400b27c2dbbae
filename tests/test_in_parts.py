"""Spike paths in parts of the batch: the same numbers, with nothing of size T·N but spikes of 8 bits."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import spikedistill as sd
from spikedistill.core.kernels import EAGER, FUSED, EightBit, InParts, Kernels, Term, in_parts
from spikedistill.machine.compiler import missing_compiler
from spikedistill.training import prepared as prepared_room
from spikedistill.training.recipe_files import load_recipe

KINDS = {"resnet18": 16, "resnet19": 16, "preact_resnet18": 16, "ms_resnet18": 16, "vgg11": 16, "speednet": 16}


def learned(network, kernels, images, labels, timesteps=3, autocast=None):
    """Logits, gradients and batch norm's statistics of one step."""
    torch.manual_seed(1)  # of the branches
    learner = sd.SelfDistillation(copy.deepcopy(network), sd.Rate(timesteps), kernels=kernels).to(images.dtype)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        output = learner(images)
        learner.loss(output, labels).total.backward()
    norms = [b for b in learner.buffers() if b.is_floating_point()]
    return [output.logits.detach(), *(p.grad for p in learner.parameters()), *norms]


@pytest.mark.parametrize("parts", [2, 3, 64])
@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_that_of_the_whole_batch(name, parts):
    torch.manual_seed(0)
    network = sd.create_model(name, 5, width=KINDS[name], neuron=sd.Neuron(threshold=0.3)).double()
    images, labels = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.arange(5)
    expected = learned(network, EAGER, images, labels)
    found = learned(network, in_parts(EAGER, parts), images, labels)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["spikformer", "qkformer", "spike_driven_transformer"])
def test_transformers_too(name):
    torch.manual_seed(0)
    network = sd.create_model(name, 5, dim=32, neuron=sd.Neuron(threshold=0.3)).double()
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.arange(4)
    expected = learned(network, EAGER, images, labels, 2)
    for a, b in zip(expected, learned(network, in_parts(EAGER, 2), images, labels, 2), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


NO_COMPILER = pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="no compiler")


@pytest.mark.parametrize("kernels", [EAGER, pytest.param(FUSED, marks=[NO_COMPILER, pytest.mark.whole])])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_kernels_that_are_chosen_compute_the_parts(kernels, batch):
    """In float32, for a neuron at its threshold would fire or not by the rounding of batch norm's moments."""
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 5, width=16, neuron=sd.Neuron(threshold=0.3))
    images, labels = torch.randn(batch, 3, 16, 16), torch.arange(batch)
    changed = in_parts(kernels, 2)
    assert isinstance(changed, type(kernels))
    expected, found = (learned(network, each, images, labels) for each in (kernels, changed))
    differences = [(a - b).norm() / (a.norm() + 1e-6) for a, b in zip(expected, found, strict=True)]
    assert max(differences[:1]) < 0.05
    assert sum(differences) / len(differences) < 0.05


def test_spikes_are_of_8_bits_and_nothing_else_has_the_size_of_all_steps():
    weight, values = torch.randn(24, 16, 3, 3), (torch.rand(8 * 6, 16, 9, 9) < 0.2).to(torch.uint8)
    values = values.contiguous(memory_format=torch.channels_last)
    kernels = InParts(3)
    out = kernels.weighted(torch.conv2d, values, weight, None, {"padding": 1}, 8)
    assert not isinstance(out.path, torch.Tensor)
    assert out.path.part(2, 4).shape == (16, 24, 9, 9)
    whole = torch.conv2d(values.float(), weight, padding=1)
    torch.testing.assert_close(Term(out.path, out.mean).values, whole)
    torch.testing.assert_close(out.mean, whole.unflatten(0, (8, 6)).mean(0), atol=1e-5, rtol=1e-5)
    assert out.moments is not None
    over = (0, 2, 3)
    torch.testing.assert_close(out.moments[0], whole.mean(over), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.moments[1], whole.var(over, correction=0), atol=1e-4, rtol=1e-4)
    found = kernels.rate_response((Term(out.path, out.mean),), 8, 8, sd.Neuron())
    assert found.spikes.dtype == torch.uint8
    assert found.spikes.is_contiguous(memory_format=torch.channels_last)
    plain = EAGER.rate_response((Term(whole, out.mean),), 8, 8, sd.Neuron())
    assert (found.spikes != plain.spikes).float().mean() < 1e-3


def test_moments_of_currents_far_from_0_keep_their_variance():
    values = torch.randn(4 * 6, 3, 5, 5) + 1e4
    identity = torch.eye(3).view(3, 3, 1, 1)
    out = InParts(4).weighted(torch.conv2d, values, identity, None, {}, 4)
    assert out.moments is not None
    torch.testing.assert_close(out.moments[1], values.var((0, 2, 3), correction=0), rtol=1e-2, atol=1e-2)


@pytest.mark.whole
@pytest.mark.parametrize("autocast", [None, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_memory_hardly_grows_with_the_steps(monkeypatch, autocast):
    """Aim: at T = 8 at most 1.3 times that at T = 2."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    from step_memory import alive_at_peak, step_of

    def peak(kernels: Kernels, timesteps: int) -> int:
        step = step_of(kernels, timesteps, (), 8, 16, autocast or torch.float32)
        step()
        return alive_at_peak(step)

    kernels = in_parts(EAGER, 16)
    long = peak(kernels, 8)
    assert long <= 1.3 * peak(kernels, 2)
    assert long <= 0.6 * peak(EAGER, 8)


def test_a_run_says_so_and_refuses_what_has_no_effect(tmp_path, capsys):
    words = ["--optimizer.epochs", "1", "--timesteps", "2", "--data.train_rows", "200", "--data.validation_rows", "0"]
    words += ["--data.test_rows", "20", "--device", "cpu", "--parts", "3"]
    sd.train(load_recipe("fashion-small", words), tmp_path / "run")
    assert "; in 3 parts of the batch" in "".join(capsys.readouterr())
    for rule in ("bptt", "rate_twin"):
        with pytest.raises(ValueError, match="--parts is for --rule rate, and this is .*; leave it out"):
            sd.train(load_recipe("fashion-small", [*words, "--rule", rule]), tmp_path / rule)
    with pytest.raises(ValueError, match="--parts has no effect on neurons that learn"):
        sd.train(load_recipe("fashion-small", [*words, "--learned.decay", "channel"]), tmp_path / "learned")


def test_the_precision_is_measured_on_a_part(tmp_path, monkeypatch):
    """Because a whole batch may not fit."""
    sizes = []

    def choose(wish, learner, images):
        sizes.append(len(images))
        return "fp32", "fp32"

    monkeypatch.setattr(prepared_room, "choose_precision", choose)
    words = "--optimizer.epochs 1 --optimizer.batch_size 40 --timesteps 2 --data.train_rows 80 "
    words += "--data.validation_rows 0 --data.test_rows 20"
    for parts in ((), ("--parts", "3")):
        sd.train(load_recipe("fashion-small", [*words.split(), *parts]), tmp_path / str(len(parts)))
    assert sizes == [40, 14]


def test_what_is_no_number_of_parts_is_refused():
    for parts in (1, 0, -2):
        with pytest.raises(ValueError, match="expected 2 or more"):
            in_parts(EAGER, parts)
        with pytest.raises(ValueError, match="expected 2 or more"):
            load_recipe("fashion-small", ["--parts", str(parts)])
    with pytest.raises(ValueError, match="InParts in parts"):
        in_parts(InParts(2), 2)


def test_convolutions_of_8_bits_in_parts():
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 5, width=32, neuron=sd.Neuron(threshold=0.2))
    images, labels = 3 * torch.randn(4, 3, 16, 16), torch.arange(4)
    # the sums of 8-bit products are exact, so that no spike flips
    whole, parts = (learned(network, each, images, labels) for each in (EightBit(), in_parts(EightBit(), 2)))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    full = learned(network, EAGER, images, labels)
    assert (full[0] - whole[0]).abs().max() > 0.01  # layers of 8 bits there were
    assert whole[0].std(0).max() > 0.03  # and samples that differ


def test_neurons_that_learn_in_parts():
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 5, width=8, neuron=sd.Neuron(threshold=0.3))
    sd.learn_neurons(network, decay="channel", example=torch.zeros(1, 3, 16, 16))
    network = network.double()
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.arange(4)
    whole, parts = (learned(network, each, images, labels) for each in (EAGER, InParts(2)))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


class Checkpointed(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


@pytest.mark.parametrize("kernels", [EAGER, InParts(2)])
@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3)])
def test_torch_checkpoint_goes_with_every_signal(kernels, rule):
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 5, width=8, neuron=sd.Neuron(threshold=0.3)).double()
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.arange(4)
    found = []
    for wrapped in (False, True):
        learner = sd.SelfDistillation(copy.deepcopy(network), rule, branches=(), kernels=kernels)
        body = learner.network.body
        if wrapped:
            for stage in ("layer1", "layer2", "layer3"):
                setattr(body, stage, Checkpointed(getattr(body, stage)))
        output = learner(images)
        learner.loss(output, labels).total.backward()
        found.append([output.logits.detach(), *(p.grad for p in learner.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)
