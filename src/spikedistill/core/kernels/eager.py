"""All numerics on spike paths, in plain PyTorch: the protocol, the reference, and what runs without a compiler.

A signal carries the `Kernels` that its operations use. Another way to compute (fused, 8-bit, Triton) is a subclass that
replaces some of the methods; nothing else in the core knows how a spike path is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from spikedistill.core import neuron as lif
from spikedistill.core.kernels.terms import Curve, Deferred, Norm, Term, per_channel, time_mean, total
from spikedistill.core.kernels.uniform import uniform_like
from spikedistill.core.learned import Learned, LearnedResponse, learned_backward_through_time, learned_response
from spikedistill.core.neuron import Neuron, RateResponse

Gradients = tuple[Tensor, ...]
Result = TypeVar("Result")


class Weighted(NamedTuple):
    """What a layer with weights gives on a spike path."""

    path: Tensor | Deferred  # the values, [T·N, C, ...]
    mean: Tensor  # [N, C, ...], over time
    moments: tuple[Tensor, Tensor] | None  # mean and biased variance [C] of the values, where they come for free


class Kernels:
    """The eager form. Nothing here carries gradient; autograd functions of the core call it for both directions.

    Shapes: values [S·N, C, ...] with S = T or 1, currents [T, N, C, ...], rates [N, C, ...], vectors [C].
    """

    spike_dtype: torch.dtype | None = None
    """In which spikes are kept on the spike path of rate-based backpropagation; None: in that of the currents."""

    # ---- layers with weights

    def weighted(
        self,
        operation: Callable[..., Tensor],
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: Mapping[str, object],
        timesteps: int,
    ) -> Weighted:
        """A convolution or linear layer on a spike path, with the time mean that the rate needs.

        Args:
            operation: the torch function, as `torch.conv2d` or `F.linear`.
            options: its other arguments (stride, padding, ...).
        """
        out = self.layer(operation, values, weight, bias, options)
        if out.dim() <= 2:  # a classifier, or a hidden layer: small, and seldom followed by batch norm
            return Weighted(out, time_mean(out, timesteps), None)
        # Moments are taken here and not in batch norm, because the fused kernels get them in the sweep for the mean.
        mean, average, variance = self.moments(out, timesteps)
        return Weighted(out, mean, (average, variance))

    def layer(
        self,
        operation: Callable[..., Tensor],
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: Mapping[str, object],
    ) -> Tensor:
        """The layer itself, [T·N, C, ...]; arguments as `weighted`."""
        # spikes may be kept as 8-bit numbers
        return operation(values if values.is_floating_point() else values.to(weight.dtype), weight, bias, **options)

    def apply(self, function: Callable[..., Result], args: Iterable[object], kwargs: Mapping[str, object]) -> Result:
        """Any other operation that acts on each time step alone (pooling, concatenation, ...)."""
        # Only passed on; it is here so that a subclass can compute it in another way (8-bit spikes, for example).
        return function(*args, **kwargs)

    # ---- batch norm

    def moments(self, values: Tensor, timesteps: int) -> tuple[Tensor, Tensor, Tensor]:
        """The time mean [N, C, ...], and mean and biased variance per channel [C], of values [T·N, C, ...]."""
        # Batch norm normalises with the biased variance; rules/norm.py makes the unbiased one of it.
        over = [d for d in range(values.dim()) if d != 1]
        var, mean = torch.var_mean(values.to(lif.compute_dtype(values.dtype)), over, correction=0)
        return time_mean(values, timesteps), mean, var

    # ---- neurons

    def rate_response(self, terms: tuple[Term, ...], steps: int, timesteps: int, neuron: Neuron) -> RateResponse:
        """`neuron.rate_response` of the sum of the terms over T steps; spikes come folded as [T·N, ...].

        Args:
            steps: how many steps the terms hold, T or 1.
        """
        current = total(terms).unflatten(0, (steps, -1))
        # One step becomes T by expanding, which copies nothing.
        currents = current.expand(timesteps, *current.shape[1:])
        spikes, rate, eligibility = lif.rate_response(currents, neuron, self.spike_dtype)
        return RateResponse(spikes.flatten(0, 1), rate, eligibility)

    def constant_response(self, current: Tensor, timesteps: int, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """Rate and eligibility [N, C, ...] of neurons whose current [N, C, ...] is the same at all T steps."""
        response = lif.rate_response(current.expand(timesteps, *current.shape), neuron)
        return response.rate.to(current.dtype), response.eligibility.to(current.dtype)

    def curve_response(self, current: Tensor, curve: Curve, timesteps: int) -> tuple[Tensor, Tensor]:
        """Rate and eligibility [N, C, ...] of neurons whose current fluctuates around a mean [N, C, ...]."""
        return curve.at(current, uniform_like(current), timesteps)

    def rate_backward(
        self, grad: Tensor, eligibility: Tensor, normed: list[tuple[Tensor, Norm]]
    ) -> tuple[Tensor, list[Gradients]]:
        """From the gradient of a neuron's rate: that of its mean input, and for each batch norm before it its own.

        method.md §2.2 for the neuron, §2.4 for the norms. Both are one call, so that they can be one sweep.

        Args:
            normed: the rate and the pending norm of each term that has one.

        Returns:
            The gradient [N, C, ...], and for each of `normed` those of rate, γ and β.
        """
        through = grad * eligibility
        return through, [norm_backward(through, rate, norm) for rate, norm in normed]

    # The three below serve BPTT and evaluation. Their currents are [T, N, C, ...], with time unfolded.

    def membrane_response(self, current: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
        """Spikes and membranes before the reset, both [T, ...]."""
        return lif.membrane_response(current, neuron)

    def spike_response(self, current: Tensor, neuron: Neuron) -> Tensor:
        """Spikes only, [T, ...]."""
        return lif.spike_response(current, neuron)

    def backward_through_time(self, grad_spikes: Tensor, membranes: Tensor, neuron: Neuron) -> Tensor:
        """dL/dI_t [T, ...] from dL/ds_t and the membranes."""
        return lif.backward_through_time(grad_spikes, membranes, neuron)

    # Neurons whose decay or threshold is a parameter (method.md §2.7): [], or [C]; None where it does not learn.

    def learned_response(
        self, current: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> LearnedResponse:
        """`learned.learned_response` of currents [T, N, C, ...]."""
        return learned_response(current, _learned(current, neuron, decay, threshold))

    def learned_membranes(
        self, current: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`neuron.membrane_response` of a neuron that learns."""
        return lif.membrane_response(current, _learned(current, neuron, decay, threshold))

    def learned_backward(
        self, grad_spikes: Tensor, membranes: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`learned.learned_backward_through_time`."""
        learned = _learned(membranes, neuron, decay, threshold)
        return learned_backward_through_time(grad_spikes, membranes, learned)


def _learned(like: Tensor, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None) -> Learned:
    """The neuron for membranes of the shape of like[0], [N, C, ...]."""

    def shaped(value: Tensor | None) -> Tensor | None:
        return per_channel(value, like[0]) if value is not None and value.dim() else value

    return Learned.of(neuron, shaped(decay), shaped(threshold))


def norm_backward(grad: Tensor, rate: Tensor, norm: Norm) -> Gradients:
    """Gradients of rate [N, C, ...], γ and β [C] through batch norm of a rate (method.md §2.4)."""
    over = [d for d in range(grad.dim()) if d != 1]
    x_hat = (rate - per_channel(norm.mean, rate)) * per_channel(norm.rstd, rate)
    # Sums over all positions are taken in the statistics' dtype: bf16 would lose them.
    grad_beta = grad.sum(over, dtype=norm.mean.dtype)
    grad_gamma = (grad * x_hat).sum(over, dtype=norm.mean.dtype)
    count = grad.numel() // grad.shape[1]  # M = N·H·W, without T: these are rates
    # β's and γ's gradients are the two sums of the formula, so its two means are at hand.
    centred = grad - per_channel(grad_beta / count, grad) - x_hat * per_channel(grad_gamma / count, grad)
    return (per_channel(norm.gamma * norm.rstd, grad) * centred).to(grad.dtype), grad_gamma, grad_beta


EAGER = Kernels()
