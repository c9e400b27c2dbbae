"""How a rule applies a torch function to signals: the kinds of rule that all others are made of (method.md §2).

    linear     one spike pass without gradient; the rate by the same operation on the rate            exact, of size N
    stepwise   not linear (max pooling): the rate's value is the time mean, its gradient the operation's on the rate
A function that has several tensors as its result (chunk, split) gives as many signals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from spikedistill.core.dual import Dual, Static, Unrolled, stitch
from spikedistill.core.kernels import time_mean
from spikedistill.core.signal import Rule, Signal, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

Tree = TypeVar("Tree")
Join = Callable[[Tensor, Tensor, int], Tensor]
"""The rate of a result, from its values [T·N, ...], the function's value at the rate [N, ...], and T."""

# ---------------------------------------------------------------- bringing arguments together


def signals_in(tree: Any) -> list[Signal]:
    """Every signal among arguments, at any depth."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Signal)]


def unify(args: Tree) -> tuple[type[Signal], Tree]:
    """The kind that a result has, and the arguments with every static signal brought to that kind.

    Raises:
        InvalidArgument: signals of two learning rules, or of different T.
    """
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


def tensors_of(tree: Tree, take: Callable[[Any], Tensor]) -> Tree:
    """`tree` with every signal replaced by one of its tensors."""
    return pytree.tree_map(lambda leaf: take(leaf) if isinstance(leaf, Signal) else leaf, tree)


def values_of(signal: Any) -> Tensor:
    return signal.values


def rate_of(signal: Any) -> Tensor:
    return signal.rate


def checked(function: Rule, out: Tensor, lead: int) -> Tensor:
    """`out`, if its first size is still `lead` (T·N or N).

    Raises:
        UnsupportedOperation: the function mixed or moved the samples.
    """
    if out.dim() == 0 or out.shape[0] != lead:
        raise changed_batch(function, f"result {tuple(out.shape)}, expected {lead} in front")
    return out


def changed_batch(function: Rule, what: str) -> UnsupportedOperation:
    """The error of a function that does not leave dimension 0 alone."""
    return UnsupportedOperation(
        f"{name_of(function)}, called at {user_frame()}, changed the batch dimension ({what}). Signals carry time and "
        "batch in dimension 0: leave it alone, for example flatten(x, 1) or x.mean((2, 3))"
    )


# ---------------------------------------------------------------- results


def _dual_result(signal: Dual, function: Rule, values: Any, rate: Any, join: Join) -> Any:
    """A Dual for each tensor of a result."""
    if not isinstance(values, Tensor):
        pairs = zip(values, rate, strict=True)
        return type(values)(_dual_result(signal, function, v, r, join) for v, r in pairs)
    checked(function, values, signal.batch * signal.timesteps)
    checked(function, rate, signal.batch)
    return signal.with_path(values, join(values, rate, signal.timesteps))


def _plain_result(signal: Any, function: Rule, out: Any) -> Any:
    """A static signal or an unrolled one for each tensor of a result."""
    if not isinstance(out, Tensor):
        return type(out)(_plain_result(signal, function, each) for each in out)
    if isinstance(signal, Static):
        return signal.with_rate(checked(function, out, signal.batch))
    return Unrolled(checked(function, out, signal.batch * signal.timesteps), signal.context)


def on_each_path(function: Rule, args: Any, kwargs: Any, join: Join) -> Any:
    """The operation on the spike path and on the rate; `join` makes the rate of the result of both."""
    kind, (args, kwargs) = unify((args, kwargs))
    signal: Any = signals_in((args, kwargs))[0]
    if kind is not Dual:  # one tensor only, with ordinary autograd
        take = rate_of if kind is Static else values_of
        return _plain_result(signal, function, function(*tensors_of(args, take), **tensors_of(kwargs, take)))
    with torch.no_grad():
        values = signal.kernels.apply(function, tensors_of(args, values_of), tensors_of(kwargs, values_of))
    rate = function(*tensors_of(args, rate_of), **tensors_of(kwargs, rate_of))
    return _dual_result(signal, function, values, rate, join)


def linear(function: Rule, *args: Any, **kwargs: Any) -> Any:
    """For a function that is linear (or affine) in the signals and acts on each time step alone."""
    return on_each_path(function, args, kwargs, lambda values, rate, timesteps: rate)


def stepwise(function: Rule, *args: Any, **kwargs: Any) -> Any:
    """For a function that is not linear: the time mean of its values, the gradient of the function at the rate."""
    return on_each_path(
        function, args, kwargs, lambda values, rate, timesteps: stitch(time_mean(values, timesteps), rate)
    )
