"""spikedistill completion"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spikedistill.errors import InvalidArgument

SHELLS = ("bash", "zsh", "tcsh")
DESCRIPTION = """\
A script that completes commands, options and names of recipes in a shell. In bash:

  spikedistill completion bash > ~/.local/share/bash-completion/completions/spikedistill

In zsh, into a folder of $fpath:

  spikedistill completion zsh > ~/.zfunc/_spikedistill
"""


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        raise InvalidArgument("completion needs shtab: pip install 'spikedistill[completion]'") from error
    from spikedistill.cli import COMMANDS, make_parser
    from spikedistill.training.recipe_files import list_recipes

    whole = make_parser([], tuple(COMMANDS))
    for action in _actions(whole):
        if action.dest == "recipe":
            action.choices = list_recipes()
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, given.shell))


def _actions(parser: argparse.ArgumentParser) -> list[Any]:
    """Of a parser and of all parsers below it."""
    found: list[Any] = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found += _actions(below)
    return found
