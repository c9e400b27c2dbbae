"""Distillation from a frozen teacher network, usually an ANN (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).

With two temperatures it is energy-aware distillation (arXiv 2106.07172, of which only the abstract could be read; the
equation is ours, method.md §4.5).
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F

from spikedistill.core.output import Batch, Output
from spikedistill.objectives.objective import Terms
from spikedistill.objectives.taught import Taught, check_temperature, divergence


@dataclasses.dataclass(frozen=True)
class Distillation(Taught):
    """weight·τ·τ_s·KL(softmax(z_teacher/τ) ‖ softmax(z/τ_s)), the mean over the batch, on the network's own logits z.

    Its optimum is z = (τ_s/τ)·z_teacher up to a constant: τ_s below τ asks for smaller logits.

    Args:
        temperature: τ.
        student_temperature: τ_s (null: τ, which is ordinary distillation).

    Raises:
        InvalidArgument: no teacher, or a temperature not above 0; when it is computed, logits of another shape.
    """

    temperature: float = 4.0
    student_temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("temperature", self.temperature)
        check_temperature("student_temperature", self._student)

    @property
    def _student(self) -> float:
        return self.temperature if self.student_temperature is None else self.student_temperature

    def __call__(self, output: Output, batch: Batch) -> Terms:
        target, logits = self.class_logits(output, batch)
        log_target = F.log_softmax(target / self.temperature, dim=-1)
        log_student = F.log_softmax(logits / self._student, dim=-1)
        # The gradient shrinks by 1/(τ·τ_s), as in method.md §4.2.
        loss = self.temperature * self._student * divergence(log_target, log_student)
        return Terms(self.weight * loss, {"distillation": loss.detach()})
