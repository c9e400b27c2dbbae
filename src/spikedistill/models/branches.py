"""Light ANN branches on the rates of intermediate stages (method.md §3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor, nn

from spikedistill.errors import choose
from spikedistill.models.layers import conv


class LightBlock(nn.Module):
    """Halves the resolution: depthwise-separable convolutions beside a strided 1×1, ReLU after the sum."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        # Depthwise and 1×1 in turn: a 3×3 convolution of all channels would cost about nine times as much.
        self.main = nn.Sequential(
            conv(c_in, c_in, 3, stride=2, groups=c_in),
            conv(c_in, c_in, 1),
            nn.BatchNorm2d(c_in),
            nn.ReLU(),
            conv(c_in, c_in, 3, groups=c_in),
            conv(c_in, c_out, 1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
        )
        self.residual = nn.Sequential(conv(c_in, c_out, 1, stride=2), nn.BatchNorm2d(c_out))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] → [N, C_out, H/2, W/2], rounded up."""
        return self.relu(self.main(x) + self.residual(x))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity (method.md §3, the ImageNet variant)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(channels, channels, 3),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            conv(channels, channels, 3),
            nn.BatchNorm2d(channels),
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → the same shape."""
        return self.relu(self.main(x) + x)


# The layers between two stages, by the name that recipes give them.
BLOCKS: dict[str, Callable[[int, int], list[nn.Module]]] = {
    "light": lambda c_in, c_out: [LightBlock(c_in, c_out)],
    "light+residual": lambda c_in, c_out: [LightBlock(c_in, c_out), ResidualBlock(c_out)],  # the ImageNet variant
}


class Branch(nn.Module):
    """From the rate features of one stage to logits.

    Args:
        channels: C of the tapped stage and of every stage after it.
        outputs: size of the output.
        block: a key of `BLOCKS`.

    Raises:
        InvalidArgument: an unknown block.
    """

    # Batch norm and ReLU are the ordinary ones: a branch is an ANN, fed with rates.

    def __init__(self, channels: list[int], outputs: int, block: str = "light") -> None:
        super().__init__()
        make = BLOCKS[choose("branch block", block, BLOCKS)]
        # One step for each stage that the branch skips: it ends at the width and resolution of the last one.
        pairs = itertools.pairwise(channels)
        self.blocks = nn.Sequential(*(layer for c_in, c_out in pairs for layer in make(c_in, c_out)))
        # Over the whole map: a window of fixed size would see only a corner of larger images (method.md §3).
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels[-1], outputs)

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] → logits [N, classes]."""
        return self.classifier(self.pool(self.blocks(features)).flatten(1))
