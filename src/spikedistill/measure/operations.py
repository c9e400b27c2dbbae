"""Operations of a network on one sample, and the energy that literature gives them (method.md §10).

Every convolution, fully connected layer and product of two signals is seen, by the table of rules of one forward pass:
also those that are functions in a user's code. Batch norm costs nothing (it merges into the layer before it), and
neurons, pooling and data movement are not counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from spikedistill.core.dual import Unrolled
from spikedistill.core.learning import BPTT
from spikedistill.core.modules import evaluating
from spikedistill.core.network import as_network
from spikedistill.core.output import Batch
from spikedistill.core.rules import RULES
from spikedistill.core.signal import Rule, Signal, TorchFunction, name_of, with_rules
from spikedistill.errors import InvalidArgument
from spikedistill.measure.evaluation import as_batch


@dataclasses.dataclass(frozen=True)
class Costs:
    """Picojoules of one operation in 45 nm technology (Horowitz, ISSCC 2014).

    Attributes:
        multiply: a multiplication with its accumulation (MAC).
        accumulate: an accumulation alone (AC), which is all that a spike needs.
    """

    multiply: float
    accumulate: float


COSTS = {"fp32": Costs(4.6, 0.9), "int8": Costs(0.23, 0.03)}
"""By the kind of numbers that a chip computes with."""


@dataclasses.dataclass(frozen=True)
class LayerOperations:
    """One layer, on one sample.

    Attributes:
        name: of the module in which it is computed, and of the function where a module computes several.
        macs: multiply-accumulates of one evaluation of it, as in the ANN twin.
        evaluations: how often it is evaluated: T times, or once where its input is the same at every step.
        spikes: spikes that come in, per input and evaluation; None where the input is not made of spikes.
    """

    name: str
    macs: int
    evaluations: int
    spikes: float | None

    @property
    def accumulates(self) -> float:
        """Synaptic operations: fr·T·MAC."""
        return 0.0 if self.spikes is None else self.spikes * self.evaluations * self.macs

    @property
    def multiplies(self) -> float:
        """Multiply-accumulates of an input that is not made of spikes: every one of them, at every evaluation."""
        return float(self.macs * self.evaluations) if self.spikes is None else 0.0


@dataclasses.dataclass(frozen=True)
class Operations:
    """All layers, on one sample.

    Attributes:
        timesteps: T.
        samples: how many the means are of.
        layers: in the order of their computation.
    """

    timesteps: int
    samples: int
    layers: tuple[LayerOperations, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the ANN twin."""
        return sum(layer.macs for layer in self.layers)

    @property
    def multiplies(self) -> float:
        """Multiply-accumulates of the spiking network: layers whose input is not made of spikes."""
        return sum(layer.multiplies for layer in self.layers)

    @property
    def accumulates(self) -> float:
        """Synaptic operations of the spiking network."""
        return sum(layer.accumulates for layer in self.layers)

    @property
    def spikes_per_synapse(self) -> float:
        """Over all T steps, where spikes come in: mean over synapses, one for each multiply-accumulate of the twin."""
        macs = sum(layer.macs for layer in self.layers if layer.spikes is not None)
        return self.accumulates / macs if macs else 0.0

    def energy(self, numbers: str = "fp32") -> float:
        """Microjoules of the spiking network, by operations alone.

        Raises:
            InvalidArgument: unknown `numbers`, no key of `COSTS`.
        """
        costs = _costs(numbers)
        return (costs.multiply * self.multiplies + costs.accumulate * self.accumulates) / 1e6

    def twins_energy(self, numbers: str = "fp32") -> float:
        """Microjoules of the ANN twin. Raises: as `energy`."""
        return _costs(numbers).multiply * self.macs / 1e6


def _costs(numbers: str) -> Costs:
    if numbers not in COSTS:
        raise InvalidArgument(f"no costs of operations for {numbers!r}; expected one of {', '.join(COSTS)}")
    return COSTS[numbers]


