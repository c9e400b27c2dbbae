"""The sweeps over spike paths fused by torch.compile, from the same source as the eager ones.

A neuron reads the convolution's output once and writes spikes, rate and eligibility; its backward and batch norm's are
one sweep as well. Fused kernels see [S, N, L, C] with L the product of the spatial sizes: a view of channels_last
memory.

torch.compile takes a size of 1 for a constant and would compile anew for it: a batch of one sample runs eagerly.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from spikedistill.core import neuron as lif
from spikedistill.core.kernels.eager import Gradients, Kernels
from spikedistill.core.kernels.terms import Curve, Norm, Term
from spikedistill.core.kernels.uniform import uniform_like
from spikedistill.core.learned import Learned, LearnedResponse, learned_backward_through_time, learned_response
from spikedistill.core.neuron import Neuron, RateResponse

Result = TypeVar("Result")
Tensors = tuple[Tensor, ...]


def _variant(function: Callable[..., Result]) -> Callable[..., Result]:
    """Compile a private copy of `function`: torch.compile counts recompilations per code object."""
    # All variants of a sweep share one code object, and torch.compile would give up after eight. `replace()` without
    # arguments makes an equal one that is counted apart.
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    # Dynamic: sizes are variables of the graph, so that a smaller last batch compiles nothing anew. Fullgraph: a part
    # that cannot be compiled is an error, not a slow kernel that nobody notices.
    return torch.compile(copy, dynamic=True, fullgraph=True)


def _lanes(tensor: Tensor, steps: int | None = None) -> Tensor:
    """[S·N, C, ...] as [S, N, L, C], or without `steps` [N, C, ...] as [N, L, C].

    torch.compile sees no view in it (`.data`): it would trace the view's base too, and compile anew for another one.
    """
    rows = tensor.movedim(1, -1)  # channels_last memory has the channels last already: nothing is copied
    lead = (rows.shape[0],) if steps is None else (steps, rows.shape[0] // steps)
    return rows.reshape(*lead, -1, rows.shape[-1]).data


def _unlanes(lanes: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_lanes`, for a tensor [B, C, ...] whose shape after B is that of `shape` (channels_last)."""
    return lanes.reshape(-1, *shape[2:], shape[1]).movedim(-1, 1)


class _OneShape(Learned):
    """A neuron whose every value is [rows, C] to the compiler, as the membranes are that norms make.

    Inductor joins loops of one shape only. What is made of membranes alone it flattens to [rows·C], in a second sweep
    over memory, for which all that both need is written down. A vector in each formula keeps one shape.
    """

    def derivative(self, membrane: Tensor) -> Tensor:
        assert isinstance(self.threshold, Tensor)
        return super().derivative(membrane) + _unknown_zero(self.threshold)


def _unknown_zero(vector: Tensor) -> Tensor:
    return (vector > math.inf).to(vector.dtype)  # which the compiler cannot know


# Each function below builds a sweep, once for every set of arguments. What the arguments fix as whole numbers (T, the
# number of terms) is written into the kernel, and loops over it are unrolled; decay and threshold are read.


@functools.cache
def _fused_rate_response(
    terms: int, affine: bool, timesteps: int, neuron: Neuron, kept: torch.dtype, spike_dtype: torch.dtype
) -> Callable[..., Tensors]:
    def sweep(*tensors: Tensor) -> Tensors:  # for each term values [S, N, L, C], then scale and shift [C] if affine
        dtype = lif.compute_dtype(kept)
        size = 3 if affine else 1
        currents = []
        # Step by step: of the sum of all steps, which several loops read, inductor would write down all T·N values.
        for t in range(timesteps):
            current: Tensor | None = None
            for k in range(0, size * terms, size):
                steps = tensors[k].shape[0]
                value = tensors[k][t if steps > 1 else 0].to(dtype)  # a static input has one step
                if affine:  # the norm that was pending on this term (method.md §2.4)
                    value = value * tensors[k + 1] + tensors[k + 2]
                current = value if current is None else current + value
            assert current is not None
            currents.append(current)
        dynamics: lif.Dynamics = neuron
        if affine:
            dynamics = _OneShape.of(neuron, None, neuron.threshold + _unknown_zero(tensors[1].to(dtype)))
        spikes, rate, eligibility = lif.rate_response(currents, dynamics, spike_dtype)
        # Computed in float32, written in the dtype of the values: in bf16 half the memory is moved.
        return spikes, rate.to(kept), eligibility.to(kept)

    return _variant(sweep)


