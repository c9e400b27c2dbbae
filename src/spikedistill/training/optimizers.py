"""How weights follow from gradients: SGD with momentum and a cosine (method.md §5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from spikedistill.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """SGD with momentum (method.md §5).

    Args:
        epochs: passes over the training samples.
        batch_size: of all processes together.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: L2 penalty, added to the gradient.
        decayed: what weight decay acts on: "weights" (of convolutions and linear layers) or "all" parameters.
        cosine: the rate follows a cosine to 0, changed per "epoch" or per "step".
        clip_norm: largest norm of the gradient (null: no clipping).
        drop_last: leave out an epoch's last, smaller batch.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decayed: Literal["weights", "all"] = "weights"
    cosine: Literal["epoch", "step"] = "epoch"
    clip_norm: float | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"optimizer.{name} is {getattr(self, name)}; expected more than 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InvalidArgument(f"optimizer.clip_norm is {self.clip_norm}; expected more than 0, or null")


def decay_groups(
    modules: Iterable[nn.Module], weight_decay: float, decayed: str = "weights"
) -> list[dict[str, object]]:
    """Parameter groups: weight decay on convolution and linear weights, none on batch norm and biases.

    Args:
        decayed: "all" for decay on every parameter.
    """
    weights, rest = [], []
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            decays = decayed == "all" or (name == "weight" and parameter.dim() > 1)
            (weights if decays else rest).append(parameter)
    return [{"params": weights, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def make_optimizer(learner: nn.Module, settings: OptimizerSettings) -> torch.optim.SGD:
    """SGD for all parameters of a learner, with its branches and adapters."""
    groups = decay_groups(learner.modules(), settings.weight_decay, settings.decayed)
    return torch.optim.SGD(groups, settings.lr, settings.momentum, fused=True)


def learning_rate(settings: OptimizerSettings, epoch: int, step: int, steps: int) -> float:
    """Cosine from lr to 0 over the run, per epoch or per step."""
    progress = epoch if settings.cosine == "epoch" else epoch + step / steps
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress / settings.epochs))
