"""Recipes as text: small YAML files that state what they claim. Reading, overriding and writing them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spikedistill.errors import CheckpointError, InvalidArgument, choose
from spikedistill.machine.files import write_text
from spikedistill.training.choices import NOT_KEPT, ONE_OF, SEVERAL_OF, Field, fields_of, fields_of_choices, owner_of
from spikedistill.training.networks import NOT_OPTIONS, is_imported
from spikedistill.training.recipe import Claim, ModelSettings, Recipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

DEFAULT = "fashion-small"
CLAIM_HOLDS = ("seed", "device", "compile", "data.root", "data.download", "data.workers", "data.events.cache", "claim")
"""Fields that may be replaced without making a recipe's claim untrue."""
SHORT = {"timesteps": "rule.timesteps", "model.import": "model.name"}
"""Other names of fields, for the command line and for recipes."""

Values = dict[str, Any]


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
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"the recipe {name} cannot be read: {error}") from error
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
    replaced = [(SHORT.get(key, key), value) for key, value in _pairs(overrides)]
    for key, _ in replaced:
        if key.split(".")[0] == "claim":
            raise InvalidArgument("a claim is measured, not set: write a recipe file of your own to state one")
    return _with_honest_claim(plain, _recipe_of(values, replaced, source))


def recipe_of(values: Values, source: str, trust: bool = True) -> Recipe:
    """A recipe of plain values, the inverse of `values_of`; what is left out has its default.

    Args:
        trust: whether a model "package.module:function" may be imported, which runs its code.

    Raises:
        InvalidArgument: an unknown field or a value that does not fit, or an import that is not trusted.
    """
    name = values.get("model", {}).get("name", "") if isinstance(values.get("model"), dict) else ""
    if is_imported(str(name)) and not trust:
        raise InvalidArgument(
            f"{source} builds its network by {name!r}, which would be imported, and so run. If you know that code, say "
            "so: --trust (in Python trust=True)"
        )
    return _recipe_of(values, [], source)


def _read_yaml(text: str, source: str) -> Values:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{source} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidArgument(f"{source} must be a mapping of fields; it is a {type(values).__name__}")
    return values


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """(field, value) of `--field value` and `--field=value`."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InvalidArgument(f"expected --FIELD VALUE; given {word!r}")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise InvalidArgument(f"--{key} needs a value")
            value = rest.pop(0)
        yield key, value


# ---------------------------------------------------------------- from values to a recipe


def _recipe_of(given: Values, overrides: list[tuple[str, str]], source: str) -> Recipe:
    values = _normalised(given, source)
    imported = is_imported(str(values["model"]["name"]))
    for key in _flatten(values):
        _check_key(key, source, imported)
    words = {}
    for key, value in overrides:
        imported = imported or (key == "model.name" and is_imported(value))
        _check_key(key, "the command line", imported)
        if not _chosen(values, key, value):
            words[key] = value
    _check_fields_of_choices(values, [*_flatten(values), *words])
    return _parsed(values, [f"--{key}={value}" for key, value in words.items()], source)


def _check_fields_of_choices(values: Values, keys: list[str]) -> None:
    """What one learning rule, task or model has, another may not have."""
    for key in keys:
        group, _, name = key.partition(".")
        if group in ONE_OF and name and name != "name":
            chosen = values[group]["name"]
            known = [field.name.partition(".")[2] for field in fields_of(owner_of(group, chosen), f"{group}.")]
            if not any(f"{field}.".startswith(f"{name}.") for field in known):
                has = f"it has {', '.join(known)}" if known else "it has no fields"
                raise InvalidArgument(f"{group} {chosen!r} has no field {name!r}; {has}")


def _normalised(given: Values, source: str) -> Values:
    """A copy in which every group is a mapping and every choice says its name."""
    values: Values = {}
    for key, value in given.items():
        group, _, field = SHORT.get(str(key), str(key)).partition(".")
        if field:  # a short name of a field in a group
            values[group] = {**values.get(group, {}), field: value}
        elif group in ONE_OF and isinstance(value, str):
            values[group] = {"name": value, **values.get(group, {})}
        elif _is_group(group):
            if not isinstance(value, dict):
                raise InvalidArgument(f"{source}: {group} must be a mapping of fields; it is {value!r}")
            named = {SHORT.get(f"{group}.{k}", f"{group}.{k}").removeprefix(f"{group}."): v for k, v in value.items()}
            values[group] = {**values.get(group, {}), **named}
        else:
            values[group] = value
    defaults = Recipe()
    values["rule"] = {"name": "rate", **values.get("rule", {})}
    values["task"] = {"name": "classification", **values.get("task", {})}
    values["model"] = {"name": defaults.model.name, **values.get("model", {})}
    values["optimizer"] = {"name": "sgd", **values.get("optimizer", {})}
    for key in ONE_OF:
        owner_of(key, str(values[key]["name"]))
    for key, table in SEVERAL_OF.items():
        several = values.setdefault(key, {name: {} for name in getattr(defaults, key)})
        values[key] = {choose(key.rstrip("s"), str(name), table): fields or {} for name, fields in several.items()}
    return values


def _is_group(name: str) -> bool:
    return any(field.name.startswith(f"{name}.") for field in known_fields().values())


def _chosen(values: Values, key: str, value: str) -> bool:
    """Whether an override chooses among several, and is done with here."""
    group, _, rest = key.partition(".")
    if group in ONE_OF and rest in ("", "name"):
        owner = owner_of(group, value)
        kept = {field.name.split(".")[0] for field in fields_of(owner)} - {"name"}
        if values[group]["name"] != value:
            kept -= set(NOT_KEPT)
        # what both have, as T or the width, stays as the recipe says
        values[group] = {"name": value, **{k: v for k, v in values[group].items() if k.split(".")[0] in kept}}
        return True
    if group in SEVERAL_OF:
        name, _, field = rest.partition(".")
        if not field and value in ("null", "None", "none"):
            values[group].pop(name, None)
            return True
        values[group].setdefault(name, {})
        return not field  # `--objectives.NAME {}` adds it as it is
    return False


def _parsed(values: Values, words: list[str], source: str) -> Recipe:
    """Types checked and converted by jsonargparse, whose parser is made for what this recipe has chosen."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, prog="spikedistill train")
    choices: set[str | int] = {*ONE_OF, *SEVERAL_OF}
    parser.add_class_arguments(Recipe, None, skip=choices)
    owners = {key: owner_of(key, values[key]["name"]) for key in ONE_OF}
    owners |= {f"{key}.{name}": SEVERAL_OF[key][name] for key in SEVERAL_OF for name in values[key]}
    for key, owner in owners.items():
        _add_arguments(parser, key, owner)
    named = {key: {k: v for k, v in values[key].items() if k != "name"} for key in ONE_OF}
    try:
        config = parser.parse_object({**values, **named})
        config = parser.parse_args(words, namespace=config) if words else config
        made = parser.instantiate(config)
        parts = {name: value for name, value in vars(made).items() if name not in choices}
        return Recipe(
            rule=_made(made, "rule", owners),
            task=_made(made, "task", owners),
            optimizer=_made(made, "optimizer", owners),
            model=ModelSettings(values["model"]["name"], _options(made)),
            objectives={name: _made(made, f"objectives.{name}", owners) for name in values["objectives"]},
            **parts,
        )
    except InvalidArgument:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        raise InvalidArgument(f"{source}: {_brief(str(error))}") from error


