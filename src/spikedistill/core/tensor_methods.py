"""The operators and methods of tensors that signals have: each one calls the rule of a torch function.

`x + y`, `x.add(y)` and `torch.add(x, y)` go by one rule, because the first two call the third.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self, TypeAlias

import torch
from torch import Tensor

from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation

TorchFunction = Callable[..., Any]
"""A function of torch or a method of its tensors, by which the table of rules is keyed."""

Operand: TypeAlias = "TensorMethods | Tensor | float"
"""What a signal can be added to or multiplied with."""


class TensorMethods:
    """What may be written with a signal as with a tensor; shapes and errors are those of the function called."""

    __array_ufunc__ = None  # numpy's numbers leave `number * signal` to the signal

    def _call(self, function: TorchFunction, *args: object, **kwargs: object) -> Any:
        """Apply the rule of `function` to this signal and the arguments."""
        raise NotImplementedError

    # ---- arithmetic

    # `x += y` gives a new signal, to which the name x is bound again: a shortcut may still hold the old one.

    def __add__(self, other: Operand) -> Self:
        return self._call(torch.add, other)

    __radd__ = __iadd__ = __add__

    def __sub__(self, other: Operand) -> Self:
        return self._call(torch.sub, other)

    __isub__ = __sub__

    def __rsub__(self, other: Operand) -> Self:
        return self._call(torch.rsub, other)

    def __mul__(self, other: Operand) -> Self:
        return self._call(torch.mul, other)

    __rmul__ = __imul__ = __mul__

    def __truediv__(self, other: Operand) -> Self:
        return self._call(torch.div, other)

    __itruediv__ = __truediv__

    def __rtruediv__(self, other: Operand) -> Self:
        return self._call(torch.Tensor.__rtruediv__, other)

    def __matmul__(self, other: TensorMethods | Tensor) -> Self:
        return self._call(torch.matmul, other)

    def __rmatmul__(self, other: Tensor) -> Self:
        # Torch has no function for a reversed product; the rule puts the factors in order (rules/products.py).
        return self._call(torch.Tensor.__rmatmul__, other)

    def __neg__(self) -> Self:
        return self._call(torch.neg)

    def __getitem__(self, index: object) -> Self:
        return self._call(operator.getitem, index)

    # ---- refused, unless a user registers a rule

    # Without these methods Python would compare by identity, or raise a TypeError that does not say what to do.

    def __pow__(self, other: Operand) -> Self:
        return self._call(torch.pow, other)

    def __rpow__(self, other: Operand) -> Self:
        return self._call(torch.Tensor.__rpow__, other)

    def __abs__(self) -> Self:
        return self._call(torch.abs)

    def __mod__(self, other: Operand) -> Self:
        return self._call(torch.remainder, other)

    def __floordiv__(self, other: Operand) -> Self:
        return self._call(torch.floor_divide, other)

    def __gt__(self, other: Operand) -> Self:
        return self._call(torch.gt, other)

    def __ge__(self, other: Operand) -> Self:
        return self._call(torch.ge, other)

    def __lt__(self, other: Operand) -> Self:
        return self._call(torch.lt, other)

    def __le__(self, other: Operand) -> Self:
        return self._call(torch.le, other)

    # Python promises a bool here; as with tensors, a rule may give a signal.

    def __eq__(self, other: object) -> Any:
        return self._call(torch.eq, other)

    def __ne__(self, other: object) -> Any:
        return self._call(torch.ne, other)

    # A class with `__eq__` loses its hash. A signal is a key by what it is, not by its values.
    __hash__ = object.__hash__

    def __bool__(self) -> NoReturn:
        raise UnsupportedOperation(f"a signal is neither true nor false, asked at {user_frame()}: it has T steps")

    def __setitem__(self, index: object, value: object) -> NoReturn:
        raise UnsupportedOperation(
            f"a signal cannot be written into, at {user_frame()}: join what it shall be, as torch.cat or torch.where do"
        )

    def __iter__(self) -> NoReturn:
        raise UnsupportedOperation(f"iterating over the samples of a signal at {user_frame()}: keep the batch together")

    # ---- methods that networks use most

    def add(self, other: Operand, **kwargs: float) -> Self:
        return self._call(torch.add, other, **kwargs)

    def mul(self, other: Operand) -> Self:
        return self._call(torch.mul, other)

    def matmul(self, other: TensorMethods | Tensor) -> Self:
        return self._call(torch.matmul, other)

    def flatten(self, *dims: int, **kwargs: int) -> Self:
        return self._call(torch.flatten, *dims, **kwargs)

    def mean(self, *dims: object, **kwargs: object) -> Self:
        return self._call(torch.mean, *dims, **kwargs)

    def sum(self, *dims: object, **kwargs: object) -> Self:
        return self._call(torch.sum, *dims, **kwargs)

    # torch.reshape wants the sizes as one tuple, the methods of tensors take both forms.

    def view(self, *shape: int | Sequence[int]) -> Self:
        return self._call(torch.Tensor.view, *shape)

    def reshape(self, *shape: int | Sequence[int]) -> Self:
        return self._call(torch.Tensor.reshape, *shape)

    def permute(self, *order: int | Sequence[int], dims: Sequence[int] | None = None) -> Self:
        given = order[0] if order and not isinstance(order[0], int) else order
        return self._call(torch.permute, given if dims is None else dims)

    def transpose(self, dim0: int, dim1: int) -> Self:
        return self._call(torch.transpose, dim0, dim1)

    @property
    def mT(self) -> Self:
        return self._call(torch.transpose, -2, -1)

    def unsqueeze(self, dim: int) -> Self:
        return self._call(torch.unsqueeze, dim)

    def squeeze(self, *dims: int | tuple[int, ...]) -> Self:
        return self._call(torch.squeeze, *dims)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        return self._call(torch.chunk, chunks, dim)

    def split(self, split_size: int | list[int], dim: int = 0) -> tuple[Self, ...]:
        return self._call(torch.split, split_size, dim)

    def contiguous(self, **kwargs: torch.memory_format) -> Self:
        return self._call(torch.Tensor.contiguous, **kwargs)

    def to(self, *args: object, **kwargs: object) -> Self:
        return self._call(torch.Tensor.to, *args, **kwargs)

    def detach(self) -> Self:
        return self._call(torch.detach)
