"""spikedistill: train deep spiking neural networks by rate-based self-distillation, in one forward pass.

Names are imported at their first use, so that `import spikedistill` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikedistill import interop, rules
    from spikedistill.convert import to_spiking
    from spikedistill.distill import Objective, SelfDistillationLoss, Terms
    from spikedistill.dual import Dual, Sequence, Static
    from spikedistill.errors import SpikedistillError
    from spikedistill.evaluation import Evaluation, evaluate
    from spikedistill.learner import SelfDistillation
    from spikedistill.models import create_model, list_models
    from spikedistill.network import Network, Output
    from spikedistill.neuron import LIF, Neuron, Surrogate
    from spikedistill.signal import register_rule
    from spikedistill.trained import Trained

_HOMES = {
    "spikedistill.convert": ("to_spiking",),
    "spikedistill.distill": ("Objective", "SelfDistillationLoss", "Terms"),
    "spikedistill.dual": ("Dual", "Sequence", "Static"),
    "spikedistill.signal": ("register_rule",),
    "spikedistill.errors": ("SpikedistillError",),
    "spikedistill.evaluation": ("Evaluation", "evaluate"),
    "spikedistill.learner": ("SelfDistillation",),
    "spikedistill.models": ("create_model", "list_models"),
    "spikedistill.network": ("Network", "Output"),
    "spikedistill.neuron": ("LIF", "Neuron", "Surrogate"),
    "spikedistill.trained": ("Trained",),
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
        return importlib.import_module(f"spikedistill.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'spikedistill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
