"""Light ANN branches on the rates of intermediate stages (method.md §3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from spikedistill.errors import choose
from spikedistill.models.layers import Depthwise1d, conv


class Layers(NamedTuple):
    """The layers that a branch is built of, for features of one number of dimensions."""

    conv: Callable[..., nn.Module]
    norm: Callable[[int], nn.Module]
    pool: Callable[[int], nn.Module]


def _conv1d(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv1d:
    kind = Depthwise1d if groups > 1 else nn.Conv1d
    return kind(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _linear(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Linear:
    """Features have no positions: every convolution is one of a single position."""
    return nn.Linear(c_in, c_out, bias=False)


LAYERS: dict[int, Layers] = {
    2: Layers(_linear, nn.BatchNorm1d, nn.Identity),  # features [N, C]
    3: Layers(_conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d),  # sequences [N, C, L]
    4: Layers(conv, nn.BatchNorm2d, nn.AdaptiveAvgPool2d),  # pictures [N, C, H, W]
}
"""By the number of dimensions of a batch of features."""


class LightBlock(nn.Module):
    """Halves the resolution: depthwise-separable convolutions beside a strided 1×1, ReLU after the sum."""

    def __init__(self, c_in: int, c_out: int, layers: Layers = LAYERS[4]) -> None:
        super().__init__()
        conv, norm, _ = layers
        # Depthwise and 1×1 in turn: a 3×3 convolution of all channels would cost about nine times as much.
        self.main = nn.Sequential(
            conv(c_in, c_in, 3, stride=2, groups=c_in),
            conv(c_in, c_in, 1),
            norm(c_in),
            nn.ReLU(),
            conv(c_in, c_in, 3, groups=c_in),
            conv(c_in, c_out, 1),
            norm(c_out),
            nn.ReLU(),
        )
        self.residual = nn.Sequential(conv(c_in, c_out, 1, stride=2), norm(c_out))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] → [N, C_out, H/2, W/2], rounded up; [N, C_in, L] likewise."""
        return self.relu(self.main(x) + self.residual(x))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity (method.md §3, the ImageNet variant)."""

    def __init__(self, channels: int, layers: Layers = LAYERS[4]) -> None:
        super().__init__()
        conv, norm, _ = layers
        self.main = nn.Sequential(
            conv(channels, channels, 3),
            norm(channels),
            nn.ReLU(),
            conv(channels, channels, 3),
            norm(channels),
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] or [N, C, L] → the same shape."""
        return self.relu(self.main(x) + x)


# The layers between two stages, by the name that recipes give them.
BLOCKS: dict[str, Callable[[int, int, Layers], list[nn.Module]]] = {
    "light": lambda c_in, c_out, layers: [LightBlock(c_in, c_out, layers)],
    # the ImageNet variant
    "light+residual": lambda c_in, c_out, layers: [LightBlock(c_in, c_out, layers), ResidualBlock(c_out, layers)],
}


class Branch(nn.Module):
    """From the rate features of one stage to logits.

    Args:
        channels: C of the tapped stage and of every stage after it.
        outputs: size of the output.
        block: a key of `BLOCKS`.
        dims: of a batch of features, a key of `LAYERS`.

    Raises:
        InvalidArgument: an unknown block.
    """

    # Batch norm and ReLU are the ordinary ones: a branch is an ANN, fed with rates.

    def __init__(self, channels: list[int], outputs: int, block: str = "light", dims: int = 4) -> None:
        super().__init__()
        layers = LAYERS[dims]
        make = BLOCKS[choose("branch block", block, BLOCKS)]
        # One step for each stage that the branch skips: it ends at the width and resolution of the last one.
        pairs = itertools.pairwise(channels)
        self.blocks = nn.Sequential(*(layer for c_in, c_out in pairs for layer in make(c_in, c_out, layers)))
        # Over the whole map: a window of fixed size would see only a corner of larger images (method.md §3).
        self.pool = layers.pool(1)
        self.classifier = nn.Linear(channels[-1], outputs)

    def forward(self, features: Tensor, size: Sequence[int] = ()) -> Tensor:
        """[N, C, H, W] or [N, C, L] → logits [N, classes], which have no `size`."""
        return self.classifier(self.pool(self.blocks(features)).flatten(1))


class MapBranch(nn.Module):
    """From the rate features of one stage to what a network says of every place.

    Args:
        channels: C of the tapped stage.
        start: what is said at first, [outputs].
    """

    # What is said of a place stands on the features of that place: nothing is pooled, and no later stage is imitated.

    def __init__(self, channels: int, start: Tensor) -> None:
        super().__init__()
        last = conv(channels, len(start), 1, bias=True)
        # of many places few hold anything: a branch that begins at one half would first learn only that
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(start.clone())
        self.layers = nn.Sequential(
            conv(channels, channels, 3, groups=channels),
            conv(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            last,
        )

    def forward(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """[N, C, H, W] → [N, outputs, *size]."""
        return F.interpolate(self.layers(features), tuple(size), mode="bilinear", align_corners=False)
