"""The command line: a table of commands, one file each. A command is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from spikedistill.cli.parser import Parser
from spikedistill.errors import Interrupted, SpikedistillError


class Command(NamedTuple):
    """A command: the file in this folder, and what it does.

    The file has `add_arguments(parser, words)`, which sets `run` as a default: a function of what was given.
    """

    module: str
    summary: str


COMMANDS = {
    "train": Command("train", "train by a recipe, or go on with a run"),
    "evaluate": Command("evaluate", "score by timesteps and firing rates of a run, on the test samples"),
    "compare": Command("compare", "several runs: mean, spread and differences over seeds"),
    "predict": Command("predict", "what a run's network says about pictures or recordings"),
    "bench": Command("bench", "time and memory of a training step, ours and the peers'"),
    "data": Command("data", "look at data, prepare recordings, simulate some"),
    "list": Command("listing", "recipes, models, datasets, objectives, tasks, rules"),
    "completion": Command("completion", "a script that completes these commands in a shell"),
}


def make_parser(words: list[str], wanted: tuple[str, ...]) -> Parser:
    """The parser of the program. Of all commands it has the names; of those that are `wanted`, all arguments.

    Args:
        words: what was typed after the command.
    """
    parser = Parser(prog="spikedistill", epilog="spikedistill COMMAND --help says more of each")
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        sentence = f"{command.summary[0].upper()}{command.summary[1:]}."
        sentence = f"{command.summary[0].upper()}{command.summary[1:]}."
        own = commands.add_parser(name, help=command.summary, description=sentence)
        if name in wanted:
            importlib.import_module(f"spikedistill.cli.{command.module}").add_arguments(own, words)
    return parser


def main(words: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for an error of the user's, 130 for an interrupted run."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        parser = make_parser(words[1:], tuple(words[:1]))
        given = parser.parse_args(words)
        if given.version:
            from importlib.metadata import version

            print(version("spikedistill"))
        elif "run" in given:
            given.run(given)
        else:
            parser.print_help()
    except SystemExit as end:  # argparse has shown its help
        return int(end.code or 0)
    except SpikedistillError as error:
        print(f"spikedistill: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except OSError as error:  # a folder that cannot be written, a file that went away: the reason says it
        print(f"spikedistill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spikedistill: stopped", file=sys.stderr)
        return 130
    return 0
