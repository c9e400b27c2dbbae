"""CenterNet's loss on heatmaps, sizes and offsets (Zhou et al. 2019, arXiv 1904.07850; method.md §9)."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.neuron import compute_dtype
from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument
from spikedistill.machine.processes import mean_over_processes
from spikedistill.objectives.objective import Objective, Terms
from spikedistill.tasks.heatmaps import Maps, Middles, heatmaps, parted


@dataclasses.dataclass(frozen=True)
class CenterPoints(Objective):
    """Penalty-reduced focal loss of the heatmap, and L1 of size and offset at the middles, over the number of boxes.

    Args:
        alpha: exponent by which a cell counts less the better it is.
        beta: exponent by which cells near a middle count less.
        size_weight: of the L1 of width and height, in cells.
        offset_weight: of the L1 of the offsets.
        branch_weight: of the mean over the branches of the same loss; without branches it has no effect.

    Raises:
        InvalidArgument: a weight or exponent below 0.
    """

    alpha: float = 2.0
    beta: float = 4.0
    size_weight: float = 0.1
    offset_weight: float = 1.0
    branch_weight: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise InvalidArgument(f"{field.name} is {getattr(self, field.name)}; expected a number, 0 or more")

    def __call__(self, output: Output, batch: Batch) -> Terms:
        dtype = compute_dtype(output.logits.dtype)
        height, width = output.logits.shape[2:]
        boxes = batch.targets.to(output.logits.device, dtype)
        middles = Middles.of(boxes, height, width)
        truth = heatmaps(boxes, parted(output.logits).heat.shape[1], height, width)
        parts = self._parts(parted(output.logits.to(dtype)), middles, truth)
        total = self._sum(parts)
        if output.branches and self.branch_weight:
            branches = [self._parts(parted(b.to(dtype)), middles, truth) for b in output.branches.values()]
            parts["branches"] = torch.stack([self._sum(each) for each in branches]).mean()
            total = total + self.branch_weight * parts["branches"]
        return Terms(total, {"loss": total.detach()} | {name: part.detach() for name, part in parts.items()})

    def _sum(self, parts: dict[str, Tensor]) -> Tensor:
        return parts["heatmap"] + self.size_weight * parts["size"] + self.offset_weight * parts["offset"]

    def _parts(self, maps: Maps, middles: Middles, truth: Tensor) -> dict[str, Tensor]:
        # The mean over processes of gradients is that of one process only if all divide by the same number. Without a
        # box the loss is that of an empty heatmap, and finite.
        count = mean_over_processes(middles.there.sum().to(truth.dtype)).clamp(min=1)
        there = middles.there[..., None]
        size = ((middles.at(maps.size) - middles.size).abs() * there).sum() / count
        offset = ((middles.at(maps.offset) - middles.offset).abs() * there).sum() / count
        return {"heatmap": self._focal(maps.heat, truth) / count, "size": size, "offset": offset}

    def _focal(self, logits: Tensor, truth: Tensor) -> Tensor:
        """−Σ (1 − p)^α log p in the cells of middles, −Σ (1 − Y)^β p^α log(1 − p) in the others."""
        p = logits.sigmoid()
        # logsigmoid stays finite where the logarithm of p would not
        right = (1 - p) ** self.alpha * F.logsigmoid(logits)
        wrong = (1 - truth) ** self.beta * p**self.alpha * F.logsigmoid(-logits)
        return -torch.where(truth == 1, right, wrong).sum()
