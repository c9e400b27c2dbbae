"""Distillation of heatmaps from a frozen teacher network (Spiking CenterNet, arXiv 2402.01287; method.md §9)."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F

from spikedistill.core.output import Batch, Output
from spikedistill.objectives.objective import Terms
from spikedistill.objectives.taught import Taught
from spikedistill.tasks.heatmaps import parted


@dataclasses.dataclass(frozen=True)
class HeatmapDistillation(Taught):
    """weight·mean (p − p_teacher)² over all cells and classes, p = sigmoid of the heatmap's logits.

    Raises:
        InvalidArgument: no teacher; when it is computed, maps of another shape.
    """

    def __call__(self, output: Output, batch: Batch) -> Terms:
        target, logits = self.logits(output, batch)
        loss = F.mse_loss(parted(logits).heat.sigmoid(), parted(target).heat.sigmoid())
        return Terms(self.weight * loss, {"heatmap_distillation": loss.detach()})
