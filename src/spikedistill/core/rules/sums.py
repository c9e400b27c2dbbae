"""Rules of sums and of multiplication by constants; a sum of two spike paths stays pending until somebody needs it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from spikedistill.core.dual import Dual, Static
from spikedistill.core.rules.common import linear, unify
from spikedistill.core.rules.products import PRODUCTS, product
from spikedistill.core.signal import Rule, Signal, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation


def as_signal(other: Any, signal: Any) -> Any:
    """A plain tensor with one entry per sample, as a static signal; anything else as it is."""
    if isinstance(other, Tensor) and other.dim() == signal.dim() and other.shape[0] == signal.batch != 1:
        kind = signal.kind if isinstance(signal, Static) else type(signal)
        return Static(other, kind, signal.context)
    return other


def _pair(left: Any, right: Any) -> tuple[Any, Any]:
    signal = left if isinstance(left, Signal) else right
    return as_signal(left, signal), as_signal(right, signal)


def add(function: Rule, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """A sum of two spike paths of one shape is only noted down: a neuron adds up while it reads."""
    left, right = _pair(input, other)
    _, (left, right) = unify((left, right))
    if isinstance(left, Dual) and isinstance(right, Dual) and left.shape == right.shape and alpha == 1:
        # a residual sum has two terms; of more, what is pending is computed, so that the sweeps have few variants
        short = len(left.terms) + len(right.terms) <= 2
        terms = (*left.terms, *right.terms) if short else (left.computed(), right.computed())
        return Dual(terms, left.context)
    return linear(torch.add, left, right, **({} if alpha == 1 else {"alpha": alpha}))


def subtract(function: Rule, input: Any, other: Any, *, alpha: float = 1) -> Any:
    left, right = _pair(input, other)
    if function is torch.rsub:
        left, right = right, left
    return linear(torch.sub, left, right, **({} if alpha == 1 else {"alpha": alpha}))


def multiply(function: Rule, input: Any, other: Any) -> Any:
    """By a constant or a parameter: linear. By another signal: a product (products.py)."""
    if isinstance(input, Signal) and isinstance(other, Signal):
        return product(torch.mul, input, other)
    return linear(torch.mul, *_pair(input, other))


def divide(function: Rule, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """By a constant or a parameter."""
    if isinstance(other, Signal) or function is torch.Tensor.__rtruediv__ or rounding_mode is not None:
        raise UnsupportedOperation(
            f"{name_of(function)} by a signal, or rounded, at {user_frame()} is not linear in the rates; multiply by a "
            "constant or a parameter instead"
        )
    return linear(torch.div, *_pair(input, other))


RULES: dict[Any, Rule] = {
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