def _add_arguments(parser: ArgumentParser, key: str, owner: Any) -> None:
    """The fields of a choice. A network is not built here: only its options are read."""
    skip: set[str | int] = {name for name in NOT_OPTIONS if name in inspect.signature(owner).parameters}
    if key != "model":
        parser.add_class_arguments(owner, key)
    elif isinstance(owner, type):
        parser.add_class_arguments(owner, key, skip=skip, instantiate=False, fail_untyped=False)
    else:
        parser.add_function_arguments(owner, key, skip=skip, fail_untyped=False)


def _options(made: Any) -> Values:
    """The options of a model; a builder without any leaves nothing to be found."""
    return dict(vars(made.model)) if "model" in made else {}


def _made(made: Any, key: str, owners: Mapping[str, Any]) -> Any:
    """The object that was made for a choice; a class without fields leaves nothing to be found."""
    group, _, name = key.partition(".")
    found = getattr(made, group, None)
    if name:
        found = getattr(found, name, None)
    return owners[key]() if found is None else found


def _brief(message: str) -> str:
    return re.sub(r"\s*\n\s*", " ", message)


def _with_honest_claim(plain: Recipe, recipe: Recipe) -> Recipe:
    """What was measured of a recipe was not measured of one with other fields."""
    before, after = flat_values(plain), flat_values(recipe)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    changed = [name for name in changed if not name.startswith(CLAIM_HOLDS)]
    if not changed or recipe.claim == Claim():
        return recipe
    # of what only one of the two has (a rule or an objective that was exchanged), the group says enough
    words = [name if name in before and name in after else name.rpartition(".")[0] for name in changed]
    source = f"{recipe.claim.source}; changed: {', '.join(dict.fromkeys(words))}"
    return dataclasses.replace(recipe, claim=Claim(source, recipe.claim.command))


# ---------------------------------------------------------------- names of fields


def known_fields() -> dict[str, Field]:
    """Every field that a recipe can have, by its dotted name."""
    plain = [field for field in fields_of(Recipe) if field.name.split(".")[0] not in {*ONE_OF, *SEVERAL_OF}]
    return {field.name: field for field in [*fields_of_choices(), *plain]}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in values.items():
        keys += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
    return keys


def _check_key(key: str, source: str, imported: bool = False) -> None:
    """Raise InvalidArgument for a name that no recipe has; of an imported model every option may be one."""
    if imported and key.startswith("model."):  # its own signature is looked at later
        return
    known = known_fields()
    groups = {name.rsplit(".", depth)[0] for name in known for depth in (1, 2, 3) if name.count(".") >= depth}
    if key in known or key in groups or key in SHORT:
        return
    last = [name for name in known if name.rsplit(".", 1)[-1] == key]
    near = last or difflib.get_close_matches(key, [*known, *SHORT], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f". Known: {', '.join(known)}"
    raise InvalidArgument(f"{source}: a recipe has no field {key!r}{hint}")


# ---------------------------------------------------------------- writing


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


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write every field of a recipe as YAML."""
    write_text(path, yaml.safe_dump(values_of(recipe), sort_keys=False, allow_unicode=True))


def saved_recipe(folder: Path, trust: bool = False) -> Recipe:
    """The recipe of a run's folder.

    Args:
        trust: whether a network of the user's own may be imported; a folder may come from anybody.

    Raises:
        CheckpointError: not the folder of a run.
        InvalidArgument: the run's network would have to be imported.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        there = f"it holds {sorted(p.name for p in folder.iterdir())[:8]}" if folder.is_dir() else "it does not exist"
        raise CheckpointError(f"{folder} is not the folder of a run: there is no recipe.yaml ({there})")
    return recipe_of(_read_yaml(path.read_text(encoding="utf-8"), str(path)), str(path), trust)
