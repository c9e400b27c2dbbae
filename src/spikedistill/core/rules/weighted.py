"""Convolutions and fully connected layers on signals (method.md §2.3). The rate's value is the mean of the spike path.

Only the backward of the layer uses the rate tensors (step 1 in dual.py); an adjoint is that backward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spikedistill.core.dual import Adjoint, Dual, Unrolled, linear_of_rate
from spikedistill.core.kernels import Term
from spikedistill.core.rules.common import kept, linear
from spikedistill.core.signal import Flow, Rule, Signal, Signals, TorchFunction, is_autocast, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

Sizes = int | Sequence[int]
"""One number for all spatial dimensions, or one for each."""
Padding = Sizes | Literal["valid", "same"]


def _fully_connected_adjoint(
    grad: Tensor, rate: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    # A linear layer may see [N, tokens, C]: for the weight all dimensions before C are samples.
    flat, flat_rate = grad.flatten(0, -2), rate.flatten(0, -2)
    return (
        grad @ weight if needed[0] else None,
        flat.t() @ flat_rate if needed[1] else None,
        flat.sum(0) if needed[2] else None,
    )


def _listed(value: Sizes, dims: int) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * dims if len(value) == 1 else value  # as torch takes them


def _convolution_adjoint(
    transposed: bool,
    weight: Tensor,
    stride: Sizes,
    padding: Padding,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> Adjoint | None:
    """The backward of a convolution; None where its padding has no symmetric form (the caller then runs it in full)."""
    dims = weight.dim() - 2
    stride, dilation = _listed(stride, dims), _listed(dilation, dims)
    # The forward takes words for a padding, the backward wants numbers.
    if padding == "valid":
        padding = 0
    if padding == "same":
        # An even kernel needs one more at one side, for which the backward has no argument.
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(r % 2 for r in reach):
            return None
        padding = [r // 2 for r in reach]
    padding, output_padding = _listed(padding, dims), _listed(output_padding, dims)

    def adjoint(grad: Tensor, rate: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        channels = [grad.shape[1]]  # the size of the bias
        tensors, dtype = (grad, rate, weight), grad.dtype
        if not transposed and _is_slow(rate.dtype, weight, stride, groups):
            tensors = tuple(t.float() for t in tensors)
        gradients = torch.ops.aten.convolution_backward(
            *tensors, channels, stride, padding, dilation, transposed, output_padding, groups, list(needed)
        )
        return tuple(None if g is None else g.to(dtype) for g in gradients)

    return adjoint


def _under_autocast(x: Dual, weight: Tensor, bias: Tensor | None) -> tuple[Dual, Tensor, Tensor | None]:
    """Under autocast, cast as torch would; a custom backward has to know the dtype it is given."""
    # Torch casts inside conv2d, where autograd sees it. Here only the adjoint runs backward; without these casts it
    # would get a bf16 gradient beside a float32 rate and weight.
    if not is_autocast(x):
        return x, weight, bias
    dtype = _computed_in(x)
    # Both tensors of the signal at once: reading `values` computes what is pending on it. Spikes of 8 bits stay so.
    if x.dtype != dtype:
        values = kept(x) if not kept(x).is_floating_point() else x.values.to(dtype)
        x = x.with_path(values, x.rate.to(dtype))
    return x, weight.to(dtype), None if bias is None else bias.to(dtype)


def _computed_in(x: Flow) -> torch.dtype:
    """The dtype that a layer with weights computes in: autocast leaves doubles alone."""
    cast = is_autocast(x) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if cast else x.dtype


def _weighted(
    function: TorchFunction,
    x: Signal,
    weight: Tensor,
    bias: Tensor | None,
    adjoint: Adjoint | None,
    options: Mapping[str, object],
) -> Signals:
    """A layer with weights on any kind of signal; only rate-based backpropagation needs its adjoint."""
    # A signal among the arguments brought us here; it may be any of them.
    if isinstance(weight, Signal) or isinstance(bias, Signal):
        raise UnsupportedOperation(f"a signal as the weight of {name_of(function)} at {user_frame()}")
    if isinstance(x, Dual) and adjoint is not None:
        return _on_dual(function, x, weight, bias, adjoint, options)
    if isinstance(x, Unrolled) and not torch.is_grad_enabled():  # evaluation: by the kernels too
        return Unrolled(x.kernels.apply(function, (x.values, weight, bias), options), x.context)
    # A static signal or BPTT: ordinary autograd. Without an adjoint: a second forward, of size N, for its backward.
    return linear(function, x, weight, bias, **options)


def _on_dual(
    function: TorchFunction,
    x: Dual,
    weight: Tensor,
    bias: Tensor | None,
    adjoint: Adjoint,
    options: Mapping[str, object],
) -> Dual:
    x, weight, bias = _under_autocast(x, weight, bias)
    with torch.no_grad():
        out = x.kernels.weighted(function, kept(x), weight, bias, options, x.timesteps)
    # x.rate is of size N and has the gradient; its values play no part in those of the result.
    rate = linear_of_rate(out.mean, x.rate, weight, bias, adjoint)
    return Dual((Term(out.path, rate, moments=out.moments),), x.context)


# The rules below have the arguments of torch's functions, in the same order and with the same names.


def fully_connected(function: TorchFunction, input: Signal, weight: Tensor, bias: Tensor | None = None) -> Signals:
    """Rule of F.linear: [N, ..., C_in] → [N, ..., C_out].

    Raises:
        InvalidArgument: the signal has another number of features.
        UnsupportedOperation: a signal as weight or bias.
    """
    if input.shape[-1] != weight.shape[-1]:
        raise InvalidArgument(
            f"{name_of(function)} at {user_frame()} expects {weight.shape[-1]} features in the last dimension; given "
            f"{tuple(input.shape)}"
        )
    return _weighted(function, input, weight, bias, _fully_connected_adjoint, {})


def convolution(
    function: TorchFunction,
    input: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Signals:
    """Rule of conv1d, conv2d and conv3d: [N, C_in, ...] → [N, C_out, ...].

    Raises:
        InvalidArgument: the signal has another number of channels or dimensions.
        UnsupportedOperation: a signal as weight or bias.
    """
    _check_channels(function, input, weight.shape[1] * groups, weight)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if not isinstance(input, Dual):  # on plain tensors, with autograd's backward
        with SafeConvolutions():
            return _weighted(function, input, weight, bias, None, options)
    input, options["stride"] = _safe(input, weight, stride, padding)
    adjoint = _convolution_adjoint(False, weight, options["stride"], padding, 0, groups, dilation)
    return _weighted(function, input, weight, bias, adjoint, options)


_Fed = TypeVar("_Fed", Signal, Tensor)


def _safe(x: _Fed, weight: Tensor, stride: Sizes, padding: Padding) -> tuple[_Fed, Sizes]:
    """Input and stride of the same convolution that oneDNN does not corrupt the memory with."""
    if not _is_unsafe(x, weight, stride, padding):
        return x, stride
    # The same numbers: pick the pixels, then convolve without a stride.
    step = _listed(stride, weight.dim() - 2)
    return x[(slice(None), slice(None), *(slice(None, None, s) for s in step))], 1  # type: ignore[return-value]


class SafeConvolutions(TorchFunctionMode):
    """During a `with` block, convolutions of plain tensors neither corrupt the memory nor take oneDNN's slow backward.

    docs/design.md, "Around other people's bugs".
    """

    def __torch_function__(
        self, func: TorchFunction, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _CONVOLUTIONS:
            return _convolved(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolved(
    function: TorchFunction,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(input, Tensor) and input.dim() == weight.dim():  # else torch says what is wrong
        input, stride = _safe(input, weight, stride, padding)
        slow = _trains_slowly(input, weight, stride, groups)
        if slow and (adjoint := _convolution_adjoint(False, weight, stride, padding, 0, groups, dilation)) is not None:
            # cast as autocast would, and given the backward that rate-based backpropagation has
            input, weight = input.to(torch.bfloat16), weight.to(torch.bfloat16)
            bias = None if bias is None else bias.to(torch.bfloat16)
            with torch.no_grad():
                out = function(input, weight, bias, stride, padding, dilation, groups)
            # a copy, for what a custom Function returns here is a view, which in-place operations are not allowed on
            return linear_of_rate(out, input, weight, bias, adjoint).clone()
    return function(input, weight, bias, stride, padding, dilation, groups)


def _is_slow(dtype: torch.dtype, weight: Tensor, stride: Sizes, groups: int) -> bool:
    """A depthwise convolution in bf16 on the CPU, with a stride or a large kernel.

    oneDNN has no kernel of its own for its backward. With a stride that took up to 60 times as long as in float32, with
    a kernel above 3×3 about twice as long (docs/performance.md).
    """
    depthwise = groups > 1 and weight.shape[1] == 1
    unlike = math.prod(_listed(stride, weight.dim() - 2)) > 1 or max(weight.shape[2:]) > 3
    return depthwise and unlike and dtype == torch.bfloat16 and weight.device.type == "cpu"


def _trains_slowly(x: Tensor, weight: Tensor, stride: Sizes, groups: int) -> bool:
    """Whether autograd would take such a backward."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    alike = _computed_in(x) == _computed_in(weight)  # else torch says what is wrong
    return wanted and alike and _is_slow(_computed_in(x), weight, stride, groups)


