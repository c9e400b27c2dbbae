"""Progressive resizing: what is shown in the epochs before spikes, and what cannot be shown smaller."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.training.resizing import refuse_resolutions, resized
from spikedistill.training.step import Step

WORDS = ["--data.train_rows=300", "--data.test_rows=50", "--data.validation_rows=0", "--model.width=2"]
WORDS += ["--optimizer.epochs=3", "--phases.ann=1", "--phases.rate_twin=1"]
NO_BRANCHES = ["--branches.enabled=false", "--objectives.self_distillation.teacher=null"]


def learner_of(network, example, **kwargs):
    return sd.SelfDistillation(network, sd.Rate(2), example=example, **kwargs)


def test_a_share_of_both_sides_with_the_same_mean():
    images = torch.rand(2, 3, 32, 20, dtype=torch.float64)
    small = resized(images, 0.75)
    assert small.shape == (2, 3, 24, 15)
    torch.testing.assert_close(resized(images, 0.5).mean((2, 3)), images.mean((2, 3)), rtol=0.02, atol=0)
    assert resized(images, 1) is images
    # a ramp is a ramp at every size: nothing is shifted
    ramp = (torch.arange(32) + 0.5).expand(1, 1, 32, 32) / 32
    torch.testing.assert_close(resized(ramp, 0.5)[0, 0, 0, 1:-1], ((torch.arange(16) + 0.5) / 16)[1:-1])


def test_frames_are_resized_each_on_its_own():
    frames = torch.rand(4, 2, 3, 16, 16)
    small = resized(frames, 0.5)
    assert small.shape == (4, 2, 3, 8, 8)
    torch.testing.assert_close(small[3, 1], resized(frames[3, 1:2], 0.5)[0])


@pytest.mark.parametrize(
    ("network", "example", "message"),
    [
        (
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), sd.LIF(sd.Neuron()), nn.Flatten(), nn.Linear(72, 3)),
            torch.zeros(1, 1, 8, 8),
            "resolutions 0.5 makes inputs of 4x4, which the network or a teacher cannot take",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), sd.LIF(sd.Neuron())),
            torch.zeros(1, 1, 8, 8),
            r"\(1, 2, 6, 6\) of 8x8, \(1, 2, 2, 2\) of 4x4",
        ),
        (
            lambda: nn.Sequential(nn.Linear(8, 4), sd.LIF(sd.Neuron()), nn.Linear(4, 3)),
            torch.zeros(1, 8),
            r"for images and frames of them, .* a sample is \(8,\)",
        ),
    ],
)
def test_what_cannot_be_shown_smaller_is_refused(network, example, message):
    learner = learner_of(sd.Network(network(), ()), example, branches=())
    with pytest.raises(ValueError, match=message):
        refuse_resolutions(learner, example, [0.5])


def test_a_teacher_of_one_size_is_refused():
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    network = sd.to_spiking(nn.Sequential(*layers), stages=())
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    example = torch.zeros(1, 1, 8, 8)
    learner = learner_of(network, example, branches=(), objectives=sd.Distillation("mine"), teachers={"mine": teacher})
    with pytest.raises(ValueError, match="4x4, which the network or a teacher cannot take"):
        refuse_resolutions(learner, example, [0.5])


def test_a_run_shows_its_resolutions(tmp_path, monkeypatch):
    recipe = sd.load_recipe("fashion-small", [*WORDS, "--phases.resolutions=[0.5, 0.75, 1]"])
    seen = []
    gradients = Step._gradients

    def looking(self, phase, batch):
        seen.append((type(phase.rule).__name__, tuple(batch.inputs.shape[-2:])))
        return gradients(self, phase, batch)

    monkeypatch.setattr(Step, "_gradients", looking)
    sd.train(recipe, tmp_path / "run")
    thirds = [("ANN", 14), ("ANN", 21), ("RateTwin", 21), ("RateTwin", 28), ("Rate", 28)]  # of the first two epochs
    assert list(dict.fromkeys(seen)) == [(rule, (size, size)) for rule, size in thirds]


def test_a_run_is_refused_before_anything_is_trained(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), sd.LIF(sd.Neuron()), nn.Flatten(), nn.Linear(2 * 26 * 26, 10))
    recipe = sd.load_recipe("fashion-small", [*WORDS[:3], *WORDS[4:], "--phases.resolutions=[0.5]", *NO_BRANCHES])
    with pytest.raises(ValueError, match="resolutions 0.5 makes inputs of 14x14, which the network or a teacher"):
        sd.train(recipe, tmp_path / "run", network=network)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
