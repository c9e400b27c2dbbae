"""A shallow, wide network for the shortest time to a good result on small images.

It has the form of the networks of speed runs on CIFAR-10 (Jordan, arXiv 2404.00498): a small convolution that only
prepares the image, then three stages of two convolutions. Few layers of neurons stand behind each other, and each
costs a spiking network some of what the rates can say. Convolutions begin as the identity of their input's channels
(Dirac filters, as there), and with random filters where there are more channels.

There the first convolution of a stage is 3×3, and 2×2 of what it gives are pooled. Pooled by averaging, that is one 4×4
convolution of stride 2, which needs 0.4 of the multiplications. So that is what stands here, and begins as.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.models.layers import Head, check_width, conv

FACTORS = (1, 4, 4)
"""Channels of the stages, in units of the width."""
STEM_CHANNELS, STEM_KERNEL = 24, 2
"""2×2 patches of three colours have 12 directions; each, and its negative."""


def _begun(layer: nn.Conv2d) -> nn.Conv2d:
    """A 3×3 convolution whose first filters give its input's channels."""
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: layer.in_channels])
    return layer


def _pooled(c_in: int, c_out: int) -> nn.Conv2d:
    """A 4×4 convolution of stride 2 that begins as a 3×3 one behind which 2×2 are averaged."""
    layer = nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
    with torch.no_grad():
        weight = _begun(conv(c_in, c_out, 3)).weight
        layer.weight.copy_(F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, stride=1))
    return layer


class Stage(nn.Sequential):
    """conv-BN-LIF-conv-BN-LIF: half the resolution."""

    def __init__(self, c_in: int, c_out: int, neuron: Neuron) -> None:
        super().__init__(
            *(_pooled(c_in, c_out), nn.BatchNorm2d(c_out), LIF(neuron)),
            *(_begun(conv(c_out, c_out, 3)), nn.BatchNorm2d(c_out), LIF(neuron)),
        )


class SpeedNet(nn.Module):
    """A stem, stages `stage1`, `stage2`, `stage3`, and a head."""

    def __init__(self, outputs: int, width: int, in_channels: int, neuron: Neuron) -> None:
        super().__init__()
        check_width(width)
        # Without padding: 32×32 become 31×31, and 15, 7 and 3 after the stages.
        first = nn.Conv2d(in_channels, STEM_CHANNELS, STEM_KERNEL, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(STEM_CHANNELS))
        self.neuron = LIF(neuron)
        channels = STEM_CHANNELS
        for k, factor in enumerate(FACTORS):
            self.add_module(f"stage{k + 1}", Stage(channels, width * factor, neuron))
            channels = width * factor
        self.stages = tuple(f"stage{k + 1}" for k in range(len(FACTORS)))
        self.head = Head(channels, outputs, neuron)

    def forward(self, x: Flow) -> Flow:
        x = self.neuron(self.stem(x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


def speednet(outputs: int, in_channels: int, *, width: int = 64, neuron: Neuron = Neuron()) -> Network:
    """Six convolutions behind a 2×2 one, for images of about 32×32.

    Args:
        width: channels of the first stage; the others have four times as many.
        neuron: constants of the LIF neurons.
    """
    body = SpeedNet(outputs, width, in_channels, neuron)
    return Network(body, body.stages)
