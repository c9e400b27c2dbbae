"""The sweeps over spike paths as kernels: eager, or the same source fused by torch.compile.

A spike path is a sum of `Term`s, of which batch norm may be still pending as one scale and shift per channel. A neuron
then reads the convolution's output once, and writes spikes, rate and eligibility; its backward and batch norm's are one
sweep as well. `EAGER` is plain PyTorch: the reference, and what runs where there is no compiler.

Shapes: values [S·N, C, ...] with S = T or 1 (the same at every step), rates [N, C, ...], per-channel vectors [C].
Fused kernels see [S, N, L, C] with L the product of the spatial sizes: a view of channels_last memory.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikedistill.core import neuron as lif
from spikedistill.core.neuron import Neuron, RateResponse


class Norm(NamedTuple):
    """Batch norm of a term, not yet applied: γ·(x − mean)·rstd + β. All [C]; γ and β carry gradient."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    rstd: Tensor

    def affine(self) -> tuple[Tensor, Tensor]:
        """scale and shift without gradient."""
        scale = (self.gamma * self.rstd).detach()
        return scale, self.beta.detach() - self.mean * scale


class Term(NamedTuple):
    """One summand of a spike path: values without gradient, their rate with gradient, and what is pending on both."""

    values: Tensor
    rate: Tensor
    norm: Norm | None = None
    moments: tuple[Tensor, Tensor] | None = None  # mean and biased variance [C] of the values, where known


class Kernels(NamedTuple):
    """The functions that signals call."""

    rate_response: Callable[[tuple[Term, ...], int, int, Neuron], RateResponse]
    membrane_response: Callable[[Tensor, Neuron], tuple[Tensor, Tensor]]
    spike_response: Callable[[Tensor, Neuron], Tensor]
    backward_through_time: Callable[[Tensor, Tensor, Neuron], Tensor]
    moments: Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
    rate_backward: Callable[[Tensor, Tensor, list[tuple[Tensor, Norm]]], tuple[Tensor, list[tuple[Tensor, ...]]]]


# ---------------------------------------------------------------- the eager form


def time_mean(values: Tensor, timesteps: int) -> Tensor:
    """[N, ...] from [T·N, ...]."""
    return values.unflatten(0, (timesteps, -1)).mean(0) if timesteps > 1 else values


def per_channel(vector: Tensor, like: Tensor) -> Tensor:
    """[C] as [1, C, 1, ...], to broadcast against `like`."""
    return vector.reshape(1, -1, *[1] * (like.dim() - 2))


def computed(values: Tensor, norm: Norm | None) -> Tensor:
    """The values with their batch norm applied, in their own dtype and without gradient."""
    if norm is None:
        return values
    scale, shift = norm.affine()
    return torch.addcmul(per_channel(shift, values), values, per_channel(scale, values)).to(values.dtype)


def total(terms: tuple[Term, ...]) -> Tensor:
    """The spike path: the sum of the terms."""
    first, *rest = (computed(t.values, t.norm) for t in terms)
    for other in rest:
        first = first + other
    return first


def rate_response(terms: tuple[Term, ...], steps: int, timesteps: int, neuron: Neuron) -> RateResponse:
    """`neuron.rate_response` of the sum of the terms over T steps; spikes come folded as [T·N, ...].

    Args:
        steps: how many steps the terms hold, T or 1.
    """
    current = total(terms).unflatten(0, (steps, -1))
    spikes, rate, eligibility = lif.rate_response(current.expand(timesteps, *current.shape[1:]), neuron)
    return RateResponse(spikes.flatten(0, 1), rate, eligibility)


