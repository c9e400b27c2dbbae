"""An operation that is another one in the second half of the time steps (method.md §8).

With first half-rate r₁ over T₁ steps, second r₂ over T₂, and linear operations A and B, the time mean of the output is

    r_out = (T₁·A r₁ + T₂·B r₂)/T

For changes that are constant in time, as the neuron's rule takes them, r₁ and r₂ change as r does. So each half-rate
has its own value and the gradient of r: the weights of A and B get the gradient at the rates that they have seen,
exactly, and r gets (T₁·Aᵀg + T₂·Bᵀg)/T. What is lost is at the next neurons, before and behind: the halves ask them for
two eligibilities, and they have one for all steps.

The first steps of such a network are no run of fewer steps: where the halves meet depends on T. Its modules say so by
an attribute `over_halves`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spikedistill.core.dual import Dual, Static, Unrolled, stitch
from spikedistill.core.kernels import Term, time_mean
from spikedistill.core.signal import Flow, Signal

Operation = Callable[[Flow], Flow]


def has_halves(body: nn.Module) -> bool:
    """Whether a network does something else in its second half of the steps."""
    return any(getattr(module, "over_halves", False) for module in body.modules())


def through_halves(x: Flow, first: Operation, second: Operation) -> Flow:
    """`first` of the first ⌈T/2⌉ steps and `second` of the others; of the ANN twin, which has none, the mean of both.

    Args:
        first, second: linear, acting on each step alone, with results of one shape.
    """
    if not isinstance(x, Signal):
        return (first(x) + second(x)) / 2
    if isinstance(x, Static) and x.kind is Static:  # the rate twin, which has rates only: the mean over the steps
        early = (x.timesteps + 1) // 2
        return (early * first(x) + (x.timesteps - early) * second(x)) / x.timesteps
    if isinstance(x, Static):  # the same at every step up to here, and not behind it
        x = Dual.from_static(x) if x.kind is Dual else Unrolled.from_static(x)
    assert isinstance(x, (Dual, Unrolled))
    early = (x.timesteps + 1) // 2
    if early == x.timesteps:
        return first(x)
    parts = [_steps(x, slice(0, early)), _steps(x, slice(early, None))]
    made = [operation(part) for operation, part in zip((first, second), parts, strict=True)]
    values = torch.cat([each.values for each in made])  # type: ignore[union-attr]
    if isinstance(x, Unrolled):
        return Unrolled(values, x.context)
    rate = sum(each.timesteps * each.rate for each in made) / x.timesteps  # type: ignore[union-attr]
    assert isinstance(rate, Tensor)
    return x.with_path(values, rate)


def _steps(x: Dual | Unrolled, steps: slice) -> Dual | Unrolled:
    """Some of the steps, as a signal of their own."""
    values = x.values.unflatten(0, (x.timesteps, -1))[steps]
    context = dataclasses.replace(x.context, timesteps=len(values))
    folded = values.flatten(0, 1)
    if isinstance(x, Unrolled):
        return Unrolled(folded, context)
    rate = stitch(time_mean(folded, len(values)), x.rate)
    return Dual((Term(folded, rate),), context)
