"""Learned neurons on signals (method.md §2.7): as `lif_rule` in dual.py, with gradients for decay and threshold.

They run eagerly under every kernel: the fused ones take a neuron's constants for constants of the compiled code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from spikedistill.core.dual import Dual, Static, Unrolled
from spikedistill.core.kernels import Term, per_channel
from spikedistill.core.learned import Learned, learned_backward_through_time, learned_response
from spikedistill.core.lif import learned_lif
from spikedistill.core.neuron import Neuron, compute_dtype, membrane_response
from spikedistill.core.signal import Rule, Signal, TorchFunction
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument

LEAST_THRESHOLD = 0.01
"""Above the reset value, and above 0: from there on a neuron fires without input."""


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
    """The parameter as it is used, in the shape [] or [1, C, 1, ...].

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
    kept = _Within.apply(value.to(compute_dtype(x.dtype)), low, high)
    return per_channel(kept, x.rate) if value.dim() else kept


class _LearnedRate(Function):
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
            # one number for many neurons gets the sum of what they say
            found.append((grads[0] * response).sum_to_size(shape).to(dtype))
        return None, None, *[None] * len(responses), *found


class _LearnedThroughTime(Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None) -> Tensor:
        spikes, membranes = membrane_response(current, Learned.of(neuron, decay, threshold))
        ctx.save_for_backward(membranes, decay, threshold)
        ctx.neuron = neuron
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        membranes, decay, threshold = ctx.saved_tensors
        learned = Learned.of(ctx.neuron, decay, threshold)
        of_current, of_decay, of_threshold = learned_backward_through_time(grads[0], membranes, learned)
        return (
            of_current,
            None,
            None if decay is None else of_decay.sum_to_size(decay.shape),
            None if threshold is None else of_threshold.sum_to_size(threshold.shape),
        )


def _current(x: Static | Unrolled | Dual) -> Tensor:
    """[T, N, ...]; of a static signal all steps are one memory."""
    if isinstance(x, Static):
        return x.rate.unsqueeze(0).expand(x.timesteps, *x.rate.shape)
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
    threshold = _bounded("threshold", threshold, x, max(0.0, neuron.reset_value) + LEAST_THRESHOLD, math.inf)
    if isinstance(x, Dual) or (isinstance(x, Static) and x.kind is Dual):
        with torch.no_grad():
            found = learned_response(_current(x), Learned.of(neuron, decay, threshold))
        # what does not learn has a response, too, which is not kept
        pairs = [(found.eligibility, x.rate), (found.by_decay, decay), (found.by_threshold, threshold)]
        responses, sources = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
        rate = _LearnedRate.apply(found.rate.to(x.dtype), len(responses), *responses, *sources)
        return Dual((Term(found.spikes.flatten(0, 1), rate),), x.context)
    return Unrolled(_LearnedThroughTime.apply(_current(x), neuron, decay, threshold).flatten(0, 1), x.context)


RULES: dict[TorchFunction, Rule] = {learned_lif: learned_lif_rule}
