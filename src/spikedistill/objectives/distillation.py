"""Distillation from a frozen teacher network, usually an ANN (Hinton, Vinyals, Dean 2015, arXiv 1503.02531)."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F

from spikedistill.core.neuron import compute_dtype
from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument
from spikedistill.objectives.objective import Needs, Objective, Terms


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
    """weight·τ²·KL(softmax(z_teacher/τ) ‖ softmax(z/τ)), the mean over the batch, on the network's own logits z.

    Args:
        teacher: folder of a finished run, or the name of a module given to the learner.
        temperature: τ.
        weight: factor of this loss.

    Raises:
        InvalidArgument: no teacher, or a temperature not above 0; when it is computed, logits of another shape.
    """

    teacher: str = ""
    temperature: float = 4.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.teacher:
            raise InvalidArgument("distillation needs a teacher: the folder of a finished run, as runs/ann")
        if not self.temperature > 0:
            raise InvalidArgument(f"temperature is {self.temperature}; expected a number above 0")

    def needs(self) -> Needs:
        # Whoever trains runs the teacher, frozen and without gradient, and puts what it says into the batch.
        return Needs(teachers=(self.teacher,))

    def __call__(self, output: Output, batch: Batch) -> Terms:
        tau, logits = self.temperature, output.logits
        target = batch.teachers[self.teacher].logits
        if target.shape != logits.shape:
            raise InvalidArgument(
                f"the teacher {self.teacher} gives logits {tuple(target.shape)}, the network {tuple(logits.shape)}; "
                "both must have been made for the same classes"
            )
        # The teacher may compute in another dtype than the network.
        dtype = compute_dtype(logits.dtype)
        log_target = F.log_softmax(target.to(dtype) / tau, dim=-1)
        log_student = F.log_softmax(logits.to(dtype) / tau, dim=-1)
        # torch's kl_div has the student first; "batchmean" divides by N, not by N·classes. τ²: as in method.md §4.2.
        loss = tau**2 * F.kl_div(log_student, log_target, reduction="batchmean", log_target=True)
        return Terms(self.weight * loss, {"distillation": loss.detach()})
