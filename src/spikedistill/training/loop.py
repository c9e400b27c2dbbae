"""The training loop: one, for every learner, objective, task and data set."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spikedistill.core.learning import LearningRule
from spikedistill.core.network import Network
from spikedistill.core.output import Batch
from spikedistill.data import Batches
from spikedistill.errors import CheckpointError, NonFiniteLoss
from spikedistill.machine.graphs import Recorder
from spikedistill.machine.processes import from_all_processes
from spikedistill.tasks import Meter
from spikedistill.training.average import MovingAverage
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.optimizers import OptimizerSettings, learning_rate
from spikedistill.training.phases import Phase, Phases
from spikedistill.training.pruning import Pruner, Shown
from spikedistill.training.step import Step, Taken

CHECK_EVERY = 20
"""Steps between two looks at the losses where looking costs a synchronisation (CUDA)."""
GRADIENT = "gradient norm"
CAUSES = (
    "Usual causes: too large a learning rate (try a tenth, or --optimizer.clip_norm 1), or an input that is NaN or "
    "infinite. The checkpoint is from before"
)


def not_finite(learner: nn.Module) -> list[str]:
    """Names of the parameters and buffers that hold NaN or an infinite number."""
    tensors = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
    floats = [(name, value) for name, value in tensors.items() if value.is_floating_point()]
    return [name for name, value in floats if not value.isfinite().all()]


@dataclasses.dataclass
class Progress:
    """Where a run is: the next batch is number `step` of epoch `epoch`, and what that epoch has measured so far.

    Attributes:
        samples: shown in this epoch.
        sums: of each loss term times samples.
        meter: state of the task's meter.
        seconds: spent in this epoch.
        best: the best validation score of the epochs before; None before there is one.
        rows: what `on_epoch` was told of the epochs before.
    """

    epoch: int = 0
    step: int = 0
    samples: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    meter: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    best: float | None = None
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Progress:
        """Of the plain values of a checkpoint.

        Raises:
            CheckpointError: a value is missing or of another kind.
        """
        kinds = {"epoch": int, "step": int, "samples": int, "sums": dict, "meter": dict, "rows": list}
        kinds |= {"seconds": float, "best": (float, type(None))}
        for name, kind in kinds.items():
            if not isinstance(values.get(name, ...), kind):
                raise CheckpointError(f"the checkpoint's {name} is {values.get(name)!r}")
        numbers = [*values["sums"].values(), *(number for row in values["rows"] for number in row.values())]
        if min(values["epoch"], values["step"], values["samples"]) < 0 or not all(
            isinstance(number, (int, float)) for number in numbers
        ):
            raise CheckpointError("the checkpoint's progress is not made of numbers")
        return cls(**{name: values[name] for name in kinds})

    def next_epoch(self) -> None:
        self.epoch, self.step, self.samples, self.sums, self.meter, self.seconds = self.epoch + 1, 0, 0, {}, {}, 0.0

    def mean(self, name: str) -> float:
        """Of a loss term over the epoch so far."""
        return self.sums[name] / self.samples


class Watcher(Protocol):
    """What is told about a run as it goes."""

    def on_step(self, progress: Progress, steps: int) -> None: ...

    def on_epoch(self, row: dict[str, float]) -> None: ...


@dataclasses.dataclass
class Session:
    """The objects of a run that change while it trains.

    Attributes:
        phases: which learning rule trains which step.
        forward: the learner, or its distributed wrapper.
        average: the moving average of the network's weights, where the recipe wants one.
        pruner: which samples each epoch shows, where the recipe wants to leave some out.
        not_finite: tensors that are not finite from the beginning (a mask of −∞), and may stay so.
    """

    learner: SelfDistillation
    phases: Phases
    forward: Callable[[Tensor, LearningRule, bool], Any]
    optimizer: torch.optim.Optimizer
    progress: Progress
    average: MovingAverage | None = None
    pruner: Pruner | None = None
    not_finite: frozenset[str] = frozenset()

    def check_finite(self) -> None:
        """Refuse weights and statistics that must not be kept.

        Raises:
            NonFiniteLoss: names the tensors; the last checkpoint is from before.
        """
        found = [name for name in not_finite(self.learner) if name not in self.not_finite]
        if found:
            raise NonFiniteLoss(
                f"{len(found)} tensors are not finite after epoch {self.progress.epoch}: {', '.join(found[:4])}. "
                f"{CAUSES}"
            )

    def shown(self, batches: Batches) -> Shown:
        """What the epoch shows."""
        epoch = self.progress.epoch
        return Shown(batches, epoch) if self.pruner is None else self.pruner.shown(batches, epoch)

    def note(self, shown: Shown, taken: Taken, targets: Any) -> None:
        """Keep what a step says of its samples, where that decides what the next epochs show."""
        if self.pruner is not None:
            logits = torch.cat([part.logits for part in taken.parts])
            self.pruner.note(shown.index(self.progress.step), self.learner.task.sample_losses(logits, targets))

    def next_epoch(self) -> None:
        self.progress.next_epoch()
        if self.pruner is not None:
            self.pruner.next_epoch()

    @property
    def network(self) -> Network:
        """What is evaluated and kept: the average, or the network that is trained."""
        return self.learner.network if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return next(self.learner.parameters()).device

    def state(self) -> dict[str, Any]:
        """Everything a run needs to go on bit by bit; of the epoch so far, what all processes have measured."""
        progress = self.progress
        samples, sums, meter = measured_by_all(self)
        progress = dataclasses.replace(progress, samples=samples, sums=sums, meter=meter.state() if samples else {})
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({} if self.average is None else {"average": self.average.state_dict()}),
            **({} if self.pruner is None else {"pruning": self.pruner.state()}),
            "progress": dataclasses.asdict(progress),
            "random": torch.get_rng_state(),
            # of the one GPU that this run computes on: another machine may have more or fewer
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }


def fit(
    session: Session,
    batches: Batches,
    settings: OptimizerSettings,
    *,
    precision: str,
    recorder: Recorder | None = None,
    compiled: CompiledStep | None = None,
    watcher: Watcher,
    validate: Callable[[], dict[str, float]],
    save: Callable[[], None],
) -> None:
    """Train from the session's progress to the last epoch.

    Args:
        recorder: records the steps and plays them again.
        compiled: computes the gradients of whole batches.
        validate: measured at the end of each epoch and added to its row.
        save: called after each epoch, when the session stands at the beginning of the next.

    Raises:
        NonFiniteLoss: a loss or gradient is NaN or infinite; the last checkpoint is from before.
    """
    progress = session.progress
    step = Step(session.learner, session.forward, session.optimizer, settings, precision, recorder, compiled)
    while progress.epoch < settings.epochs:
        session.learner.train()
        shown = session.shown(batches)
        _epoch(session, step, shown, settings, watcher)
        session.check_finite()
        row = epoch_row(session, settings, len(shown.batches)) | validate()
        progress.rows.append(row)
        session.next_epoch()
        save()  # before anybody is told: what was shown is on the disk
        watcher.on_epoch(row)


def _epoch(session: Session, step: Step, shown: Shown, settings: OptimizerSettings, watcher: Watcher) -> None:
    progress, steps = session.progress, len(shown.batches)
    meter = session.learner.task.training_meter()
    if progress.meter:  # resumed within an epoch
        meter.add_state(progress.meter)
    losses = _Losses(progress)
    start = time.perf_counter()
    for batch in shown.batches.epoch(progress.epoch, progress.step):
        phase = session.phases.at(progress.epoch, progress.step, steps)
        lr = learning_rate(settings, progress.epoch, progress.step, steps)
        taken = _take(session, step, shown.weighted(batch, progress.step), phase, lr, losses, meter)
        session.note(shown, taken, batch.targets)
        progress.step += 1
        if session.device.type == "cpu" or progress.step % CHECK_EVERY == 0 or progress.step == steps:
            losses.check()
            progress.meter = meter.state()
            now = time.perf_counter()
            progress.seconds, start = progress.seconds + now - start, now
            watcher.on_step(progress, steps)


def _take(session: Session, step: Step, batch: Batch, phase: Phase, lr: float, losses: _Losses, meter: Meter) -> Taken:
    """Take a step and add up what it measured."""

    def look(taken: Taken) -> None:
        for part, measured in zip(step.parts(batch), taken.parts, strict=True):
            losses.add(measured.terms, len(part))
            meter.add(measured.logits, part.targets)
        losses.watch(taken.norm)
        if session.device.type == "cpu":
            losses.check()  # before the weights are touched; on a GPU it would wait for the step

    taken = step(batch, phase, lr, look)
    if session.average is not None:
        session.average.update_parameters(session.learner.network)
    return taken


class _Losses:
    """Losses of steps that nobody has looked at yet, and their sums in the progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.pending: list[tuple[dict[str, Tensor], int]] = []
        self.norms: list[Tensor] = []

    def add(self, terms: dict[str, Tensor], samples: int) -> None:
        self.pending.append((terms, samples))

    def watch(self, gradient_norm: Tensor) -> None:
        self.norms.append(gradient_norm)

    def check(self) -> None:
        """Add the pending losses to the sums.

        Raises:
            NonFiniteLoss: one of them, or the gradient, is no number.
        """
        if not self.norms:
            return
        norm = max((float(norm) for norm in self.norms), key=lambda value: (not math.isfinite(value), value))
        for terms, samples in self.pending:
            numbers = {name: float(value) for name, value in terms.items()}
            if not all(map(math.isfinite, [*numbers.values(), norm])):
                raise NonFiniteLoss(_diagnosis(self.progress, numbers | {GRADIENT: norm}))
            for name, number in numbers.items():
                self.progress.sums[name] = self.progress.sums.get(name, 0.0) + number * samples
            self.progress.samples += samples
        self.pending.clear()
        self.norms.clear()


