"""Self-distillation [ESD]: all heads learn from the label, and from the heads that are right (method.md §4).

By its fields `SelfDistillationLoss` is also each of the ablations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.neuron import compute_dtype
from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument, choose
from spikedistill.machine.processes import mean_over_processes
from spikedistill.objectives.objective import Objective, Terms
from spikedistill.tasks.classification import class_of

Teacher = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps the heads' logits [K, N, classes] (the network's own last) and whether each head is right [K, N] to target
logits [N, classes] and the samples [N] that it speaks for."""


def reliable_teacher(logits: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """z̄_i: the mean over the heads that are right on sample i; silent where none is (method.md §4.2)."""
    # Weights that are 0 for wrong heads: samples differ in their right heads, and no loop over them is needed. Where no
    # head is right the target is 0 and is not used.
    share = correct.to(logits.dtype) / correct.sum(0).clamp(min=1)
    return (share.unsqueeze(-1) * logits).sum(0), correct.any(0)


def mean_teacher(logits: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over all heads."""
    return logits.mean(0), torch.ones_like(correct[0])


def deepest_teacher(logits: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """The network's own output, which is the last head."""
    return logits[-1], torch.ones_like(correct[0])


TEACHERS: dict[str, Teacher] = {"reliable": reliable_teacher, "mean": mean_teacher, "deepest": deepest_teacher}


@dataclasses.dataclass(frozen=True)
class SelfDistillationLoss(Objective):
    """hard and soft loss over the heads k = 1..K, the last the network's own (method.md §4.1 to §4.3):

        hard = network_weight·CE(z_K, y) + branch_weight·Σ_{k<K} CE(z_k, y)
        soft = Σ_k τ²·KL(softmax(z̄/τ) ‖ softmax(z_k/τ)), the mean over the samples that have a teacher z̄
        total = hard + soft_weight·soft

    Means are over the samples of all processes. A batch in which no head is right has soft = 0.

    Args:
        teacher: a key of `TEACHERS`, or None for no soft loss.
        temperature: τ.
        network_weight, branch_weight: the paper's α (1 and 1 on CIFAR, 1 and 0.7 on ImageNet).
        soft_weight: the paper's β (0.3 on CIFAR and ImageNet, 0.1 on CIFAR10-DVS).
        label_smoothing: share of the label that is spread over all classes, in the hard loss (0: none; 0.1 is usual).

    Raises:
        InvalidArgument: an unknown teacher, a temperature not above 0, or a smoothing outside 0 to 1.
    """

    teacher: str | None = "reliable"
    temperature: float = 3.0
    network_weight: float = 1.0
    branch_weight: float = 1.0
    soft_weight: float = 0.3
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.teacher is not None:
            choose("teacher", self.teacher, TEACHERS)
        if not self.temperature > 0:
            raise InvalidArgument(f"temperature is {self.temperature}; expected a number above 0")
        if not 0 <= self.label_smoothing < 1:
            raise InvalidArgument(f"label_smoothing is {self.label_smoothing}; expected 0 or more, and less than 1")

    def __call__(self, output: Output, batch: Batch) -> Terms:
        """
        Args:
            output: logits and branches [N, classes].
            batch: its targets are class indices [N], or shares of the classes [N, classes]; a head is then right
                where it says the largest.

        Returns:
            The total, without the scale of the learning rule, and its parts `hard` and `soft`.
        """
        labels = batch.targets
        logits = torch.stack([*output.branches.values(), output.logits])
        # Logarithms of bf16 probabilities would be worth little.
        logits = logits.to(compute_dtype(logits.dtype))
        # The mean over processes of gradients is that of one process only if all divide by the same number.
        samples = mean_over_processes(torch.tensor(float(len(labels)), device=labels.device))
        # All heads in one call. Summed by hand, because the division is not by the size of this batch.
        repeated = labels.repeat(len(logits), *[1] * (labels.dim() - 1))
        smoothing = self.label_smoothing
        ce = F.cross_entropy(logits.flatten(0, 1), repeated, reduction="none", label_smoothing=smoothing)
        ce = ce.view(len(logits), -1).sum(1) / samples
        hard = self.network_weight * ce[-1] + self.branch_weight * ce[:-1].sum()
        # One head alone has nobody to learn from.
        if self.teacher is None or not output.branches:
            return Terms(hard, {"hard": hard.detach()})
        soft = self.soft(logits, labels)
        parts = {"hard": hard.detach(), "soft": soft.detach()}
        return Terms(hard + self.soft_weight * soft, parts)

    def soft(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The soft loss of heads [K, N, classes]; the teacher has no gradient."""
        assert self.teacher is not None
        tau = self.temperature
        with torch.no_grad():  # a teacher that had gradient would learn to agree with its pupils
            target, has_teacher = TEACHERS[self.teacher](logits, logits.argmax(-1) == class_of(labels))
            log_target = F.log_softmax(target / tau, dim=-1)
            taught = mean_over_processes(has_teacher.sum().to(logits.dtype))
        log_heads = F.log_softmax(logits / tau, dim=-1)
        # From logarithms on both sides: a probability that is 0 in float32 gives 0, not NaN.
        kl = (log_target.exp() * (log_target - log_heads)).sum(-1) * has_teacher
        # Where no process has a taught sample, the sum is 0 and so is the loss. τ² makes up for the gradient, which
        # shrinks by 1/τ² (method.md §4.2).
        return tau**2 * kl.sum() / taught.clamp(min=1e-6)
