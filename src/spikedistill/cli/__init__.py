"""The command line: a table of commands, one file each. A command is imported when it is called."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from typing import NamedTuple

from spikedistill.cli.parser import Parser
from spikedistill.errors import Interrupted, InvalidArgument, SpikedistillError
from spikedistill.machine.modules import import_here
from spikedistill.machine.output import close_streams, open_streams, say


class Command(NamedTuple):
    """A command: the file in this folder, and what it does.

    The file has `add_arguments(parser, words)`, which sets `run` as a default: a function of what was given.
    """

    module: str
    summary: str


OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
"""How torch says it, on a CPU and on a GPU."""

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
    own = "first import a module of yours, which may add rows to the tables (objectives, tasks, models, ...)"
    parser.add_argument("--import", action="append", default=[], metavar="MODULE", dest="imported", help=own)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        sentence = f"{command.summary[0].upper()}{command.summary[1:]}."
        own = commands.add_parser(name, help=command.summary, description=sentence)
        if name in wanted:
            importlib.import_module(f"spikedistill.cli.{command.module}").add_arguments(own, words)
    return parser


def _last_line(error: Exception) -> str:
    """Where an error was raised; of a syntax error where it stands."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _import_own(words: list[str]) -> int:
    """Import what stands before the command as `--import MODULE`.

    Returns:
        Where the command stands.

    Raises:
        InvalidArgument: a module that cannot be imported.
    """
    place = 0
    while place < len(words) and words[place].partition("=")[0] == "--import":
        _, equals, name = words[place].partition("=")
        name = name if equals else (words[place + 1 : place + 2] or [""])[0]
        place += 1 if equals else 2
        try:
            import_here(name)
        except (ImportError, ValueError) as error:
            raise InvalidArgument(
                f"--import {name}: {error}. It is looked for in the current folder and among the installed packages"
            ) from error
        except Exception as error:  # the module's own
            raise InvalidArgument(
                f"--import {name} fails: {type(error).__name__}: {error} ({_last_line(error)})"
            ) from error
    return place


def main(words: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for an error of the user's, 130 for an interrupted run."""
    words = list(sys.argv[1:] if words is None else words)
    open_streams()
    try:
        # imported first: what it adds to the tables are fields that the parser below has to know
        place = _import_own(words)
        parser = make_parser(words[place + 1 :], tuple(words[place : place + 1]))
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
        say(f"spikedistill: {error}", "stderr")
        return 130 if isinstance(error, Interrupted) else 1
    except BrokenPipeError:  # | head: nobody reads on
        return 1
    except OSError as error:  # a folder that cannot be written, a file that went away: the reason says it
        say(f"spikedistill: {error}", "stderr")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        remedy = "Lower --optimizer.batch_size or --model.width, or train in parts: --optimizer.accumulate 2"
        say(f"spikedistill: not enough memory ({error}). {remedy}", "stderr")
        return 1
    except KeyboardInterrupt:
        say("spikedistill: stopped", "stderr")
        return 130
    finally:
        close_streams()
    return 0
