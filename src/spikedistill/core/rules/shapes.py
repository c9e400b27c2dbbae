"""Rules of operations that move, pool or pad values: linear and exact (method.md §2.3), but for max pooling (§2.4).

Torch counts dimensions from the batch, which signals carry in dimension 0, so most functions work as they are on the
spike path [T·N, ...] and on the rate [N, ...]. What names sizes or could move dimension 0 is looked at first.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.dual import Dual, Static
from spikedistill.core.rules.common import changed_batch, kept, linear, stepwise
from spikedistill.core.signal import Flow, Rule, Signal, Signals, TorchFunction, first_signal, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation

Sizes = tuple[int | Sequence[int], ...]
"""The arguments of view(2, 3) or of view((2, 3))."""


def _sizes(shape: Sizes) -> tuple[int, ...]:
    """view(2, 3) and view((2, 3)) alike."""
    sizes: list[int] = []
    for size in shape:
        sizes += [size] if isinstance(size, int) else size
    return tuple(sizes)


def _wrong_first_size(function: TorchFunction, sizes: tuple[int, ...], batch: int) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"{name_of(function)} to ({', '.join(map(str, sizes))}) at {user_frame()}: the first size must be the batch "
        f"size {batch}"
    )


def reshape(function: TorchFunction, x: Signal, *shape: int | Sequence[int], **kwargs: Sequence[int]) -> Signals:
    """view and reshape, with the batch size (or −1) in front.

    Raises:
        UnsupportedOperation: another size in front, or another type in the place of sizes.
    """
    if any(isinstance(size, torch.dtype) for size in (*shape, *kwargs.values())):
        raise UnsupportedOperation(f"{name_of(function)} to another type at {user_frame()}; convert with .to(...)")
    sizes = _sizes(shape or tuple(kwargs.values()))
    # −1 in front means the batch only if the other sizes use up all values of a sample.
    inferred = sizes[0] == -1 and math.prod(sizes[1:]) == math.prod(x.shape[1:])
    if sizes[0] != x.batch and not inferred:
        raise _wrong_first_size(function, sizes, x.batch)
    # The user wrote N; the spike path has T·N in front. reshape, for after a neuron a view is not always possible.
    return linear(lambda tensor: tensor.reshape(tensor.shape[0], *sizes[1:]), x)


def expand(function: TorchFunction, x: Signal, *shape: int | Sequence[int]) -> Signals:
    """expand and repeat: the batch stays as it is.

    Raises:
        UnsupportedOperation: the batch would be repeated, or there are more dimensions.
    """
    # What leaves a dimension as it is: one copy for repeat, −1 for expand.
    keep = 1 if function is torch.Tensor.repeat else -1
    sizes = _sizes(shape)
    if len(sizes) != x.dim() or (sizes[0] != keep and not (keep == -1 and sizes[0] == x.batch)):
        raise _wrong_first_size(function, sizes, keep if keep == 1 else x.batch)
    return linear(lambda tensor: function(tensor, keep, *sizes[1:]), x)


def expand_as(function: TorchFunction, x: Signal, other: Flow) -> Signals:
    """As `expand` to the shape of `other`."""
    return expand(torch.Tensor.expand, x, *other.shape)


def rearrange(function: TorchFunction, x: Signal, *args: object, **kwargs: object) -> Signals:
    """Operations that move dimensions: dimension 0 must stay where it is.

    Raises:
        UnsupportedOperation: it does not.
    """
    if {x.batch, x.timesteps * x.batch} & set(x.shape[1:]):  # else a moved batch is seen by its size, N or T·N
        # Tried on a tensor without memory whose sizes all differ: 2 is still in front if dimension 0 stayed.
        probe = torch.empty(tuple(range(2, 2 + x.dim())), device="meta")
        if function(probe, *args, **kwargs).shape[0] != 2:
            raise changed_batch(function, "it moved it")
    return linear(function, x, *args, **kwargs)


def _touches_batch(dims: int | list[int] | tuple[int, ...], count: int) -> bool:
    """Whether dimension 0 of `count` is among `dims`, which may be negative."""
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    return any(d % count == 0 for d in dims)


def along(default: int | None) -> Rule:
    """A rule of functions along dimensions (sum, mean, stack, flip): never along the batch.

    Args:
        default: where torch works if it is not told: a dimension, or None for all of them.
    """

    def rule(function: TorchFunction, x: Flow | Sequence[Flow], *args: Any, **kwargs: Any) -> Signals:
        # The dimensions are the first argument, but x.flip(2, 3) has one argument for each. The functions call them
        # `dim` or `dims`.
        given = args if function is torch.Tensor.flip and args and isinstance(args[0], int) else args[:1]
        dims = kwargs.get("dim", kwargs.get("dims", given if len(given) > 1 else next(iter(given), default)))
        signal = first_signal([x])  # stack has a list of them
        assert signal is not None
        # Stacking makes a new dimension: negative numbers count from behind it.
        count = signal.dim() + (function is torch.stack)
        if dims is None or _touches_batch(dims, count):
            raise changed_batch(function, "it works along it")
        return linear(function, x, *args, **kwargs)

    return rule


_stack = along(0)


def parts(function: TorchFunction, x: Signal, *args: Any, **kwargs: Any) -> Signals:
    """chunk, split and unbind: never of the batch, which is where torch cuts if it is not told.

    Raises:
        UnsupportedOperation: of the batch.
    """
    # unbind(x, dim), but chunk(x, number, dim) and split(x, sizes, dim).
    position = 0 if function in both("unbind") else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else 0)
    if _touches_batch(dim, x.dim()):
        raise changed_batch(function, "it cuts it")
    return linear(function, x, *args, **kwargs)


def roll(function: TorchFunction, x: Signal, shifts: Any, dims: Any = None) -> Any:
    """Never along the batch: the spike path would shift by a step of time, and the rate by a sample."""
    if dims is None or _touches_batch(dims, x.dim()):
        raise changed_batch(function, "it works along it")
    return linear(function, x, shifts, dims)


def join(function: TorchFunction, tensors: Any, *args: Any, **kwargs: Any) -> Any:
    """cat and stack: a plain tensor with one entry per sample (a class token) is the same at every step.

    Raises:
        UnsupportedOperation: a plain tensor of another batch; stacked along the batch.
    """
    signal: Any = first_signal([tensors])
    kind = signal.kind if isinstance(signal, Static) else type(signal)

    def lifted(each: Any) -> Any:
        if not isinstance(each, torch.Tensor):
            return each
        if each.shape == (0,):  # which torch leaves out
            return each
        if each.dim() != signal.dim() or each.shape[0] != signal.batch:
            raise UnsupportedOperation(
                f"{name_of(function)} at {user_frame()} of a signal {tuple(signal.shape)} and a tensor "
                f"{tuple(each.shape)}: the first size must be the batch; expand the tensor to it"
            )
        return Static(each, kind, signal.context)

    rule = _stack if function is torch.stack else linear
    return rule(function, [lifted(each) for each in tensors], *args, **kwargs)


def pick(function: TorchFunction, x: Signal, index: object) -> Signals:
    """Indexing: all samples stay (x[:, 3], x[..., 0]).

    Raises:
        UnsupportedOperation: the first index is another one.
    """
    # Indices of samples would mean other rows of the spike path [T·N, ...] than of the rate [N, ...].
    indices = index if isinstance(index, tuple) and index else (index,)
    if indices[0] is not Ellipsis and indices[0] != slice(None):
        raise changed_batch(function, "the first index must be `:` or `...`")
    plain = (slice, type(None), type(Ellipsis), numbers.Integral)
    lists = [k for k, each in enumerate(indices) if not isinstance(each, plain)]
    if lists and lists[-1] - lists[0] + 1 > len(lists):
        raise changed_batch(function, "lists of indices that do not stand side by side move to the front")
    if isinstance(x, Dual) and not kept(x).is_floating_point():
        return x.with_path(kept(x)[index], x.rate[index])  # type: ignore[index]  # spikes of 8 bits stay so
    return linear(function, x, index)


def dropout(
    function: TorchFunction, input: Signal, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Signal:
    """One mask for all time steps: the rate must stay the mean of the spikes (method.md §2.3)."""
    # A signal is never written to, so `inplace` changes nothing.
    if not training or p == 0:
        return input
    # The function's own mask, scaled by 1/(1 − p): F.dropout2d drops whole channels.
    mask = function(torch.ones_like(input.rate), p, True)
    return input * mask


def detach(function: TorchFunction, x: Signal) -> Signals:
    """torch.detach and the method alike."""
    return linear(torch.Tensor.detach, x)


def constant(function: TorchFunction, input: Signal, *args: object, **kwargs: object) -> Tensor:
    """A plain tensor, of the dtype and the device of a signal, of which nothing else is taken."""
    return function(input.carrier, *args, **kwargs)


def both(*names: str) -> list[TorchFunction]:
    """Functions as torch's and as methods of tensors, where they exist."""
    found = [getattr(home, name, None) for name in names for home in (torch, torch.Tensor)]
    return [function for function in found if function is not None]


