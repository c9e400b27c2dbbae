"""Rules of sums and of multiplication by constants; a sum of two spike paths stays pending until somebody needs it."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from spikedistill.core.dual import Dual, Static, Unrolled
from spikedistill.core.rules.common import linear, unify
from spikedistill.core.rules.products import PRODUCTS, product
from spikedistill.core.signal import Rule, Signal, Signals, name_of
from spikedistill.core.tensor_methods import Operand, TorchFunction
from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation


def as_signal(other: Operand, signal: Static | Unrolled | Dual) -> Operand:
    """A plain tensor with one entry per sample, as a static signal; anything else as it is."""
    # [N, ...] cannot be added to a spike path [T·N, ...]; as a static signal it is the same at every step. A batch of
    # one broadcasts by itself.
    if isinstance(other, Tensor) and other.dim() == signal.dim() and other.shape[0] == signal.batch != 1:
        kind = signal.kind if isinstance(signal, Static) else type(signal)
        return Static(other, kind, signal.context)
    return other


def _pair(left: Operand, right: Operand) -> tuple[Operand, Operand]:
    signal = left if isinstance(left, Signal) else right
    assert isinstance(signal, (Static, Unrolled, Dual))  # one of the two is a signal, or no rule would be asked
    return as_signal(left, signal), as_signal(right, signal)


# Arguments have torch's names (input, other, alpha), because users may pass them by name.


def add(function: TorchFunction, input: Operand, other: Operand, *, alpha: float = 1) -> Signals:
    """A sum of two spike paths of one shape is only noted down: a neuron adds up while it reads."""
    left, right = _pair(input, other)
    _, (left, right) = unify((left, right))
    if isinstance(left, Dual) and isinstance(right, Dual) and left.shape == right.shape and alpha == 1:
        # A residual sum has two terms. Of more, what is pending is computed, so that the sweeps have few variants.
        short = len(left.terms) + len(right.terms) <= 2
        terms = (*left.terms, *right.terms) if short else (left.computed(), right.computed())
        return Dual(terms, left.context)
    return linear(torch.add, left, right, **({} if alpha == 1 else {"alpha": alpha}))


def subtract(function: TorchFunction, input: Operand, other: Operand, *, alpha: float = 1) -> Signals:
    """Linear in both. A difference is not kept pending as a sum is: networks have hardly any."""
    left, right = _pair(input, other)
    # rsub(x, y) is y − x.
    if function is torch.rsub:
        left, right = right, left
    return linear(torch.sub, left, right, **({} if alpha == 1 else {"alpha": alpha}))


def multiply(function: TorchFunction, input: Operand, other: Operand) -> Signals:
    """By a constant or a parameter: linear. By another signal: a product (products.py)."""
    if isinstance(input, Signal) and isinstance(other, Signal):
        return product(torch.mul, input, other)
    return linear(torch.mul, *_pair(input, other))


def divide(function: TorchFunction, input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Signals:
    """By a constant or a parameter.

    Raises:
        UnsupportedOperation: by a signal, or rounded.
    """
    # In `2 / x` the signal comes first and is the divisor all the same.
    if isinstance(other, Signal) or function is torch.Tensor.__rtruediv__ or rounding_mode is not None:
        raise UnsupportedOperation(
            f"{name_of(function)} by a signal, or rounded, at {user_frame()} is not linear in the rates; multiply by a "
            "constant or a parameter instead"
        )
    return linear(torch.div, *_pair(input, other))


# Each function as torch's, as the method and as the operator: Python and torch reach a signal by any of them.
RULES: dict[TorchFunction, Rule] = {
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, operator.add), add),
    **dict.fromkeys((torch.sub, torch.subtract, torch.Tensor.sub, torch.Tensor.__sub__), subtract),
    **dict.fromkeys((torch.rsub, torch.Tensor.__rsub__), subtract),
    **dict.fromkeys((torch.mul, torch.multiply, torch.Tensor.mul, torch.Tensor.__mul__), multiply),
    **dict.fromkeys((torch.Tensor.__rmul__, operator.mul), multiply),
    **dict.fromkeys((torch.div, torch.divide, torch.true_divide, operator.truediv, torch.Tensor.div), divide),
    **dict.fromkeys((torch.Tensor.__truediv__, torch.Tensor.__rtruediv__), divide),
    **dict.fromkeys((torch.neg, torch.Tensor.neg, torch.Tensor.__neg__, operator.neg), linear),
    **PRODUCTS,
}
