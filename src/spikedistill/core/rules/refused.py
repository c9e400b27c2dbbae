"""Functions that cannot be right on spikes, refused by name with what to do instead."""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F

from spikedistill.core.signal import Rule, TorchFunction, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation

# Without these rules the user would be told to register one, which is wrong advice here.


def activation(function: TorchFunction, *args: object, **kwargs: object) -> NoReturn:
    """An activation that is no neuron."""
    raise UnsupportedOperation(
        f"{name_of(function)} on a spiking signal at {user_frame()}: use spikedistill.LIF() as the activation there; "
        "spikedistill.to_spiking(model) replaces nn.ReLU modules, but cannot see functional calls"
    )


def normalisation(function: TorchFunction, *args: object, **kwargs: object) -> NoReturn:
    """A normalisation of each sample by itself, which is not linear in the rates."""
    raise UnsupportedOperation(
        f"{name_of(function)} on a spiking signal at {user_frame()}: it normalises each sample by itself, which is not "
        "linear in the rates; use nn.BatchNorm, or leave it out (spiking attention does without softmax)"
    )


# Torch calls a function by different names: F.relu and torch.relu reach a signal as two functions.
_ACTIVATIONS = (
    *(F.relu, torch.relu, torch.Tensor.relu, torch.relu_, F.relu6, F.gelu, F.silu, F.leaky_relu, F.elu, F.mish),
    *(F.hardswish, F.hardtanh, F.softplus, torch.sigmoid, torch.Tensor.sigmoid, torch.tanh, torch.Tensor.tanh),
)
_NORMALISATIONS = (
    *(F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.instance_norm, F.normalize, F.rms_norm),
    *(F.softmax, torch.softmax, torch.Tensor.softmax, F.log_softmax, torch.log_softmax, torch.Tensor.log_softmax),
    F.scaled_dot_product_attention,
)

RULES: dict[TorchFunction, Rule] = {
    **dict.fromkeys(_ACTIVATIONS, activation),
    **dict.fromkeys(_NORMALISATIONS, normalisation),
}