def _diagnosis(progress: Progress, numbers: dict[str, float]) -> str:
    what = "gradient" if math.isfinite(numbers["loss"]) else "loss"
    terms = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    before = f"loss {progress.mean('loss'):.4g} on average before" if progress.samples else "no step of it before"
    return (
        f"the {what} is not finite in epoch {progress.epoch + 1}, step {progress.step + 1}: {terms} ({before}). "
        f"{CAUSES}"
    )


def measured_by_all(session: Session) -> tuple[int, dict[str, float], Meter]:
    """Samples, sums of losses and the meter of the epoch so far, over all processes; each of them has to ask."""
    progress, meter = session.progress, session.learner.task.training_meter()
    samples, sums = 0, {}
    for measured in from_all_processes((progress.samples, progress.sums, progress.meter)):
        samples += measured[0]
        sums = {name: sums.get(name, 0.0) + measured[1].get(name, 0.0) for name in {**sums, **measured[1]}}
        if measured[2]:  # nothing yet, or nothing any more: the first process holds it
            meter.add_state(measured[2])
    return samples, sums, meter


def epoch_row(session: Session, settings: OptimizerSettings, steps: int) -> dict[str, float]:
    """The measurements of an epoch, over all processes: losses, and the meter's columns as `train_NAME`."""
    progress = session.progress
    samples, sums, meter = measured_by_all(session)
    row = {"epoch": progress.epoch + 1, "lr": learning_rate(settings, progress.epoch, steps - 1, steps)}
    row |= {name: value / samples for name, value in sums.items()}
    row |= {f"train_{name}": value for name, value in meter.columns().items()}
    if session.pruner is not None:
        row["shown"] = samples / session.pruner.samples
    return row | {"seconds": progress.seconds}