RULES: dict[TorchFunction, Rule] = {
    # Linear. On dimension 0 they would change its size, which `common.checked` refuses (all but roll).
    **dict.fromkeys(
        [
            *both("flatten", "clone", "squeeze", "unsqueeze", "unflatten", "unsafe_chunk"),
            *(torch.Tensor.to, torch.Tensor.float, torch.Tensor.double, torch.Tensor.half, torch.Tensor.bfloat16),
            *(torch.avg_pool1d, F.avg_pool2d, F.avg_pool3d, torch.adaptive_avg_pool1d),
            *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
            *(F.interpolate, F.pad, F.unfold, F.fold, F.pixel_shuffle, torch.pixel_shuffle),
            *(F.pixel_unshuffle, torch.pixel_unshuffle, torch.channel_shuffle),
        ],
        linear,
    ),
    # Where no dimension is named, torch sums over all of them and stacks along a new first one.
    **dict.fromkeys(both("sum", "mean", "flip"), along(None)),
    **dict.fromkeys([*both("cat", "concat"), torch.stack], join),
    **dict.fromkeys(both("narrow", "select", "index_select"), along(0)),
    **dict.fromkeys(both("roll"), roll),
    **dict.fromkeys(both("chunk", "split", "tensor_split", "unbind"), parts),
    **dict.fromkeys(both("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis"), rearrange),
    **dict.fromkeys((torch.reshape, torch.Tensor.reshape, torch.Tensor.view), reshape),
    **dict.fromkeys((torch.Tensor.expand, torch.Tensor.repeat), expand),
    torch.Tensor.expand_as: expand_as,
    operator.getitem: pick,
    torch.Tensor.__getitem__: pick,
    # Not linear: the gradient goes to the largest rate of a window (method.md §2.4).
    **dict.fromkeys(
        [
            *(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d),
            *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
        ],
        stepwise,
    ),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout), dropout),
    **dict.fromkeys(both("detach"), detach),
    torch.Tensor.contiguous: linear,
    # A constant, the same at every step (stochastic depth draws its mask so).
    **dict.fromkeys([getattr(torch.Tensor, f"new_{kind}") for kind in ("empty", "zeros", "ones", "full")], constant),
}
