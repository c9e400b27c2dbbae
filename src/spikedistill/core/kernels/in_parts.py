"""Spike paths in parts of the batch: convolutions are computed twice, and memory hardly grows with T.

What it replaces. A layer's currents [T·N, C, ...] are read twice: for their time mean and batch norm's moments, and by
the neuron. In between they are kept, and they are most of what a step needs memory for. Here the first reading goes
part by part, and the currents are forgotten; the neuron has them computed again, part by part, once batch norm's mean
and variance are known, which are those of the whole batch. So the numbers are the same, up to the rounding of these
two. Spikes are kept as 8-bit numbers; nothing else has the size T·N.

What reads all values at once (pooling of currents, say) has them computed in one piece, and saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from spikedistill.core.kernels.eager import Kernels, Weighted
from spikedistill.core.kernels.eight_bit import EightBit, FusedEightBit
from spikedistill.core.kernels.fused import Fused
from spikedistill.core.kernels.terms import Deferred, Term
from spikedistill.core.neuron import Neuron, RateResponse
from spikedistill.errors import InvalidArgument


class Samples(NamedTuple):
    """Samples `first` to `last` − 1 of a batch."""

    first: int
    last: int

    def of(self, values: Tensor, steps: int) -> Tensor:
        """The values [S·n, C, ...] of these samples, from [S·N, C, ...]: a copy in the same memory layout."""
        if values.is_contiguous():
            return values.unflatten(0, (steps, -1))[:, self.first : self.last].flatten(0, 1)
        # `flatten` would bring a part of channels_last memory into the other layout
        rows = values.movedim(1, -1).unflatten(0, (steps, -1))[:, self.first : self.last]
        return rows.flatten(0, 1).movedim(-1, 1)

    def of_term(self, term: Term, steps: int) -> Term:
        path = term.path
        values = path.part(*self) if isinstance(path, Deferred) else self.of(path, steps)
        return Term(values, term.rate[self.first : self.last], term.norm)


class _InParts(Kernels):
    """Before one of the other kernels among the bases, which computes the parts."""

    spike_dtype = torch.uint8

    def __init__(self, parts: int) -> None:
        if parts < 2:
            raise InvalidArgument(f"spike paths in {parts} parts of the batch; expected 2 or more")
        self.parts = parts

    def weighted(
        self,
        operation: Callable[..., Tensor],
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: Mapping[str, object],
        timesteps: int,
    ) -> Weighted:
        batch = values.shape[0] // timesteps
        if values.dim() <= 2 or batch < 2:  # small, and seldom followed by batch norm
            return super().weighted(operation, values, weight, bias, options, timesteps)

        @torch.no_grad()
        def compute(first: int, last: int) -> Tensor:
            return self.layer(operation, Samples(first, last).of(values, timesteps), weight, bias, options)

        mean, found, part = None, [], values
        for samples in self._parts_of(batch):
            part = compute(*samples)
            of_part, *moments = self.moments(part, timesteps)
            mean = _empty(batch, of_part) if mean is None else mean
            mean[samples.first : samples.last] = of_part
            found.append((samples.last - samples.first, *moments))
        assert mean is not None
        path = Deferred(compute, torch.Size((values.shape[0], *mean.shape[1:])), part.dtype, timesteps)
        return Weighted(path, mean, _pooled(found))

    def rate_response(self, terms: tuple[Term, ...], steps: int, timesteps: int, neuron: Neuron) -> RateResponse:
        if not any(isinstance(term.path, Deferred) for term in terms):
            return super().rate_response(terms, steps, timesteps, neuron)
        batch, whole = terms[0].rate.shape[0], None
        for samples in self._parts_of(batch):
            of_part = tuple(samples.of_term(term, steps) for term in terms)
            spikes, rate, eligibility = super().rate_response(of_part, steps, timesteps, neuron)
            if whole is None:
                whole = RateResponse(_empty(timesteps * batch, spikes), _empty(batch, rate), _empty(batch, eligibility))
            here = slice(*samples)
            whole.spikes.unflatten(0, (timesteps, -1))[:, here] = spikes.unflatten(0, (timesteps, -1))
            whole.rate[here], whole.eligibility[here] = rate, eligibility
        assert whole is not None
        return whole

    def _parts_of(self, batch: int) -> Iterator[Samples]:
        parts = min(self.parts, batch)
        for k in range(parts):
            yield Samples(batch * k // parts, batch * (k + 1) // parts)


def _empty(batch: int, like: Tensor) -> Tensor:
    """Room for [batch, C, ...], with the channels where they lie in `like`."""
    if like.is_contiguous():
        return like.new_empty(batch, *like.shape[1:])
    return like.new_empty(batch, *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _pooled(found: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of everything, from the number of samples, mean and variance of each part."""
    count = sum(samples for samples, _, _ in found)
    mean = sum(average * (samples / count) for samples, average, _ in found)
    assert isinstance(mean, Tensor)
    # of distances from the mean, not of squares: what is large would leave little of their difference
    variance = sum((spread + (average - mean) ** 2) * (samples / count) for samples, average, spread in found)
    assert isinstance(variance, Tensor)
    return mean, variance


class InParts(_InParts, Kernels):
    """The eager kernels, in parts."""


class FusedInParts(_InParts, Fused):
    """The fused kernels, in parts."""


class EightBitInParts(_InParts, EightBit):
    """The eager kernels with convolutions of 8 bits, in parts."""


class FusedEightBitInParts(_InParts, FusedEightBit):
    """The fused kernels with convolutions of 8 bits, in parts."""


def in_parts(kernels: Kernels, parts: int) -> Kernels:
    """The same kernels on spike paths in so many parts of the batch.

    Raises:
        InvalidArgument: fewer than two parts, or kernels that have no such form.
    """
    forms = {FusedEightBit: FusedEightBitInParts, EightBit: EightBitInParts, Fused: FusedInParts, Kernels: InParts}
    form = forms.get(type(kernels))
    if form is None:
        raise InvalidArgument(f"{type(kernels).__name__} in parts: only {', '.join(k.__name__ for k in forms)}")
    return form(parts)