@functools.cache
def _fused_constant_response(timesteps: int, neuron: Neuron) -> Callable[..., Tensors]:
    def sweep(current: Tensor) -> Tensors:  # [N, L, C]
        _, rate, eligibility = lif.rate_response(current.expand(timesteps, *current.shape), neuron)
        return rate.to(current.dtype), eligibility.to(current.dtype)

    return _variant(sweep)


@functools.cache
def _fused_curve_response(timesteps: int, first: float, step: float) -> Callable[..., Tensors]:
    def sweep(current: Tensor, uniform: Tensor, rate: Tensor, eligibility: Tensor) -> Tensors:
        return Curve(rate, eligibility, first, step).at(current, uniform, timesteps)

    return _variant(sweep)


@functools.cache
def _fused_moments(timesteps: int) -> Callable[[Tensor], Tensors]:
    def sweep(values: Tensor) -> Tensors:  # [T, N, L, C]
        dtype = lif.compute_dtype(values.dtype)
        # One sweep over sums and sums of squares. Where the mean is large, the variance is a small difference of large
        # numbers and is lost. So distances from a pivot are summed; the result is the same for any pivot.
        pivot = values[0, 0].to(dtype).mean(0)
        steps = [values[t].to(dtype) - pivot for t in range(timesteps)]
        first, second = steps[0], steps[0] * steps[0]
        for x in steps[1:]:
            first, second = first + x, second + x * x
        count = values.numel() // values.shape[-1]
        distance = first.sum(1).sum(0) / count
        # Rounding can make the difference of a channel that never changes a little less than 0.
        variance = (second.sum(1).sum(0) / count - distance * distance).clamp(min=0)
        return (first / timesteps + pivot).to(values.dtype), distance + pivot, variance

    return _variant(sweep)


@functools.cache
def _fused_rate_backward(normed: int) -> Callable[..., list[Tensor]]:
    # The formulas are those of `Kernels.rate_backward` and `norm_backward`, in one sweep for all norms of a sum.
    def sweep(grad: Tensor, eligibility: Tensor, *rest: Tensor) -> list[Tensor]:  # a norm: rate [N, L, C], 3 times [C]
        dtype = lif.compute_dtype(grad.dtype)
        through = grad.to(dtype) * eligibility.to(dtype)
        count = grad.numel() // grad.shape[-1]
        grad_beta = through.sum(1).sum(0)  # the same for every norm: β is added to the sum, whichever norm it is of
        out = [through.to(grad.dtype)]
        for k in range(normed):
            rate, gamma, mean, rstd = rest[4 * k : 4 * k + 4]
            x_hat = (rate.to(dtype) - mean) * rstd
            grad_gamma = (through * x_hat).sum(1).sum(0)
            centred = through - grad_beta / count - x_hat * (grad_gamma / count)
            out += [(gamma * rstd * centred).to(grad.dtype), grad_gamma, grad_beta]
        return out

    return _variant(sweep)


@functools.cache
def _fused_sweep(
    function: Callable[..., Tensor | Tensors], timesteps: int, neuron: Neuron
) -> Callable[..., Tensor | Tensors]:
    def sweep(*tensors: Tensor) -> Tensor | Tensors:
        return function(*(t.expand(timesteps, *t.shape[1:]) for t in tensors), neuron)

    return _variant(sweep)


