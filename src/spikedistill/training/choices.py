"""The parts of a recipe that are chosen by name, each with fields of its own.

`rule: {name: bptt, timesteps: 4}`, `model: {name: vgg11, width: 16}` and `task: {name: ...}` are one of several;
`objectives: {self_distillation: {...}, distillation: {...}}` are several. The fields of each come from its own
signature, so a new row in a table needs nothing here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from docstring_parser import parse as parse_docstring

from spikedistill.core.learning import LEARNING_RULES
from spikedistill.errors import choose
from spikedistill.models import MODELS
from spikedistill.objectives import OBJECTIVES
from spikedistill.tasks import TASKS
from spikedistill.training.networks import NOT_OPTIONS, builder_of
from spikedistill.training.optimizers import OPTIMIZERS

ONE_OF: dict[str, Mapping[str, Callable[..., Any]]] = {
    "rule": LEARNING_RULES,
    "task": TASKS,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
}
"""Fields that hold one of several, and the table of those."""
NOT_KEPT = ("lr", "weight_decay", "loss_scale")
"""Fields that do not stay when another choice is made: what is good for SGD is not for AdamW."""
SEVERAL_OF: dict[str, Mapping[str, Callable[..., Any]]] = {"objectives": OBJECTIVES}
"""Fields that hold several by name, and the table of those."""


def owner_of(key: str, name: str) -> Callable[..., Any]:
    """The class or function behind a choice, whose signature has its fields.

    Raises:
        InvalidArgument: no such name; says which are near.
    """
    if key == "model":  # also one of the user's own
        return builder_of(name)
    table = {**ONE_OF, **SEVERAL_OF}[key]
    return table[choose(key.rstrip("s"), name, table)]


_CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a recipe, for --help and for the check of names.

    Attributes:
        name: dotted, as on the command line.
        default: what it is if nobody says.
        help: what it means, from the docstring.
    """

    name: str
    default: Any
    help: str


@functools.cache  # a recipe asks for hundreds, and reading docstrings takes longer than all else
def fields_of(owner: Callable[..., Any], prefix: str = "") -> tuple[Field, ...]:
    """The fields of a settings class or builder function, those of nested settings included.

    Args:
        prefix: put before each name, as "data.".
    """
    documented = [param for each in _documented(owner) for param in parse_docstring(inspect.getdoc(each) or "").params]
    # one line of a docstring may explain several: `network_weight, branch_weight: ...`
    texts = {word.strip(): doc.description for doc in documented for word in doc.arg_name.split(",")}
    found: list[Field] = []
    for name, parameter in inspect.signature(owner).parameters.items():
        if name in NOT_OPTIONS or parameter.kind in _CATCH_ALL:
            continue
        default = _default(owner, parameter)
        if dataclasses.is_dataclass(default):
            found += fields_of(type(default), f"{prefix}{name}.")
        else:
            found.append(Field(f"{prefix}{name}", default, " ".join((texts.get(name) or "").split())))
    return tuple(found)


def _documented(owner: Callable[..., Any]) -> list[Any]:
    """A class with those that it inherits fields from, the most general first; a function alone."""
    return [each for each in reversed(owner.__mro__) if each is not object] if isinstance(owner, type) else [owner]


def _default(owner: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """A parameter's default, also that of a dataclass field which is made anew each time."""
    if dataclasses.is_dataclass(owner):
        field = next(f for f in dataclasses.fields(owner) if f.name == parameter.name)
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return None if parameter.default is inspect.Parameter.empty else parameter.default


def fields_of_choices() -> list[Field]:
    """Every field of every choice; of `rule`, `task` and `model` also the name."""
    found: list[Field] = []
    for key, table in ONE_OF.items():
        found.append(Field(f"{key}.name", None, f"one of {', '.join(table)}"))
        for owner in table.values():
            names = {field.name for field in found}
            found += [field for field in fields_of(owner, f"{key}.") if field.name not in names]
    for key, table in SEVERAL_OF.items():
        for name, owner in table.items():
            found.append(Field(f"{key}.{name}", None, "null leaves this one out"))
            found += fields_of(owner, f"{key}.{name}.")
    return found
