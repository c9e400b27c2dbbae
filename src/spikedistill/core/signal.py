"""What signals have in common: they intercept torch functions and look up the rule for each.

A signal is a tensor over time (dual.py has the three kinds). To a network it looks like a tensor [N, ...].
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

Rule = Callable[..., Any]
"""What a torch function does to signals: rule(function, *args, **kwargs), with signals among the arguments."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What all signals of one forward pass share.

    Attributes:
        timesteps: T.
        rules: the rule of each torch function.
        kernels: how spike paths are computed.
    """

    timesteps: int
    rules: Mapping[Any, Rule]
    kernels: Kernels = EAGER


def first_signal(values: Any) -> Signal | None:
    """The first signal among arguments, or in a list or tuple among them (cat, stack)."""
    for value in values:
        if isinstance(value, Signal):
            return value
        if isinstance(value, (list, tuple)):
            found = first_signal(value)
            if found is not None:
                return found
    return None


def name_of(function: Any) -> str:
    """A torch function as its user knows it: `max_pool2d`, `Tensor.clamp`, `einsum`."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", repr(function))
    return name.replace("TensorBase", "Tensor").replace("_VariableFunctionsClass.", "")


def dispatch(function: Any, args: Any, kwargs: Any) -> Any:
    """Apply the rule of `function` to arguments with a signal among them.

    Raises:
        UnsupportedOperation: there is no rule; names the function and the user's line.
    """
    signal = first_signal((*args, *kwargs.values()))
    assert signal is not None
    rule = signal.context.rules.get(function)
    if rule is None:
        refuse(function, signal)
    return rule(function, *args, **kwargs)


def refuse(function: Any, signal: Signal) -> NoReturn:
    """Say that a function has no rule, where it was called, and what to do."""
    rules = {f: rule for f, rule in signal.context.rules.items() if not rule.__module__.endswith(".refused")}
    supported = sorted({name_of(f).rpartition(".")[2].strip("_") for f in rules})
    raise UnsupportedOperation(
        f"no rule for {name_of(function)} on a {type(signal).__name__} signal, called at {user_frame()}.\n"
        f"Supported: {', '.join(supported)}.\n"
        "If it acts on every time step alone and is linear, register it: "
        "spikedistill.register_rule(function, spikedistill.rules.linear)"
    )


