"""spikedistill: train deep spiking neural networks by rate-based self-distillation, in one forward pass.

Names are imported at their first use, so that `import spikedistill` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikedistill.core.rules import common as rules
    from spikedistill.export import authors as interop
    from spikedistill.models.conversion import to_spiking
    from spikedistill.objectives.self_distillation import Objective, SelfDistillationLoss, Terms
    from spikedistill.core.dual import Dual, Sequence, Static
    from spikedistill.errors import SpikedistillError
    from spikedistill.measure.evaluation import Evaluation, evaluate
    from spikedistill.training.learner import SelfDistillation
    from spikedistill.models import create_model, list_models
    from spikedistill.core.network import Network, Output
    from spikedistill.core.neuron import LIF, Neuron, Surrogate
    from spikedistill.core.signal import register_rule
    from spikedistill.training.trained import Trained

_HOMES = {
    "spikedistill.models.conversion": ("to_spiking",),
    "spikedistill.objectives.self_distillation": ("Objective", "SelfDistillationLoss", "Terms"),
    "spikedistill.core.dual": ("Dual", "Sequence", "Static"),
    "spikedistill.core.signal": ("register_rule",),
    "spikedistill.errors": ("SpikedistillError",),
    "spikedistill.measure.evaluation": ("Evaluation", "evaluate"),
    "spikedistill.training.learner": ("SelfDistillation",),
    "spikedistill.models": ("create_model", "list_models"),
    "spikedistill.core.network": ("Network", "Output"),
    "spikedistill.core.neuron": ("LIF", "Neuron", "Surrogate"),
    "spikedistill.training.trained": ("Trained",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "LIF",
    "Dual",
    "Evaluation",
    "Network",
    "Neuron",
    "Objective",
    "Output",
    "SelfDistillation",
    "SelfDistillationLoss",
    "Sequence",
    "SpikedistillError",
    "Static",
    "Surrogate",
    "Terms",
    "Trained",
    "create_model",
    "evaluate",
    "interop",
    "list_models",
    "register_rule",
    "rules",
    "to_spiking",
]


def __getattr__(name: str) -> Any:
    if name in ("interop", "rules"):
        return importlib.import_module({"interop": "spikedistill.export.authors", "rules": "spikedistill.core.rules.common"}[name])
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'spikedistill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
