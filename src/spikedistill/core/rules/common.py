"""How a rule applies a torch function to signals: the kinds of rule that all others are made of (method.md §2.1).

    linear     one spike pass without gradient; the rate by the same operation on the rate            exact, of size N
    stepwise   not linear (max pooling): the rate's value is the time mean, its gradient the operation's on the rate
A function that has several tensors as its result (chunk, split) gives as many signals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from spikedistill.core.dual import Dual, Static, Unrolled, stitch
from spikedistill.core.kernels import time_mean
from spikedistill.core.signal import Signal, Signals, TorchFunction, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

Tree = TypeVar("Tree")
Join = Callable[[Tensor, Tensor, int], Tensor]
"""The rate of a result, from its values [T·N, ...], the function's value at the rate [N, ...], and T."""
Tensors: TypeAlias = "Tensor | tuple[Tensors, ...] | list[Tensors]"
"""What a torch function gives: one tensor, or several (chunk, split)."""

# ---------------------------------------------------------------- bringing arguments together


# Arguments are a tree: cat takes a list of signals, einsum may take a tuple, any of them may be a keyword. To torch's
# pytree, which walks through it, a signal is a leaf.


def signals_in(tree: object) -> list[Signal]:
    """Every signal among arguments, at any depth."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Signal)]


def unify(args: Tree) -> tuple[type[Signal], Tree]:
    """The kind that a result has, and the arguments with every static signal brought to that kind.

    Raises:
        InvalidArgument: signals of two learning rules, or of different T.
    """
    signals = signals_in(args)
    # A static signal goes with either kind: it only has to be repeated over time.
    kinds = {type(s) for s in signals if isinstance(s, (Dual, Unrolled))}
    if len(kinds) > 1:
        raise InvalidArgument(f"rate-based and BPTT signals met at {user_frame()}; feed a network one kind of input")
    if len({s.timesteps for s in signals}) > 1:
        raise InvalidArgument(
            f"signals of different timesteps met at {user_frame()}: {sorted({s.timesteps for s in signals})}"
        )
    if not kinds:
        return Static, args
    kind = kinds.pop()

    def lift(leaf: object) -> object:
        return kind.from_static(leaf) if isinstance(leaf, Static) else leaf

    return kind, pytree.tree_map(lift, args)


def tensors_of(tree: Tree, take: Callable[[Signal], Tensor]) -> Tree:
    """`tree` with every signal replaced by one of its tensors."""
    return pytree.tree_map(lambda leaf: take(leaf) if isinstance(leaf, Signal) else leaf, tree)


def values_of(signal: Signal) -> Tensor:
    """The spike path [T·N, ...] of a signal that is not static."""
    assert isinstance(signal, (Dual, Unrolled))
    return signal.values


def kept(x: Dual) -> Tensor:
    """The spike path as its kernel keeps it: spikes may be 8-bit numbers there (`Kernels.spike_dtype`)."""
    return x.terms[0].values if x.is_plain() else x.values


def rate_of(signal: Signal) -> Tensor:
    """The rate [N, ...]."""
    return signal.rate


def checked(function: TorchFunction, out: Tensor, lead: int) -> Tensor:
    """`out`, if its first size is still `lead` (T·N or N).

    Raises:
        UnsupportedOperation: the function mixed or moved the samples.
    """
    # A size that happens to be right can still hide moved samples; rules/shapes.py looks at that where it can happen.
    if out.dim() == 0 or out.shape[0] != lead:
        raise changed_batch(function, f"result {tuple(out.shape)}, expected {lead} in front")
    return out


def changed_batch(function: TorchFunction, what: str) -> UnsupportedOperation:
    """The error of a function that does not leave dimension 0 alone."""
    return UnsupportedOperation(
        f"{name_of(function)}, called at {user_frame()}, changed the batch dimension ({what}). Signals carry time and "
        "batch in dimension 0: leave it alone, for example flatten(x, 1) or x.mean((2, 3))"
    )


# ---------------------------------------------------------------- results


def _several(like: Tensors, signals: Iterable[Signals]) -> Signals:
    """In the kind of tuple or list that the function gave, for whoever takes its results apart."""
    kind: Any = type(like)
    return kind(signals)


def _dual_result(signal: Dual, function: TorchFunction, values: Tensors, rate: Tensors, join: Join) -> Signals:
    """A Dual for each tensor of a result."""
    if not isinstance(values, Tensor) or not isinstance(rate, Tensor):
        pairs = zip(values, rate, strict=True)
        return _several(values, (_dual_result(signal, function, v, r, join) for v, r in pairs))
    # On both paths: a function may write sizes out that fit one of them only.
    checked(function, values, signal.batch * signal.timesteps)
    checked(function, rate, signal.batch)
    return signal.with_path(values, join(values, rate, signal.timesteps))


def _plain_result(signal: Signal, function: TorchFunction, out: Tensors) -> Signals:
    """A static signal or an unrolled one for each tensor of a result."""
    if not isinstance(out, Tensor):
        return _several(out, (_plain_result(signal, function, each) for each in out))
    if isinstance(signal, Static):
        return signal.with_rate(checked(function, out, signal.batch))
    return Unrolled(checked(function, out, signal.batch * signal.timesteps), signal.context)


def on_each_path(
    function: TorchFunction, args: tuple[object, ...], kwargs: Mapping[str, object], join: Join
) -> Signals:
    """The operation on the spike path and on the rate; `join` makes the rate of the result of both.

    Raises:
        InvalidArgument: signals that do not go together (`unify`).
        UnsupportedOperation: the function mixed or moved the samples.
    """
    _, (args, kwargs) = unify((args, kwargs))
    # All are of one kind now. Where one of static signals stands for what changes over time, so does the result.
    signal = max(signals_in((args, kwargs)), key=lambda each: each.context.fluctuating)
    if not isinstance(signal, Dual):  # one tensor only, with ordinary autograd
        take = rate_of if isinstance(signal, Static) else values_of
        return _plain_result(signal, function, function(*tensors_of(args, take), **tensors_of(kwargs, take)))
    # T forward operations that autograd does not see, and one of size N that it does.
    with torch.no_grad():
        values = signal.kernels.apply(function, tensors_of(args, values_of), tensors_of(kwargs, values_of))
    rate = function(*tensors_of(args, rate_of), **tensors_of(kwargs, rate_of))
    return _dual_result(signal, function, values, rate, join)


def linear(function: TorchFunction, *args: object, **kwargs: object) -> Signals:
    """For a function that is linear (or affine) in the signals and acts on each time step alone (method.md §2.3).

    Raises: as `on_each_path`.
    """
    # The mean of the values is the function's value at the mean, so the rate needs no correction.
    return on_each_path(function, args, kwargs, lambda values, rate, timesteps: rate)


def stepwise(function: TorchFunction, *args: object, **kwargs: object) -> Signals:
    """For a function that is not linear: the time mean of its values, the gradient of the function at the rate.

    Max pooling (method.md §2.4) and products of signals (§7.1) go by it. Raises: as `on_each_path`.
    """
    # The function's value at the rate is computed for its gradient; the value itself is thrown away.
    return on_each_path(
        function, args, kwargs, lambda values, rate, timesteps: stitch(time_mean(values, timesteps), rate)
    )
