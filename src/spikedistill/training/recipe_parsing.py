"""From plain values and command-line words to a recipe: names checked with near ones, types by jsonargparse."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spikedistill.data import DataSettings
from spikedistill.errors import InvalidArgument
from spikedistill.objectives import OBJECTIVES, Taught
from spikedistill.training.choices import (
    NOT_KEPT,
    ONE_OF,
    SEVERAL_OF,
    Field,
    fields_of,
    fields_of_choices,
    owner_of,
)
from spikedistill.training.networks import NOT_OPTIONS, is_imported
from spikedistill.training.recipe import ModelSettings, Recipe
from spikedistill.training.recipe_values import Values
from spikedistill.training.trust import Trust, check_trust, imports_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SHORT = {"timesteps": "rule.timesteps", "model.import": "model.name"}
"""Other names of fields, for the command line and for recipes."""

MEANT = {"T": ["timesteps"], "lr_scheduler": ["optimizer.schedule"]}
"""Fields by what people type first."""


def recipe_of(values: Values, source: str, trust: Trust = True, teachers: bool = True) -> Recipe:
    """A recipe of plain values, the inverse of `values_of`; what is left out has its default.

    Args:
        teachers: as `recipe_with`.

    Raises:
        InvalidArgument: an unknown field or a value that does not fit, or an import that is not trusted.
    """
    return recipe_with(values, [], source, trust, teachers)


def pairs_of(words: list[str]) -> Iterator[tuple[str, str]]:
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


TEACHER = "teacher"
"""Short for the field `teacher` of every objective that has a teacher network."""


def _with_teacher(values: Values, overrides: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The overrides with `teacher` written out: for all taught objectives, or for plain distillation where none is."""
    found: list[tuple[str, str]] = []
    for key, value in overrides:
        if key != TEACHER:
            found.append((key, value))
            continue
        named = [name.split(".")[1] for name, _ in overrides if name.startswith("objectives.")]
        taught = [name for name in dict.fromkeys([*values["objectives"], *named]) if name in _TAUGHT]
        found += [(f"objectives.{name}.teacher", value) for name in taught or [PLAIN]]
    return found


_TAUGHT = {name for name, objective in OBJECTIVES.items() if issubclass(objective, Taught)}
PLAIN = "distillation"


def recipe_with(
    given: Values, overrides: list[tuple[str, str]], source: str, trust: Trust = True, teachers: bool = True
) -> Recipe:
    """A recipe of plain values with fields replaced.

    Args:
        overrides: (field, value), fields by their full names.
        source: what to call the values in an error.
        teachers: whether teachers have to be trusted, too: not where nothing is trained.

    Raises: as `recipe_of`.
    """
    known = known_fields()
    values = _grouped(given, source, known)
    # before anything is looked up by name, for looking up a model of the user's imports it
    check_trust(str(values["model"]["name"]), source, trust)
    _check_names_of_choices(values)
    imported = is_imported(str(values["model"]["name"]))
    for key in _flatten(values):
        _check_key(key, source, known, imported)
    _check_groups(values, source, {*known, *_own_fields(values)})
    words = {}
    for key, value in _with_teacher(values, overrides):
        imported = imported or (key == "model.name" and is_imported(value))
        _check_key(key, "the command line", known, imported)
        if key == "data.name":  # what a recipe says of its own data is not for others, as with models
            unknown = DataSettings.unknown_to(value)
            values["data"] = {k: v for k, v in values.get("data", {}).items() if k.split(".")[0] not in unknown}
        if not _chosen(values, key, value):
            words[key] = value
    _check_fields_of_choices(values, [*_flatten(values), *words])
    for key, value in words.items():
        if _is_group(key, {*known, *_own_fields(values)}):
            raise InvalidArgument(f"--{key} is a group of fields; replace one of them, as --{key}.FIELD, not {value!r}")
    recipe = _parsed(values, [f"--{key}={value}" for key, value in words.items()], source)
    for name in imports_of(recipe) if teachers else ():  # objectives say whom they ask; nothing of it is imported yet
        check_trust(name, source, trust)
    return recipe


def _own_fields(values: Values) -> set[str]:
    """The fields of the model that was chosen, which may be one of the user's."""
    return {field.name for field in fields_of(owner_of("model", values["model"]["name"]), "model.")}


def _is_group(key: str, known: set[str]) -> bool:
    return any(name.startswith(f"{key}.") for name in known) and key not in SEVERAL_OF


def _check_groups(values: Mapping[str, Any], source: str, known: set[str], prefix: str = "") -> None:
    """Groups are mappings: jsonargparse would take a word for a class to import, or for a file to read.

    Raises:
        InvalidArgument: names the group.
    """
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            _check_groups(value, source, known, f"{key}.")
        elif _is_group(key, known):
            raise InvalidArgument(f"{source}: {key} must be a mapping of fields; it is {value!r}")


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


def _grouped(given: Values, source: str, known: Mapping[str, Field]) -> Values:
    """A copy in which every group is a mapping and every choice says its name, whichever way it was written."""
    values: Values = {}
    for key, value in given.items():
        group, _, field = SHORT.get(str(key), str(key)).partition(".")
        if field:  # a short name of a field in a group
            values[group] = {**values.get(group, {}), field: value}
        elif group in ONE_OF and isinstance(value, str):
            values[group] = {"name": value, **values.get(group, {})}
        elif any(name.startswith(f"{group}.") for name in known):
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
    for key in SEVERAL_OF:
        several = values.setdefault(key, {name: {} for name in getattr(defaults, key)})
        # null leaves one out, as on the command line
        values[key] = {str(name): fields for name, fields in several.items() if fields is not None}
    return values


