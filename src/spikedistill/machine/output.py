"""What a long work says: never the reason why it ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Literal


def say(text: str, stream: Literal["stdout", "stderr"] = "stdout", end: str = "\n") -> None:
    """Print; where nobody listens any more (`| head`, a full disk, a closed terminal), be silent from then on."""
    target = getattr(sys, stream)
    if target is None:  # Python has none where it was started without
        return
    try:
        target.write(f"{text}{end}")
        target.flush()
    except (OSError, ValueError):  # ValueError: the file was closed
        mute(stream)


def open_streams() -> None:
    """Give a program that was started with a closed stdout or stderr one that goes nowhere.

    Before anything is opened: a file would else get the number of stderr, and what the system writes there.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(getattr(sys, stream), io.TextIOWrapper):
            # an ASCII locale cannot say "×" or "≥": a question mark is better than the end
            getattr(sys, stream).reconfigure(errors="replace")


def mute(stream: Literal["stdout", "stderr"]) -> None:
    """Send what follows nowhere; at the end Python itself would fail at what is still to be written."""
    silent = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # it is the stream now, and lives as long
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(silent.fileno(), getattr(sys, stream).fileno())
    setattr(sys, stream, silent)
