"""Noise-smoothed logits distillation (NLD) of CKDSNN (arXiv 2511.06902; method.md §4.4)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument
from spikedistill.objectives.objective import Terms
from spikedistill.objectives.taught import Taught, check_temperature, divergence


@dataclasses.dataclass(frozen=True)
class NoiseSmoothedDistillation(Taught):
    """weight·τ²·KL(softmax(z_teacher/τ) ‖ softmax(z̃/τ)), z̃ = z + λ·ε, the mean over the batch.

    ε has the mean and the standard deviation of each sample's logits z over the classes, and no gradient.

    Args:
        temperature: τ.
        share: λ.
        noise: what ε is drawn from: "matched" to the sample's mean and standard deviation; "variance", with the square
            of that deviation, as in the published code; "fixed", standard normal.
        mixing: "logits", as above; or "probabilities" for (1 − λ)·softmax(z/τ) + λ·softmax(ε/τ), as in the published
            code.

    Raises:
        InvalidArgument: no teacher, a temperature not above 0, or a share below 0 (with probabilities also 1 or more).
    """

    temperature: float = 2.0
    share: float = 0.1
    noise: Literal["matched", "variance", "fixed"] = "matched"
    mixing: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("temperature", self.temperature)
        if not self.share >= 0 or (self.mixing == "probabilities" and self.share >= 1):
            raise InvalidArgument(
                f"share is {self.share}; expected 0 or more, and less than 1 where probabilities are mixed"
            )

    def __call__(self, output: Output, batch: Batch) -> Terms:
        target, logits = self.class_logits(output, batch)
        tau, noise = self.temperature, self._drawn(logits.detach())
        log_target = F.log_softmax(target / tau, dim=-1)
        if self.mixing == "logits":
            log_student = F.log_softmax((logits + self.share * noise) / tau, dim=-1)
        else:
            # as a sum in logarithms: a probability of 0 would have no logarithm
            parts = [(logits, 1 - self.share), (noise, self.share)]
            logs = [F.log_softmax(x / tau, dim=-1) + torch.tensor(share).log() for x, share in parts]
            log_student = torch.logaddexp(*logs)
        loss = tau**2 * divergence(log_target, log_student)
        return Terms(self.weight * loss, {"noise_smoothed": loss.detach()})

    def _drawn(self, logits: Tensor) -> Tensor:
        """ε [N, classes]."""
        noise = torch.randn_like(logits)
        if self.noise == "fixed":
            return noise
        spread = logits.std(-1, keepdim=True)
        return logits.mean(-1, keepdim=True) + noise * (spread**2 if self.noise == "variance" else spread)
