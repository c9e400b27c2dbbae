"""What the commands share: an argument parser whose errors are ours, and recipes with replaced fields."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from spikedistill.errors import InvalidArgument

if TYPE_CHECKING:
    from spikedistill.training.recipe import Recipe


class Parser(argparse.ArgumentParser):
    """An argument parser of one command, whose errors are `InvalidArgument`."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(
            prog=f"spikedistill {command}",
            description=summary,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{self.prog}: {message}; see {self.prog} --help")


TRUST = "import the network of a run that was trained with a model of the user's own, which runs its code"


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trust", action="store_true", help=TRUST)


def take_option(words: list[str], name: str) -> str | None:
    """Take `--name VALUE` or `--name=VALUE` out of `words`, in which fields of a recipe stand too."""
    for k, word in enumerate(words):
        if word == f"--{name}":
            if k + 1 == len(words):
                raise InvalidArgument(f"--{name} needs a value")
            value = words[k + 1]
            del words[k : k + 2]
            return value
        if word.startswith(f"--{name}="):
            del words[k]
            return word.split("=", 1)[1]
    return None


def wants_help(words: list[str]) -> bool:
    return "--help" in words or "-h" in words


def recipe_from(words: list[str], default: str) -> tuple[str, Recipe]:
    """The recipe that `[RECIPE] [--FIELD VALUE ...]` names, and its name."""
    from spikedistill.training.recipe_files import load_recipe

    named = bool(words) and not words[0].startswith("-")
    name = words[0] if named else default
    return name, load_recipe(name, words[1:] if named else words)
