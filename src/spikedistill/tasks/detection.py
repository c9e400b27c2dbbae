"""Detection: any number of boxes in each sample, by heatmaps of their middles (method.md §9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikedistill.errors import DataError, InvalidArgument
from spikedistill.tasks.average_precision import average_precision, require_pycocotools
from spikedistill.tasks.boxes import ANY_SIZE, FIELDS, Boxes, Smallest
from spikedistill.tasks.heatmaps import EXTRA, STRIDE, Middles, found_boxes, parted
from spikedistill.tasks.task import Description, Grid, Mark, Targets, Task

OVERLAP = 0.5
"""Intersection over union from which on a box counts as found."""


def _joined(parts: list[Tensor], fields: int) -> Tensor:
    """Rows of all batches, [M, B, fields]; batches of other data sets may have room for fewer boxes."""
    if not parts:
        return torch.zeros(0, 1, fields)
    most = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[1]), value=-1.0) for part in parts])


def _found(logits: Tensor, most: int, description: Description | None) -> Tensor:
    """The boxes that the network speaks of, by the rules of the data set; without one of those by its map alone."""
    if description is None:
        return found_boxes(logits, most, (logits.shape[2] * STRIDE, logits.shape[3] * STRIDE))
    rows, columns = description["size"]
    return found_boxes(logits, most, (rows, columns), Smallest(*description.get("smallest", ANY_SIZE)))


class AveragePrecision:
    """COCO's mean average precision of the boxes that are found.

    Args:
        most: boxes of a sample that count.
        description: of the targets; without it boxes are cut where the map ends, which may be padded.
    """

    def __init__(self, most: int, description: Description | None = None) -> None:
        self.most = most
        self.description = description
        self.found: list[Tensor] = []
        self.boxes: list[Tensor] = []
        self.classes = 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: what the network said [N, K + 4, h, w], and boxes [N, B, 5]."""
        targets = targets.to(logits.device)
        self.classes = logits.shape[1] - EXTRA
        # left where they are, so that nothing waits for a GPU
        self.found.append(_found(logits.detach(), self.most, self.description))
        self.boxes.append(targets)

    def state(self) -> dict[str, Any]:
        found, boxes = _joined(self.found, FIELDS + 1).cpu(), _joined(self.boxes, FIELDS).cpu()
        return {"found": found, "boxes": boxes, "classes": self.classes}

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Add what another meter found: all of it, because the precision of a part says nothing of the whole."""
        if len(state["boxes"]):
            self.found.append(state["found"])
            self.boxes.append(state["boxes"])
        self.classes = max(self.classes, state["classes"])

    def columns(self) -> dict[str, float]:
        state = self.state()
        return average_precision(state["found"], state["boxes"], self.classes)


class Hits:
    """The share of boxes in whose middle the heatmap of their class says at least `sure`: cheap, and no precision."""

    def __init__(self, sure: float) -> None:
        self.sure = sure
        self.boxes: Tensor | int = 0
        self.hit: Tensor | int = 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: what the network said [N, K + 4, h, w], and boxes [N, B, 5]."""
        heat = parted(logits.detach()).heat
        middles = Middles.of(targets.to(logits.device), *heat.shape[2:])
        said = middles.at(heat.float().sigmoid()).gather(2, middles.kind[..., None])[..., 0]
        self.boxes = self.boxes + middles.there.sum()
        self.hit = self.hit + ((said >= self.sure) & middles.there).sum()

    def state(self) -> dict[str, Any]:
        return {"boxes": int(self.boxes), "hit": int(self.hit)}

    def add_state(self, state: Mapping[str, Any]) -> None:
        self.boxes, self.hit = self.boxes + state["boxes"], self.hit + state["hit"]

    def columns(self) -> dict[str, float]:
        return {"hit": int(self.hit) / int(self.boxes)} if int(self.boxes) else {}


