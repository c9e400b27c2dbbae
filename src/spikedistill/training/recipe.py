"""Everything that decides a run, as typed values; recipes are YAML files of these."""

from __future__ import annotations

import dataclasses
from typing import Literal

from spikedistill.models.branches import BLOCKS
from spikedistill.data import DataSettings
from spikedistill.objectives.self_distillation import TEACHERS, SelfDistillationLoss
from spikedistill.errors import InvalidArgument, choose
from spikedistill.core.network import PROPAGATIONS
from spikedistill.core.neuron import Neuron


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a recipe promises, and on what grounds.

    Args:
        source: table and row, or document, that the settings come from.
        command: what to type.
        hardware: where it was measured; "not measured" if it was not.
        hours: how long it takes there.
        accuracy: mean and spread of the test accuracy in %, with the number of seeds.
    """

    source: str = ""
    command: str = ""
    hardware: str = "not measured"
    hours: float | None = None
    accuracy: str = "not measured"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network; see `spikedistill.create_model`."""

    name: str = "resnet18"
    width: int | None = None
    stem: str = "cifar"
    neuron: Neuron = Neuron()


@dataclasses.dataclass(frozen=True)
class BranchSettings:
    """Branches at the ends of all stages but the last.

    Args:
        enabled: false for a network without branches.
        block: "light", or "light+residual" (ImageNet).
    """

    enabled: bool = True
    block: str = "light"

    def __post_init__(self) -> None:
        choose("branch block", self.block, BLOCKS)


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The objective; see `spikedistill.SelfDistillationLoss`.

    Args:
        teacher: "reliable", "mean", "deepest", or null for no soft loss.
        scale: "1/T" divides the loss by the number of time steps as the authors do; "1" does not.
    """

    teacher: str | None = "reliable"
    temperature: float = 3.0
    network_weight: float = 1.0
    branch_weight: float = 1.0
    soft_weight: float = 0.3
    scale: Literal["1/T", "1"] = "1/T"

    def __post_init__(self) -> None:
        if self.teacher is not None:
            choose("teacher", self.teacher, TEACHERS)

    def objective(self, timesteps: int | None) -> SelfDistillationLoss:
        if self.scale == "1/T" and timesteps is None:
            raise InvalidArgument('loss.scale "1/T" needs timesteps; the ANN twin has none: --loss.scale 1')
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["scale"] = 1 / timesteps if self.scale == "1/T" and timesteps else 1.0
        return SelfDistillationLoss(**fields)


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """SGD with momentum (method.md §5).

    Args:
        batch_size: of all processes together.
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


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        timesteps: T (null for the ANN twin).
        propagation: "rate" (rate-based backpropagation), "bptt" or "ann".
        seed: of initialisation, order and augmentation.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto" (bf16 where the processor computes in it), "fp32" or "bf16".
        compile: fuse the neurons' kernels: "auto" (where it pays), "on" or "off".
        claim: what the recipe promises.
    """

    timesteps: int | None = 4
    propagation: str = "rate"
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    branches: BranchSettings = BranchSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    claim: Claim = Claim()

    def __post_init__(self) -> None:
        choose("propagation", self.propagation, PROPAGATIONS)
        if self.propagation == "ann" and self.timesteps is not None:
            raise InvalidArgument("the ANN twin has no time steps: --timesteps null")
        if self.propagation != "ann" and (self.timesteps is None or self.timesteps < 1):
            raise InvalidArgument(f"timesteps is {self.timesteps}; expected at least 1 (only the ANN twin has none)")