def _all_lanes(tensors: Tensors) -> list[Tensor]:
    """[T, N, C, ...] as lanes with T steps, or with one where all steps are the same."""
    lanes = []
    for tensor in tensors:
        # Stride 0 over time means that all steps are the same memory; the sweep expands it again.
        steps = 1 if tensor.stride(0) == 0 else tensor.shape[0]
        lanes.append(_lanes(tensor[:steps].flatten(0, 1), steps))
    return lanes


def _swept(function: Callable[..., Tensor | Tensors], tensors: Tensors, neuron: Neuron) -> Any:
    """An elementwise sweep over tensors [T, N, C, ...], of which a static one (expanded over time) is read once.

    Returns:
        What `function` does: one tensor [T, N, C, ...], or a tuple of them.
    """
    timesteps, shape = tensors[0].shape[0], tensors[0].shape[1:]
    lanes = _all_lanes(tensors)
    out = _fused_sweep(function, timesteps, neuron)(*lanes)
    if isinstance(out, tuple):
        return tuple(_unlanes(o, shape).unflatten(0, (timesteps, -1)) for o in out)
    return _unlanes(out, shape).unflatten(0, (timesteps, -1))


@functools.cache
def _fused_learned(
    function: Callable[..., Tensors], timesteps: int, neuron: Neuron, learns: tuple[bool, bool]
) -> Callable[..., Tensors]:
    def sweep(*tensors: Tensor) -> Tensors:
        rest = list(tensors)
        threshold = rest.pop() if learns[1] else None
        decay = rest.pop() if learns[0] else None
        learned = Learned.of(neuron, decay, threshold)
        return function(*(t.expand(timesteps, *t.shape[1:]) for t in rest), learned)

    return _variant(sweep)


def _learned_sweep(
    function: Callable[..., Tensors], tensors: Tensors, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
) -> Tensors:
    """As `_swept`; results are [T, N, C, ...] or [N, C, ...]."""
    timesteps, shape = tensors[0].shape[0], tensors[0].shape[1:]
    lanes = _all_lanes(tensors)
    values = [value.detach().expand(shape[1]).contiguous() for value in (decay, threshold) if value is not None]
    sweep = _fused_learned(function, timesteps, neuron, (decay is not None, threshold is not None))
    found = []
    for out in sweep(*lanes, *values):
        whole = _unlanes(out, shape)
        found.append(whole.unflatten(0, (timesteps, -1)) if out.dim() == 4 else whole)
    return tuple(found)


def _unfit(shape: torch.Size, alone: int = 1) -> bool:
    """Whether a tensor [N, ...] runs eagerly: a batch of one sample (`alone` rows), or one number for each sample."""
    return shape[0] == alone or len(shape) == 1


