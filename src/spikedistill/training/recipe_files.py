"""Recipes as files: small YAML files that state what they claim. Reading, overriding and writing them."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path

import yaml

from spikedistill.errors import CheckpointError, InvalidArgument, choose
from spikedistill.machine.files import write_text
from spikedistill.machine.reading import ReadError, plain_yaml, text_of
from spikedistill.objectives import SelfDistillationLoss
from spikedistill.training.recipe import Claim, Recipe
from spikedistill.training.recipe_parsing import SHORT, pairs_of, recipe_of, recipe_with
from spikedistill.training.recipe_values import Values, changed_fields, flat_values, values_of
from spikedistill.training.trust import Trust

DEFAULT = "fashion-small"
CLAIM_HOLDS = (
    "seed",
    "device",
    "compile",
    "graphs",
    "data.root",
    "data.download",
    "data.workers",
    "data.events.cache",
    "data.scenes.cache",
    "claim",
)
"""Fields that may be replaced without making a recipe's claim untrue."""

RESUMABLE = (
    "optimizer.epochs",
    "data.root",
    "data.download",
    "data.workers",
    "data.events.cache",
    "data.scenes.cache",
    "device",
    "graphs",
)
"""Fields that may be replaced when a run goes on: none of them changes a step that was taken. (More epochs stretch the
schedule of the learning rate, so what follows is not what a longer run would have done from the start.)"""


WITHOUT_TEACHER = ("soft_weight", "temperature")
WITHOUT_BRANCHES = ("teacher", *WITHOUT_TEACHER)
"""Fields of self-distillation that do nothing then."""


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
            text = text_of(Path(name))
        except ReadError as error:
            raise InvalidArgument(f"the recipe cannot be read: {error}") from error
    else:
        choose("recipe", name, list_recipes())
        file = resources.files("spikedistill") / "recipes" / f"{name}.yaml"
        text = file.read_text(encoding="utf-8")
    return parse_recipe(text, overrides or [], name)


def parse_recipe(text: str, overrides: list[str], source: str) -> Recipe:
    """A recipe from YAML text and overrides; see `load_recipe`."""
    values = _read_yaml(text, source)
    plain = recipe_of(values, source)
    if not overrides:
        return plain
    replaced = [(SHORT.get(key, key), value) for key, value in pairs_of(overrides)]
    for key, _ in replaced:
        if key.split(".")[0] == "claim":
            raise InvalidArgument("a claim is measured, not set: write a recipe file of your own to state one")
    recipe = recipe_with(values, replaced, source)
    _refuse_idle(recipe, replaced)
    return _with_honest_claim(plain, recipe)


def _refuse_idle(recipe: Recipe, replaced: list[tuple[str, str]]) -> None:
    """What somebody typed does something. (A recipe's file may hold more: what is switched off can be switched on.)"""
    ours = "objectives.self_distillation"
    loss = recipe.objectives.get("self_distillation")
    idle: dict[str, str] = {}
    if isinstance(loss, SelfDistillationLoss) and loss.teacher is None:
        idle |= dict.fromkeys([f"{ours}.{name}" for name in WITHOUT_TEACHER], f"a teacher: --{ours}.teacher reliable")
    if not recipe.branches.enabled:
        names = ["branches.stages", "branches.block", *(f"{ours}.{name}" for name in WITHOUT_BRANCHES)]
        names += [f"objectives.{name}.branch_weight" for name in recipe.objectives]
        idle |= dict.fromkeys(names, "branches: --branches.enabled true")
    if not recipe.pruning.share:
        idle["pruning.until"] = "samples that are left out: --pruning.share 0.5"
    for key, value in replaced:
        if key in idle and value != "null":
            raise InvalidArgument(f"--{key} {value} has no effect without {idle[key]}; add that, or leave this out")


def _read_yaml(text: str, source: str) -> Values:
    try:
        values = plain_yaml(text, source)
    except ReadError as error:
        raise InvalidArgument(str(error)) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidArgument(f"{source} must be a mapping of fields; it is a {type(values).__name__}")
    return values


def _with_honest_claim(plain: Recipe, recipe: Recipe) -> Recipe:
    """What was measured of a recipe was not measured of one with other fields."""
    before, after = flat_values(plain), flat_values(recipe)
    changed = changed_fields(before, after, CLAIM_HOLDS)
    if not changed or recipe.claim == Claim():
        return recipe
    # of what only one of the two has (a rule or an objective that was exchanged), the group says enough
    words = [name if name in before and name in after else name.rpartition(".")[0] for name in changed]
    source = f"{recipe.claim.source}; changed: {', '.join(dict.fromkeys(words))}"
    return dataclasses.replace(recipe, claim=Claim(source, recipe.claim.command))


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field of a recipe as YAML."""
    write_text(path, yaml.safe_dump(values_of(recipe), sort_keys=False, allow_unicode=True))


def saved_recipe(
    folder: Path, trust: Trust = False, overrides: list[str] | None = None, *, teachers: bool = True
) -> Recipe:
    """The recipe of a run's folder.

    Args:
        trust: whether a network of the user's own may be imported; a folder may come from anybody.
        overrides: command-line words for the fields in `RESUMABLE`.
        teachers: whether imported teachers have to be trusted, too: not where nothing is trained.

    Raises:
        CheckpointError: not the folder of a run.
        InvalidArgument: the run's network would have to be imported, or a field that cannot be replaced any more.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        there = f"it holds {sorted(p.name for p in folder.iterdir())[:8]}" if folder.is_dir() else "it does not exist"
        raise CheckpointError(f"{folder} is not the folder of a run: there is no recipe.yaml ({there})")
    try:
        values = _read_yaml(text_of(path), str(path))
    except ReadError as error:
        raise CheckpointError(str(error)) from error
    recipe = recipe_of(values, str(path), trust, teachers)
    replaced = [(SHORT.get(key, key), value) for key, value in pairs_of(overrides or [])]
    for key, _ in replaced:
        if key not in RESUMABLE:
            raise InvalidArgument(
                f"a run that goes on keeps its recipe; --{key} cannot be replaced any more, only {', '.join(RESUMABLE)}"
            )
    return recipe_with(values, replaced, str(path), trust, teachers) if replaced else recipe