class Signal:
    """Base of the three signals: the torch-function protocol, and what a network may ask of a tensor.

    Every method that changes values goes through the table of rules. Methods of tensors that are not written here do
    so too (`__getattr__`), so what has no rule is refused by name.
    """

    context: Context
    rate: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return dispatch(function, (self, *args), kwargs)

    # ---- what a network may ask

    @property
    def timesteps(self) -> int:
        return self.context.timesteps

    @property
    def kernels(self) -> Kernels:
        return self.context.kernels

    @property
    def shape(self) -> torch.Size:
        """[N, ...], the shape that the network sees."""
        return self.rate.shape

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.rate.dtype

    @property
    def device(self) -> torch.device:
        return self.rate.device

    @property
    def requires_grad(self) -> bool:
        return self.rate.requires_grad

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    ndim = property(dim)

    def numel(self) -> int:
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.batch

    # ---- arithmetic; in place it gives a new signal, to which the name is bound again

    def __add__(self, other: Any) -> Any:
        return self._call(torch.add, other)

    __radd__ = __iadd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._call(torch.sub, other)

    __isub__ = __sub__

    def __rsub__(self, other: Any) -> Any:
        return self._call(torch.rsub, other)

    def __mul__(self, other: Any) -> Any:
        return self._call(torch.mul, other)

    __rmul__ = __imul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._call(torch.div, other)

    __itruediv__ = __truediv__

    def __rtruediv__(self, other: Any) -> Any:
        return self._call(torch.Tensor.__rtruediv__, other)

    def __matmul__(self, other: Any) -> Any:
        return self._call(torch.matmul, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self._call(torch.Tensor.__rmatmul__, other)

    def __neg__(self) -> Any:
        return self._call(torch.neg)

    def __getitem__(self, index: Any) -> Any:
        return self._call(operator.getitem, index)

    # ---- refused, unless a user registers a rule

    def __pow__(self, other: Any) -> Any:
        return self._call(torch.pow, other)

    def __rpow__(self, other: Any) -> Any:
        return self._call(torch.Tensor.__rpow__, other)

    def __abs__(self) -> Any:
        return self._call(torch.abs)

    def __mod__(self, other: Any) -> Any:
        return self._call(torch.remainder, other)

    def __floordiv__(self, other: Any) -> Any:
        return self._call(torch.floor_divide, other)

    def __gt__(self, other: Any) -> Any:
        return self._call(torch.gt, other)

    def __ge__(self, other: Any) -> Any:
        return self._call(torch.ge, other)

    def __lt__(self, other: Any) -> Any:
        return self._call(torch.lt, other)

    def __le__(self, other: Any) -> Any:
        return self._call(torch.le, other)

    def __eq__(self, other: Any) -> Any:
        return self._call(torch.eq, other)

    def __ne__(self, other: Any) -> Any:
        return self._call(torch.ne, other)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise UnsupportedOperation(f"a signal is neither true nor false, asked at {user_frame()}: it has T steps")

    def __iter__(self) -> Any:
        raise UnsupportedOperation(f"iterating over the samples of a signal at {user_frame()}: keep the batch together")

    # ---- methods that networks use most

    def add(self, other: Any, **kwargs: Any) -> Any:
        return self._call(torch.add, other, **kwargs)

    def mul(self, other: Any) -> Any:
        return self._call(torch.mul, other)

    def matmul(self, other: Any) -> Any:
        return self._call(torch.matmul, other)

    def flatten(self, *dims: Any, **kwargs: Any) -> Any:
        return self._call(torch.flatten, *dims, **kwargs)

    def mean(self, *dims: Any, **kwargs: Any) -> Any:
        return self._call(torch.mean, *dims, **kwargs)

    def sum(self, *dims: Any, **kwargs: Any) -> Any:
        return self._call(torch.sum, *dims, **kwargs)

    def view(self, *shape: Any) -> Any:
        return self._call(torch.Tensor.view, *shape)

    def reshape(self, *shape: Any) -> Any:
        return self._call(torch.Tensor.reshape, *shape)

    def permute(self, *dims: Any) -> Any:
        return self._call(torch.permute, dims if isinstance(dims[0], int) else dims[0])

    def transpose(self, first: int, second: int) -> Any:
        return self._call(torch.transpose, first, second)

    def unsqueeze(self, dim: int) -> Any:
        return self._call(torch.unsqueeze, dim)

    def squeeze(self, *dims: Any) -> Any:
        return self._call(torch.squeeze, *dims)

    def chunk(self, chunks: int, dim: int = 0) -> Any:
        return self._call(torch.chunk, chunks, dim)

    def split(self, size: Any, dim: int = 0) -> Any:
        return self._call(torch.split, size, dim)

    def contiguous(self, **kwargs: Any) -> Any:
        return self._call(torch.Tensor.contiguous, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(torch.Tensor.to, *args, **kwargs)

    def detach(self) -> Any:
        return self._call(torch.detach)

    def __getattr__(self, name: str) -> Any:
        """Any other method of a tensor: by its rule, or refused by name."""
        method = None if name.startswith("__") else getattr(torch.Tensor, name, None)
        if not callable(method):
            raise AttributeError(f"a {type(self).__name__} signal has no attribute {name!r}")
        return functools.partial(self._call, method)


def check_timesteps(timesteps: Any) -> None:
    """Raise InvalidArgument unless T is a whole number of at least 1."""
    if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
        raise InvalidArgument(f"timesteps is {timesteps!r}; expected a whole number of at least 1")