class Fused(Kernels):
    """The fused kernels; each variant is built by torch.compile at its first use in a process."""

    def rate_response(self, terms: tuple[Term, ...], steps: int, timesteps: int, neuron: Neuron) -> RateResponse:
        shape = terms[0].values.shape
        if _unfit(shape, steps):
            return super().rate_response(terms, steps, timesteps, neuron)
        affine = [None if term.norm is None else term.norm.affine() for term in terms]
        like = next((pair[0] for pair in affine if pair), None)  # any scale, where there is a norm at all
        tensors: list[Tensor] = []
        for term, pair in zip(terms, affine, strict=True):
            tensors.append(_lanes(term.values, steps))
            if like is not None:  # a plain term beside a normed one is scaled by 1: cheaper than a kernel of its own
                tensors += pair or (torch.ones_like(like), torch.zeros_like(like))
        # spikes may be of 8 bits, and a sum of them with a convolution's output is not
        kept = next((t.values.dtype for t in terms if t.is_floating()), terms[0].rate.dtype)
        spike_dtype = self.spike_dtype or kept
        sweep = _fused_rate_response(len(terms), like is not None, timesteps, neuron, kept, spike_dtype)
        response = sweep(*tensors)
        return RateResponse(*(_unlanes(lanes, shape) for lanes in response))

    def constant_response(self, current: Tensor, timesteps: int, neuron: Neuron) -> tuple[Tensor, Tensor]:
        if _unfit(current.shape):
            return super().constant_response(current, timesteps, neuron)
        rate, eligibility = _fused_constant_response(timesteps, neuron)(_lanes(current))
        return _unlanes(rate, current.shape), _unlanes(eligibility, current.shape)

    def curve_response(self, current: Tensor, curve: Curve, timesteps: int) -> tuple[Tensor, Tensor]:
        if _unfit(current.shape):
            return super().curve_response(current, curve, timesteps)
        uniform = uniform_like(current)
        sweep = _fused_curve_response(timesteps, curve.first, curve.step)
        # reading a table is not vectorised, and converting number by number would take as long again
        full = current.to(uniform.dtype)
        found = sweep(_lanes(full), _lanes(uniform), curve.rate, curve.eligibility)
        rate, eligibility = (_unlanes(each, current.shape).to(current.dtype) for each in found)
        return rate, eligibility

    def moments(self, values: Tensor, timesteps: int) -> tuple[Tensor, Tensor, Tensor]:
        if values.shape[0] == timesteps:
            return super().moments(values, timesteps)
        rate, mean, variance = _fused_moments(timesteps)(_lanes(values, timesteps))
        return _unlanes(rate, values.shape), mean, variance

    def rate_backward(
        self, grad: Tensor, eligibility: Tensor, normed: list[tuple[Tensor, Norm]]
    ) -> tuple[Tensor, list[Gradients]]:
        if not normed or _unfit(grad.shape):
            return super().rate_backward(grad, eligibility, normed)
        # The gradient that pooling gives has another memory layout, for which a second kernel would be compiled.
        tensors = [_lanes(grad).contiguous(), _lanes(eligibility)]
        for rate, norm in normed:
            tensors += [_lanes(rate), norm.gamma.detach(), norm.mean, norm.rstd]  # β is in no gradient
        through, *rest = _fused_rate_backward(len(normed))(*tensors)
        grads = [(_unlanes(rest[k], grad.shape), rest[k + 1], rest[k + 2]) for k in range(0, len(rest), 3)]
        return _unlanes(through, grad.shape), grads

    def membrane_response(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        if _unfit(current.shape[1:]):
            return super().membrane_response(current, neuron)
        return _swept(lif.membrane_response, (current,), neuron)

    def spike_response(self, current: Tensor, neuron: Neuron) -> Tensor:
        if _unfit(current.shape[1:]):
            return super().spike_response(current, neuron)
        return _swept(lif.spike_response, (current,), neuron)

    def backward_through_time(self, grad_spikes: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        if _unfit(grad_spikes.shape[1:]):
            return super().backward_through_time(grad_spikes, membranes, neuron)
        return _swept(lif.backward_through_time, (grad_spikes, membranes), neuron)

    # Decay and threshold are vectors over the channels, which stand last in lanes: they broadcast as they are.

    def learned_response(
        self, current: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> LearnedResponse:
        if _unfit(current.shape[1:]):
            return super().learned_response(current, neuron, decay, threshold)
        return LearnedResponse(*_learned_sweep(learned_response, (current,), neuron, decay, threshold))

    def learned_membranes(
        self, current: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if _unfit(current.shape[1:]):
            return super().learned_membranes(current, neuron, decay, threshold)
        spikes, membranes = _learned_sweep(lif.membrane_response, (current,), neuron, decay, threshold)
        return spikes, membranes

    def learned_backward(
        self, grad_spikes: Tensor, membranes: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if _unfit(grad_spikes.shape[1:]):
            return super().learned_backward(grad_spikes, membranes, neuron, decay, threshold)
        tensors = (grad_spikes, membranes)
        found = _learned_sweep(learned_backward_through_time, tensors, neuron, decay, threshold)
        return found[0], found[1], found[2]


FUSED = Fused()
