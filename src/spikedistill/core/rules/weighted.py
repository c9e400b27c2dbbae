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

from spikedistill.core.dual import Dual, linear_of_rate
from spikedistill.errors import InvalidArgument, UnsupportedOperation
from spikedistill.core.kernels import Term, time_mean
from spikedistill.core.rules.common import linear
from spikedistill.core.signal import RULES, Rule, Signal
from spikedistill.core.trace import user_frame

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


def _same_dtype(x: Signal, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Under autocast, cast as torch would; a custom backward has to know the dtype it is given."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return (x, *tensors)
    dtype = torch.get_autocast_dtype(kind)
    cast: Any = x
    if isinstance(x, Dual):
        cast = x if x.dtype == dtype else x.with_path(x.values.to(dtype), x.rate.to(dtype))
    return (cast, *(None if t is None else t.to(dtype) for t in tensors))


def _weighted(function: Rule, x: Any, weight: Tensor, bias: Tensor | None, adjoint: Adjoint | None, rest: Any) -> Any:
    if isinstance(weight, Signal) or isinstance(bias, Signal):
        raise UnsupportedOperation(f"a signal as the weight of {function.__name__} at {user_frame()}")
    if not isinstance(x, Dual) or adjoint is None:
        return linear(function, x, weight, bias, **rest)
    x, weight, bias = _same_dtype(x, weight, bias)
    with torch.no_grad():
        values = function(x.values, weight, bias, **rest)
        if values.dim() <= 2:  # a classifier, or a hidden layer: small
            mean, moments = time_mean(values, x.timesteps), None
        else:  # batch norm usually follows, and the same sweep gives it what it needs
            mean, *found = x.kernels.moments(values, x.timesteps)
            moments = (found[0], found[1])
    rate = linear_of_rate(mean, x.rate, weight, bias, adjoint)
    return Dual((Term(values, rate, moments=moments),), x.timesteps, x.kernels)


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
        step = _tuple(stride, weight.dim() - 2)
        input, stride = input[(slice(None), slice(None), *(slice(None, None, s) for s in step))], 1
    adjoint = _convolution_adjoint(False, weight, stride, padding, 0, groups, dilation)
    rest = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _weighted(function, input, weight, bias, adjoint, rest)


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
    rest = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "groups": groups,
        "dilation": dilation,
    }
    return _weighted(function, input, weight, bias, adjoint, rest)


def _check_channels(function: Rule, x: Signal, expected: int, weight: Tensor) -> None:
    if x.dim() != weight.dim() or x.shape[1] != expected:
        raise InvalidArgument(
            f"{function.__name__} at {user_frame()} expects {expected} input channels in a {weight.dim()}-dimensional "
            f"input [N, C, ...]; given {tuple(x.shape)}"
        )


RULES[F.linear] = fully_connected
RULES.update(dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), convolution))
RULES.update(
    dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), transposed_convolution)
)