def _is_unsafe(x: Flow, weight: Tensor, stride: Sizes, padding: Padding) -> bool:
    """A strided 1×1 convolution of few channels on the CPU; see `models.layers.StridedPointwise`."""
    # Our models have that layer instead; this is for models of others.
    pointwise = math.prod(weight.shape[2:]) == 1 and padding in (0, (0,) * (weight.dim() - 2), "valid")
    strided = math.prod(_listed(stride, weight.dim() - 2)) > 1
    return pointwise and strided and weight.shape[1] < 16 and x.device.type == "cpu"


def transposed_convolution(
    function: TorchFunction,
    input: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Signals:
    """Rule of conv_transpose1d, 2d and 3d: [N, C_in, ...] → [N, C_out, ...]. Torch has another order of arguments here.

    Raises:
        InvalidArgument: the signal has another number of channels or dimensions.
        UnsupportedOperation: a signal as weight or bias.
    """
    _check_channels(function, input, weight.shape[0], weight)
    adjoint = _convolution_adjoint(True, weight, stride, padding, output_padding, groups, dilation)
    options = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "groups": groups,
        "dilation": dilation,
    }
    return _weighted(function, input, weight, bias, adjoint, options)


def _check_channels(function: TorchFunction, x: Signal, expected: int, weight: Tensor) -> None:
    # Torch would say the same of the spike path, whose sizes are not those that the user sees.
    if x.dim() != weight.dim() or x.shape[1] != expected:
        raise InvalidArgument(
            f"{name_of(function)} at {user_frame()} expects {expected} input channels in a {weight.dim()}-dimensional "
            f"input [N, C, ...]; given {tuple(x.shape)}"
        )


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)

RULES: dict[TorchFunction, Rule] = {
    F.linear: fully_connected,
    **dict.fromkeys(_CONVOLUTIONS, convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), transposed_convolution),
}
