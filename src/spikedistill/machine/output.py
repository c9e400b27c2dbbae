"""What a long work says: never the reason why it ends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Literal

Stream = Literal["stdout", "stderr"]


def say(text: str, stream: Stream = "stdout", end: str = "\n") -> None:
    """Print; where nobody listens (`| head`, a full disk, a closed terminal), go on without."""
    target = getattr(sys, stream)
    if target is None:  # Python has none where it was started without
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the file was closed
        try:
            target.write(f"{text}{end}")
        except UnicodeEncodeError:  # an ASCII locale cannot say "×" or "≥"
            encoding = getattr(target, "encoding", None) or "ascii"
            target.write(f"{text}{end}".encode(encoding, "replace").decode(encoding))
        target.flush()


def close_streams() -> None:
    """At the end of a program: what could not be written is given up, or Python itself would fail at it."""
    for stream in ("stdout", "stderr"):
        try:
            getattr(sys, stream).flush()
        except (OSError, ValueError):
            _mute(stream)


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


def _mute(stream: Stream) -> None:
    """Send what follows nowhere; at the end Python itself would fail at what is still to be written."""
    silent = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # it is the stream now, and lives as long
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(silent.fileno(), getattr(sys, stream).fileno())
    setattr(sys, stream, silent)
