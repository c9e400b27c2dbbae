"""What objectives with a frozen teacher network have in common."""

from __future__ import annotations

import dataclasses
import math

import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.neuron import compute_dtype
from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument
from spikedistill.objectives.objective import Needs, Objective


@dataclasses.dataclass(frozen=True)
class Taught(Objective):
    """An objective that needs a teacher network.

    Args:
        teacher: folder of a finished run, "hub:user/name", "module:function" of a function without arguments that
            gives a trained network, or the name of a module given to `train` or the learner.
        weight: factor of this loss.

    Raises:
        InvalidArgument: no teacher, or a weight below 0.
    """

    teacher: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.teacher:
            raise InvalidArgument(
                f"{type(self).__name__} needs a teacher: the folder of a finished run, as --teacher runs/ann"
            )
        check_weight("weight", self.weight)

    def needs(self) -> Needs:
        # Whoever trains runs the teacher, frozen and without gradient, and puts what it says into the batch.
        return Needs(teachers=(self.teacher,))

    def logits(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the teacher and the network say, [N, ...] both, in one dtype of at least float32.

        Raises:
            InvalidArgument: they are of another shape.
        """
        logits, target = output.logits, batch.teachers[self.teacher].logits.detach()
        if target.shape != logits.shape:
            raise InvalidArgument(
                f"the teacher {self.teacher} gives logits {tuple(target.shape)}, the network {tuple(logits.shape)}; "
                "both must have been made for the same classes"
            )
        # The teacher may compute in another dtype than the network.
        dtype = compute_dtype(logits.dtype)
        return target.to(dtype), logits.to(dtype)

    def class_logits(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `logits`, of classes.

        Raises:
            InvalidArgument: maps, or whatever else is not [N, classes].
        """
        if output.logits.dim() != 2:
            raise InvalidArgument(
                f"{type(self).__name__} compares logits [N, classes]; this network gives {tuple(output.logits.shape)}"
            )
        return self.logits(output, batch)


def divergence(log_target: Tensor, log_student: Tensor) -> Tensor:
    """KL(target ‖ student) of logarithms of probabilities [N, ...], the mean over the N samples."""
    # torch's kl_div has the student first; "batchmean" divides by N, not by N·classes.
    return F.kl_div(log_student, log_target, reduction="batchmean", log_target=True)


def check_weight(name: str, value: float) -> None:
    """Raise InvalidArgument unless the factor of a loss is a number from 0."""
    if not 0 <= value < math.inf:
        raise InvalidArgument(f"{name} is {value}; expected a number, 0 or more")


def check_temperature(name: str, value: float) -> None:
    """Raise InvalidArgument unless a temperature is above 0."""
    if not value > 0:
        raise InvalidArgument(f"{name} is {value}; expected a number above 0")
