"""spikedistill list"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "What there is, by name."
    parser.add_argument("list", choices=tuple(_LISTS))
    parser.set_defaults(run=lambda given: print("\n".join(_LISTS[given.list]())))


def _recipes() -> Iterable[str]:
    from spikedistill.training.recipe_files import list_recipes, load_recipe

    claims = {name: load_recipe(name).claim for name in list_recipes()}
    return [f"{name:<24} {claim.source}; accuracy: {claim.accuracy}" for name, claim in claims.items()]


def _models() -> Iterable[str]:
    from spikedistill.models import MODELS

    return _first_lines(MODELS)


def _datasets() -> Iterable[str]:
    from spikedistill.data import DATASETS

    return [f"{name:<20} {spec.summary}" for name, spec in DATASETS.items()]


def _objectives() -> Iterable[str]:
    from spikedistill.objectives import OBJECTIVES

    return _first_lines(OBJECTIVES)


def _tasks() -> Iterable[str]:
    from spikedistill.tasks import TASKS

    return _first_lines(TASKS)


def _rules() -> Iterable[str]:
    from spikedistill.core.learning import LEARNING_RULES

    return _first_lines(LEARNING_RULES)


def _first_lines(table: Mapping[str, Callable[..., object]]) -> list[str]:
    """Each name with the first line of its docstring."""
    return [f"{name:<20} {(inspect.getdoc(each) or '').splitlines()[0]}" for name, each in sorted(table.items())]


_LISTS: dict[str, Callable[[], Iterable[str]]] = {
    "recipes": _recipes,
    "models": _models,
    "datasets": _datasets,
    "objectives": _objectives,
    "tasks": _tasks,
    "rules": _rules,
}
