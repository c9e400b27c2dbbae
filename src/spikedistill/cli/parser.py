"""What the commands share: an argument parser whose errors are ours, and recipes with replaced fields."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from spikedistill.errors import InvalidArgument, choose

if TYPE_CHECKING:
    from spikedistill.training.recipe import Recipe


class Parser(argparse.ArgumentParser):
    """The parser of the program or of one command. Its errors are `InvalidArgument`; names are never abbreviated."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("spikedistill").strip()
        raise InvalidArgument(f"{command}: {message}; see {self.prog} --help" if command else message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A word that is none of the choices: the error says which are near."""
        if action.choices is not None and value not in action.choices:
            kind = action.metavar if isinstance(action.metavar, str) else action.dest
            choose(kind.lower(), value, [str(choice) for choice in action.choices])


TEACHER_HELP = "the teacher of every objective that has one: a finished run, hub:user/name or module:function; where "
TEACHER_HELP += "the recipe has no such objective, distillation from it is added"
TRUST = "import networks of the user's own that runs (also those of teachers) were trained with: it runs their code"


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trust", action="store_true", help=TRUST)


def check_picture(option: str, path: Path | None) -> None:
    """Refuse a file for a picture before the work that comes before it.

    Raises:
        InvalidArgument: another format, or a folder that is not there.
    """
    from spikedistill.report.figure import FORMATS

    if path is None:
        return
    if path.suffix.lower() not in FORMATS or not path.parent.is_dir() or path.is_dir():
        raise InvalidArgument(f"{option} takes a {', '.join(FORMATS)} in a folder that exists; given {path}")


class _Field(argparse.Action):
    """A replaced field of a recipe, in the order in which they were given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.fields = [*namespace.fields, f"{option_string}={values}"]


def add_recipe(parser: argparse.ArgumentParser, words: list[str], default: str | None) -> None:
    """A recipe with replaced fields: `[RECIPE] [--FIELD VALUE ...]`; see `recipe_from`.

    Args:
        words: what was typed. A model of the user's own has fields that nobody knows before it is imported.
        default: the recipe where none is named; None: one has to be named.
    """
    from spikedistill.training.choices import ONE_OF
    from spikedistill.training.recipe_parsing import SHORT, TEACHER, known_fields

    # argparse would list every field
    parser.usage = parser.usage or f"%(prog)s [options] {'[RECIPE]' if default else 'RECIPE'} [--FIELD VALUE ...]"
    parser.set_defaults(fields=[])
    usual = f"(default: {default})" if default else ""
    parser.add_argument(
        "recipe",
        nargs="?" if default else None,
        metavar="RECIPE",
        help=f"a name (spikedistill list recipes) or a YAML file {usual}",
    )
    parser.set_defaults(recipe=None, default_recipe=default)
    groups: dict[str, Any] = {}
    for field in known_fields().values():
        group = field.name.partition(".")[0] if "." in field.name else "recipe"
        if group not in groups:
            groups[group] = parser.add_argument_group(f"fields of a recipe: {group}")
        text = f"{field.help} (default: {_shown(field.default)})".strip().replace("%", "%%")
        groups[group].add_argument(f"--{field.name}", action=_Field, metavar="VALUE", help=text)
    for key in ONE_OF:
        groups[key].add_argument(f"--{key}", action=_Field, metavar="NAME", help=f"short for --{key}.name")
    for short, field in SHORT.items():
        meaning = "package.module:function, a function of your own" if field == "model.name" else f"short for --{field}"
        groups[short.partition(".")[0] if "." in short else "rule"].add_argument(
            f"--{short}", action=_Field, metavar="VALUE", help=meaning
        )
    groups["objectives"].add_argument(f"--{TEACHER}", action=_Field, metavar="FOLDER", help=TEACHER_HELP)
    # Other options are taken for fields, too: the recipe says which there are, and which is near.
    for word in words:
        if word.startswith("--") and len(word) > 2:
            with contextlib.suppress(argparse.ArgumentError):  # it is there already
                parser.add_argument(word.partition("=")[0], action=_Field, help=argparse.SUPPRESS)


def recipe_from(given: argparse.Namespace) -> tuple[str, Recipe]:
    """The recipe that was named, with its fields replaced, and its name."""
    from spikedistill.training.recipe_files import load_recipe

    name = given.recipe or given.default_recipe
    return name, load_recipe(name, given.fields)


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
