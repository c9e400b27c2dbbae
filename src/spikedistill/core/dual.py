"""Rate-based backpropagation in one forward pass: signals that carry spikes and rate side by side.

What it replaces. BPTT differentiates all T steps: it keeps T·N activations and runs T backward convolutions per layer.
Rate-based backpropagation (method.md §2) lets the spikes run without gradient and differentiates only the firing rate
r = (1/T) Σ_t s_t. The authors do that in two passes, a spiking one and a second, full one on rates. One is enough:

1.  A linear operation A commutes with the time mean: mean_t(A s_t) = A·mean_t(s_t) = A r. So the spike path is
    computed, and the *value* of the rate path is the mean of what was just computed; only its *backward*, A^T g for the
    input and g r^T for the weight, uses the rate tensors.                                (`linear_of_rate`) exact
2.  A LIF neuron has no rate function. Its linear response to a current added to every step is the eligibility e of
    `neuron.rate_response`; the rate leaves with the value mean_t(s_t) and the gradient of e·(mean input).
                                                                        (`lif_rule`) exact for constant perturbations
3.  Everything else is imposed the same way: the value of the spike path's time mean, the gradient of the operation on
    the rate tensor.                      (`stitch`) approximate; for batch norm (rules/norm.py) exact as in 2

Invariant: at every point of the network the rate equals the time mean of the spike path.
Cost: T spiking forwards without gradient and one backward of batch size N. What is kept for the backward is of size N:
memory does not grow with T.

How a network learns is decided by what is fed to it; modules have no modes (core/learning.py makes these from images):
    Dual      values [T·N, ...] without gradient and rate [N, ...] with gradient: rate-based backpropagation
    Unrolled  values [T·N, ...] with gradient: BPTT, or plain spiking evaluation under no_grad
    a Tensor  [N, ...]: the ANN twin; a LIF neuron is then a ReLU (neuron.py)
They intercept torch functions (signal.py) and look the function up in a table (core/rules), so ordinary modules work
unmodified. To the network each looks like a tensor of shape [N, ...].

Shapes: time and batch are folded, T·N with time slowest; `[N, ...]` is any per-sample shape, channels second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from spikedistill.core.first_order import FirstOrder
from spikedistill.core.kernels import Kernels, Norm, Term, computed, each_step, norm_backward, time_mean, total
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Context, Signal, TorchFunction, is_autocast
from spikedistill.errors import InvalidArgument

Adjoint = Callable[[Tensor, Tensor, Tensor, tuple[bool, ...]], tuple[Tensor | None, ...]]
"""adjoint(grad, rate, weight, needed): the gradients of rate, weight and bias, None where one is not needed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Static(Signal):
    """Input that does not change over time, [N, ...]; the first neuron makes a signal of `kind` of it."""

    rate: Tensor
    kind: type[Signal]
    context: Context

    def over_time(self, tensor: Tensor) -> Tensor:
        """[T·N, ...]: `tensor` at every step. A copy, so it is made only where a static signal meets a moving one."""
        return each_step(tensor, self.timesteps).flatten(0, 1)

    def with_rate(self, rate: Tensor) -> Static:
        return Static(rate, self.kind, self.context)


