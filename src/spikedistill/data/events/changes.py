"""Random changes of event frames: each recording is changed the same at all its time steps."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.augmentation import Augmentation


@dataclasses.dataclass(frozen=True)
class Changes:
    """What was drawn for each recording.

    Attributes:
        flip: whether to mirror, bool [N].
        roll: rows and columns to shift by, around the edges, [N, 2].
        affine: maps [N, 2, 3] of NDA, from new to old positions (None: no NDA).
        hole: squares of NDA to be emptied: row, column and side, in shares of the frame, [N, 3]; side 0: none.
    """

    flip: Tensor
    roll: Tensor
    affine: Tensor | None = None
    hole: Tensor | None = None

    @classmethod
    def draw(cls, count: int, augmentation: Augmentation, generator: torch.Generator) -> Changes:
        # Drawn also where they are switched off, so that the numbers of the other changes stay the same.
        flip = torch.rand(count, generator=generator) < (0.5 if augmentation.flip else 0.0)
        roll = torch.randint(-augmentation.roll, augmentation.roll + 1, (count, 2), generator=generator)
        if not augmentation.nda:
            return cls(flip, roll)
        return cls(flip, roll, *_neuromorphic(count, generator))

    def rows(self, index: Tensor) -> Changes:
        affine = None if self.affine is None else self.affine[index]
        hole = None if self.hole is None else self.hole[index]
        return Changes(self.flip[index], self.roll[index], affine, hole)


def _neuromorphic(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of: shift by up to a tenth, rotate by up to 15°, shear by up to 15°, cut a hole, nothing (after NDA)."""
    # One draw chooses the kind of change, and all kinds share the same two amounts.
    which = torch.randint(5, (count,), generator=generator)
    amount = torch.rand(count, 2, generator=generator) * 2 - 1
    angle = amount[:, 0] * math.radians(15)
    # Starting from the identity, each kind sets its own entries; holes and no change leave the map as it is.
    affine = torch.eye(2, 3).repeat(count, 1, 1)
    affine[:, :, 2] = torch.where((which == 0)[:, None], amount * 0.2, 0.0)  # of the half frame
    cos, sin = torch.where(which == 1, angle.cos(), 1.0), torch.where(which == 1, angle.sin(), 0.0)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, 1, 0] = cos, cos, sin
    # Entry (0, 1) is the tangent for a shear, and −sin for a rotation, which is 0 for everything else.
    affine[:, 0, 1] = torch.where(which == 2, angle.tan(), -sin)
    hole = torch.cat([(amount + 1) / 2, torch.where(which == 3, 0.25, 0.0)[:, None]], 1)
    return affine, hole


def change(frames: Tensor, changes: Changes) -> Tensor:
    """Changed frames [T, N, 2, H, W], of the same type."""
    moved = _rolled_and_flipped(frames, changes)
    if changes.affine is None or changes.hole is None:
        return moved.permute(3, 0, 4, 1, 2).contiguous()
    timesteps, count, _, height, width = frames.shape
    flat = moved.flatten(3).permute(0, 3, 1, 2)  # time steps and polarities as channels: all are moved alike
    grid = F.affine_grid(changes.affine.to(frames.device), [count, 1, height, width], align_corners=False)
    # The nearest pixel is taken, so that values are moved and no new ones are made; float16 has no grid_sample.
    flat = F.grid_sample(flat.float(), grid, mode="nearest", align_corners=False).to(frames.dtype)
    flat = flat.masked_fill(_holes(changes.hole.to(frames.device), height, width)[:, None], 0.0)
    return flat.unflatten(1, (timesteps, 2)).transpose(0, 1).contiguous()


def _rolled_and_flipped(frames: Tensor, changes: Changes) -> Tensor:
    """The frames [T, N, 2, H, W] as [N, H, W, T, 2]: one gather of pixels, each with all its time steps."""
    count, height, width = frames.shape[1], *frames.shape[3:]
    # From which row and column each pixel comes: pixels that leave at one edge come back at the other.
    row = (torch.arange(height) - changes.roll[:, :1]) % height
    column = (torch.arange(width) - changes.roll[:, 1:]) % width
    column = torch.where(changes.flip[:, None], column.flip(1), column)
    index = (torch.arange(count)[:, None, None], row[:, :, None], column[:, None, :])
    return frames.permute(1, 3, 4, 0, 2)[tuple(part.to(frames.device) for part in index)]


def _holes(hole: Tensor, height: int, width: int) -> Tensor:
    """Bool [N, H, W]: the pixels within each square."""
    # Middles of the pixels, in shares of the frame.
    y = (torch.arange(height, device=hole.device) + 0.5) / height
    x = (torch.arange(width, device=hole.device) + 0.5) / width
    in_rows = (y - hole[:, :1]).abs() < hole[:, 2:] / 2
    return in_rows[:, :, None] & ((x - hole[:, 1:2]).abs() < hole[:, 2:] / 2)[:, None, :]