def _check_names_of_choices(values: Values) -> None:
    for key in ONE_OF:
        owner_of(key, str(values[key]["name"]))
    for key in SEVERAL_OF:
        for name in values[key]:
            owner_of(key, name)


def _chosen(values: Values, key: str, value: str) -> bool:
    """Whether an override chooses among several, and is done with here."""
    group, _, rest = key.partition(".")
    if group in ONE_OF and rest in ("", "name"):
        owner = owner_of(group, value)
        kept = {field.name.split(".")[0] for field in fields_of(owner)} - {"name"}
        if values[group]["name"] != value:
            kept -= set(NOT_KEPT)
        if group == "model" and is_imported(value):  # its width is another network's
            kept = set()
        # what both have, as T or the width, stays as the recipe says
        values[group] = {"name": value, **{k: v for k, v in values[group].items() if k.split(".")[0] in kept}}
        return True
    if group in SEVERAL_OF:
        name, _, field = rest.partition(".")
        if not name:
            raise InvalidArgument(
                f"--{group} is by name: --{group}.NAME.FIELD VALUE, or --{group}.NAME null to leave one out; names: "
                f"{', '.join(SEVERAL_OF[group])}"
            )
        if not field and value not in ("null", "None", "none", "{}", "true"):
            raise InvalidArgument(
                f"--{group}.{name} is {value!r}; expected {{}} to add it as it is, null to leave it out, or one of its "
                f"fields: --{group}.{name}.FIELD VALUE"
            )
        if not field and value in ("null", "None", "none"):
            values[group].pop(name, None)
            return True
        values[group].setdefault(name, {})
        return not field  # `--objectives.NAME {}` adds it as it is
    return False


def _parsed(values: Values, words: list[str], source: str) -> Recipe:
    """Types checked and converted by jsonargparse, whose parser is made for what this recipe has chosen."""
    from jsonargparse import ArgumentError

    owners = {key: owner_of(key, values[key]["name"]) for key in ONE_OF}
    owners |= {f"{key}.{name}": SEVERAL_OF[key][name] for key in SEVERAL_OF for name in values[key]}
    parser = _parser_for(tuple(owners.items()))
    named = {key: {k: v for k, v in values[key].items() if k != "name"} for key in ONE_OF}
    try:
        config = parser.parse_object({**values, **named})
        config = parser.parse_args(words, namespace=config) if words else config
        made = parser.instantiate(config)
        parts = {name: value for name, value in vars(made).items() if name not in _CHOICES}
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


_CHOICES: set[str | int] = {*ONE_OF, *SEVERAL_OF}


@functools.lru_cache  # making one takes longer than parsing with it
def _parser_for(owners: tuple[tuple[str, Callable[..., Any]], ...]) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, prog="spikedistill train")
    parser.add_class_arguments(Recipe, None, skip=set(_CHOICES))
    for key, owner in owners:
        _add_arguments(parser, key, owner)
    return parser


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


_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text", "list": "a list"}
"""Types in words."""


def _brief(message: str) -> str:
    """What jsonargparse found, in the words of recipes; its own are of parsers and types."""
    message = re.sub(r"\s*\n\s*", " ", message)
    # what is wrong in a group of its own is told in two steps, the group and the field
    inner = re.match(r'Parser key "([^"]*)": Problem with given class_path \S+: Parser key "([^"]*)": (.*)', message)
    if inner:
        message = f'Parser key "{inner[1]}.{inner[2]}": {inner[3]}'
    told = re.match(r'Parser key "([^"]*)": (.*)', message)
    if told is None or "Expected" not in told[2]:
        return message
    types = re.sub(r"Given value type: \S+ \S+", "", told[2])
    words = [word.replace("'", "") for word in re.findall(r"Literal\[(.*?)\]", types)][:1]
    words += [_KINDS[kind] for kind in dict.fromkeys(re.findall(r"<class '(\w+)'>", types)) if kind in _KINDS]
    if "NoneType" in told[2]:
        words.append("null")
    given = re.search(r"(?:Got value|Given value): (.*)$", told[2])
    if not words or given is None:
        return message
    return f"{told[1]} is {given[1].strip()}; expected {' or '.join(dict.fromkeys(words))}"


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


def _check_key(key: str, source: str, known: Mapping[str, Field], imported: bool) -> None:
    """Raise InvalidArgument for a name that no recipe has; of an imported model every option may be one."""
    if imported and key.startswith("model."):  # its own signature is looked at later
        return
    groups = {name.rsplit(".", depth)[0] for name in known for depth in (1, 2, 3) if name.count(".") >= depth}
    if key in known or key in groups or key in SHORT:
        return
    if key == "import":
        raise InvalidArgument("--import MODULE stands before the command: spikedistill --import my_rows train ...")
    last = [name for name in known if name.rsplit(".", 1)[-1] == key]
    near = MEANT.get(key, last) or difflib.get_close_matches(key, [*known, *SHORT], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f". Known: {', '.join(known)}"
    raise InvalidArgument(f"{source}: a recipe has no field {key!r}{hint}")