@torch.no_grad()
def operations(
    network: nn.Module, batches: Iterable[Batch | tuple[Tensor, Any] | Tensor], timesteps: int
) -> Operations:
    """Operations of a spiking network on one sample, the mean over all samples of the batches.

    Args:
        network: a `Network`, a learner, or any module of standard layers and `LIF` neurons; in evaluation mode.
        batches: `Batch`es, pairs (images, targets) or images alone, [N, ...] or over time [T, N, ...].
        timesteps: T ≥ 1.

    Raises:
        InvalidArgument: no samples or of different sizes, or images or timesteps that do not fit.
    """
    network = as_network(network)
    device = next((p.device for p in network.parameters()), None)
    seen: list[list[_Call]] = []  # of each batch, in the order of the network
    samples = 0
    with evaluating(network), _inside(network.body) as where:
        for given in batches:
            inputs = given if isinstance(given, Tensor) else as_batch(given).inputs
            inputs = inputs if device is None else inputs.to(device)
            calls: list[_Call] = []
            signal = BPTT(timesteps).encode(inputs, over_time=network.is_over_time(inputs))
            network.propagate(with_rules(signal, {f: _counting(RULES[f], where, calls) for f in _COUNTED}))
            seen.append(calls)
            samples += signal.batch
    if not samples:
        raise InvalidArgument("there are no samples to count operations on")
    return Operations(timesteps, samples, tuple(_joined(calls, samples) for calls in zip(*seen, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Call:
    """One layer on one batch; `spikes` is the sum over its samples."""

    name: str
    macs: int
    evaluations: int
    spikes: float | None


def _joined(calls: tuple[_Call, ...], samples: int) -> LayerOperations:
    first = calls[0]
    if len({call.macs for call in calls}) > 1:
        raise InvalidArgument(f"{first.name} sees samples of different sizes; count those of one size at a time")
    # an input is made of spikes if it is on every batch: an empty picture does not make floats of the others
    spikes = None if any(c.spikes is None for c in calls) else sum(c.spikes or 0.0 for c in calls) / samples
    return LayerOperations(first.name, first.macs, first.evaluations, spikes)


@contextlib.contextmanager
def _inside(body: nn.Module) -> Iterator[Callable[[], str]]:
    """Gives a function that says in which module the network is at the moment."""
    names: list[str] = []
    handles: list[Any] = []

    def leave(*_: object) -> None:
        names.pop()

    for name, module in body.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: names.append(name)))
        # also where the module fails: the name must not stay
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield lambda: names[-1] if names else ""
    finally:
        for handle in handles:
            handle.remove()


def _counting(rule: Rule, where: Callable[[], str], calls: list[_Call]) -> Rule:
    """The rule, with a note of each call."""

    def counted(function: TorchFunction, *args: Any, **kwargs: Any) -> Any:
        out = rule(function, *args, **kwargs)
        operands = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, (Signal, Tensor))]
        if function in _LAYERS:  # whatever was given by name: the input, its weight, a bias
            operands.sort(key=lambda x: (not isinstance(x, Signal), -x.dim()))
        # of two signals the one with fewer spikes says how often there is anything to add
        spikes = [n for x in operands if isinstance(x, Signal) and (n := _spikes(x)) is not None]
        calls.append(
            _Call(
                where() if function in _LAYERS else f"{where()} {name_of(function)}".strip(),
                _macs(function, operands, args, out),
                out.timesteps if isinstance(out, Unrolled) else 1,
                min(spikes) * out.batch if spikes else None,
            )
        )
        return out

    return counted


def _spikes(x: Signal) -> float | None:
    """Mean of an input that is made of spikes; of anything else None.

    Over time spikes are whole numbers: a sum of them has several, and an event frame counts. An input that is the same
    at every step is a picture, and made of spikes if it is black and white.
    """
    values = x.values if isinstance(x, Unrolled) else x.rate
    most = torch.inf if isinstance(x, Unrolled) else 1.0
    if not bool(((values >= 0) & (values <= most) & (values == values.round())).all()):
        return None
    return float(values.double().mean())


def _spelt_out(term: str, dims: int) -> str:
    """A term of einsum with a letter of no other use for each dimension of its ellipsis, the last ones alike."""
    before, dots, after = term.partition("...")
    hidden = "".join(chr(0x3B1 + k) for k in reversed(range(dims - len(before) - len(after)))) if dots else ""
    return before + hidden + after


_TRANSPOSED = {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
_LAYERS = {F.linear, torch.conv1d, torch.conv2d, torch.conv3d, *_TRANSPOSED}
_PRODUCTS = {f for f in RULES if name_of(f).rpartition(".")[2].strip("_") in ("matmul", "rmatmul", "bmm", "einsum")}
_COUNTED = _LAYERS | _PRODUCTS


def _macs(function: TorchFunction, operands: list[Any], args: tuple[Any, ...], out: Signal) -> int:
    """Multiply-accumulates for one sample and step."""
    left, right = operands[:2]
    per_sample = out.shape[1:].numel()
    if function is torch.einsum:
        # every letter of the operands is a loop, but for that of the batch, with which a signal and the result begin
        terms, _, output = args[0].replace(" ", "").partition("->")
        sizes = [(_spelt_out(term, x.dim()), x.shape) for term, x in zip(terms.split(","), operands, strict=True)]
        loops = {letter: n for term, shape in sizes for letter, n in zip(term, shape, strict=True)}
        return math.prod(n for letter, n in loops.items() if letter != output[0])
    if function in _PRODUCTS:  # `matrix @ signal` may come with the signal first, and stands second then
        return per_sample * (right if function is torch.Tensor.__rmatmul__ else left).shape[-1]
    if function in _TRANSPOSED:  # every input goes to as many outputs
        return left.shape[1:].numel() * right[0].numel()
    return per_sample * right[0].numel()
