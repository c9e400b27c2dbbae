"""Self-distillation [ESD]: all heads learn from the label, and from the heads that are right (method.md §4).

By its fields `SelfDistillationLoss` is also each of the ablations.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.neuron import compute_dtype
from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument, choose
from spikedistill.machine.processes import mean_over_processes
from spikedistill.objectives.objective import Needs, Objective, Terms
from spikedistill.objectives.self_teachers import TEACHERS, WEIGHTINGS, targets
from spikedistill.objectives.taught import check_weight
from spikedistill.tasks.classification import class_of


@dataclasses.dataclass(frozen=True)
class SelfDistillationLoss(Objective):
    """hard and soft loss over the heads k = 1..K, the last the network's own (method.md §4.1 to §4.3):

        hard = network_weight·CE(z_K, y) + branch_weight·Σ_{k<K} CE(z_k, y)
        soft = Σ_k τ²·KL(softmax(z̄_k/τ) ‖ softmax(z_k/τ)), the mean over the samples that have a teacher z̄_k
        total = hard + soft_weight·soft

    Means are over the samples of all processes. A batch in which no head is right has soft = 0.

    Args:
        teacher: a key of `TEACHERS`, or None for no soft loss.
        temperature: τ.
        network_weight, branch_weight: the paper's α (1 and 1 on CIFAR, 1 and 0.7 on ImageNet).
        soft_weight: the paper's β (0.3 on CIFAR and ImageNet, 0.1 on CIFAR10-DVS).
        label_smoothing: share of the label that is spread over all classes, in the hard loss (0: none; 0.1 is usual).
        weighting: what the heads that speak count in z̄: null for all the same, as in the paper, or "confidence" for the
            probability that each gives to the right class.
        others_only: whether a head is taught by the others alone; in the paper it is among its own teachers.
        fallback: who teaches where no head does (reliable: where none is right): null for nobody, as in the paper;
            "label" for the mean of the heads' probabilities with the label mixed in; or a frozen teacher, as the folder
            of a finished run.

    Raises:
        InvalidArgument: an unknown teacher or weighting, a temperature not above 0, a weight below 0, a smoothing
            outside 0 to 1, or weighting, others_only or fallback without a teacher.
    """

    teacher: str | None = "reliable"
    temperature: float = 3.0
    network_weight: float = 1.0
    branch_weight: float = 1.0
    soft_weight: float = 0.3
    label_smoothing: float = 0.0
    weighting: str | None = None
    others_only: bool = False
    fallback: str | None = None

    def __post_init__(self) -> None:
        for name in ("network_weight", "branch_weight", "soft_weight"):
            check_weight(name, getattr(self, name))
        if self.teacher is not None:
            choose("teacher", self.teacher, TEACHERS)
        elif self.weighting or self.others_only or self.fallback:
            raise InvalidArgument(
                "without a teacher there is no soft loss; leave out weighting, others_only and fallback"
            )
        if self.weighting is not None:
            choose("weighting", self.weighting, WEIGHTINGS)
            if self.teacher == "deepest":
                raise InvalidArgument("weighting has no effect with the deepest head as the only teacher; leave it out")
        if self.fallback is not None and self.teacher != "reliable":
            raise InvalidArgument(
                f"with the teacher {self.teacher} every sample has one; a fallback is for the reliable teacher"
            )
        if not self.temperature > 0:
            raise InvalidArgument(f"temperature is {self.temperature}; expected a number above 0")
        if not 0 <= self.label_smoothing < 1:
            raise InvalidArgument(f"label_smoothing is {self.label_smoothing}; expected 0 or more, and less than 1")

    def needs(self) -> Needs:
        heads = self.weighting is not None or self.others_only or self.fallback is not None
        return Needs(teachers=() if self.fallback in (None, LABEL) else (self.fallback,), branches=heads)

    def __call__(self, output: Output, batch: Batch) -> Terms:
        """
        Args:
            output: logits and branches [N, classes].
            batch: its targets are class indices [N], or shares of the classes [N, classes]; a head is then right
                where it says the largest.

        Returns:
            The total, without the scale of the learning rule, and its parts `hard` and `soft`.

        Raises:
            InvalidArgument: logits of another shape.
        """
        labels = batch.targets
        if output.logits.dim() != 2:
            raise InvalidArgument(
                f"self_distillation is for logits [N, classes]; this network gives {tuple(output.logits.shape)}. Leave "
                "it out (--objectives.self_distillation null), and name what the task has, as "
                "--objectives.center_points {}"
            )
        logits = torch.stack([*output.branches.values(), output.logits])
        # Logarithms of bf16 probabilities would be worth little.
        logits = logits.to(compute_dtype(logits.dtype))
        # The mean over processes of gradients is that of one process only if all divide by the same number.
        samples = mean_over_processes(torch.full((), float(len(labels)), device=labels.device))
        # All heads in one call. Summed by hand, because the division is not by the size of this batch.
        repeated = labels.repeat(len(logits), *[1] * (labels.dim() - 1))
        smoothing = self.label_smoothing
        ce = F.cross_entropy(logits.flatten(0, 1), repeated, reduction="none", label_smoothing=smoothing)
        ce = ce.view(len(logits), -1).sum(1) / samples
        hard = self.network_weight * ce[-1] + self.branch_weight * ce[:-1].sum()
        # One head alone has nobody to learn from.
        if self.teacher is None or not output.branches:
            return Terms(hard, {"hard": hard.detach()})
        soft = self.soft(logits, batch)
        parts = {"hard": hard.detach(), "soft": soft.detach()}
        return Terms(hard + self.soft_weight * soft, parts)

    def soft(self, logits: Tensor, batch: Batch) -> Tensor:
        """The soft loss of heads [K, N, classes]; the teacher has no gradient."""
        tau = self.temperature
        with torch.no_grad():  # a teacher that had gradient would learn to agree with its pupils
            log_target, has_teacher = self._targets(logits, batch)
            taught = mean_over_processes(has_teacher.sum(1).to(logits.dtype))
        log_heads = F.log_softmax(logits / tau, dim=-1)
        # From logarithms on both sides: a probability that is 0 in float32 gives 0, not NaN.
        kl = (log_target.exp() * (log_target - log_heads)).sum(-1) * has_teacher
        # Where no process has a taught sample, the sum is 0 and so is the loss. τ² makes up for the gradient, which
        # shrinks by 1/τ² (method.md §4.2).
        return tau**2 * (kl.sum(1) / taught.clamp(min=1e-6)).sum()

    def _targets(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logarithms of the targets' probabilities at τ [K or 1, N, classes], and who has one [K or 1, N]."""
        assert self.teacher is not None
        classes = class_of(batch.targets)
        speaks = TEACHERS[self.teacher](logits.argmax(-1) == classes)
        loudness = torch.ones_like(logits[..., 0])
        if self.weighting is not None:
            loudness = WEIGHTINGS[self.weighting](logits, classes)
        target, has_teacher = targets(logits, speaks, loudness, self.others_only)
        log_target = F.log_softmax(target / self.temperature, dim=-1)
        if self.fallback is None:
            return log_target, has_teacher
        instead = self._instead(logits, classes, batch)
        log_target = torch.where(has_teacher.unsqueeze(-1), log_target, instead)
        return log_target, torch.ones_like(has_teacher)

    def _instead(self, logits: Tensor, classes: Tensor, batch: Batch) -> Tensor:
        """Logarithms of the fallback's probabilities [N, classes]."""
        tau = self.temperature
        if self.fallback != LABEL:
            return F.log_softmax(batch.teachers[str(self.fallback)].logits.to(logits.dtype) / tau, dim=-1)
        mean = (logits / tau).softmax(-1).mean(0)
        label = F.one_hot(classes, logits.shape[-1]).to(mean.dtype)
        # a probability that is 0 in float32 shall give 0, not NaN
        return torch.lerp(mean, label, LABEL_SHARE).clamp(min=torch.finfo(mean.dtype).tiny).log()


LABEL = "label"
LABEL_SHARE = 0.5
"""What the label counts beside the heads where they are all wrong."""
