"""Pre-activation residual networks (method.md §5): the residual path carries membrane inputs, not spikes."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from spikedistill.models.layers import STEMS, Head, add_stages, conv, stem_layers
from spikedistill.core.neuron import LIF, Neuron

__all__ = ["PLANS", "STEMS", "build"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Blocks per stage; stage k has width·2^k channels."""

    width: int
    blocks: tuple[int, ...]


PLANS = {
    "preact_resnet18": Plan(64, (2, 2, 2, 2)),
    "preact_resnet34": Plan(64, (3, 4, 6, 3)),
}


class Block(nn.Module):
    """LIF-conv-BN twice, added to the membrane input."""

    def __init__(self, c_in: int, c_out: int, stride: int, neuron: Neuron) -> None:
        super().__init__()
        self.neuron1 = LIF(neuron)
        self.conv1, self.bn1 = conv(c_in, c_out, 3, stride, bias=True), nn.BatchNorm2d(c_out)
        self.neuron2 = LIF(neuron)
        self.conv2, self.bn2 = conv(c_out, c_out, 3, bias=True), nn.BatchNorm2d(c_out)
        self.downsample = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride, bias=True), nn.BatchNorm2d(c_out))

    def forward(self, x: Any) -> Any:
        y = self.neuron1(x)  # one name: at T steps a signal is worth dropping as soon as it is used
        y = self.bn1(self.conv1(y))
        y = self.neuron2(y)
        return self.bn2(self.conv2(y)) + self.downsample(x)


class PreActResNet(nn.Module):
    def __init__(self, plan: Plan, num_classes: int, width: int, in_channels: int, stem: str, neuron: Neuron) -> None:
        super().__init__()
        self.stem = stem_layers(stem, in_channels, width, bias=True)
        channels, self.stages = add_stages(self, Block, plan.blocks, width, neuron)
        self.head = Head(channels, num_classes, neuron)
        self.apply(_initialise)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


build = PreActResNet
