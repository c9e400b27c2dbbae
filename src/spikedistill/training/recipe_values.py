"""A recipe as plain values, nested or by dotted names: what is written into files and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from spikedistill.training.choices import ONE_OF
from spikedistill.training.recipe import ModelSettings, Recipe

Values = dict[str, Any]


def values_of(recipe: Recipe) -> Values:
    """Every field of a recipe as plain values, the inverse of reading it."""
    names = {key: table for key, table in ONE_OF.items() if key != "model"}
    values: Values = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in names:
            name = next(name for name, kind in names[field.name].items() if kind is type(value))
            # a choice without anything to set need not be a dataclass
            values[field.name] = {"name": name, **(_plain(value) if dataclasses.is_dataclass(value) else {})}
        elif isinstance(value, ModelSettings):
            values[field.name] = {"name": value.name, **_plain(value.options)}
        else:
            values[field.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    """Dataclasses as mappings of what can be set, tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def flat_values(recipe: Recipe) -> dict[str, Any]:
    """The same by dotted names."""

    def walk(values: Values, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(values_of(recipe), ""))


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any], but: tuple[str, ...] = ()) -> list[str]:
    """The dotted names whose values differ between two recipes, as `flat_values` gives them.

    Args:
        but: beginnings of names that do not count.
    """
    names = dict.fromkeys([*before, *after])
    return [name for name in names if before.get(name) != after.get(name) and not name.startswith(but)]
