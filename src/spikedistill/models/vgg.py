"""VGG with batch norm and average pooling (linear, so its rate gradient is exact; max pooling is not)."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from spikedistill.models.layers import Head, conv
from spikedistill.core.neuron import LIF, Neuron

__all__ = ["PLANS", "STEMS", "build"]

STEMS = ("cifar",)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Channels of the convolutions of each stage, in units of the width; pooling between stages."""

    width: int
    stages: tuple[tuple[int, ...], ...]


PLANS = {"vgg11": Plan(64, ((1,), (2,), (4, 4), (8, 8), (8, 8)))}


class VGG(nn.Module):
    def __init__(self, plan: Plan, num_classes: int, width: int, in_channels: int, stem: str, neuron: Neuron) -> None:
        super().__init__()
        channels = in_channels
        for k, factors in enumerate(plan.stages):
            layers: list[nn.Module] = [nn.AvgPool2d(2)] if k else []
            for factor in factors:
                layers += [conv(channels, width * factor, 3), nn.BatchNorm2d(width * factor), LIF(neuron)]
                channels = width * factor
            self.add_module(f"stage{k + 1}", nn.Sequential(*layers))
        self.stages = tuple(f"stage{k + 1}" for k in range(len(plan.stages)))
        self.head = Head(channels, num_classes, neuron)

    def forward(self, x: Any) -> Any:
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


build = VGG