@dataclasses.dataclass(frozen=True, eq=False)
class Unrolled(Signal):
    """T steps with gradient through each, values [T·N, ...]: BPTT or evaluation."""

    values: Tensor
    context: Context

    @cached_property  # few ask for it; it is kept in __dict__, which a frozen dataclass does not guard
    def rate(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return time_mean(self.values, self.timesteps)

    @property
    def shape(self) -> torch.Size:
        # Read off the values, where time is folded into dimension 0: the rate need not be computed for it.
        return torch.Size((self.values.shape[0] // self.timesteps, *self.values.shape[1:]))

    @property
    def carrier(self) -> Tensor:
        return self.values

    @property
    def requires_grad(self) -> bool:
        return self.values.requires_grad

    @classmethod
    def from_static(cls, x: Static) -> Unrolled:
        return cls(x.over_time(x.rate), x.context)  # autograd adds up the gradients of the T copies


@dataclasses.dataclass(frozen=True, eq=False)
class Dual(Signal):
    """The spike path without gradient and the rate [N, ...] with gradient.

    Both are held as a sum of `terms` on which batch norm may be pending (`kernels.Term`), so that batch norm and a
    residual sum are only computed where somebody needs them: a neuron folds them into its own sweep, anything else
    reads `values` and `rate`.
    """

    terms: tuple[Term, ...]
    context: Context

    @cached_property
    def values(self) -> Tensor:
        """[T·N, ...] the spike path, computed, in floating point."""
        return total(self.terms)

    @cached_property
    def rate(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        first, *rest = (normalised_rate(term) for term in self.terms)
        return sum(rest, first)

    # Shape, dtype and device are asked often: of a term, so that nothing pending is computed for it.
    @property
    def carrier(self) -> Tensor:
        return self.terms[0].rate

    @property
    def shape(self) -> torch.Size:
        return self.terms[0].rate.shape

    def computed(self) -> Term:
        """The whole signal as one term with nothing pending, in floating point."""
        return self.terms[0] if self.is_plain() and self.terms[0].is_floating() else Term(self.values, self.rate)

    def is_plain(self) -> bool:
        return len(self.terms) == 1 and self.terms[0].norm is None

    def with_path(self, values: Tensor, rate: Tensor) -> Dual:
        return Dual((Term(values, rate),), self.context)

    @classmethod
    def from_static(cls, x: Static) -> Dual:
        # The spike path has no gradient from the start; the input gets its gradient through the rate.
        return cls((Term(x.over_time(x.rate.detach()), x.rate),), x.context)


# ---------------------------------------------------------------- the primitives


class _Stitch(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor) -> Tensor:
        return value.view_as(value)  # a tensor of its own: the one passed in keeps having no gradient

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, grads[0]


def stitch(value: Tensor, source: Tensor) -> Tensor:
    """The value of the first, the gradient of the second; both of one shape, or InvalidArgument is raised."""
    if value.shape != source.shape:
        raise InvalidArgument(f"stitch: value {tuple(value.shape)} and source {tuple(source.shape)} differ in shape")
    return _Stitch.apply(value, source)


class _LinearOfRate(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, rate: Tensor, weight: Tensor, bias: Tensor | None, adjoint: Adjoint) -> Tensor:
        ctx.save_for_backward(rate, weight)  # of size N, where BPTT keeps T·N
        ctx.adjoint = adjoint
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # One result for each argument of forward; 1:4 are rate, weight and bias.
        return None, *ctx.adjoint(grads[0], *ctx.saved_tensors, ctx.needs_input_grad[1:4]), None


def linear_of_rate(value: Tensor, rate: Tensor, weight: Tensor, bias: Tensor | None, adjoint: Adjoint) -> Tensor:
    """The rate after a linear layer whose `value` is known: its backward alone (step 1, method.md §2.3)."""
    return _LinearOfRate.apply(value, rate, weight, bias, adjoint)


class _NormalisedRate(FirstOrder):
    @staticmethod
    def forward(ctx: Any, rate: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        ctx.save_for_backward(rate, gamma, beta, mean, rstd)
        return computed(rate, Norm(gamma, beta, mean, rstd))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        rate, *norm = ctx.saved_tensors
        # None for mean and rstd: what the rate does to them is already in norm_backward.
        return *norm_backward(grads[0], rate, Norm(*norm)), None, None


def normalised_rate(term: Term) -> Tensor:
    """The rate of a term with its batch norm applied (method.md §2.4)."""
    return term.rate if term.norm is None else _NormalisedRate.apply(term.rate, *term.norm)


class _NeuronOfRate(FirstOrder):
    """The neuron's rate, with the gradient of eligibility · (mean input) through the terms' pending batch norms."""

    @staticmethod
    def forward(ctx: Any, rate: Tensor, eligibility: Tensor, kernels: Kernels, normed: int, *inputs: Tensor) -> Tensor:
        # First each normed term's rate and the four tensors of its norm, then the rates of plain terms, not to be kept.
        ctx.save_for_backward(eligibility, *inputs[: 5 * normed])
        ctx.kernels, ctx.plain = kernels, len(inputs) - 5 * normed
        return rate.view_as(rate)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        eligibility, *saved = ctx.saved_tensors
        normed = [(saved[k], Norm(*saved[k + 1 : k + 5])) for k in range(0, len(saved), 5)]
        # `through` is e·g, the gradient of the mean input (method.md §2.2); each pending norm passes it on.
        through, of_normed = ctx.kernels.rate_backward(grads[0], eligibility, normed)
        # In the order of forward. Mean and rstd of a norm get none; a plain summand gets what the sum gets.
        return None, None, None, None, *(g for of in of_normed for g in (*of, None, None)), *[through] * ctx.plain


# ---------------------------------------------------------------- the neuron's rule


def _dual_lif(x: Dual | Static, neuron: Neuron) -> Dual:
    # A static input is one step, which the kernel uses T times; no T copies of it are made.
    terms, steps = (x.terms, x.timesteps) if isinstance(x, Dual) else ((Term(x.rate.detach(), x.rate),), 1)
    spikes, rate, eligibility = x.kernels.rate_response(terms, steps, x.timesteps, neuron)
    normed = [(term.rate, *term.norm) for term in terms if term.norm is not None]
    plain = [term.rate for term in terms if term.norm is None]
    inputs = [tensor for group in normed for tensor in group] + plain
    # Layers of half floats take no others; under autocast each layer casts, and the rate stays exact.
    rate = rate if is_autocast(x) else rate.to(x.dtype)
    # The kernel's numbers have no gradient; here the rate gets one, to the terms' rates and their norms' γ and β.
    rate = _NeuronOfRate.apply(rate, eligibility, x.kernels, len(normed), *inputs)
    return Dual((Term(spikes, rate),), x.context)


class _ThroughTime(FirstOrder):
    @staticmethod
    def forward(ctx: Any, current: Tensor, neuron: Neuron, kernels: Kernels) -> Tensor:
        spikes, membranes = kernels.membrane_response(current, neuron)
        ctx.save_for_backward(membranes)  # [T, N, ...]: the memory that BPTT costs
        ctx.neuron, ctx.kernels = neuron, kernels
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.kernels.backward_through_time(grads[0], ctx.saved_tensors[0], ctx.neuron), None, None


def _unrolled_lif(x: Unrolled | Static, neuron: Neuron) -> Unrolled:
    current = each_step(x.rate, x.timesteps) if isinstance(x, Static) else x.values.unflatten(0, (x.timesteps, -1))
    if torch.is_grad_enabled() and current.requires_grad:
        spikes: Tensor = _ThroughTime.apply(current, neuron, x.kernels)
    else:  # evaluation keeps no membranes
        spikes = x.kernels.spike_response(current, neuron)
    return Unrolled(spikes.flatten(0, 1), x.context)


def lif_rule(function: TorchFunction, x: Static | Unrolled | Dual, neuron: Neuron) -> Dual | Unrolled:
    """What a layer of LIF neurons does to each kind of signal (step 2 above, method.md §2.2)."""
    if isinstance(x, Dual) or (isinstance(x, Static) and x.kind is Dual):
        return _dual_lif(x, neuron)
    return _unrolled_lif(x, neuron)