def moments(values: Tensor, timesteps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The time mean [N, C, ...], and mean and biased variance per channel [C], of values [T·N, C, ...]."""
    dims = [d for d in range(values.dim()) if d != 1]
    var, mean = torch.var_mean(values.to(lif.compute_dtype(values.dtype)), dims, correction=0)
    return time_mean(values, timesteps), mean, var


def norm_backward(grad: Tensor, rate: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rate, γ and β through batch norm of a rate (norm.py has the derivation)."""
    dims = [d for d in range(grad.dim()) if d != 1]
    x_hat = (rate - per_channel(norm.mean, rate)) * per_channel(norm.rstd, rate)
    grad_beta = grad.sum(dims, dtype=norm.mean.dtype)
    grad_gamma = (grad * x_hat).sum(dims, dtype=norm.mean.dtype)
    count = grad.numel() // grad.shape[1]
    centred = grad - per_channel(grad_beta / count, grad) - x_hat * per_channel(grad_gamma / count, grad)
    return (per_channel(norm.gamma * norm.rstd, grad) * centred).to(grad.dtype), grad_gamma, grad_beta


def rate_backward(
    grad: Tensor, eligibility: Tensor, normed: list[tuple[Tensor, Norm]]
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """From the gradient of a neuron's rate: that of its mean input, and for each batch norm before it its own."""
    through = grad * eligibility
    return through, [norm_backward(through, rate, norm) for rate, norm in normed]


EAGER = Kernels(
    rate_response=rate_response,
    membrane_response=lif.membrane_response,
    spike_response=lif.spike_response,
    backward_through_time=lif.backward_through_time,
    moments=moments,
    rate_backward=rate_backward,
)


# ---------------------------------------------------------------- the fused form
#
# torch.compile takes a size of 1 for a constant and compiles anew for it: a batch of one sample runs eagerly.


def _variant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a private copy of `function`: torch.compile counts recompilations per code object."""
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return torch.compile(copy, dynamic=True, fullgraph=True)


def _lanes(tensor: Tensor, steps: int | None = None) -> Tensor:
    """[S·N, C, ...] as [S, N, L, C], or without `steps` [N, C, ...] as [N, L, C].

    torch.compile sees no view in it (`.data`): it would trace the view's base too, and compile anew for another one.
    """
    rows = tensor.movedim(1, -1)
    lead = (rows.shape[0],) if steps is None else (steps, rows.shape[0] // steps)
    return rows.reshape(*lead, -1, rows.shape[-1]).data


def _unlanes(lanes: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_lanes`, for a tensor [B, C, ...] whose shape after B is that of `shape` (channels_last)."""
    return lanes.reshape(-1, *shape[2:], shape[1]).movedim(-1, 1)


@functools.cache
def _fused_rate_response(terms: int, affine: bool, timesteps: int, neuron: Neuron) -> Callable[..., Any]:
    def sweep(*tensors: Tensor) -> Any:  # for each term values [S, N, L, C], then scale and shift [C] if affine
        rest = iter(tensors)
        dtype = lif.compute_dtype(tensors[0].dtype)
        currents, zero = [], 0.0
        for _ in range(terms):
            values = next(rest).to(dtype)
            if affine:
                scale, shift = next(rest), next(rest)
                # Inductor joins loops of one shape only. A vector [C] in every result keeps them all [rows, C]: one
                # sweep over memory instead of two with T - 1 membranes written between them.
                zero = (scale > math.inf).to(dtype)
                values = values * scale + shift
            currents.append(values)
        current = sum(currents[1:], currents[0])
        current = current.expand(timesteps, *current.shape[1:])
        spikes, rate, eligibility = lif.rate_response(current, neuron)
        rate, eligibility = rate + zero, eligibility + zero
        dtype = tensors[0].dtype
        return spikes.to(dtype), rate.to(dtype), eligibility.to(dtype)

    return _variant(sweep)


def _compiled_rate_response(terms: tuple[Term, ...], steps: int, timesteps: int, neuron: Neuron) -> RateResponse:
    shape = terms[0].values.shape
    if shape[0] == steps:
        return rate_response(terms, steps, timesteps, neuron)
    affine = [None if term.norm is None else term.norm.affine() for term in terms]
    like = next((pair[0] for pair in affine if pair), None)
    tensors: list[Tensor] = []
    for term, pair in zip(terms, affine, strict=True):
        tensors.append(_lanes(term.values, steps))
        if like is not None:  # a plain term beside a normed one is scaled by 1: cheaper than a kernel of its own
            tensors += pair or (torch.ones_like(like), torch.zeros_like(like))
    response = _fused_rate_response(len(terms), like is not None, timesteps, neuron)(*tensors)
    return RateResponse(*(_unlanes(lanes, shape) for lanes in response))


@functools.cache
def _fused_moments(timesteps: int) -> Callable[..., Any]:
    def sweep(values: Tensor) -> Any:  # [T, N, L, C]; sums of distances from a pivot, against cancellation
        dtype = lif.compute_dtype(values.dtype)
        pivot = values[0, 0].to(dtype).mean(0)
        steps = [values[t].to(dtype) - pivot for t in range(timesteps)]
        first, second = steps[0], steps[0] * steps[0]
        for x in steps[1:]:
            first, second = first + x, second + x * x
        count = values.numel() // values.shape[-1]
        distance = first.sum(1).sum(0) / count
        variance = (second.sum(1).sum(0) / count - distance * distance).clamp(min=0)
        return (first / timesteps + pivot).to(values.dtype), distance + pivot, variance

    return _variant(sweep)


def _compiled_moments(values: Tensor, timesteps: int) -> tuple[Tensor, Tensor, Tensor]:
    if values.shape[0] == timesteps:
        return moments(values, timesteps)
    rate, mean, variance = _fused_moments(timesteps)(_lanes(values, timesteps))
    return _unlanes(rate, values.shape), mean, variance


@functools.cache
def _fused_rate_backward(normed: int) -> Callable[..., Any]:
    def sweep(grad: Tensor, eligibility: Tensor, *rest: Tensor) -> Any:  # each norm: rate [N, L, C], γ, mean, rstd [C]
        dtype = lif.compute_dtype(grad.dtype)
        through = grad.to(dtype) * eligibility.to(dtype)
        count = grad.numel() // grad.shape[-1]
        grad_beta = through.sum(1).sum(0)
        out = [through.to(grad.dtype)]
        for k in range(normed):
            rate, gamma, mean, rstd = rest[4 * k : 4 * k + 4]
            x_hat = (rate.to(dtype) - mean) * rstd
            grad_gamma = (through * x_hat).sum(1).sum(0)
            centred = through - grad_beta / count - x_hat * (grad_gamma / count)
            out += [(gamma * rstd * centred).to(grad.dtype), grad_gamma, grad_beta]
        return out

    return _variant(sweep)


def _compiled_rate_backward(
    grad: Tensor, eligibility: Tensor, normed: list[tuple[Tensor, Norm]]
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    if not normed or grad.shape[0] == 1:
        return rate_backward(grad, eligibility, normed)
    tensors = [_lanes(grad).contiguous(), _lanes(eligibility)]  # pooling gives another layout
    for rate, norm in normed:
        tensors += [_lanes(rate), norm.gamma.detach(), norm.mean, norm.rstd]
    through, *rest = _fused_rate_backward(len(normed))(*tensors)
    grads = [(_unlanes(rest[k], grad.shape), rest[k + 1], rest[k + 2]) for k in range(0, len(rest), 3)]
    return _unlanes(through, grad.shape), grads


@functools.cache
def _fused_sweep(function: Callable[..., Any], timesteps: int, neuron: Neuron) -> Callable[..., Any]:
    def sweep(*tensors: Tensor) -> Any:
        return function(*(t.expand(timesteps, *t.shape[1:]) for t in tensors), neuron)

    return _variant(sweep)


def _compiled_sweep(function: Callable[..., Any]) -> Callable[..., Any]:
    """An elementwise sweep over tensors [T, N, C, ...], of which a static one (expanded over time) is read once."""

    def call(*args: Any) -> Any:
        *tensors, neuron = args
        timesteps, shape = tensors[0].shape[0], tensors[0].shape[1:]
        if shape[0] == 1:
            return function(*tensors, neuron)
        lanes = []
        for tensor in tensors:
            steps = 1 if tensor.stride(0) == 0 else timesteps
            lanes.append(_lanes(tensor[:steps].flatten(0, 1), steps))
        out = _fused_sweep(function, timesteps, neuron)(*lanes)
        if isinstance(out, tuple):
            return tuple(_unlanes(o, shape).unflatten(0, (timesteps, -1)) for o in out)
        return _unlanes(out, shape).unflatten(0, (timesteps, -1))

    return call


@functools.cache
def compiled() -> Kernels:
    """The fused kernels of this process; each variant is built by torch.compile at its first use."""
    return Kernels(
        rate_response=_compiled_rate_response,
        membrane_response=_compiled_sweep(lif.membrane_response),
        spike_response=_compiled_sweep(lif.spike_response),
        backward_through_time=_compiled_sweep(lif.backward_through_time),
        moments=_compiled_moments,
        rate_backward=_compiled_rate_backward,
    )
