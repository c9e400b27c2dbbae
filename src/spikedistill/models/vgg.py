"""VGG with batch norm and average pooling (linear, so its rate gradient is exact; max pooling is not)."""

from __future__ import annotations

from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.models.layers import Head, check_width, conv

VGG11 = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions of each stage, in units of the width; pooling between stages."""


class VGG(nn.Module):
    """Stages `stage1`, `stage2`, ... of convolutions, and a head."""

    def __init__(
        self, factors: tuple[tuple[int, ...], ...], outputs: int, width: int, in_channels: int, neuron: Neuron
    ) -> None:
        super().__init__()
        check_width(width)
        # What the layer before gives: at first the channels of the data, 3 for images and 2 for event frames.
        channels = in_channels
        for k, stage in enumerate(factors):
            # Pooling begins the next stage: what branches see of a stage are its spikes, before they are averaged.
            layers: list[nn.Module] = [nn.AvgPool2d(2)] if k else []
            for factor in stage:
                layers += [conv(channels, width * factor, 3), nn.BatchNorm2d(width * factor), LIF(neuron)]
                channels = width * factor
            self.add_module(f"stage{k + 1}", nn.Sequential(*layers))
        self.stages = tuple(f"stage{k + 1}" for k in range(len(factors)))
        self.head = Head(channels, outputs, neuron)

    def forward(self, x: Flow) -> Flow:
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


def vgg11(outputs: int, in_channels: int, *, width: int = 64, neuron: Neuron = Neuron()) -> Network:
    """VGG-11.

    Args:
        width: channels of the first stage; the others follow in proportion.
        neuron: constants of the LIF neurons.
    """
    body = VGG(VGG11, outputs, width, in_channels, neuron)
    return Network(body, body.stages)
