"""Sequences of event frames as samples, and their random changes on whole sequences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.events.event import Events
from spikedistill.data.events.frames import Framing, resized, to_frames
from spikedistill.errors import DataError

FRAME_CHANGES = ("flip", "roll", "nda")


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSet:
    """Event frames and labels.

    Attributes:
        frames: array [M, T, 2, H, W], in memory or memory-mapped.
        index: the rows of `frames` that are samples, int64 [n].
        labels: int64 [n].
        classes: names, by label.
        framing: how the frames were made.
    """

    frames: np.ndarray
    index: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    framing: Framing
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor | slice) -> FrameSet:
        return dataclasses.replace(self, index=self.index[index], labels=self.labels[index])

    def to(self, device: torch.device) -> FrameSet:
        return dataclasses.replace(self, device=device)

    def description(self) -> dict[str, Any]:
        size = self.framing.size
        return {"kind": "events", "shape": [2, size, size], "framing": dataclasses.asdict(self.framing)}

    def read(self, index: Tensor) -> tuple[Tensor, ...]:
        """Frames [T, N, 2, H, W] in the type in which they are kept."""
        chosen = torch.from_numpy(np.ascontiguousarray(self.frames[self.index[index].numpy()]))
        return (chosen.to(self.device).transpose(0, 1),)

    def read_changed(
        self, index: Tensor, share: Tensor, how: Augmentation, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Frames [T, N, 2, H, W] in the type in which they are kept."""
        how.only(FRAME_CHANGES, "event frames")
        changes = Changes.draw(len(index), how, generator).rows(share)
        return (change(self.read(index[share])[0], changes),)

    def finish(self, *parts: Tensor) -> Tensor:
        return parts[0].float().contiguous()

    def batch(self, index: Tensor) -> Tensor:
        """Frames [T, N, 2, H, W], float32, as counted."""
        return self.finish(*self.read(index))


def frames_of(dataset: Any, classes: Sequence[str], framing: Framing) -> FrameSet:
    """Samples from any map-style dataset that yields (events or frames, label): tonic's, SpikingJelly's, your own.

    Args:
        dataset: `len` and `[k]` → (recording, label). A recording is frames [T, 2, H, W], or events: structured array,
            a mapping or an `Events` with x, y, p and t.

    Raises:
        DataError: an item of another form, by number.
    """
    arrays, labels = [], []
    for k in range(len(dataset)):
        recording, label = dataset[k]
        arrays.append(_as_frames(recording, framing, k))
        labels.append(int(label))
        if not 0 <= labels[-1] < len(classes):
            raise DataError(f"item {k} has label {label}, but there are {len(classes)} classes")
    if not arrays:
        raise DataError("the dataset is empty")
    return FrameSet(np.stack(arrays), torch.arange(len(labels)), torch.tensor(labels), tuple(classes), framing)


def _as_frames(recording: Any, framing: Framing, k: int) -> np.ndarray:
    if isinstance(recording, Events) or _has_fields(recording):
        fields = recording if not isinstance(recording, Events) else vars(recording)
        integers = (np.asarray(fields[name]).astype(np.int64) for name in "xypt")
        events = Events(*integers).checked(f"item {k}")
        return resized(to_frames(events, framing.timesteps, framing.by), framing.size).half().numpy()
    frames = np.asarray(recording)
    if frames.ndim != 4 or frames.shape[:2] != (framing.timesteps, 2):
        raise DataError(
            f"item {k} is {type(recording).__name__} {list(frames.shape)}; expected frames [T, 2, H, W] with "
            f"T = {framing.timesteps}, or events with x, y, p and t"
        )
    return resized(frames, framing.size).half().numpy()


def _has_fields(recording: Any) -> bool:
    names = getattr(getattr(recording, "dtype", None), "names", None) or (
        recording.keys() if isinstance(recording, dict) else ()
    )
    return set("xypt") <= set(names)


# ---------------------------------------------------------------- random changes


@dataclasses.dataclass(frozen=True)
class Changes:
    """What was drawn for each sequence: flip [N], roll in pixels [N, 2], and one affine map [N, 2, 3] with a cutout."""

    flip: Tensor
    roll: Tensor
    affine: Tensor | None
    hole: Tensor | None  # centre (y, x) and side, in shares of the frame [N, 3]; side 0: none

    @classmethod
    def draw(cls, count: int, how: Augmentation, generator: torch.Generator) -> Changes:
        flip = torch.rand(count, generator=generator) < (0.5 if how.flip else 0.0)
        roll = torch.randint(-how.roll, how.roll + 1, (count, 2), generator=generator)
        if not how.nda:
            return cls(flip, roll, None, None)
        return cls(flip, roll, *_neuromorphic(count, generator))

    def rows(self, index: Tensor) -> Changes:
        return Changes(*(None if f is None else f[index] for f in (self.flip, self.roll, self.affine, self.hole)))  # type: ignore[arg-type]


def _neuromorphic(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of: shift by up to a tenth, rotate by up to 15°, shear by up to 15°, cut a hole, nothing (after NDA)."""
    which = torch.randint(5, (count,), generator=generator)
    amount = torch.rand(count, 2, generator=generator) * 2 - 1
    angle = amount[:, 0] * math.radians(15)
    affine = torch.eye(2, 3).repeat(count, 1, 1)
    affine[:, :, 2] = torch.where((which == 0)[:, None], amount * 0.2, 0.0)  # of the half frame
    cos, sin = torch.where(which == 1, angle.cos(), 1.0), torch.where(which == 1, angle.sin(), 0.0)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, 1, 0] = cos, cos, sin
    affine[:, 0, 1] = torch.where(which == 2, angle.tan(), -sin)
    hole = torch.cat([(amount + 1) / 2, torch.where(which == 3, 0.25, 0.0)[:, None]], 1)
    return affine, hole


def change(frames: Tensor, changes: Changes) -> Tensor:
    """Change sequences [T, N, 2, H, W], each the same at all its steps."""
    timesteps, count, _, height, width = frames.shape
    row = (torch.arange(height) - changes.roll[:, :1]) % height
    column = (torch.arange(width) - changes.roll[:, 1:]) % width
    column = torch.where(changes.flip[:, None], column.flip(1), column)
    sample = torch.arange(count)
    by_sample = frames.permute(1, 3, 4, 0, 2)  # [N, H, W, T, 2]
    where = (t.to(frames.device) for t in (sample[:, None, None], row[:, :, None], column[:, None, :]))
    moved = by_sample[tuple(where)]
    if changes.affine is None or changes.hole is None:
        return moved.permute(3, 0, 4, 1, 2).contiguous()
    flat = moved.flatten(3).permute(0, 3, 1, 2)
    grid = F.affine_grid(changes.affine.to(frames.device), [count, 1, height, width], align_corners=False)
    flat = F.grid_sample(flat.float(), grid, mode="nearest", align_corners=False).to(frames.dtype)  # moves values only
    flat = flat.masked_fill(_holes(changes.hole.to(frames.device), height, width)[:, None], 0.0)
    return flat.unflatten(1, (timesteps, 2)).transpose(0, 1).contiguous()


def _holes(hole: Tensor, height: int, width: int) -> Tensor:
    """Bool [N, H, W]: the pixels within each square."""
    y = (torch.arange(height, device=hole.device) + 0.5) / height
    x = (torch.arange(width, device=hole.device) + 0.5) / width
    in_rows = (y - hole[:, :1]).abs() < hole[:, 2:] / 2
    return in_rows[:, :, None] & ((x - hole[:, 1:2]).abs() < hole[:, 2:] / 2)[:, None, :]
