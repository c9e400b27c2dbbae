"""Convolutions of spikes in 8 bits, on a CPU: half the time of bf16 where the processor has instructions for it.

Spikes are 0 and 1, which are exact in 8 bits. Weights are not: each output channel is scaled to −127..127 and rounded,
anew in every step. So the forward pass is that of a network with rounded weights; the gradient is taken at the weights
as they are (straight through), and evaluation is by those, too. Sums are exact, in 32 bits. The rest is computed as in
the kernels it is made from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spikedistill.core.kernels.eager import Kernels
from spikedistill.core.kernels.fused import Fused

LARGEST = 127
FEWEST_CHANNELS = 32
"""With fewer input channels it takes as long as bf16 (docs/LOG.md)."""

DTYPES = (torch.float32, torch.bfloat16)
"""In which oneDNN gives the results."""


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [C_out, ...] as 8-bit numbers, and the scale of each output channel [C_out], float32."""
    full = weight.detach().float()
    scale = full.abs().amax(tuple(range(1, full.dim()))) / LARGEST
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)  # a channel of zeros stays one, and NaN stays NaN
    return (full / scale.view(-1, *[1] * (full.dim() - 1))).round().to(torch.int8), scale


def convolution(
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Of spikes uint8 [M, C_in, H, W] with the rounded weight, in the weight's dtype: [M, C_out, H', W']."""
    numbers, scale = rounded(weight)
    arguments = (list(stride), list(padding), list(dilation), groups)
    packed = torch.ops.onednn.qconv_prepack(numbers, scale, 1.0, 0, *arguments, list(spikes.shape))
    none = torch.zeros(len(scale), dtype=torch.long)  # weights are symmetric: their zero is 0
    shift = None if bias is None else bias.detach().float()
    return torch.ops.onednn.qconv_pointwise(
        spikes, 1.0, 0, packed, scale, none, shift, *arguments, 1.0, 0, weight.dtype, "none", [], ""
    )


class _EightBit(Kernels):
    spike_dtype = torch.uint8

    def fits(
        self, operation: Callable[..., Tensor], values: Tensor, weight: Tensor, options: Mapping[str, object]
    ) -> bool:
        """Whether a layer is computed in 8 bits: a convolution of spikes with enough channels, in a usual dtype."""
        spikes = not values.is_floating_point() and operation is torch.conv2d
        large = weight.shape[1] >= FEWEST_CHANNELS and weight.dtype in DTYPES
        return spikes and large and not isinstance(options["padding"], str)  # "same", "valid"

    def layer(
        self,
        operation: Callable[..., Tensor],
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: Mapping[str, object],
    ) -> Tensor:
        if self.fits(operation, values, weight, options):
            both = {name: _pair(options[name]) for name in ("stride", "padding", "dilation")}
            return convolution(values, weight, bias, **both, groups=options["groups"])  # type: ignore[arg-type]
        return super().layer(operation, values, weight, bias, options)


def _pair(value: object) -> list[int]:
    return [value] * 2 if isinstance(value, int) else list(value)  # type: ignore[call-overload]


class EightBit(_EightBit):
    """The eager kernels with convolutions of 8 bits."""


class FusedEightBit(_EightBit, Fused):
    """The fused kernels with convolutions of 8 bits."""


class _Counting(EightBit):
    def __init__(self) -> None:
        self.found: list[bool] = []

    def fits(
        self, operation: Callable[..., Tensor], values: Tensor, weight: Tensor, options: Mapping[str, object]
    ) -> bool:
        self.found.append(super().fits(operation, values, weight, options))
        return self.found[-1]


def count_eight_bit(forward: Callable[[Kernels], object]) -> tuple[int, int]:
    """How many layers with weights on the spike path are computed in 8 bits, and how many there are."""
    counting = _Counting()
    with torch.no_grad():
        forward(counting)
    return sum(counting.found), len(counting.found)


def in_eight_bits(kernels: Kernels) -> Kernels:
    """The same kernels, eager or fused, with convolutions of 8 bits."""
    return FusedEightBit() if isinstance(kernels, Fused) else EightBit()


def missing_eight_bit(device: torch.device) -> str | None:
    """Why convolutions of spikes in 8 bits cannot be had there; None where they can."""
    if device.type != "cpu":
        return f"8-bit convolutions are for a CPU, and the device is {device}"
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch has no oneDNN, which computes them"
    return None
