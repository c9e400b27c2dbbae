"""The training loop: one, for every learner, objective and data set."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikedistill.data import Batches
from spikedistill.objectives.self_distillation import Terms, mean_over_processes
from spikedistill.errors import NonFiniteLoss
from spikedistill.training.learner import SelfDistillation
from spikedistill.core.network import Output
from spikedistill.training.recipe import OptimizerSettings
from spikedistill.training.setup import autocast, learning_rate

CHECK_EVERY = 20
"""Steps between two looks at the loss where looking costs a synchronisation (CUDA)."""


@dataclasses.dataclass
class Progress:
    """Where a run is: the next batch is number `step` of epoch `epoch`; sums of the epoch so far."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def next_epoch(self) -> None:
        self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, {}, 0.0


class Watcher(Protocol):
    """What is told about a run as it goes."""

    def on_step(self, progress: Progress, steps: int) -> None: ...

    def on_epoch(self, row: dict[str, float]) -> None: ...


@dataclasses.dataclass
class Session:
    """The objects of a run that change while it trains."""

    learner: SelfDistillation
    forward: nn.Module  # the learner, or its distributed wrapper
    optimizer: torch.optim.Optimizer
    progress: Progress

    def state(self) -> dict[str, Any]:
        """Everything a run needs to go on bit by bit."""
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }


def measure(output: Output, labels: Tensor, terms: Terms) -> dict[str, Tensor]:
    """What is summed up over an epoch, as tensors: samples, correct answers, and each loss term times samples."""
    count = torch.tensor(float(len(labels)), device=labels.device)
    correct = (output.logits.detach().argmax(1) == labels).sum().float()
    losses = {"loss": terms.total.detach(), **terms.parts}
    return {"samples": count, "correct": correct, **{name: value.float() * count for name, value in losses.items()}}


def fit(
    session: Session,
    batches: Batches,
    settings: OptimizerSettings,
    *,
    precision: str,
    watcher: Watcher,
    validate: Callable[[], dict[str, float]],
    save: Callable[[], None],
) -> None:
    """Train from the session's progress to the last epoch.

    Args:
        validate: measured at the end of each epoch and added to its row.
        save: called after each epoch, when the session stands at the beginning of the next.

    Raises:
        NonFiniteLoss: the loss is NaN or infinite; the last checkpoint is from before.
    """
    progress = session.progress
    while progress.epoch < settings.epochs:
        session.learner.train()
        _epoch(session, batches, settings, precision, watcher)
        row = epoch_row(progress, settings, len(batches), batches.data.labels.device) | validate()
        watcher.on_epoch(row)
        progress.next_epoch()
        save()


def _epoch(session: Session, batches: Batches, settings: OptimizerSettings, precision: str, watcher: Watcher) -> None:
    progress, steps = session.progress, len(batches)
    pending: list[dict[str, Tensor]] = []
    start = time.perf_counter()
    for images, labels in batches.epoch(progress.epoch, progress.step):
        for group in session.optimizer.param_groups:
            group["lr"] = learning_rate(settings, progress.epoch, progress.step, steps)
        pending.append(_step(session, images, labels, settings.clip_norm, precision))
        progress.step += 1
        if images.device.type == "cpu" or progress.step % CHECK_EVERY == 0 or progress.step == steps:
            _collect(progress, pending)
            now = time.perf_counter()
            progress.seconds, start = progress.seconds + now - start, now
            watcher.on_step(progress, steps)


def _step(session: Session, images: Tensor, labels: Tensor, clip: float | None, precision: str) -> dict[str, Tensor]:
    session.optimizer.zero_grad(set_to_none=True)
    with autocast(precision, images.device):
        output = session.forward(images)
    terms = session.learner.loss(output, labels)
    terms.total.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(session.learner.parameters(), clip)
    session.optimizer.step()
    return measure(output, labels, terms)


def _collect(progress: Progress, pending: list[dict[str, Tensor]]) -> None:
    """Add the pending measurements to the sums, and stop at a loss that is no number."""
    for measured in pending:
        for name, value in measured.items():
            number = float(value)
            if not math.isfinite(number):
                raise NonFiniteLoss(_diagnosis(progress, {k: float(v) for k, v in measured.items()}))
            progress.sums[name] = progress.sums.get(name, 0.0) + number
    pending.clear()


def _diagnosis(progress: Progress, measured: dict[str, float]) -> str:
    samples = measured.pop("samples")
    measured.pop("correct")
    terms = ", ".join(f"{name} {value / samples:.4g}" for name, value in measured.items())
    done = progress.sums.get("samples", 0.0)
    before = f"{progress.sums['loss'] / done:.4g} on average before" if done else "the first batch of the epoch"
    return (
        f"the loss is not finite at epoch {progress.epoch + 1}, step {progress.step}: {terms} ({before}). "
        "Usual causes: too large a learning rate (try a tenth, or --optimizer.clip_norm 1), or weights that had "
        "diverged in the step before"
    )


def epoch_row(progress: Progress, settings: OptimizerSettings, steps: int, device: torch.device) -> dict[str, float]:
    """The measurements of an epoch, over all processes."""
    means = mean_over_processes(torch.tensor(list(progress.sums.values()), device=device)).tolist()
    sums = dict(zip(progress.sums, means, strict=True))
    samples, correct = sums.pop("samples"), sums.pop("correct")
    row = {"epoch": progress.epoch + 1, "lr": learning_rate(settings, progress.epoch, steps - 1, steps)}
    row |= {name: value / samples for name, value in sums.items()}
    return row | {"train_accuracy": correct / samples, "seconds": progress.seconds}
