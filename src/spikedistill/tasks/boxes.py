"""Boxes as targets: any number of rectangles with a class for each sample."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from spikedistill.errors import DataError, listed
from spikedistill.machine.device import sent
from spikedistill.tasks.classification import renumbered
from spikedistill.tasks.task import Description, Mark, Motion, Targets

FIELDS = 5
"""Left, top, width, height, class."""
NONE = -1.0
"""The class of rows that are no box: samples have different numbers of boxes, and a batch is one tensor."""
NAMES_SHOWN = 3


class Smallest(NamedTuple):
    """Which boxes count, in pixels: true ones that are smaller are left out, and found ones are none."""

    diagonal: float = 0.0
    side: float = 0.0

    def reached(self, sizes: Tensor) -> Tensor:
        """Which of the widths and heights [..., 2] are large enough: bool [...]."""
        return (sizes.norm(dim=-1) >= self.diagonal) & (sizes.amin(-1) >= self.side)


ANY_SIZE = Smallest()


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes(Targets):
    """Targets of detection.

    Attributes:
        boxes: left, top, width and height in pixels, and the class: float32 [M, B, 5]; rows of class −1 are no box.
        names: of the classes, by index.
        size: rows and columns of a sample.
        smallest: which boxes count; smaller ones are not among these.
    """

    are_places: ClassVar[bool] = True
    boxes: Tensor
    names: tuple[str, ...]
    size: tuple[int, int]
    smallest: Smallest = ANY_SIZE

    @classmethod
    def of(
        cls,
        boxes: Sequence[npt.ArrayLike | Tensor],
        names: Sequence[str],
        size: tuple[int, int],
        sources: Sequence[str] = (),
        smallest: Smallest = ANY_SIZE,
    ) -> Boxes:
        """Of the boxes [b, 5] of each sample: tensors, arrays or lists; torch.zeros(0, 5) for none.

        Args:
            sources: what to call the samples in an error (default: their numbers).

        Raises:
            DataError: no rectangles, or an unknown class; all samples with such boxes by name.
        """
        boxes = [torch.as_tensor(each, dtype=torch.float32) for each in boxes]
        called = sources or [f"sample {k}" for k in range(len(boxes))]
        bad = [f"{name}: {why}" for each, name in zip(boxes, called, strict=True) if (why := wrong(each, names, size))]
        if bad:
            raise DataError(f"the boxes of {len(bad)} of {len(boxes)} samples cannot be used:{listed(bad)}")
        most = max([len(each) for each in boxes], default=0)
        whole = torch.full((len(boxes), max(most, 1), FIELDS), NONE)
        for row, each in zip(whole, boxes, strict=True):
            row[: len(each)] = each
        return cls(whole, tuple(names), (int(size[0]), int(size[1])), smallest)

    def __len__(self) -> int:
        return len(self.boxes)

    def rows(self, index: Tensor | slice) -> Boxes:
        return dataclasses.replace(self, boxes=self.boxes[index])

    def to(self, device: torch.device) -> Boxes:
        return dataclasses.replace(self, boxes=self.boxes.to(device))

    def batch(self, index: Tensor) -> Tensor:
        """Boxes [N, B, 5] of the samples `index` [N]; B is the same for all batches."""
        return self.boxes[sent(index, self.boxes.device)]

    def description(self) -> Description:
        """The names of the classes in the order of the heatmaps, rows and columns of a sample, which boxes count."""
        counting = {"smallest": list(self.smallest)} if self.smallest != ANY_SIZE else {}
        return {"classes": list(self.names), "size": list(self.size), **counting}

    def matched(self, description: Description) -> Boxes:
        """The same boxes, with classes numbered as in `description`.

        Raises:
            DataError: a class that the description does not have.
        """
        known, numbers = renumbered(self.names, description)
        # one place more, so that the class −1 of rows that are no box stays what it is
        order = torch.tensor([*numbers, NONE], device=self.boxes.device)
        classes = order[self.boxes[..., 4].long()]
        boxes = torch.cat([self.boxes[..., :4], classes[..., None]], -1)
        return dataclasses.replace(self, boxes=boxes, names=known)

    def captions(self, index: Tensor) -> list[str]:
        """How many boxes there are, and of which classes."""
        return [self._caption(row) for row in self.batch(index)]

    def _caption(self, row: Tensor) -> str:
        found = [self.names[int(k)] for k in row[:, 4].tolist() if k >= 0]
        more = ", ..." if len(found) > NAMES_SHOWN else ""
        return f"{len(found)}: {', '.join(found[:NAMES_SHOWN])}{more}" if found else "no box"

    def counts(self) -> dict[str, int]:
        """Boxes by class."""
        classes = self.boxes[..., 4].flatten()
        found = classes[classes >= 0].long().bincount(minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))

    def moved(self, targets: Tensor, motion: Motion) -> Tensor:
        """Boxes [N, B, 5] after their samples were moved; a box whose middle has left its sample is none any more."""
        scale, shift = (part.to(targets)[:, None] for part in (motion.scale, motion.shift))
        ends = torch.stack([targets[..., :2], targets[..., :2] + targets[..., 2:4]]) * scale + shift
        low, high = ends.amin(0), ends.amax(0)  # mirrored, left is right
        limit = torch.tensor([motion.size[1], motion.size[0]]).to(targets)
        middle = (low + high) / 2
        inside = ((middle >= 0) & (middle < limit)).all(-1) & (targets[..., 4] >= 0)
        low, high = low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)
        found = torch.cat([low, high - low, targets[..., 4:]], -1)
        return torch.where(inside[..., None], found, torch.full_like(found, NONE))

    def marks(self, targets: Tensor) -> list[list[Mark]]:
        """The boxes, with the names of their classes."""
        return [[self._mark(box) for box in row.tolist() if box[4] >= 0] for row in targets]

    def _mark(self, box: list[float]) -> Mark:
        return Mark((box[0], box[1], box[2], box[3]), self.names[int(box[4])])


def usable(boxes: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """Which of the boxes [b, 5] have an area, lie inside a sample and are of a class: bool [b]."""
    low, high, kind = boxes[:, :2], boxes[:, :2] + boxes[:, 2:4], boxes[:, 4]
    inside = (low >= 0).all(1) & (high <= torch.tensor([size[1], size[0]])).all(1)
    known = (kind == kind.floor()) & (kind >= 0) & (kind < classes)
    return boxes.isfinite().all(1) & (boxes[:, 2:4] > 0).all(1) & inside & known


def wrong(boxes: Tensor, names: Sequence[str], size: tuple[int, int]) -> str:
    """Why the boxes [b, 5] of a sample cannot be used, of the first that cannot; "" if all can."""
    if boxes.dim() != 2 or boxes.shape[1] != FIELDS:
        return f"boxes are {list(boxes.shape)}; expected [b, 5]: left, top, width, height, class"
    bad = (~usable(boxes, len(names), size)).nonzero().flatten().tolist()
    return f"box {bad[0]} {_why(boxes[bad[0]].tolist(), names, size)}" if bad else ""


def _why(box: list[float], names: Sequence[str], size: tuple[int, int]) -> str:
    x, y, w, h, kind = box
    which = f"(x {x:g}, y {y:g}, w {w:g}, h {h:g})"
    if not all(map(math.isfinite, box)):
        return f"{which} holds a number that is not finite"
    if w <= 0 or h <= 0:
        return f"{which} has no area"
    if kind != int(kind) or not 0 <= kind < len(names):
        return f"{which} is of class {kind:g}, and there are {len(names)}: 0 to {len(names) - 1}"
    return f"{which} is not inside the {size[1]} × {size[0]} pixels of the sample"
