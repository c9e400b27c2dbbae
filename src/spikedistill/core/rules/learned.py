"""Learned neurons on signals (method.md §2.7): as `lif_rule` in dual.py, with gradients for decay and threshold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from spikedistill.core.dual import Dual, Static, Unrolled
from spikedistill.core.first_order import FirstOrder
from spikedistill.core.kernels import Kernels, Term, each_step
from spikedistill.core.lif import learned_lif
from spikedistill.core.neuron import Neuron, compute_dtype
from spikedistill.core.signal import Rule, Signal, TorchFunction
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument

LEAST_THRESHOLD = 0.01
"""Above the reset value, where the membrane starts, and 0: from there on a neuron fires without input."""


class _Within(Function):
    """A value kept within bounds; outside, only the gradient that leads back passes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.low, ctx.high = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (value,), grad = ctx.saved_tensors, grads[0]
        # a step goes against the gradient: above the upper bound a negative one would lead further out
        outward = ((value > ctx.high) & (grad < 0)) | ((value < ctx.low) & (grad > 0))
        return grad.masked_fill(outward, 0), None, None


def _bounded(name: str, value: Tensor | None, x: Signal, low: float, high: float) -> Tensor | None:
    """The parameter as it is used, [] or [C].

    Raises:
        InvalidArgument: another number of channels than the signal has.
    """
    if value is None:
        return None
    if value.dim() == 1 and (x.dim() < 2 or len(value) != x.shape[1]):
        raise InvalidArgument(
            f"a {name} for each of {len(value)} channels was given {tuple(x.shape)} at {user_frame()}; dimension 1 "
            "must be the channels"
        )
    return _Within.apply(value.to(compute_dtype(x.dtype)), low, high)


def _gathered(grad: Tensor, shape: torch.Size) -> Tensor:
    """What many neurons [N, C, ...] say to what they share: one number [], one for each channel [C], or their input."""
    if len(shape) == 1 and grad.dim() > 1:
        return grad.sum([d for d in range(grad.dim()) if d != 1])
    return grad.sum_to_size(shape)


class _LearnedRate(FirstOrder):
    """The rate, with the gradient of each response times what it responds to: mean input, decay, threshold."""

    @staticmethod
    def forward(ctx: Any, rate: Tensor, count: int, *responses_and_sources: Tensor) -> Tensor:
        # `count` responses [N, ...], and then what each of them responds to
        ctx.save_for_backward(*responses_and_sources[:count])
        ctx.forms = [(source.shape, source.dtype) for source in responses_and_sources[count:]]
        return rate.view_as(rate)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        responses = ctx.saved_tensors
        found = []
        for response, (shape, dtype) in zip(responses, ctx.forms, strict=True):
            found.append(_gathered(grads[0] * response, shape).to(dtype))
        return None, None, *[None] * len(responses), *found


class _LearnedThroughTime(FirstOrder):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, kernels: Kernels, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> Tensor:
        spikes, membranes = kernels.learned_membranes(current, neuron, decay, threshold)
        ctx.save_for_backward(membranes, decay, threshold)
        ctx.kernels, ctx.neuron = kernels, neuron
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        membranes, decay, threshold = ctx.saved_tensors
        found = ctx.kernels.learned_backward(grads[0], membranes, ctx.neuron, decay, threshold)
        of_decay = None if decay is None else _gathered(found[1], decay.shape)
        of_threshold = None if threshold is None else _gathered(found[2], threshold.shape)
        return found[0], None, None, of_decay, of_threshold


def _current(x: Static | Unrolled | Dual) -> Tensor:
    """[T, N, ...]; of a static signal all steps are one memory."""
    if isinstance(x, Static):
        return each_step(x.rate, x.timesteps)
    return x.values.unflatten(0, (x.timesteps, -1))


def learned_lif_rule(
    function: TorchFunction,
    x: Static | Unrolled | Dual,
    neuron: Neuron,
    decay: Tensor | None,
    threshold: Tensor | None,
) -> Dual | Unrolled:
    """A layer of learned neurons on each kind of signal.

    Raises:
        InvalidArgument: a decay or threshold for another number of channels.
    """
    decay = _bounded("decay", decay, x, 0.0, 1.0)
    threshold = _bounded(
        "threshold", threshold, x, max(0.0, neuron.reset_value, neuron.start) + LEAST_THRESHOLD, math.inf
    )
    if isinstance(x, Dual) or (isinstance(x, Static) and x.kind is Dual):
        with torch.no_grad():
            found = x.kernels.learned_response(_current(x), neuron, decay, threshold)
        # what does not learn has a response, too, which is not kept
        pairs = [(found.eligibility, x.rate), (found.by_decay, decay), (found.by_threshold, threshold)]
        responses, sources = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
        rate = _LearnedRate.apply(found.rate.to(x.dtype), len(responses), *responses, *sources)
        return Dual((Term(found.spikes.flatten(0, 1), rate),), x.context)
    spikes: Tensor = _LearnedThroughTime.apply(_current(x), x.kernels, neuron, decay, threshold)
    return Unrolled(spikes.flatten(0, 1), x.context)


RULES: dict[TorchFunction, Rule] = {learned_lif: learned_lif_rule}
