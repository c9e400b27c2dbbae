"""Objectives by name; each is a frozen dataclass whose fields are its recipe fields (`objectives.NAME.FIELD`)."""

from spikedistill.objectives.distillation import Distillation
from spikedistill.objectives.objective import Needs, Objective, Terms
from spikedistill.objectives.self_distillation import TEACHERS, SelfDistillationLoss

OBJECTIVES: dict[str, type[Objective]] = {
    "self_distillation": SelfDistillationLoss,
    "distillation": Distillation,
}

__all__ = ["OBJECTIVES", "TEACHERS", "Distillation", "Needs", "Objective", "SelfDistillationLoss", "Terms"]
