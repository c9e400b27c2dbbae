"""What standard torch operations do to signals: the table that lets unmodified modules train.

Kinds of rule (method.md §2):
    linear       one spike pass without gradient; the rate by the same operation on the rate (exact, N-sized)
    stepwise     not linear (max pooling): the rate's value is the time mean, its gradient the operation's on the rate
    add, scale   sums of signals stay pending until somebody needs them
Every result is checked to have kept time and batch in front. Layers with weights and batch norm
have files of their own (weighted.py, norm.py).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from spikedistill.core.dual import Dual, Sequence, Static, stitch
from spikedistill.errors import InvalidArgument, UnsupportedOperation
from spikedistill.core.kernels import time_mean
from spikedistill.core.signal import RULES, Rule, Signal
from spikedistill.core.trace import user_frame

# ---------------------------------------------------------------- bringing arguments together


def signals_in(tree: Any) -> list[Signal]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Signal)]


def unify(args: Any) -> tuple[type[Signal], Any]:
    """The kind that a result has, and the arguments with every static signal brought to that kind."""
    signals = signals_in(args)
    kinds = {type(s) for s in signals} - {Static}
    if len(kinds) > 1:
        raise InvalidArgument(f"rate-based and BPTT signals met at {user_frame()}; feed a network one kind of input")
    if len({s.timesteps for s in signals}) > 1:
        raise InvalidArgument(
            f"signals of different timesteps met at {user_frame()}: {sorted({s.timesteps for s in signals})}"
        )
    kind = kinds.pop() if kinds else Static
    if kind is Static:
        return Static, args

    def lift(leaf: Any) -> Any:
        return kind.from_static(leaf) if isinstance(leaf, Static) else leaf  # type: ignore[attr-defined]

    return kind, pytree.tree_map(lift, args)


def part(tree: Any, take: Callable[[Any], Any]) -> Any:
    """`tree` with every signal replaced by one of its tensors."""
    return pytree.tree_map(lambda leaf: take(leaf) if isinstance(leaf, Signal) else leaf, tree)


def values_of(signal: Any) -> Tensor:
    return signal.values


def rate_of(signal: Any) -> Tensor:
    return signal.rate


def _check(function: Rule, out: Tensor, lead: int) -> Tensor:
    if out.dim() == 0 or out.shape[0] != lead:
        name = getattr(function, "__name__", function)
        raise UnsupportedOperation(
            f"{name}, called at {user_frame()}, changed the batch dimension (result {tuple(out.shape)}, expected "
            f"{lead} in front). Signals carry time and batch in dimension 0: leave it alone, "
            "for example flatten(x, 1) or x.mean((2, 3))"
        )
    return out


def _wrap(signal: Any, function: Rule, values: Any, rate: Any, join: Any) -> Any:
    """A Dual for each tensor of a result (chunk and split return several)."""
    if not isinstance(values, Tensor):
        return type(values)(_wrap(signal, function, v, r, join) for v, r in zip(values, rate, strict=True))
    _check(function, values, signal.batch * signal.timesteps)
    _check(function, rate, signal.batch)
    return signal.with_path(values, join(values, rate, signal.timesteps))


def _plain(function: Rule, args: Any, kwargs: Any, kind: type[Signal]) -> Any:
    """The operation on the one tensor of static signals or sequences: ordinary autograd."""
    signal: Any = signals_in((args, kwargs))[0]
    take = rate_of if kind is Static else values_of
    lead = signal.batch if kind is Static else signal.batch * signal.timesteps
    out = function(*part(args, take), **part(kwargs, take))

    def wrap(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return type(tensor)(wrap(t) for t in tensor)
        _check(function, tensor, lead)
        if kind is Static:
            return Static(tensor, signal.timesteps, signal.kind, signal.kernels)
        return Sequence(tensor, signal.timesteps, signal.kernels)

    return wrap(out)


def _on_each_path(function: Rule, args: Any, kwargs: Any, join: Callable[[Tensor, Tensor, int], Tensor]) -> Any:
    """The operation on the spike path and on the rate; `join(values, rate, T)` is the rate of the result."""
    kind, (args, kwargs) = unify((args, kwargs))
    if kind is not Dual:
        return _plain(function, args, kwargs, kind)
    signal: Any = signals_in((args, kwargs))[0]
    with torch.no_grad():
        values = function(*part(args, values_of), **part(kwargs, values_of))
    rate = function(*part(args, rate_of), **part(kwargs, rate_of))
    return _wrap(signal, function, values, rate, join)


# ---------------------------------------------------------------- the kinds of rule


def linear(function: Rule, *args: Any, **kwargs: Any) -> Any:
    """For a function that is linear (or affine) in the signals and acts on each time step alone."""
    return _on_each_path(function, args, kwargs, lambda values, rate, timesteps: rate)


def stepwise(function: Rule, *args: Any, **kwargs: Any) -> Any:
    """For a function that is not linear: the time mean of its values, the gradient of the function at the rate."""
    return _on_each_path(
        function, args, kwargs, lambda values, rate, timesteps: stitch(time_mean(values, timesteps), rate)
    )


def _as_signal(other: Any, x: Any) -> Any:
    """A plain tensor with one entry per sample, as a static signal."""
    if isinstance(other, Tensor) and other.dim() == x.dim() and other.shape[0] == x.batch != 1:
        kind = x.kind if isinstance(x, Static) else type(x)
        return Static(other, x.timesteps, kind, x.kernels)
    return other


def add(function: Rule, left: Any, right: Any, **kwargs: Any) -> Any:
    """Sum: two duals of one shape stay pending (at most two terms), everything else is computed."""
    signal: Any = left if isinstance(left, Signal) else right
    left, right = _as_signal(left, signal), _as_signal(right, signal)
    kind, (a, b) = unify((left, right))
    if kind is Dual and isinstance(a, Dual) and isinstance(b, Dual) and a.shape == b.shape and not kwargs:
        terms = (*a.terms, *b.terms) if len(a.terms) + len(b.terms) <= 2 else (a.computed(), b.computed())
        return Dual(terms, a.timesteps, a.kernels)
    return linear(torch.add, left, right, **kwargs)


def subtract(function: Rule, left: Any, right: Any, **kwargs: Any) -> Any:
    if function is torch.Tensor.__rsub__:
        left, right = right, left
    signal: Any = left if isinstance(left, Signal) else right
    return linear(torch.sub, _as_signal(left, signal), _as_signal(right, signal), **kwargs)


def scale(function: Rule, left: Any, right: Any) -> Any:
    """Product or quotient of a signal and a constant."""
    if function is torch.Tensor.__rtruediv__:
        left, right = right, left
    if isinstance(right, Signal) and (isinstance(left, Signal) or function in _DIVISIONS):
        raise UnsupportedOperation(
            f"{function.__name__} by a signal at {user_frame()}: it is not linear in the rates. "
            "Multiply or divide by numbers, parameters or tensors"
        )
    signal: Any = left if isinstance(left, Signal) else right
    basic = torch.div if function in _DIVISIONS else torch.mul
    return linear(basic, _as_signal(left, signal), _as_signal(right, signal))


def reshape(function: Rule, x: Any, *shape: Any) -> Any:
    """view and reshape, with the batch size (or −1) in front."""
    sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if sizes[0] != x.batch and not (sizes[0] == -1 and math.prod(sizes[1:]) == math.prod(x.shape[1:])):
        raise UnsupportedOperation(
            f"view({', '.join(map(str, sizes))}) at {user_frame()}: the first size must be the batch size {x.batch}"
        )
    return linear(lambda tensor: tensor.reshape(tensor.shape[0], *sizes[1:]), x)


def dropout(function: Rule, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """One mask for all time steps: the rate must stay the mean of the spikes."""
    if not training or p == 0:
        return input
    mask = function(torch.ones_like(input.rate), p, True)
    return linear(torch.mul, input, _as_signal(mask, input))


def relu(function: Rule, *args: Any, **kwargs: Any) -> Any:
    raise UnsupportedOperation(
        f"{function.__name__} on a spiking signal at {user_frame()}: use spikedistill.LIF() as the activation there; "
        "spikedistill.to_spiking(model) replaces nn.ReLU modules, but cannot see functional calls"
    )


def detach(function: Rule, x: Any) -> Any:
    return linear(torch.Tensor.detach, x)


# ---------------------------------------------------------------- the table

_DIVISIONS = {torch.div, torch.true_divide, operator.truediv, torch.Tensor.__truediv__, torch.Tensor.__rtruediv__}

_TABLE: dict[Rule, tuple[Any, ...]] = {
    linear: (
        torch.flatten,
        torch.cat,
        torch.concat,
        torch.mean,
        torch.sum,
        torch.neg,
        torch.transpose,
        torch.permute,
        torch.squeeze,
        torch.unsqueeze,
        torch.chunk,
        torch.split,
        torch.avg_pool1d,
        F.avg_pool2d,
        F.avg_pool3d,
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        torch.adaptive_avg_pool1d,
        F.interpolate,
        F.pad,
        F.pixel_shuffle,
        torch.pixel_shuffle,
        torch.channel_shuffle,
        operator.getitem,
        torch.clone,
        torch.Tensor.contiguous,
        torch.Tensor.to,
    ),
    stepwise: (F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
    add: (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, operator.add),
    subtract: (torch.sub, torch.subtract, torch.Tensor.__sub__, torch.Tensor.__rsub__),
    scale: (torch.mul, torch.multiply, torch.Tensor.__mul__, torch.Tensor.__rmul__, *_DIVISIONS),
    reshape: (torch.reshape, torch.Tensor.view, torch.Tensor.reshape),
    dropout: (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout),
    relu: (F.relu, torch.relu, F.relu6, F.gelu, F.silu, F.leaky_relu, F.elu, torch.sigmoid, torch.tanh),
    detach: (torch.detach,),
}

for _rule, _functions in _TABLE.items():
    for _function in _functions:
        RULES.setdefault(_function, _rule)


def _method(function: Any) -> Any:
    def method(self: Signal, *args: Any, **kwargs: Any) -> Any:
        return Signal.__torch_function__.__func__(type(self), function, (), (self, *args), kwargs)  # type: ignore[attr-defined]

    return method


_METHODS: dict[str, Any] = {
    "__add__": torch.add,
    "__radd__": torch.add,
    "__sub__": torch.sub,
    "__mul__": torch.mul,
    "__rmul__": torch.mul,
    "__truediv__": torch.div,
    "__rtruediv__": torch.Tensor.__rtruediv__,
    "__rsub__": torch.Tensor.__rsub__,
    "__neg__": torch.neg,
    "__getitem__": operator.getitem,
    "add": torch.add,
    "mul": torch.mul,
    "flatten": torch.flatten,
    "mean": torch.mean,
    "sum": torch.sum,
    "view": torch.Tensor.view,
    "reshape": torch.Tensor.reshape,
    "permute": lambda x, *dims: torch.permute(x, dims if isinstance(dims[0], int) else dims[0]),
    "transpose": torch.transpose,
    "squeeze": torch.squeeze,
    "unsqueeze": torch.unsqueeze,
    "chunk": torch.chunk,
    "split": torch.split,
    "contiguous": torch.Tensor.contiguous,
    "to": torch.Tensor.to,
    "clone": torch.clone,
    "detach": torch.detach,
}

for _name, _function in _METHODS.items():
    setattr(Signal, _name, _method(_function))