class Finds:
    """By class: how many boxes there are, how many are found, and how often something is found that is not there.

    Args:
        description: of the targets.
        most: boxes of a sample that count.
        sure: confidence from which on they do.
    """

    COLUMNS = ("boxes", "found", "not there")

    def __init__(self, description: Description, most: int, sure: float) -> None:
        self.description, self.most, self.sure = description, most, sure
        self.names: tuple[str, ...] = tuple(description["classes"])
        self.counts = torch.zeros(len(self.names), len(self.COLUMNS), dtype=torch.long)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: what the network said [N, K + 4, h, w], and boxes [N, B, 5]."""
        found = _found(logits.detach(), self.most, self.description).cpu()
        for said, true in zip(found, targets.cpu(), strict=True):
            said, true = said[said[:, 4] >= self.sure], true[true[:, 4] >= 0]
            hit = matched(said, true)
            self.counts[:, 0] += self._by_class(true[:, 4])
            self.counts[:, 1] += self._by_class(said[hit, 5])
            self.counts[:, 2] += self._by_class(said[~hit, 5])

    def _by_class(self, classes: Tensor) -> Tensor:
        return classes.long().bincount(minlength=len(self.names))

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def add_state(self, state: Mapping[str, Any]) -> None:
        self.counts = self.counts + state["counts"]

    def lines(self) -> list[str]:
        """Boxes of each class, how many are found, and how many answers are wrong."""
        title = f"by class (overlap {OVERLAP}, confidence {self.sure})"
        width = max(len(title), *(len(name) + 2 for name in self.names))
        found = [f"{title:<{width}}  boxes  found  not there"]
        for name, (boxes, hit, wrong) in zip(self.names, self.counts.tolist(), strict=True):
            share = f"{hit / boxes:6.1%}" if boxes else "     -"
            found.append(f"{f'  {name}':<{width}}  {boxes:5d} {share}  {wrong:9d}")
        return found

    def grid(self) -> Grid:
        """The counts, classes by what became of their boxes."""
        return Grid(
            "Boxes by class", "class", "boxes", self.names, self.COLUMNS, self.counts, self.counts[:, 0], "boxes"
        )


def matched(said: Tensor, true: Tensor) -> Tensor:
    """Which of the boxes [n, 6] that were found, the surest first, are true ones [b, 5]: bool [n].

    Each true box counts once, for the surest that overlaps it enough and is of its class.
    """
    from torchvision.ops import box_convert, box_iou

    corners = [box_convert(boxes[:, :4], "xywh", "xyxy") for boxes in (said, true)]
    overlap = box_iou(corners[0], corners[1])
    overlap = overlap * (said[:, 5:6] == true[:, 4])
    hit = torch.zeros(len(said), dtype=torch.bool)
    for k in range(len(said) if len(true) else 0):
        value, which = overlap[k].max(0)
        if value >= OVERLAP:
            hit[k] = True
            overlap[:, which] = 0
    return hit


@dataclasses.dataclass(frozen=True)
class Detection(Task):
    """Boxes with a class, any number in each sample; scored by COCO's mean average precision.

    Args:
        most: boxes of a sample that count.
        sure: confidence from which on a box is told, drawn and counted by class. (The average precision needs none.)

    Raises:
        InvalidArgument: no box, or a confidence that is none.
    """

    most: int = 100
    sure: float = 0.3

    @property
    def score(self) -> str:
        return "map"

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InvalidArgument(f"task.most is {self.most}; expected at least one box for a sample")
        if not 0 < self.sure < 1:
            raise InvalidArgument(f"task.sure is {self.sure}; expected a confidence above 0 and below 1")

    def head_size(self, description: Description) -> int:
        """Numbers of a cell: a heatmap for each class, width, height, and two offsets."""
        if not {"classes", "size"} <= set(description):
            raise InvalidArgument(
                f"detection needs samples with boxes; the targets of these have {', '.join(description)}"
            )
        return len(description["classes"]) + EXTRA

    def check(self, logits: Tensor, targets: Any) -> None:
        """Targets must be boxes [N, B, 5], and what the network says must be maps [N, K + 4, h, w]."""
        if not isinstance(targets, Tensor) or targets.dim() != 3 or targets.shape[2] != FIELDS:
            kind = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
            raise InvalidArgument(f"boxes must be [N, B, 5] (left, top, width, height, class); given {kind}")
        if logits.dim() != 4 or logits.shape[1] <= EXTRA or len(logits) != len(targets):
            raise InvalidArgument(
                f"detection needs a network that says something of every place, [N, classes + {EXTRA}, h, w] with N = "
                f"{len(targets)}; this one gives {tuple(logits.shape)}. Take --model spiking_centernet"
            )
        if targets.device.type == "cpu" and targets.numel():
            highest = int(targets[..., 4].max())
            if highest >= logits.shape[1] - EXTRA:
                raise InvalidArgument(
                    f"boxes are of classes up to {highest}, and the network has {logits.shape[1] - EXTRA} heatmaps"
                )

    def refuse_unscorable(self, targets: Targets, part: str) -> None:
        """The precision is a share of boxes."""
        if isinstance(targets, Boxes) and len(targets) and not bool((targets.boxes[..., 4] >= 0).any()):
            raise DataError(
                f"none of the {len(targets)} {part} samples has a box, so nothing can be scored on them; take "
                "more of them (--data.validation_rows, --data.test_rows), or others"
            )

    def meter(self, description: Description | None = None) -> AveragePrecision:
        return AveragePrecision(self.most, description)

    def training_meter(self) -> Hits:
        """Where the heatmap is right in the middle of a box; the precision would take longer than the step."""
        require_pycocotools()  # the evaluation needs it at the end, which may be hours from now
        return Hits(self.sure)

    def inspector(self, description: Description) -> Finds:
        return Finds(description, self.most, self.sure)

    def answer(self, logits: Tensor, description: Description) -> str:
        """The boxes with enough confidence, the surest first."""
        found = [
            f"{mark.caption} at x {mark.box[0]:.0f}, y {mark.box[1]:.0f}, {mark.box[2]:.0f} × {mark.box[3]:.0f}"
            for mark in self.marks(logits, description)
        ]
        return "; ".join(found) or f"nothing with a confidence of {self.sure:.0%}"

    def marks(self, logits: Tensor, description: Description) -> list[Mark]:
        """The boxes with enough confidence, with their classes."""
        found = _found(logits[None], self.most, description)[0]
        return [
            Mark((x, y, w, h), f"{description['classes'][int(kind)]} {sure:.0%}")
            for x, y, w, h, sure, kind in found.tolist()
            if sure >= self.sure
        ]
