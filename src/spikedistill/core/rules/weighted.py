"""Convolutions and fully connected layers on signals: the rate's value is the mean of what was just computed.

Only the backward of the layer uses the rate tensors (step 1 in dual.py); an adjoint is that backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.dual import Dual, Unrolled, linear_of_rate
from spikedistill.core.kernels import Term
from spikedistill.core.rules.common import linear
from spikedistill.core.signal import Rule, Signal, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

Adjoint = Callable[[Tensor, Tensor, Tensor, Any], Any]


def _fully_connected_adjoint(grad: Tensor, rate: Tensor, weight: Tensor, needed: Any) -> Any:
    flat, flat_rate = grad.flatten(0, -2), rate.flatten(0, -2)
    return (
        grad @ weight if needed[0] else None,
        flat.t() @ flat_rate if needed[1] else None,
        flat.sum(0) if needed[2] else None,
    )


def _tuple(value: Any, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)


def _convolution_adjoint(
    transposed: bool, weight: Tensor, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
) -> Adjoint | None:
    """The backward of a convolution; None where its padding has no symmetric form (the caller then runs it in full)."""
    dims = weight.dim() - 2
    stride, dilation = _tuple(stride, dims), _tuple(dilation, dims)
    if padding == "valid":
        padding = 0
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(r % 2 for r in reach):
            return None
        padding = [r // 2 for r in reach]
    padding, output_padding = _tuple(padding, dims), _tuple(output_padding, dims)

    def adjoint(grad: Tensor, rate: Tensor, weight: Tensor, needed: Any) -> Any:
        channels = [grad.shape[1]]
        return torch.ops.aten.convolution_backward(
            grad, rate, weight, channels, stride, padding, dilation, transposed, output_padding, groups, list(needed)
        )

    return adjoint


def _under_autocast(x: Signal, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Under autocast, cast as torch would; a custom backward has to know the dtype it is given."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return (x, *tensors)
    dtype = torch.get_autocast_dtype(kind)
    cast: Any = x
    if isinstance(x, Dual):
        cast = x if x.dtype == dtype else x.with_path(x.values.to(dtype), x.rate.to(dtype))
    return (cast, *(None if t is None else t.to(dtype) for t in tensors))


def _weighted(
    function: Rule,
    x: Signal,
    weight: Tensor,
    bias: Tensor | None,
    adjoint: Adjoint | None,
    options: dict[str, Any],
) -> Any:
    """A layer with weights on any kind of signal; only rate-based backpropagation needs its adjoint."""
    if isinstance(weight, Signal) or isinstance(bias, Signal):
        raise UnsupportedOperation(f"a signal as the weight of {name_of(function)} at {user_frame()}")
    if isinstance(x, Dual) and adjoint is not None:
        return _on_dual(function, x, weight, bias, adjoint, options)
    if isinstance(x, Unrolled) and not torch.is_grad_enabled():  # evaluation: by the kernels too
        return Unrolled(x.kernels.apply(function, (x.values, weight, bias), options), x.context)
    return linear(function, x, weight, bias, **options)


def _on_dual(
    function: Rule, x: Dual, weight: Tensor, bias: Tensor | None, adjoint: Adjoint, options: dict[str, Any]
) -> Dual:
    x, weight, bias = _under_autocast(x, weight, bias)
    with torch.no_grad():
        out = x.kernels.weighted(function, x.values, weight, bias, options, x.timesteps)
    rate = linear_of_rate(out.mean, x.rate, weight, bias, adjoint)
    return Dual((Term(out.values, rate, moments=out.moments),), x.context)


def fully_connected(function: Rule, input: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    return _weighted(function, input, weight, bias, _fully_connected_adjoint, {})


def convolution(
    function: Rule,
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    _check_channels(function, input, weight.shape[1] * groups, weight)
    if _is_unsafe(input, weight, stride, padding):
        # the same numbers: pick the pixels, then convolve without a stride
        step = _tuple(stride, weight.dim() - 2)
        input, stride = input[(slice(None), slice(None), *(slice(None, None, s) for s in step))], 1
    adjoint = _convolution_adjoint(False, weight, stride, padding, 0, groups, dilation)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _weighted(function, input, weight, bias, adjoint, options)


def _is_unsafe(x: Signal, weight: Tensor, stride: Any, padding: Any) -> bool:
    """A strided 1×1 convolution of few channels on the CPU; see `models.layers.StridedPointwise`."""
    pointwise = math.prod(weight.shape[2:]) == 1 and padding in (0, (0,) * (weight.dim() - 2), "valid")
    strided = math.prod(_tuple(stride, weight.dim() - 2)) > 1
    return pointwise and strided and weight.shape[1] < 16 and x.device.type == "cpu"


def transposed_convolution(
    function: Rule,
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    adjoint = _convolution_adjoint(True, weight, stride, padding, output_padding, groups, dilation)
    options = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "groups": groups,
        "dilation": dilation,
    }
    return _weighted(function, input, weight, bias, adjoint, options)


def _check_channels(function: Rule, x: Signal, expected: int, weight: Tensor) -> None:
    if x.dim() != weight.dim() or x.shape[1] != expected:
        raise InvalidArgument(
            f"{name_of(function)} at {user_frame()} expects {expected} input channels in a {weight.dim()}-dimensional "
            f"input [N, C, ...]; given {tuple(x.shape)}"
        )


RULES: dict[Any, Rule] = {
    F.linear: fully_connected,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), transposed_convolution),
}
