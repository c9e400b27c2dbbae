"""Kernels: how spike paths are computed. A value that signals carry; another way to compute is one more subclass."""

from spikedistill.core.kernels.eager import EAGER, Kernels, Weighted, norm_backward
from spikedistill.core.kernels.eight_bit import (
    EightBit,
    FusedEightBit,
    count_eight_bit,
    in_eight_bits,
    missing_eight_bit,
)
from spikedistill.core.kernels.fused import FUSED, Fused
from spikedistill.core.kernels.in_parts import InParts, in_parts
from spikedistill.core.kernels.terms import (
    Curve,
    Deferred,
    Norm,
    Term,
    computed,
    each_step,
    per_channel,
    time_mean,
    time_sum,
    total,
)


def compiled() -> Kernels:
    """The kernels fused by torch.compile; nothing is compiled before the first use."""
    return FUSED


__all__ = [
    "EAGER",
    "FUSED",
    "Curve",
    "Deferred",
    "EightBit",
    "Fused",
    "FusedEightBit",
    "InParts",
    "Kernels",
    "Norm",
    "Term",
    "Weighted",
    "compiled",
    "computed",
    "count_eight_bit",
    "each_step",
    "in_eight_bits",
    "in_parts",
    "missing_eight_bit",
    "norm_backward",
    "per_channel",
    "time_mean",
    "time_sum",
    "total",
]
