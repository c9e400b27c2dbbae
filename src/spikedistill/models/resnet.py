"""Residual networks with the spike after the residual sum (method.md §5): ResNet-18, -34 and -19."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from spikedistill.models.layers import STEMS, Head, add_stages, conv, stem_layers
from spikedistill.core.neuron import LIF, Neuron

__all__ = ["PLANS", "STEMS", "build"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Blocks per stage; stage k has width·2^k channels. `hidden` is the head's hidden size in units of the width."""

    width: int
    blocks: tuple[int, ...]
    hidden: int = 0


PLANS = {
    "resnet18": Plan(64, (2, 2, 2, 2)),
    "resnet34": Plan(64, (3, 4, 6, 3)),
    "resnet19": Plan(128, (3, 3, 2), hidden=2),
}


class Block(nn.Module):
    """conv-BN-LIF-conv-BN, plus the shortcut, then LIF."""

    def __init__(self, c_in: int, c_out: int, stride: int, neuron: Neuron) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out)
        self.neuron1 = LIF(neuron)
        self.conv2, self.bn2 = conv(c_out, c_out, 3), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))
        self.neuron2 = LIF(neuron)

    def forward(self, x: Any) -> Any:
        y = self.neuron1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))  # one name: at T steps a signal is worth dropping as soon as it is used
        return self.neuron2(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, plan: Plan, num_classes: int, width: int, in_channels: int, stem: str, neuron: Neuron) -> None:
        super().__init__()
        self.stem = stem_layers(stem, in_channels, width, bias=False)
        self.neuron = LIF(neuron)
        channels, self.stages = add_stages(self, Block, plan.blocks, width, neuron)
        self.head = Head(channels, num_classes, neuron, hidden=plan.hidden * width)

    def forward(self, x: Any) -> Any:
        x = self.neuron(self.stem(x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


build = ResNet
