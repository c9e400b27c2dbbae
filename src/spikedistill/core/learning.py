"""Learning rules as values: how a network learns is decided by what is fed to it (dual.py).

    Rate(T)   rate-based backpropagation (method.md §2): one backward pass through the firing rates
    BPTT(T)   backpropagation through time: gradient through every step
    ANN()     the ANN twin: every LIF neuron is a ReLU, and there is no time
    RateTwin(T)  rates only: every LIF neuron answers its mean current (rate_twin.py)

A rule carries T and what the loss is multiplied with, by default 1 for all of them: one learning rate means the same
under each. The authors divide the loss of rate-based backpropagation by T, which amounts to a learning rate of lr/T
with T times the weight decay (method.md §4.3); recipes of theirs say `loss_scale: 1/T`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import ChainMap
from typing import Literal, Protocol

import torch
from torch import Tensor

from spikedistill.core.dual import Dual, Static, Unrolled
from spikedistill.core.kernels import EAGER, Kernels, Term, time_mean
from spikedistill.core.rate_twin import twin_rules
from spikedistill.core.rules import RULES
from spikedistill.core.signal import Context, Flow, check_timesteps
from spikedistill.errors import InvalidArgument


class LearningRule(Protocol):
    """What a learner needs of a learning rule; another rule is one more class like those below."""

    @property
    def timesteps(self) -> int | None:
        """T; None where there is no time."""
        ...

    @property
    def scale(self) -> float:
        """What the loss is multiplied with."""
        ...

    def encode(self, inputs: Tensor, kernels: Kernels = EAGER, over_time: bool = False) -> Flow:
        """What is fed to the network (method.md §2.6).

        Args:
            inputs: [N, ...], the same at every step; or [T, N, ...] with `over_time`, one input for each.
            over_time: whether dimension 0 is time; `Network.is_over_time` tells.

        Raises:
            InvalidArgument: shape, dtype or T do not fit.
        """
        ...


def _check_scale(scale: object) -> None:
    if scale != "1/T" and not (isinstance(scale, (int, float)) and 0 < scale < math.inf):
        raise InvalidArgument(f'loss_scale is {scale!r}; expected "1/T" or a number above 0')


@dataclasses.dataclass(frozen=True)
class _OverTime:
    """What the rules with time have in common: T, and the scale of the loss.

    Args:
        timesteps: T ≥ 1.
        loss_scale: what the loss is multiplied with, a number or "1/T" (as the authors do in the rate-based runs).

    Raises:
        InvalidArgument: T below 1, or no such scale.
    """

    timesteps: int = 4
    loss_scale: Literal["1/T"] | float = 1.0

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)
        _check_scale(self.loss_scale)

    @property
    def scale(self) -> float:
        return 1 / self.timesteps if self.loss_scale == "1/T" else float(self.loss_scale)


@dataclasses.dataclass(frozen=True)
class Rate(_OverTime):
    """Rate-based backpropagation: what is kept for the backward pass does not grow with T.

    Args:
        timesteps: T ≥ 1.
        loss_scale: what the loss is multiplied with, a number or "1/T" (as the authors do in the rate-based runs).

    Raises:
        InvalidArgument: T below 1, or no such scale.
    """

    def encode(self, inputs: Tensor, kernels: Kernels = EAGER, over_time: bool = False) -> Static | Dual:
        _check_inputs(inputs, self.timesteps, over_time)
        context = Context(self.timesteps, RULES, kernels)
        # Images stay [N, ...] until the first neuron: what comes before it is computed once, not T times.
        if not over_time:
            return Static(_channels_last(inputs), Dual, context)
        values = _channels_last(inputs.flatten(0, 1))
        # Only the rate keeps the gradient of the input, for who asks for it (saliency, adversarial examples).
        return Dual((Term(values.detach(), time_mean(values, self.timesteps)),), context)


@dataclasses.dataclass(frozen=True)
class BPTT(_OverTime):
    """Backpropagation through time; under `torch.no_grad()` plain spiking evaluation.

    Args and errors: as `Rate`.
    """

    def encode(self, inputs: Tensor, kernels: Kernels = EAGER, over_time: bool = False) -> Static | Unrolled:
        _check_inputs(inputs, self.timesteps, over_time)
        context = Context(self.timesteps, RULES, kernels)
        if not over_time:  # as for `Rate`: once, not T times
            return Static(_channels_last(inputs), Unrolled, context)
        return Unrolled(_channels_last(inputs.flatten(0, 1)), context)


@dataclasses.dataclass(frozen=True)
class RateTwin(_OverTime):
    """The rate twin (method.md §2.8): a network without time, with the neurons that it has over time.

    It is a start for `Rate` or `BPTT`, and no end: currents fluctuate by a model, and not as they do.

    Args:
        timesteps: T ≥ 1.
        loss_scale: what the loss is multiplied with, "1/T" or a number.
        noise: standard deviation of currents over time, in their units.

    Raises:
        InvalidArgument: T below 1, no such scale, or noise below 0.
    """

    noise: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise < math.inf:
            raise InvalidArgument(f"noise is {self.noise}; expected a standard deviation, 0 or more")

    def encode(self, inputs: Tensor, kernels: Kernels = EAGER, over_time: bool = False) -> Static:
        _check_inputs(inputs, self.timesteps, over_time)
        rules = ChainMap(twin_rules(self.noise), dict(RULES))  # of this forward pass only
        mean = inputs.mean(0) if over_time else inputs
        return Static(_channels_last(mean), Static, Context(self.timesteps, rules, kernels))


@dataclasses.dataclass(frozen=True)
class ANN:
    """The ANN twin: the same network with ReLU for LIF, without time. Of inputs over time it sees their mean.

    Args:
        loss_scale: what the loss is multiplied with.

    Raises:
        InvalidArgument: no number above 0.
    """

    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        # Recipes and the other two rules know "1/T", so it is given here too: it gets an error of its own.
        if self.loss_scale == "1/T":
            raise InvalidArgument('loss_scale="1/T" has no meaning for the ANN twin, which has no T; give a number')
        _check_scale(self.loss_scale)

    @property
    def timesteps(self) -> None:
        """None: the twin has no time."""
        return None

    @property
    def scale(self) -> float:
        return float(self.loss_scale)

    def encode(self, inputs: Tensor, kernels: Kernels = EAGER, over_time: bool = False) -> Tensor:
        _check_tensor(inputs)
        # of inputs with time it sees the mean over the steps, as a linear layer's rate does
        shown = _channels_last(inputs.mean(0) if over_time else inputs)
        # a network may change what it is fed in place, and the batch is also the teacher's
        return shown.clone() if shown is inputs else shown


LEARNING_RULES: dict[str, type[Rate] | type[BPTT] | type[RateTwin] | type[ANN]] = {
    "rate": Rate,
    "bptt": BPTT,
    "rate_twin": RateTwin,
    "ann": ANN,
}
"""Learning rules by the name that recipes give them."""


def _channels_last(tensor: Tensor) -> Tensor:
    """Convolutions and the fused sweeps are fastest on channels_last memory; only images have such a layout."""
    # Once, at the input: torch's convolutions hand the layout on.
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


# What users feed is of any type, whatever the annotations say: the most frequent slip is uint8 images.


def _check_tensor(inputs: object) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = f"{inputs.dtype} tensor" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InvalidArgument(f"inputs must be a floating-point tensor; given a {kind} (uint8 images: x.float() / 255)")
    if inputs.dim() < 2 or 0 in inputs.shape:
        raise InvalidArgument(f"inputs must be [N, ...] or [T, N, ...], not empty; given {tuple(inputs.shape)}")


def _check_inputs(inputs: Tensor, timesteps: int, over_time: bool) -> None:
    _check_tensor(inputs)
    # These are T steps already. Showing some of them, or some twice, would be another input.
    if over_time and inputs.shape[0] != timesteps:
        raise InvalidArgument(
            f"inputs [T, N, ...] = {tuple(inputs.shape)} have {inputs.shape[0]} steps but timesteps={timesteps}; pass "
            f"timesteps={inputs.shape[0]}, or inputs [N, ...] to show them at every step. (If dimension 0 is no time: "
            f"Network(body, sample_dims={inputs.dim() - 1}))"
        )
