"""How weights follow from gradients: optimizers of torch with the schedules that are used with them (method.md §5).

An optimizer is a frozen dataclass whose fields are its recipe fields; another one is one more class and one row in
`OPTIMIZERS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from spikedistill.core.network import NetworkWrapper
from spikedistill.errors import CheckpointError, InvalidArgument, choose

Groups = list[dict[str, Any]]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}
"""The learning rate as a share of its largest value, by the share of the run that is done (warm-up not counted)."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What all optimizers have in common.

    Args:
        epochs: passes over the training samples.
        batch_size: samples of one step, of all processes together.
        lr: largest learning rate.
        weight_decay: of the optimizer.
        decayed: what weight decay acts on: "weights" (of convolutions and linear layers) or "all" parameters.
        schedule: how the learning rate falls: "cosine" or "linear" to 0, or "constant".
        schedule_per: whether it changes per "epoch" or per "step".
        warmup_epochs: epochs in which it first rises from 0, step by step.
        clip_norm: largest norm of the gradient (null: no clipping).
        accumulate: compute each batch in so many parts, one after the other, for less memory. Batch norm and what a
            loss takes over a batch (how many samples have a right head) are then of a part.
        ema: decay of an exponential moving average of the weights, which is what is evaluated and kept (null: none); it
            rises to this value over the first steps.
        drop_last: leave out an epoch's last, smaller batch.

    Raises:
        InvalidArgument: a number out of range.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    decayed: Literal["weights", "all"] = "weights"
    schedule: str = "cosine"
    schedule_per: Literal["epoch", "step"] = "epoch"
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "accumulate"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"optimizer.{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.weight_decay < math.inf:
            raise InvalidArgument(f"optimizer.weight_decay is {self.weight_decay}; expected 0 or more")
        choose("schedule", self.schedule, SCHEDULES)
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InvalidArgument(
                f"optimizer.warmup_epochs is {self.warmup_epochs}; expected 0 or more, and less than the "
                f"{self.epochs} epochs of the run"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InvalidArgument(f"optimizer.clip_norm is {self.clip_norm}; expected more than 0, or null")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InvalidArgument(f"optimizer.ema is {self.ema}; expected between 0 and 1, as 0.999, or null")
        if self.accumulate > self.batch_size:
            raise InvalidArgument(f"a batch of {self.batch_size} cannot be computed in {self.accumulate} parts")

    def make(self, groups: Groups) -> torch.optim.Optimizer:
        """The optimizer for these parameter groups."""
        raise NotImplementedError(f"{type(self).__name__} does not say which optimizer it is")


@dataclasses.dataclass(frozen=True)
class SGD(OptimizerSettings):
    """Stochastic gradient descent with momentum, as the authors use it (method.md §5).

    Args:
        momentum: share of the last step that is taken again.
        nesterov: whether the gradient is looked at after that step.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("momentum", self.momentum)
        if self.nesterov and self.momentum == 0:
            raise InvalidArgument("optimizer.nesterov looks where momentum leads, and momentum is 0; leave it out")

    def make(self, groups: Groups) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, self.lr, self.momentum, nesterov=self.nesterov, fused=True)
        if self.momentum:
            # A fused step wants all of a group to have a momentum or none of it, and what takes no part in the first
            # steps (branches in `phases.py`, a layer that is dropped) would get its own later. From 0 it is the same.
            for parameter in (p for group in groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


@dataclasses.dataclass(frozen=True)
class AdamW(OptimizerSettings):
    """Adam with weight decay apart from the gradient.

    Args:
        beta1, beta2: decay of the means of the gradient and of its square.
        eps: added to the root of the latter.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("beta1", self.beta1)
        _check_share("beta2", self.beta2)
        if not 0 < self.eps < math.inf:
            raise InvalidArgument(f"optimizer.eps is {self.eps}; expected more than 0")

    def make(self, groups: Groups) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, self.lr, (self.beta1, self.beta2), self.eps, fused=True)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InvalidArgument(f"optimizer.{name} is {value}; expected from 0 to below 1")


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {"sgd": SGD, "adamw": AdamW}


def decay_groups(modules: Iterable[nn.Module], weight_decay: float, decayed: str = "weights") -> Groups:
    """Parameter groups: weight decay on convolution and linear weights, none on batch norm and biases.

    A parameter that several modules share counts once, or each step would move it as often.

    Args:
        decayed: "all" for decay on every parameter.
    """
    weights, rest = [], []
    seen = set[nn.Parameter]()
    modules = list(modules)
    # what a weight is computed from decays in its place
    behind = {module.parametrizations["weight"] for module in modules if is_parametrized(module, "weight")}  # type: ignore
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            # batch norm's γ is called weight too, and has one dimension
            decays = decayed == "all" or ((name == "weight" or module in behind) and parameter.dim() > 1)
            (weights if decays else rest).append(parameter)
    return [{"params": weights, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def make_optimizer(learner: NetworkWrapper, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of all parameters of a learner, with its branches and adapters."""
    groups = decay_groups(learner.modules(), settings.weight_decay, settings.decayed)
    return settings.make([group for group in groups if group["params"]])


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For all parameters; a learning rate that lies in a tensor stays in that tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer; its settings stay those of the recipe.

    Raises:
        CheckpointError: a momentum of another shape than its parameter. Fused steps do not look, and would read and
            write beside it.
    """
    own = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in own]:
        raise CheckpointError("the optimizer in the checkpoint has other parameters")
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise CheckpointError(
                    f"{name} in the checkpoint is {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
                )


def learning_rate(settings: OptimizerSettings, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step: rising while it warms up, then by the schedule.

    Args:
        step, steps: number of the step in its epoch, and steps of an epoch.
    """
    fine = epoch + step / steps
    if fine < settings.warmup_epochs:
        # the first step already moves, and the last of the warm-up has the full rate, also where it ends within a step
        return settings.lr * min(1.0, (fine + 1 / steps) / settings.warmup_epochs)
    progress = epoch if settings.schedule_per == "epoch" else fine
    done = max(0.0, progress - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * SCHEDULES[settings.schedule](done)
