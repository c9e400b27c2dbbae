"""Recipes: small YAML files that state what they claim. Reading, overriding and writing them."""

from __future__ import annotations

import dataclasses
import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from spikedistill.errors import CheckpointError, InvalidArgument, choose
from spikedistill.machine.files import write_text
from spikedistill.training.recipe import Claim, Recipe

DEFAULT = "fashion-small"
CLAIM_HOLDS = ("seed", "device", "compile", "data.root", "data.download", "data.workers", "data.events.cache", "claim")
"""Fields that may be replaced without making a recipe's claim untrue."""


def list_recipes() -> list[str]:
    """The names of the recipes that ship with the package."""
    files = (resources.files("spikedistill") / "recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_recipe(name: str = DEFAULT, overrides: list[str] | None = None) -> Recipe:
    """A recipe by name or YAML file, with fields replaced.

    Args:
        overrides: command-line words, as ["--timesteps", "4", "--data.root=FOLDER"].

    Raises:
        InvalidArgument: an unknown recipe, field or value; says which names are near.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise InvalidArgument(f"the recipe {name} cannot be read: {error}") from error
    else:
        choose("recipe", name, list_recipes())
        text = ((resources.files("spikedistill") / "recipes") / f"{name}.yaml").read_text()
    return parse_recipe(text, overrides or [], name)


def parse_recipe(text: str, overrides: list[str], source: str) -> Recipe:
    """A recipe from YAML text and overrides; see `load_recipe`."""
    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{source} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InvalidArgument(f"{source} must be a mapping of fields; it is a {type(values).__name__}")
    parser = ArgumentParser(exit_on_error=False, prog="spikedistill train")
    parser.add_class_arguments(Recipe, None)
    for key in _flatten(values):
        _check_key(key, source)
    for word in overrides:
        if word.startswith("--"):
            _check_key(word[2:].split("=")[0], "the command line")
    try:
        config = parser.parse_object(values)
        config = parser.parse_args(overrides, namespace=config) if overrides else config
        made: Any = parser.instantiate(config)
    except (ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{source}: {_brief(str(error))}") from error
    recipe = Recipe(**vars(made)) if isinstance(made, Namespace) else made
    return _with_honest_claim(recipe, [word for word in overrides if word.startswith("--")])


def _with_honest_claim(recipe: Recipe, words: list[str]) -> Recipe:
    """What was measured of a recipe was not measured of one with other fields."""
    changed = [word for word in words if not word[2:].startswith(CLAIM_HOLDS)]
    if not changed or recipe.claim == Claim():
        return recipe
    fields = ", ".join(word[2:].split("=")[0] for word in changed)
    return dataclasses.replace(recipe, claim=Claim(f"{recipe.claim.source}; changed: {fields}", recipe.claim.command))


def _brief(message: str) -> str:
    return re.sub(r"\s*\n\s*", " ", message)


def fields_of(settings: Any = None, prefix: str = "") -> dict[str, Any]:
    """Every field of a recipe by its dotted name, with its default."""
    found: dict[str, Any] = {}
    settings = Recipe() if settings is None else settings
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found |= fields_of(value, f"{prefix}{field.name}.")
        else:
            found[f"{prefix}{field.name}"] = value
    return found


def _flatten(values: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in values.items():
        keys += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
    return keys


def _check_key(key: str, source: str) -> None:
    known = fields_of()
    groups = {name.rsplit(".", 1)[0] for name in known if "." in name}
    if key in known or key in groups:
        return
    last = [name for name in known if name.rsplit(".", 1)[-1] == key]
    near = last or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f". Known: {', '.join(known)}"
    raise InvalidArgument(f"{source}: a recipe has no field {key!r}{hint}")


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field of a recipe as YAML."""
    text = yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def saved_recipe(folder: Path) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        CheckpointError: not the folder of a run.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        there = f"it holds {sorted(p.name for p in folder.iterdir())[:8]}" if folder.is_dir() else "it does not exist"
        raise CheckpointError(f"{folder} is not the folder of a run: there is no recipe.yaml ({there})")
    return parse_recipe(path.read_text(), [], str(path))
