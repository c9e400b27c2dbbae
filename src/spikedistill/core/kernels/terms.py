"""What kernels work on: a spike path as a sum of terms, on which batch norm may be pending.

Shapes: values [S·N, C, ...] with S = T, or 1 where they are the same at every step; rates [N, C, ...]; vectors [C].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function


class Norm(NamedTuple):
    """Batch norm of a term, not yet applied: γ·(x − mean)·rstd + β. All [C]; γ and β carry gradient."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    rstd: Tensor

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [C] without gradient: the norm is scale·x + shift."""
        scale = (self.gamma * self.rstd).detach()
        return scale, self.beta.detach() - self.mean * scale


@dataclasses.dataclass(frozen=True, eq=False)
class Deferred:
    """Values that are not kept, but computed whenever they are read (in_parts.py).

    Attributes:
        part: part(first, last) -> the values of samples first to last - 1, [T·n, C, ...].
        shape, dtype: of all values, [T·N, C, ...].
        timesteps: T.
    """

    part: Callable[[int, int], Tensor]
    shape: torch.Size
    dtype: torch.dtype
    timesteps: int


class Term(NamedTuple):
    """One summand of a spike path: values without gradient, their rate with gradient, and what is pending on both."""

    # One norm for both: normalised by the same mean and variance, the rate stays the time mean of the values.

    path: Tensor | Deferred
    rate: Tensor
    norm: Norm | None = None
    moments: tuple[Tensor, Tensor] | None = None  # mean and biased variance [C] of the values, where known

    @property
    def values(self) -> Tensor:
        """All of them, [T·N, C, ...]."""
        path = self.path
        return path.part(0, path.shape[0] // path.timesteps) if isinstance(path, Deferred) else path

    def is_floating(self) -> bool:
        """Whether the values are floating-point numbers; spikes may be kept as 8-bit ones."""
        return self.path.dtype.is_floating_point


class Curve(NamedTuple):
    """The mean answer of a neuron to a fluctuating current, at equal distances of its mean (rate_twin.py).

    Attributes:
        rate, eligibility: one for each knot; outside they are as at the ends.
        first, step: the lowest mean current, and the distance to the next.
    """

    rate: Tensor
    eligibility: Tensor
    first: float
    step: float

    def at(self, current: Tensor, uniform: Tensor, timesteps: int) -> tuple[Tensor, Tensor]:
        """Rate and eligibility at mean currents; the rate rounded up or down to one of T + 1, so that its mean stays.

        Args:
            uniform: random numbers from 0 to 1, as many.
        """
        knot = ((current.to(uniform.dtype) - self.first) / self.step).round()
        # of a current that is no number any knot: its gradient is none either, which training looks at
        index = knot.nan_to_num(0.0).clamp(0, len(self.rate) - 1).long()
        # a uniform number a hair below 1 would round a full rate up
        rate = (self.rate[index] * timesteps + uniform).floor().clamp(max=timesteps) / timesteps
        return rate.to(current.dtype), self.eligibility[index].to(current.dtype)


def time_mean(values: Tensor, timesteps: int) -> Tensor:
    """The mean over time, [N, ...] from [T·N, ...]."""
    # With one step the values are their own mean: no copy.
    return _reduced(torch.mean, values, timesteps) if timesteps > 1 else values


def time_sum(values: Tensor, timesteps: int) -> Tensor:
    """The sum over time, [N, ...] from [T·N, ...]."""
    return _reduced(torch.sum, values, timesteps)


class _EachStep(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, timesteps: int) -> Tensor:
        return values.unsqueeze(0).expand(timesteps, *values.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return time_sum(grads[0].flatten(0, 1), len(grads[0])), None


def each_step(values: Tensor, timesteps: int) -> Tensor:
    """[T, N, ...] from [N, ...], the same at all steps: no copy, they are one memory. Its gradient is their sum."""
    return _EachStep.apply(values, timesteps)


def _reduced(reduce: Callable[..., Tensor], values: Tensor, timesteps: int) -> Tensor:
    rows = values.movedim(1, -1) if values.dim() > 2 else values
    if not rows.is_contiguous():
        return reduce(values.unflatten(0, (timesteps, -1)), 0)
    # In channels_last memory torch's reduction would take several times as long, and give the other layout.
    flat = reduce(rows.reshape(timesteps, values.numel() // timesteps), 0)
    whole = flat.view(len(values) // timesteps, *rows.shape[1:])
    return whole.movedim(-1, 1) if values.dim() > 2 else whole


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """[C] as [1, C, 1, ...], to broadcast against `like`."""
    return vector.reshape(1, -1, *[1] * (like.dim() - 2))


def computed(values: Tensor, norm: Norm | None) -> Tensor:
    """The values with their batch norm applied, in their own dtype and without gradient."""
    if norm is None:
        return values
    scale, shift = norm.affine()
    # One pass over memory. Scale and shift may be float32 where the values are bf16.
    return torch.addcmul(per_channel(shift, values), values, per_channel(scale, values)).to(values.dtype)


def total(terms: tuple[Term, ...]) -> Tensor:
    """The spike path: the sum of the terms, in the shape of their values, in floating point."""
    values = (term.values if term.is_floating() else term.values.to(term.rate.dtype) for term in terms)
    first, *rest = (computed(each, term.norm) for each, term in zip(values, terms, strict=True))
    for other in rest:
        first = first + other
    return first
