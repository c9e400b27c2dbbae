"""Objectives by name; each is a frozen dataclass whose fields are its recipe fields (`objectives.NAME.FIELD`)."""

from spikedistill.objectives.activation_maps import ActivationMapDistillation
from spikedistill.objectives.center_points import CenterPoints
from spikedistill.objectives.distillation import Distillation
from spikedistill.objectives.heatmap_distillation import HeatmapDistillation
from spikedistill.objectives.noise_smoothed import NoiseSmoothedDistillation
from spikedistill.objectives.objective import Needs, Objective, Terms
from spikedistill.objectives.self_distillation import SelfDistillationLoss
from spikedistill.objectives.self_teachers import TEACHERS
from spikedistill.objectives.spike_penalty import SpikePenalty
from spikedistill.objectives.taught import Taught

OBJECTIVES: dict[str, type[Objective]] = {
    "self_distillation": SelfDistillationLoss,
    "distillation": Distillation,
    "activation_maps": ActivationMapDistillation,
    "noise_smoothed": NoiseSmoothedDistillation,
    "spike_penalty": SpikePenalty,
    "center_points": CenterPoints,
    "heatmap_distillation": HeatmapDistillation,
}

__all__ = [
    "OBJECTIVES",
    "TEACHERS",
    "ActivationMapDistillation",
    "CenterPoints",
    "Distillation",
    "HeatmapDistillation",
    "Needs",
    "NoiseSmoothedDistillation",
    "Objective",
    "SelfDistillationLoss",
    "SpikePenalty",
    "Taught",
    "Terms",
]
