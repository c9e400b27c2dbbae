"""The command line: a table of commands, one file each. A command is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple

from spikedistill.errors import Interrupted, SpikedistillError, choose


class Command(NamedTuple):
    """A command: the file in this folder whose `run(words)` carries it out, and what it does."""

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
}


def usage() -> str:
    """What there is to call."""
    lines = [f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()]
    more = "spikedistill COMMAND --help says more of each; spikedistill --version"
    return "\n".join(["usage: spikedistill COMMAND ...", "", *lines, "", more])


def main(words: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for an error of the user's, 130 for an interrupted run."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("spikedistill"))
        return 0
    try:
        command = COMMANDS[choose("command", words[0], COMMANDS)]
        importlib.import_module(f"spikedistill.cli.{command.module}").run(words[1:])
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
