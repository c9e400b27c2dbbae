"""Rules of operations that move, pool or pad values: linear in the rates, and exact.

Torch counts dimensions from the batch, which signals carry in dimension 0, so most functions work as they are on the
spike path [T·N, ...] and on the rate [N, ...]. What names sizes or could move dimension 0 is looked at first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from spikedistill.core.rules.common import changed_batch, linear, stepwise
from spikedistill.core.signal import Rule, Signal, first_signal, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation


def _sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """view(2, 3) and view((2, 3)) alike."""
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape


def _wrong_first_size(function: Rule, sizes: tuple[int, ...], batch: int) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"{name_of(function)} to ({', '.join(map(str, sizes))}) at {user_frame()}: the first size must be the batch "
        f"size {batch}"
    )


def reshape(function: Rule, x: Signal, *shape: Any, **kwargs: Any) -> Any:
    """view and reshape, with the batch size (or −1) in front."""
    sizes = _sizes(shape or tuple(kwargs.values()))
    inferred = sizes[0] == -1 and math.prod(sizes[1:]) == math.prod(x.shape[1:])
    if sizes[0] != x.batch and not inferred:
        raise _wrong_first_size(function, sizes, x.batch)
    return linear(lambda tensor: tensor.reshape(tensor.shape[0], *sizes[1:]), x)


def expand(function: Rule, x: Signal, *shape: Any) -> Any:
    """expand and repeat: the batch stays as it is."""
    keep = 1 if function is torch.Tensor.repeat else -1
    sizes = _sizes(shape)
    if len(sizes) != x.dim() or (sizes[0] != keep and not (keep == -1 and sizes[0] == x.batch)):
        raise _wrong_first_size(function, sizes, keep if keep == 1 else x.batch)
    return linear(lambda tensor: function(tensor, keep, *sizes[1:]), x)


def expand_as(function: Rule, x: Signal, other: Any) -> Any:
    return expand(torch.Tensor.expand, x, *other.shape)


def rearrange(function: Rule, x: Signal, *args: Any, **kwargs: Any) -> Any:
    """Operations that move dimensions: dimension 0 must stay where it is."""
    if x.shape.count(x.batch) > 1:  # else a moved batch is seen by its size
        probe = torch.empty(tuple(range(2, 2 + x.dim())), device="meta")
        if function(probe, *args, **kwargs).shape[0] != 2:
            raise changed_batch(function, "it moved it")
    return linear(function, x, *args, **kwargs)


def _touches_batch(dims: Any, count: int) -> bool:
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    return any(d % count == 0 for d in dims)


def along(default: Any) -> Rule:
    """A rule of functions along dimensions (sum, mean, stack, flip): never along the batch.

    Args:
        default: where torch works if it is not told: a dimension, or None for all of them.
    """

    def rule(function: Rule, x: Any, *args: Any, **kwargs: Any) -> Any:
        given = args if function is torch.Tensor.flip and args and isinstance(args[0], int) else args[:1]
        dims = kwargs.get("dim", kwargs.get("dims", given if len(given) > 1 else next(iter(given), default)))
        signal = first_signal([x])
        assert signal is not None
        # stacking makes a new dimension: negative numbers count from behind it
        count = signal.dim() + (function is torch.stack)
        if dims is None or _touches_batch(dims, count):
            raise changed_batch(function, "it works along it")
        return linear(function, x, *args, **kwargs)

    return rule


def parts(function: Rule, x: Signal, *args: Any, **kwargs: Any) -> Any:
    """chunk, split and unbind: never of the batch, which is where torch cuts if it is not told."""
    position = 0 if function in both("unbind") else 1
    dim = kwargs.get("dim", args[position] if len(args) > position else 0)
    if _touches_batch(dim, x.dim()):
        raise changed_batch(function, "it cuts it")
    return linear(function, x, *args, **kwargs)


def pick(function: Rule, x: Signal, index: Any) -> Any:
    """Indexing: all samples stay (x[:, 3], x[..., 0])."""
    first = index[0] if isinstance(index, tuple) and index else index
    if first is not Ellipsis and first != slice(None):
        raise changed_batch(function, "the first index must be `:` or `...`")
    return linear(function, x, index)


def dropout(function: Rule, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """One mask for all time steps: the rate must stay the mean of the spikes."""
    if not training or p == 0:
        return input
    mask = function(torch.ones_like(input.rate), p, True)
    return input * mask


def detach(function: Rule, x: Signal) -> Any:
    return linear(torch.Tensor.detach, x)


def both(*names: str) -> list[Callable[..., Any]]:
    """Functions as torch's and as methods of tensors, where they exist."""
    found = [getattr(home, name, None) for name in names for home in (torch, torch.Tensor)]
    return [function for function in found if function is not None]


RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        [
            *both("flatten", "cat", "concat", "clone", "squeeze", "unsqueeze", "unflatten", "narrow", "select", "roll"),
            *both("index_select", "unsafe_chunk"),
            *(torch.Tensor.to, torch.Tensor.float, torch.Tensor.double, torch.Tensor.half, torch.Tensor.bfloat16),
            *(torch.avg_pool1d, F.avg_pool2d, F.avg_pool3d, torch.adaptive_avg_pool1d),
            *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
            *(F.interpolate, F.pad, F.unfold, F.fold, F.pixel_shuffle, torch.pixel_shuffle),
            *(F.pixel_unshuffle, torch.pixel_unshuffle, torch.channel_shuffle),
        ],
        linear,
    ),
    **dict.fromkeys(both("sum", "mean", "flip"), along(None)),
    torch.stack: along(0),
    **dict.fromkeys(both("chunk", "split", "tensor_split", "unbind"), parts),
    **dict.fromkeys(both("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis"), rearrange),
    **dict.fromkeys((torch.reshape, torch.Tensor.reshape, torch.Tensor.view), reshape),
    **dict.fromkeys((torch.Tensor.expand, torch.Tensor.repeat), expand),
    torch.Tensor.expand_as: expand_as,
    operator.getitem: pick,
    torch.Tensor.__getitem__: pick,
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
}
