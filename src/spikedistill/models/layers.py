"""Pieces that the model families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from spikedistill.core.lif import LIF
from spikedistill.core.neuron import Neuron
from spikedistill.core.rules.weighted import SafeConvolutions
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument

Stem = Literal["cifar", "imagenet"]
"""3×3 with stride 1, or 7×7 with stride 2 and max pooling."""


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution with a stride, as picking pixels and a 1×1 convolution without: the same numbers.

    oneDNN up to at least 3.12 (issue 6035) writes outside its workspace in the weight gradient of strided 1×1
    convolutions on channels_last memory with fewer than 8 (AVX2) or 16 (AVX-512) input channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, H, W] → [N, C_out, H/stride, W/stride], rounded up; a signal, too, which looks like a tensor."""
        # A 1×1 kernel looks at the pixels at multiples of the stride only, so the others can be left out before it.
        picked = input[:, :, :: self.stride[0], :: self.stride[1]]
        return F.conv2d(picked, self.weight, self.bias, 1, 0, self.dilation, self.groups)


class Depthwise(nn.Conv2d):
    """A convolution of each channel for itself, quick to train in bf16 on a CPU too (`core.rules.weighted`)."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C_out, H/stride, W/stride], rounded up; a signal, too."""
        with SafeConvolutions():
            return super().forward(input)


class Depthwise1d(nn.Conv1d):
    """The same for sequences."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, L] → [N, C_out, L/stride], rounded up; a signal, too."""
        with SafeConvolutions():
            return super().forward(input)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    # Half the kernel, rounded down, is the padding that keeps the size for odd kernels.
    kind = StridedPointwise if kernel == 1 and stride > 1 else Depthwise if groups > 1 else nn.Conv2d
    return kind(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


class Unit(nn.Sequential):
    """conv-BN-LIF."""

    def __init__(self, c_in: int, c_out: int, kernel: int, neuron: Neuron, stride: int = 1, groups: int = 1) -> None:
        super().__init__(conv(c_in, c_out, kernel, stride, groups), nn.BatchNorm2d(c_out), LIF(neuron))


def check_width(width: int) -> None:
    """Raise InvalidArgument unless there is a channel."""
    if width < 1:
        raise InvalidArgument(f"width is {width}; expected at least 1 channel")


def stem_layers(stem: Stem, in_channels: int, width: int, bias: bool) -> nn.Sequential:
    """Convolution and batch norm before the first neuron; max pooling there is exact, for the input is static."""
    # A bias has no effect before batch norm; it is there for the PreAct networks of the authors (method.md §5).
    check_width(width)
    if stem == "cifar":
        return nn.Sequential(conv(in_channels, width, 3, bias=bias), nn.BatchNorm2d(width))
    return nn.Sequential(
        conv(in_channels, width, 7, stride=2, bias=bias), nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, padding=1)
    )


def add_stages(
    body: nn.Module, block: Callable[..., nn.Module], blocks: tuple[int, ...], width: int, neuron: Neuron
) -> tuple[int, tuple[str, ...]]:
    """Give `body` the stages layer1, layer2, ... of residual blocks; each after the first halves the resolution.

    Args:
        block: called as block(c_in, c_out, stride, neuron).
        blocks: number of blocks of each stage; stage k has width·2^k channels.

    Returns:
        The channels of the last stage, and the names of the stages.
    """
    channels = width
    for k, count in enumerate(blocks):
        # Half the resolution and twice the channels: each stage costs about the same.
        c_out = width * 2**k
        first = block(channels, c_out, 2 if k > 0 else 1, neuron)
        rest = [block(c_out, c_out, 1, neuron) for _ in range(count - 1)]
        # torchvision's names: `to_spiking` and users look for stages by them.
        body.add_module(f"layer{k + 1}", nn.Sequential(first, *rest))
        channels = c_out
    return channels, tuple(f"layer{k + 1}" for k in range(len(blocks)))


class Head(nn.Module):
    """Global average pooling and a linear classifier, with an optional hidden layer of spiking neurons."""

    def __init__(self, channels: int, outputs: int, neuron: Neuron, hidden: int = 0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Sequential()  # empty: the identity, also for a signal
        if hidden:
            self.hidden = nn.Sequential(nn.Linear(channels, hidden), LIF(neuron))
        self.classifier = nn.Linear(hidden or channels, outputs)

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → logits [N, outputs]."""
        # Logits are currents without a neuron behind them; their time mean is the network's answer.
        return self.classifier(self.hidden(self.pool(x).flatten(1)))
