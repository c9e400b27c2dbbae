"""How far a long preparation is: one line that is rewritten on a terminal, a line for every tenth in a log."""

from __future__ import annotations

import sys

from spikedistill.machine.output import say


def show_progress(what: str, done: int, before: int, total: int) -> None:
    """Say on stderr how many of `total` are done.

    Args:
        what: what is being done, in words.
        done: how many are done now.
        before: how many had been when this was last called.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        end = "\n" if done == total else "\r"
        say(f"{what}: {done} of {total}", "stderr", end)
    # A log keeps every line, so it gets one for each tenth: where the tenths reached differ from those before.
    elif done * 10 // total > before * 10 // total:
        say(f"{what}: {done} of {total}", "stderr")
