"""Boxes as maps and back, as CenterNet has them (Zhou et al. 2019, arXiv 1904.07850; method.md §9).

A network says of each cell, which is 4×4 pixels: how likely it is the middle of a box of each class (the heatmap), how
large the box is, and where in the cell its middle lies. Its output is one tensor [N, K + 4, h, w]: K logits of the
heatmap, then width and height in usual sizes, then the offsets of column and row, 0 to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.tasks.boxes import ANY_SIZE, Smallest

STRIDE = 4
"""Pixels of a cell, in each direction."""
EXTRA = 4
"""Numbers of a cell beside the heatmap: width, height, and the offsets of column and row."""
USUAL = 8.0
"""Cells of a usual size, 32 pixels. Rates are at most 1: small weights would take hundreds of steps to a 7."""
OVERLAP = 0.7
"""Intersection over union that a box around a wrong middle must still have for its cell to be half right."""


class Maps(NamedTuple):
    """What a network says, in its parts.

    Attributes:
        heat: logits of the heatmap, [N, K, h, w].
        size: width and height in cells, [N, 2, h, w].
        offset: of the middle in its cell, column and row, [N, 2, h, w].
    """

    heat: Tensor
    size: Tensor
    offset: Tensor


def parted(output: Tensor) -> Maps:
    """The parts of an output [N, K + 4, h, w]."""
    classes = output.shape[1] - EXTRA
    heat, size, offset = output.split([classes, 2, 2], 1)
    return Maps(heat, size * USUAL, offset)


class Middles(NamedTuple):
    """Where the middles of boxes lie.

    Attributes:
        there: whether a row is a box at all, bool [N, B].
        kind: its class, int64 [N, B]; 0 where there is none.
        column, row: its cell, int64 [N, B].
        offset: of the middle in its cell, [N, B, 2].
        size: width and height in cells, [N, B, 2].
    """

    there: Tensor
    kind: Tensor
    column: Tensor
    row: Tensor
    offset: Tensor
    size: Tensor

    @classmethod
    def of(cls, boxes: Tensor, height: int, width: int) -> Middles:
        """Of boxes [N, B, 5] on a map of height × width cells."""
        size = boxes[..., 2:4] / STRIDE
        middle = boxes[..., :2] / STRIDE + size / 2
        # a thin box at the edge may have its middle on it; numbers and no tensors, which a CUDA graph could not record
        column = middle[..., 0].floor().clamp(0, width - 1)
        row = middle[..., 1].floor().clamp(0, height - 1)
        offset = middle - torch.stack([column, row], -1)
        there = boxes[..., 4] >= 0
        return cls(there, boxes[..., 4].long().clamp(min=0), column.long(), row.long(), offset, size)

    def at(self, maps: Tensor) -> Tensor:
        """The values [N, B, C] of maps [N, C, h, w] in the cells of the middles."""
        cell = self.row * maps.shape[3] + self.column
        return maps.flatten(2).gather(2, cell[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def radius(size: Tensor, overlap: float = OVERLAP) -> Tensor:
    """How far the corners of a box may be off, all of them, until its overlap with the true one is `overlap`.

    With a corner off by r in each direction the wrong box is shifted, or smaller, or larger than w × h:

        shifted   (w − r)(h − r) / (2wh − (w − r)(h − r))
        smaller   (w − 2r)(h − 2r) / wh
        larger    wh / ((w + 2r)(h + 2r))

    Each is an equation of second degree in r; the smallest solution counts.

    Args:
        size: width and height [..., 2].
    """
    w, h = size.unbind(-1)
    total, area = w + h, w * h
    # (w − r)(h − r) = s·wh with s = 2·overlap/(1 + overlap), and so on
    shifted = (total - (total**2 - 4 * area * (1 - 2 * overlap / (1 + overlap))).sqrt()) / 2
    smaller = (total - (total**2 - 4 * area * (1 - overlap)).sqrt()) / 4
    larger = (-total + (total**2 + 4 * area * (1 / overlap - 1)).sqrt()) / 4
    return torch.stack([shifted, smaller, larger]).amin(0).clamp(min=0)


def heatmaps(boxes: Tensor, classes: int, height: int, width: int) -> Tensor:
    """The true heatmaps [N, classes, height, width] of boxes [N, B, 5]: 1 in the cells of middles, and a bell around.

    Bells of one class meet by their maximum. Their deviation is a sixth of 2·radius + 1.
    """
    middles = Middles.of(boxes, height, width)
    deviation = ((2 * radius(middles.size) + 1) / 6)[..., None]
    across = torch.arange(width, device=boxes.device) - middles.column[..., None]
    down = torch.arange(height, device=boxes.device) - middles.row[..., None]
    # a bell is the product of one along each direction: [N, B, w] and [N, B, h]
    across, down = ((-(way**2) / (2 * deviation**2)).exp() for way in (across, down))
    bells = down[..., :, None] * across[..., None, :] * middles.there[..., None, None]
    index = middles.kind[..., None, None].expand_as(bells)
    return bells.new_zeros(len(boxes), classes, height, width).scatter_reduce(1, index, bells, "amax")


def found_boxes(output: Tensor, most: int, size: tuple[int, int], smallest: Smallest = ANY_SIZE) -> Tensor:
    """The boxes that an output [N, K + 4, h, w] speaks of: cells whose heat is above that of their neighbours.

    Args:
        most: boxes of a sample.
        size: rows and columns of a sample: cells beyond are padding, and boxes are cut off there.
        smallest: what is smaller is none.

    Returns:
        [N, most, 6]: left, top, width, height, confidence and class, the surest first; fewer where the map has fewer
        cells. What is no box has a confidence of 0. (No two boxes are compared: of equal neighbours the first counts.)
    """
    maps = Maps(*(part.float() for part in parted(output)))
    height, width = maps.heat.shape[2:]
    cells = height * width
    # by logits: far from 0 their sigmoids are the same number
    winner = F.max_pool2d(maps.heat, 3, stride=1, padding=1, return_indices=True)[1]
    own = torch.arange(cells, device=output.device).view(height, width)
    inside = own.new_zeros(height, width)
    inside[: -(-size[0] // STRIDE), : -(-size[1] // STRIDE)] = 1
    peaks = maps.heat.sigmoid() * (winner == own) * inside
    confidence, place = peaks.flatten(1).topk(min(most, peaks[0].numel()))
    kind, cell = place // cells, place % cells
    column, row = cell % width, cell // width

    def at(part: Tensor) -> Tensor:
        return part.flatten(2).gather(2, cell[:, None].expand(-1, 2, -1)).transpose(1, 2)

    middle = torch.stack([column, row], -1) + at(maps.offset)
    half = at(maps.size).clamp(min=0) / 2
    limit = torch.tensor([size[1], size[0]]).to(middle)
    low, high = ((middle + sign * half) * STRIDE for sign in (-1, 1))
    low, high = low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)
    confidence = confidence * smallest.reached(high - low)
    return torch.cat([low, high - low, confidence[..., None], kind[..., None].to(low)], -1)
