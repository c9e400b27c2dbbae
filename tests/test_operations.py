"""Operations and energy of a network."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import TINY
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.measure.operations import COSTS


def by_hand():
    """A layer on pictures, one on spikes that are all 1, and one on spikes that are 1 at every second step."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), sd.LIF(decay=1.0), nn.Conv2d(2, 3, 3, stride=2, padding=1),
        sd.LIF(decay=1.0), nn.Flatten(), nn.Linear(3 * 2 * 2, 5),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight.fill_(10.0)  # pictures of 1 give every neuron more than its threshold
        net[2].weight.zero_()
        net[2].bias.fill_(0.5)
    return net


def test_operations_by_hand():
    found = sd.operations(by_hand(), [torch.ones(2, 1, 4, 4) + 0.25], 4)
    first, second, third = found.layers
    assert [layer.name for layer in found.layers] == ["0", "2", "5"]
    assert [layer.macs for layer in found.layers] == [16 * 2 * 9, 4 * 3 * 18, 12 * 5]
    # the picture is the same at every step: once
    assert (first.evaluations, first.spikes, first.multiplies, first.accumulates) == (1, None, 288, 0)
    assert (second.evaluations, second.spikes, second.accumulates) == (4, 1.0, 4 * 216)
    assert (third.spikes, third.accumulates) == (0.5, 0.5 * 4 * 60)
    assert found.accumulates == 4 * 216 + 2 * 60
    assert found.spikes_per_synapse == pytest.approx((4 * 216 + 2 * 60) / (216 + 60))
    assert found.energy() == pytest.approx((4.6 * 288 + 0.9 * found.accumulates) / 1e6)
    assert found.twins_energy("int8") == pytest.approx(0.23 * (288 + 216 + 60) / 1e6)


def test_the_mean_is_over_samples_and_not_over_batches():
    net = nn.Sequential(nn.Flatten(), sd.LIF(decay=1.0), nn.Linear(4, 3))
    images = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous()
    whole, parts = sd.operations(net, [images], 2), sd.operations(net, [images[:1], images[1:]], 2)
    assert whole == parts
    assert whole.samples == 3
    assert whole.layers[0].spikes == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "spikformer", "qkformer", "spiking_centernet"])
def test_the_twins_are_those_that_torch_counts(name):
    size = {"dim": 32, "heads": 2} if "former" in name else {"width": 4}
    net = sd.create_model(name, 10, **size).eval()
    images = torch.rand(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images, timesteps=None)
    assert sd.operations(net, [images], 2).macs == counter.get_total_flops() // 2


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return F.conv2d(weight=self.weight, bias=self.bias, input=x).flatten(1)


def test_a_function_in_a_users_code_is_seen_whatever_is_given_by_name():
    (found,) = sd.operations(Functional(), [torch.rand(2, 2, 5, 6)], 3).layers
    assert found.macs == 3 * 4 * 3 * 2 * 9


def test_batches_that_are_none_are_refused_in_words():
    with pytest.raises(sd.SpikedistillError, match="a batch is a dict; expected pairs"):
        sd.operations(by_hand(), [{"images": 1}], 2)


def test_event_frames_are_spikes_and_pictures_are_not():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), sd.LIF(), nn.Flatten(), nn.Linear(8, 2))
    frames = torch.zeros(3, 2, 1, 4, 4)
    frames[0] = 3.0  # three events at every place in the first of three frames
    first = sd.operations(net, [frames], 3).layers[0]
    assert (first.spikes, first.evaluations) == (1.0, 3)
    assert sd.operations(net, [frames * 0.3], 3).layers[0].multiplies == 3 * first.macs
    # a grey picture whose numbers happen to be whole is none of spikes, a black and white one is
    assert sd.operations(net, [torch.full((2, 1, 4, 4), 7.0)], 3).layers[0].spikes is None
    assert sd.operations(net, [torch.ones(2, 1, 4, 4)], 3).layers[0].accumulates == first.macs


class Products(nn.Module):
    """Each kind of product once, on spikes [N, 4, 6]."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.lif, self.matrix = kind, sd.LIF(decay=1.0), nn.Parameter(torch.ones(3, 4))
        self.other = nn.Parameter(torch.ones(6, 5))

    def forward(self, x):
        s = self.lif(x)
        return {
            "signals": lambda: s @ s.transpose(1, 2),
            "bmm": lambda: torch.bmm(s, s.transpose(1, 2)),
            "einsum": lambda: torch.einsum("nik,njk->nij", s, s),
            "einsum with a constant": lambda: torch.einsum("ri,nik->nrk", self.matrix, s),
            "constant at the right": lambda: s @ self.other,
            "constant at the left": lambda: self.matrix @ s,
            "constant at the left, by the signal": lambda: s.__rmatmul__(self.matrix),
            "of different rates": lambda: self.lif(2 * x) @ s.transpose(1, 2),
        }[self.kind]().flatten(1)


@pytest.mark.parametrize(
    ("kind", "macs"),
    [
        ("signals", 4 * 4 * 6),
        ("bmm", 4 * 4 * 6),
        ("einsum", 4 * 4 * 6),
        ("einsum with a constant", 3 * 4 * 6),
        ("constant at the right", 4 * 5 * 6),
        ("constant at the left", 3 * 6 * 4),
        ("constant at the left, by the signal", 3 * 6 * 4),
        ("of different rates", 4 * 4 * 6),  # one fires at every step, the other at every second
    ],
)
def test_products(kind, macs):
    (found,) = sd.operations(sd.Network(Products(kind), sample_dims=2), [torch.full((2, 4, 6), 0.5)], 4).layers
    assert found.macs == macs
    assert found.accumulates == 0.5 * 4 * macs  # every neuron fires at every second step


def test_of_a_run(finished, tmp_path, capsys):
    assert main(["evaluate", str(finished), "--operations", "20", "--timesteps", "1", "4"]) == 0
    shown = capsys.readouterr().out
    assert "mean of 20 samples" in shown
    assert "T = 4: MAC" in shown
    assert re.search(r"\n  \S+ +0.\d\d +0.\d\d +0.00  not spikes\n", shown)  # the input layer
    assert "spikes per synapse" in shown
    words = [word for word in TINY if not word.startswith("--timesteps")]
    assert main(["train", *words, "--rule", "ann", "--optimizer.epochs", "1", "--out", str(tmp_path / "ann")]) == 0
    assert main(["evaluate", str(tmp_path / "ann"), "--operations", "20"]) == 0
    assert "multiply-accumulates" in capsys.readouterr().out


def test_bad_input(finished, capsys):
    assert main(["evaluate", str(finished), "--operations", "0"]) == 1
    assert "expected a number of test samples, at least 1" in capsys.readouterr().err
    assert main(["evaluate", str(finished), "--operations", "9", "--retake", "20"]) == 1
    assert "leave out --retake" in capsys.readouterr().err
    with pytest.raises(sd.SpikedistillError, match="no samples to count"):
        sd.operations(by_hand(), [], 2)
    found = sd.operations(by_hand(), [torch.ones(1, 1, 4, 4)], 2)
    with pytest.raises(sd.SpikedistillError, match="no costs of operations for 'fp8'; expected one of fp32, int8"):
        found.energy("fp8")
    assert set(COSTS) == {"fp32", "int8"}


def test_a_network_is_left_as_it_was():
    net = by_hand()
    net.train()
    sd.operations(net, [torch.ones(1, 1, 4, 4)], 2)
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
