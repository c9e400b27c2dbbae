"""Everything that decides a run, as typed values; recipes are YAML files of these (recipe_files.py reads them)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from spikedistill.core.learning import LearningRule, Rate
from spikedistill.data import DataSettings
from spikedistill.errors import InvalidArgument, choose
from spikedistill.models.branches import BLOCKS
from spikedistill.models.tensor_train import check_rank
from spikedistill.objectives import Objective, SelfDistillationLoss
from spikedistill.tasks import Classification, Task
from spikedistill.training.networks import builder_of
from spikedistill.training.optimizers import SGD, OptimizerSettings
from spikedistill.training.phases import PhaseSettings
from spikedistill.training.pruning import Pruning


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
    """The network: a row of `models.MODELS` or a function of the user's, and that model's own options.

    Args:
        name: a key of `MODELS`, or "package.module:function".
        options: keyword arguments of its builder; what is left out has the builder's default.
    """

    name: str = "resnet18"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        builder_of(self.name)


@dataclasses.dataclass(frozen=True)
class BranchSettings:
    """Branches at the ends of all stages but the last (method.md §3).

    Args:
        enabled: false for a network without branches.
        stages: submodules whose outputs end a stage, first to last (null: as the network says).
        block: "light", or "light+residual" (ImageNet).
    """

    enabled: bool = True
    stages: list[str | int] | None = None
    block: str = "light"

    def __post_init__(self) -> None:
        if self.stages is not None:  # [0, 1] of an nn.Sequential are numbers in YAML
            object.__setattr__(self, "stages", [str(stage) for stage in self.stages])
        choose("branch block", self.block, BLOCKS)


@dataclasses.dataclass(frozen=True)
class LearnedSettings:
    """Constants of the neurons that are learned (method.md §2.7).

    Args:
        decay: null, or one decay for each "layer" or "channel"; it begins with that of the model.
        threshold: the same for the threshold.
    """

    decay: Literal["layer", "channel"] | None = None
    threshold: Literal["layer", "channel"] | None = None


@dataclasses.dataclass(frozen=True)
class TensorTrainSettings:
    """Tensor-train convolutions in the place of the 3×3 ones but the first (method.md §8).

    Args:
        form: "stt", "ptt" or "htt" (null: none).
        rank: a number of channels (1: one), a share of the smaller number of channels (0.25; 1.0: all), or "evbmf", of
            trained weights; a run writes down behind it what was found ("evbmf 6 6 4").
        decompose: whether they begin as decompositions of the weights that are there (those of `init`, where it is that
            of a network without them), or at random.
    """

    form: Literal["stt", "ptt", "htt"] | None = None
    rank: int | float | str | list[int] = "evbmf"
    decompose: bool = True

    def __post_init__(self) -> None:
        check_rank(self.rank)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        rule: the learning rule, which carries T.
        phases: what trains before it, and with how many steps.
        pruning: how many of the easy samples each epoch leaves out.
        task: what targets and heads are.
        model: the network.
        tensor_train: tensor-train convolutions in it.
        learned: constants of its neurons that are learned.
        branches: light ANN branches on its stages.
        objectives: what is minimised, by name; their sum is multiplied with the rule's scale.
        data: which samples to train and test on.
        optimizer: how weights follow from gradients.
        init: folder of a finished run whose weights this one starts from (null: random ones).
        init_fit: whether those weights, of an ANN twin, are first fitted to spikes on training samples.
        whiten: whether the first convolution starts from the principal directions of training samples' patches and
            their negatives, all equally strong, instead of random weights.
        seed: of initialisation, order and augmentation.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "fp32", "bf16", or "auto": the faster of the two, by a short measurement where bf16 has units.
        compile: fuse the neurons' kernels: "on", "off", or "auto": where it pays; or "step": the whole training step,
            for steps in which Python takes most of the time; it takes minutes at the start.
        convolutions: of spikes: "full", in that precision; or "8bit", with weights rounded to 8 bits, on a CPU.
        parts: of the batch, in which the spike path of rate-based backpropagation is computed: twice, and with nothing
            kept but spikes, so that memory hardly grows with T (null: in one, once).
        graphs: record each form of the training step as a CUDA graph and replay it; only with one process on a GPU.
        claim: what the recipe promises.
    """

    rule: LearningRule = Rate(4)
    phases: PhaseSettings = PhaseSettings()
    pruning: Pruning = Pruning()
    task: Task = Classification()
    model: ModelSettings = ModelSettings()
    tensor_train: TensorTrainSettings = TensorTrainSettings()
    learned: LearnedSettings = LearnedSettings()
    branches: BranchSettings = BranchSettings()
    objectives: Mapping[str, Objective] = dataclasses.field(
        default_factory=lambda: {"self_distillation": SelfDistillationLoss()}
    )
    data: DataSettings = DataSettings()
    optimizer: OptimizerSettings = SGD()
    init: str | None = None
    init_fit: bool = False
    whiten: bool = False
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off", "step"] = "auto"
    convolutions: Literal["full", "8bit"] = "full"
    parts: int | None = None
    graphs: bool = False
    claim: Claim = Claim()

    def __post_init__(self) -> None:
        if abs(self.seed) >= 2**63:  # what torch's generators take
            raise InvalidArgument(f"seed is {self.seed}; expected less than 2**63")
        if not self.objectives:
            raise InvalidArgument("a recipe needs at least one objective, for example self_distillation")
        if not (self.phases.branches or self.branches.enabled):
            raise InvalidArgument("phases.branches false has no effect on a network without branches; leave it out")
        if self.tensor_train.form is None and self.tensor_train != TensorTrainSettings():
            raise InvalidArgument("tensor_train has no effect without a form: --tensor_train.form ptt")
        if self.parts is not None and self.parts < 2:
            raise InvalidArgument(f"parts is {self.parts}; expected 2 or more parts of a batch, or null for one")
        if self.whiten and self.init is not None:
            raise InvalidArgument("whiten would replace the first layer's weights of --init; leave out one of them")
        if self.init_fit and (self.init is None or self.rule.timesteps is None or self.phases.without_spikes):
            raise InvalidArgument(
                "init_fit fits the weights of --init to spikes, and has no effect without them, in an ANN twin, or "
                "before phases without spikes"
            )

    @property
    def timesteps(self) -> int | None:
        """T; None for the ANN twin."""
        return self.rule.timesteps

    def counted(self) -> Recipe:
        """The same with numbers of epochs in the place of shares of them."""
        epochs = self.optimizer.epochs
        return dataclasses.replace(self, phases=self.phases.counted(epochs), pruning=self.pruning.counted(epochs))
