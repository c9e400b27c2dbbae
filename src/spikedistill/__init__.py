"""spikedistill: train deep spiking neural networks by rate-based self-distillation, in one forward pass.

Names are imported at their first use, so that `import spikedistill` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikedistill.core import rules
    from spikedistill.core.dual import Dual, Static, Unrolled
    from spikedistill.core.kernels import EAGER, Kernels, compiled
    from spikedistill.core.learning import ANN, BPTT, LEARNING_RULES, LearningRule, Rate, RateTwin
    from spikedistill.core.lif import LIF
    from spikedistill.core.network import Network
    from spikedistill.core.neuron import Neuron, Surrogate
    from spikedistill.core.output import Batch, Output
    from spikedistill.core.rules import forget_rule, register_rule
    from spikedistill.data import (
        DATASETS,
        Batches,
        Framing,
        ImageSet,
        Samples,
        Splits,
        TensorSet,
        frames_of,
        samples_of,
    )
    from spikedistill.errors import Interrupted, SpikedistillError
    from spikedistill.export.authors import load_authors_checkpoint
    from spikedistill.measure.evaluation import Evaluation, evaluate
    from spikedistill.measure.operations import Operations, operations
    from spikedistill.models import MODELS, create_model, list_models
    from spikedistill.models.conversion import to_spiking
    from spikedistill.models.learning_neurons import learn_neurons
    from spikedistill.models.tensor_train import TensorTrain, merge, tensor_train
    from spikedistill.objectives import (
        OBJECTIVES,
        ActivationMapDistillation,
        CenterPoints,
        Distillation,
        HeatmapDistillation,
        Needs,
        NoiseSmoothedDistillation,
        Objective,
        SelfDistillationLoss,
        SpikePenalty,
        Terms,
    )
    from spikedistill.tasks import TASKS, Boxes, Classification, Detection, Labels, Targets, Task
    from spikedistill.training.compiled_step import CompiledStep
    from spikedistill.training.learner import SelfDistillation
    from spikedistill.training.recipe_files import load_recipe
    from spikedistill.training.run import resume, train
    from spikedistill.training.statistics import retake_statistics
    from spikedistill.training.trained import Trained, load
    from spikedistill.training.tuning import Tuning, tune
    from spikedistill.training.whitening import whiten

_HOMES = {
    "core": ("rules",),
    "core.dual": ("Dual", "Static", "Unrolled"),
    "core.kernels": ("EAGER", "Kernels", "compiled"),
    "core.learning": ("ANN", "BPTT", "LEARNING_RULES", "LearningRule", "Rate", "RateTwin"),
    "core.network": ("Network",),
    "core.lif": ("LIF",),
    "core.neuron": ("Neuron", "Surrogate"),
    "core.output": ("Batch", "Output"),
    "core.rules": ("forget_rule", "register_rule"),
    "errors": ("Interrupted", "SpikedistillError"),
    "export.authors": ("load_authors_checkpoint",),
    "measure.evaluation": ("Evaluation", "evaluate"),
    "measure.operations": ("Operations", "operations"),
    "data": ("DATASETS", "Batches", "Framing", "ImageSet", "Samples", "Splits", "TensorSet", "frames_of", "samples_of"),
    "models": ("MODELS", "create_model", "list_models"),
    "models.conversion": ("to_spiking",),
    "models.learning_neurons": ("learn_neurons",),
    "models.tensor_train": ("TensorTrain", "merge", "tensor_train"),
    "objectives": (
        "OBJECTIVES",
        "ActivationMapDistillation",
        "CenterPoints",
        "Distillation",
        "HeatmapDistillation",
        "Needs",
        "NoiseSmoothedDistillation",
        "Objective",
        "SelfDistillationLoss",
        "SpikePenalty",
        "Terms",
    ),
    "tasks": ("TASKS", "Boxes", "Classification", "Detection", "Labels", "Targets", "Task"),
    "training.compiled_step": ("CompiledStep",),
    "training.learner": ("SelfDistillation",),
    "training.recipe_files": ("load_recipe",),
    "training.run": ("resume", "train"),
    "training.statistics": ("retake_statistics",),
    "training.trained": ("Trained", "load"),
    "training.tuning": ("Tuning", "tune"),
    "training.whitening": ("whiten",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "ANN",
    "BPTT",
    "DATASETS",
    "EAGER",
    "LEARNING_RULES",
    "LIF",
    "MODELS",
    "OBJECTIVES",
    "TASKS",
    "ActivationMapDistillation",
    "Batch",
    "Batches",
    "Boxes",
    "CenterPoints",
    "Classification",
    "CompiledStep",
    "Detection",
    "Distillation",
    "Dual",
    "Evaluation",
    "Framing",
    "HeatmapDistillation",
    "ImageSet",
    "Interrupted",
    "Kernels",
    "Labels",
    "LearningRule",
    "Needs",
    "Network",
    "Neuron",
    "NoiseSmoothedDistillation",
    "Objective",
    "Operations",
    "Output",
    "Rate",
    "RateTwin",
    "Samples",
    "SelfDistillation",
    "SelfDistillationLoss",
    "SpikePenalty",
    "SpikedistillError",
    "Splits",
    "Static",
    "Surrogate",
    "Targets",
    "Task",
    "TensorSet",
    "TensorTrain",
    "Terms",
    "Trained",
    "Tuning",
    "Unrolled",
    "compiled",
    "create_model",
    "evaluate",
    "forget_rule",
    "frames_of",
    "learn_neurons",
    "list_models",
    "load",
    "load_authors_checkpoint",
    "load_recipe",
    "merge",
    "operations",
    "register_rule",
    "resume",
    "retake_statistics",
    "rules",
    "samples_of",
    "tensor_train",
    "to_spiking",
    "train",
    "tune",
    "whiten",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'spikedistill' has no attribute {name!r}")
    home = importlib.import_module(f"spikedistill.{_HOME_OF[name]}")
    # a name may be a module of the room itself (`rules`), which importing the room does not bring
    return vars(home)[name] if name in vars(home) else importlib.import_module(f"{home.__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
