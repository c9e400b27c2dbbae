"""Measure a network: its score by time steps, and how much its neurons fire. Spikes only; branches play no part."""

from __future__ import annotations

import dataclasses
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from spikedistill.core.halves import has_halves
from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.modules import evaluating
from spikedistill.core.network import Network, as_network, firing
from spikedistill.core.output import Batch
from spikedistill.errors import InvalidArgument
from spikedistill.tasks import Classification, Inspector, Meter, Task
from spikedistill.tasks.task import Description

DEAD, SATURATED = 0.001, 0.9
"""A layer that fires less or more than this, in spikes per neuron and step, carries next to no information."""

EVALUATION_BATCH = 250
"""Samples that are evaluated at once, where nobody says another number."""

Value = TypeVar("Value")


class Gather(Protocol):
    """gather(value): the values of all processes, by rank."""

    def __call__(self, value: Value, /) -> list[Value]: ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of samples.

    Attributes:
        samples: how many were shown.
        columns: what the task's meter says, by timesteps (None: the ANN twin).
        score_name: the column that says how good the network is.
        firing_rates: mean spikes per neuron and step of each LIF layer, at the largest timesteps; empty for the twin.
        spikes: spikes for one sample of each LIF layer, over the largest timesteps.
        inspector: what looked closer at the answers at the largest timesteps, where there is one.
    """

    samples: int
    columns: dict[int | None, dict[str, float]]
    score_name: str
    firing_rates: dict[str, float]
    spikes: dict[str, float] = dataclasses.field(default_factory=dict)
    inspector: Inspector | None = None

    @property
    def score(self) -> dict[int | None, float]:
        """The score by timesteps; in classification the share of correct answers.

        Raises:
            InvalidArgument: there was nothing to score, as on samples without a box.
        """
        if any(self.score_name not in columns for columns in self.columns.values()):
            raise InvalidArgument(f"there is no {self.score_name} of these {self.samples} samples: nothing to be found")
        return {t: columns[self.score_name] for t, columns in self.columns.items()}

    @property
    def spikes_per_sample(self) -> float | None:
        """Of all layers together, over the largest timesteps; None for the ANN twin."""
        return sum(self.spikes.values()) if self.spikes else None

    def warnings(self) -> list[str]:
        """Layers that are dead or saturated, in words."""
        dead = [name for name, fired in self.firing_rates.items() if fired < DEAD]
        saturated = [name for name, fired in self.firing_rates.items() if fired > SATURATED]
        found = []
        if dead:
            found.append(
                f"dead layers (under {DEAD:.1%} of neurons fire per step): {', '.join(dead)}: nothing passes them; "
                "lower the threshold, or train longer if batch norm is still settling"
            )
        if saturated:
            found.append(f"saturated layers (over {SATURATED:.0%} of neurons fire per step): {', '.join(saturated)}")
        return found


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Any]],
    timesteps: int | Sequence[int] | None,
    *,
    task: Task | None = None,
    description: Description | None = None,
    kernels: Kernels = EAGER,
    gather: Gather = lambda value: [value],
    inspect: Callable[[], Inspector | None] = lambda: None,
) -> Evaluation:
    """The score at each of `timesteps`, from one run of the longest: the first t steps do not know of the later ones.

    Where they do (htt, core/halves.py; batch norm without running statistics) each number of steps is a run of its own;
    of frames those of the first t.

    Args:
        network: a `Network`, a learner (whose network is taken), or any module of standard layers and `LIF` neurons.
            It is run in evaluation mode, and left in the mode that it had.
        batches: `Batch`es or pairs (images, targets), images [N, C, H, W] or event frames [T, N, C, H, W].
        timesteps: one or more numbers of steps; None for the ANN twin.
        task: what targets are (None: classification).
        description: of the targets, as `targets.description()`; detection then knows how large samples are.
        gather: brings together what several processes have measured of a share of the batches each.
        inspect: makes what shall look closer at the answers, as `lambda: task.inspector(description)`.

    Raises:
        InvalidArgument: no batch, or a number of steps below 1.
    """
    steps = _steps(timesteps)
    # Of a learner this is the network alone: branches are for training and cost time here (method.md §3).
    task = Classification() if task is None else task
    network = as_network(network)
    # A meter for each T: one run gives the logits of all of them.
    sums = _Sums({t: task.meter(description) for t in steps}, inspect())
    device = next((p.device for p in network.parameters()), None)
    _refuse_not_finite(network)
    runs = [[t] for t in steps] if _looks_ahead(network.body) else [steps]
    with evaluating(network):
        for given in batches:
            batch = as_batch(given)
            inputs = batch.inputs if device is None else batch.inputs.to(device)
            with firing(network.body, take=_mean_and_neurons) as fired:
                logits = _logits(network, inputs, runs[-1], kernels)
            for earlier in runs[:-1]:
                logits |= _logits(network, inputs, earlier, kernels)
            sums.add_fired(fired, len(batch))
            # Targets that are no tensor (a task may have tuples) are the meter's to move.
            for t, meter in sums.meters.items():
                targets = batch.targets.to(inputs.device) if isinstance(batch.targets, Tensor) else batch.targets
                task.check(logits[t], targets)
                meter.add(logits[t], targets)
                if sums.inspector is not None and t == steps[-1]:
                    sums.inspector.add(logits[t], targets)
            sums.samples += len(batch)
    # Processes without a batch gather too: all of them have to, or the others would wait.
    whole = _together([*gather(sums.state())], {t: task.meter(description) for t in steps}, inspect())
    if whole.samples == 0:
        raise InvalidArgument("there are no samples to evaluate on")
    columns = {t: meter.columns() for t, meter in whole.meters.items()}
    rates = {name: float(fired) / whole.samples for name, fired in whole.fired.items()}
    spikes = {name: float(fired) / whole.samples * (steps[-1] or 0) for name, fired in whole.spikes.items()}
    return Evaluation(whole.samples, columns, task.score, rates, spikes, whole.inspector)


def _mean_and_neurons(rates: Tensor) -> tuple[Tensor, int]:
    """Of the rates [N, ...] of a layer; they themselves need not stay."""
    return rates.float().mean(), rates[0].numel()


def _looks_ahead(body: nn.Module) -> bool:
    """Whether the first steps of a run depend on how many follow."""
    norms = (m for m in body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return has_halves(body) or any(norm.running_mean is None for norm in norms)


def as_batch(given: object) -> Batch:
    """
    Raises:
        InvalidArgument: neither a `Batch` nor a pair (images, targets).
    """
    if isinstance(given, Batch):
        return given
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not isinstance(given[0], Tensor):
        raise InvalidArgument(
            f"a batch is a {type(given).__name__}; expected pairs (images, targets), as a DataLoader gives them, or "
            "one such pair in a list: [(images, targets)]"
        )
    return Batch(*given)


def _refuse_not_finite(network: Network) -> None:
    """A NaN membrane never fires, so a network of NaN has a score as any other."""
    # Where looking would wait for a GPU, training has looked: it watches the gradients.
    there = [(name, p) for name, p in network.named_parameters() if p.device.type == "cpu"]
    bad = [name for name, p in there if not (p.isfinite().all() if p.requires_grad else not p.isnan().any())]
    bad += [name for name, b in network.named_buffers() if b.device.type == "cpu" and bool(b.isnan().any())]
    if bad:
        raise InvalidArgument(f"{len(bad)} weights of the network are NaN or infinite, first {bad[0]}; train it again")


def _steps(timesteps: int | Sequence[int] | None) -> list[int | None]:
    if timesteps is None:
        return [None]  # the ANN twin: one score, which belongs to no number of steps
    several = isinstance(timesteps, Iterable) and not isinstance(timesteps, str)
    try:  # numpy's whole numbers, too
        steps = [operator.index(step) for step in (timesteps if several else [timesteps])]  # pyright: ignore
    except TypeError as error:
        raise InvalidArgument(f"timesteps are {timesteps!r}; expected whole numbers, each at least 1") from error
    if not steps or min(steps) < 1:
        raise InvalidArgument(f"timesteps are {steps}; expected at least one number, each at least 1")
    return [*sorted(set(steps))]


def _logits(network: Network, inputs: Tensor, steps: list[int | None], kernels: Kernels) -> dict[int | None, Tensor]:
    """Mean logits [N, ...] over the first t steps, for each t; no more steps of the inputs are looked at."""
    numbers = [t for t in steps if t is not None]
    if not numbers:
        return {None: network(inputs, timesteps=None).logits}
    if network.is_over_time(inputs):
        inputs = inputs[: max(numbers)]
    # In float32: T bf16 logits of one sign would add up with an error as large as their differences.
    summed = network.logits_over_time(inputs, max(numbers), kernels).float().cumsum(0)
    return {t: summed[t - 1] / t for t in numbers}


# ---------------------------------------------------------------- sums over batches and processes


# Only sums are kept, never shares: the last batch is smaller, and so may be the part of a process.


class _State(TypedDict):
    """Sums as plain values: this is what processes send to each other."""

    samples: int
    meters: dict[int | None, dict[str, Any]]
    inspector: dict[str, Any] | None
    fired: dict[str, float]
    spikes: dict[str, float]


@dataclasses.dataclass
class _Sums:
    """What adds up over batches."""

    meters: dict[int | None, Meter]
    inspector: Inspector | None
    samples: int = 0
    # By layer, the mean firing rate of each batch times its samples, and that times the neurons of one sample.
    fired: dict[str, Tensor | float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    spikes: dict[str, Tensor | float] = dataclasses.field(default_factory=lambda: defaultdict(float))

    def add_fired(self, fired: dict[str, tuple[Tensor, int]], samples: int) -> None:
        """Take in the mean rate and the number of neurons of the layers on a batch."""
        for name, (mean, neurons) in fired.items():
            # A tensor where the network is, so that counting waits for no GPU.
            self.fired[name] = self.fired[name] + mean * samples
            self.spikes[name] = self.spikes[name] + mean * samples * neurons

    def state(self) -> _State:
        """As plain values, for another process."""
        fired, spikes = ({name: float(n) for name, n in sums.items()} for sums in (self.fired, self.spikes))
        meters = {t: meter.state() for t, meter in self.meters.items()}
        inspector = None if self.inspector is None else self.inspector.state()
        return {
            "samples": self.samples,
            "meters": meters,
            "inspector": inspector,
            "fired": fired,
            "spikes": spikes,
        }


def _together(states: list[_State], meters: dict[int | None, Meter], inspector: Inspector | None) -> _Sums:
    whole = _Sums(meters, inspector)
    for state in states:
        whole.samples += state["samples"]
        for t, meter in meters.items():
            meter.add_state(state["meters"][t])
        if inspector is not None and state["inspector"] is not None:
            inspector.add_state(state["inspector"])
        for name in state["fired"]:
            whole.fired[name] += state["fired"][name]
            whole.spikes[name] += state["spikes"][name]
    return whole
