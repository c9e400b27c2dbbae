"""Spiking CenterNet: boxes by heatmaps, without any addition of spikes (arXiv 2402.01287).

    encoder   ResNet-18 without identity connections: the output of a block is that of its second neuron
    decoder   of M2U-Net: twice the size, the encoder's spikes of that size beside it (concatenated), then an inverted
              residual block, again without identity connection
    heads     heatmap, size and offset, each by a convolution of its own; their currents are averaged over time

Every convolution but the last of a head has batch norm and a neuron behind it, so that all of them merge into
convolutions alone, and all that travels are spikes. The decoder ends at a quarter of the input's size.

Differences from the paper, of which no code could be read: the first two halvings are by strided convolutions in the
place of max pooling (so that the rate gradient is exact, method.md §2.4), and the widths of the decoder.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument
from spikedistill.models.layers import Unit, check_width, conv
from spikedistill.tasks.heatmaps import EXTRA

BLOCKS = (2, 2, 2, 2)
"""Of ResNet-18."""
DEEPEST = 32
"""Pixels of the input for one of the last stage."""
RARE, USUAL_SIZE, MIDDLE = -2.19, 1.0, 0.5
"""What is said at first: of heatmaps a tenth (from zero the many places without a box would be all that is learned), of
sizes the usual one, of offsets the middle of a cell.
"""


class PlainBlock(nn.Sequential):
    """Two convolutions of a residual block, without what would make it one."""

    def __init__(self, c_in: int, c_out: int, stride: int, neuron: Neuron) -> None:
        super().__init__(Unit(c_in, c_out, 3, neuron, stride), Unit(c_out, c_out, 3, neuron))


class Up(nn.Module):
    """Twice the size, spikes of the encoder beside it, then an inverted residual block: 1×1, 3×3 by channel, 1×1.

    Args:
        hidden: channels of the depthwise convolution.
    """

    def __init__(self, c_in: int, skipped: int, c_out: int, hidden: int, neuron: Neuron) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Unit(c_in + skipped, hidden, 1, neuron),
            Unit(hidden, hidden, 3, neuron, groups=hidden),
            Unit(hidden, c_out, 1, neuron),
        )

    def forward(self, x: Flow, skipped: Flow) -> Flow:
        """[N, C, H, W] and [N, C', 2H, 2W] → [N, C'', 2H, 2W]."""
        # nearest: what is doubled are spikes, and stays such
        larger = F.interpolate(x, scale_factor=2.0, mode="nearest")  # type: ignore[arg-type]
        return self.block(torch.cat([larger, skipped], 1))  # type: ignore[list-item]


class MapHead(nn.Sequential):
    """conv-BN-LIF-conv: currents for every place."""

    def __init__(self, channels: int, outputs: int, neuron: Neuron, start: float) -> None:
        super().__init__(Unit(channels, channels, 3, neuron), conv(channels, outputs, 1, bias=True))
        nn.init.constant_(self[-1].bias, start)  # type: ignore[arg-type]


class CenterNet(nn.Module):
    """Encoder `layer1` to `layer4` from a quarter to 1/32 of the size, decoder `up3` to `up1` back to a quarter."""

    def __init__(self, classes: int, in_channels: int, width: int, expansion: float, neuron: Neuron) -> None:
        super().__init__()
        check_width(width)
        self.stem = Unit(in_channels, width, 3, neuron, stride=2)
        widths = [width * 2**k for k in range(len(BLOCKS))]
        for k, (c_in, c_out) in enumerate(itertools.pairwise([width, *widths])):
            rest = [PlainBlock(c_out, c_out, 1, neuron) for _ in range(BLOCKS[k] - 1)]
            self.add_module(f"layer{k + 1}", nn.Sequential(PlainBlock(c_in, c_out, 2, neuron), *rest))
        ups = range(len(BLOCKS) - 1, 0, -1)  # up3 ends at the size of layer3
        for k in ups:
            c_in, skipped = widths[k], widths[k - 1]
            hidden = max(1, round(expansion * (c_in + skipped)))
            self.add_module(f"up{k}", Up(c_in, skipped, skipped, hidden, neuron))
        self.heat = MapHead(width, classes, neuron, RARE)
        self.size, self.offset = MapHead(width, 2, neuron, USUAL_SIZE), MapHead(width, 2, neuron, MIDDLE)
        layers = [f"layer{k + 1}" for k in range(len(BLOCKS))]
        self.stages = (*layers, *(f"up{k}" for k in ups))

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → [N, classes + 4, ⌈H/32⌉·8, ⌈W/32⌉·8]."""
        x = self.stem(padded(x))
        passed = []
        for name in self.stages[: len(BLOCKS)]:
            x = self.get_submodule(name)(x)
            passed.append(x)
        passed.pop()  # the last stage has no larger one to stand beside
        for name in self.stages[len(BLOCKS) :]:
            x = self.get_submodule(name)(x, passed.pop())
        return torch.cat([self.heat(x), self.size(x), self.offset(x)], 1)  # type: ignore[list-item]


def padded(x: Flow) -> Flow:
    """The same with empty rows below and columns at the right up to a multiple of 32; boxes stay where they are."""
    height, width = x.shape[2:]
    below, right = -height % DEEPEST, -width % DEEPEST
    return F.pad(x, [0, right, 0, below]) if below or right else x  # type: ignore[arg-type]


def spiking_centernet(
    outputs: int, in_channels: int, *, width: int = 64, expansion: float = 0.15, neuron: Neuron = Neuron()
) -> Network:
    """Detection: heatmaps, sizes and offsets at a quarter of the input's size, which may be any.

    Args:
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        expansion: of the decoder's blocks: channels of their depthwise convolution as a share of those that come in.
        neuron: constants of the LIF neurons.

    Raises:
        InvalidArgument: no heatmap (it is for the task detection), or an expansion not above 0.
    """
    if outputs <= EXTRA:
        raise InvalidArgument(
            f"spiking_centernet needs outputs for heatmaps and {EXTRA} more; given {outputs}. It is for --task "
            "detection"
        )
    if not expansion > 0:
        raise InvalidArgument(f"expansion is {expansion}; expected a number above 0")
    body = CenterNet(outputs - EXTRA, in_channels, width, expansion, neuron)
    return Network(body, body.stages)
