"""Errors in the user's words: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Sequence
from typing import Any


class SpikedistillError(Exception):
    """Base of every error that a user can cause; the command line shows its message without a traceback."""


class InvalidArgument(SpikedistillError, ValueError):
    """A value that cannot work."""


class UnsupportedOperation(SpikedistillError, NotImplementedError):
    """An operation on a signal for which no rule is registered."""


class DataError(SpikedistillError, ValueError):
    """A data set or picture that is missing, damaged or of the wrong form."""


class CheckpointError(SpikedistillError, RuntimeError):
    """A checkpoint or weight file that cannot be read, written or applied."""


class WriteError(SpikedistillError, OSError):
    """A file that could not be written; what was there before still is."""


class NonFiniteLoss(SpikedistillError, FloatingPointError):
    """The loss became NaN or infinite; the run was stopped."""


class Interrupted(SpikedistillError):
    """Somebody pressed Ctrl-C; the run was saved."""


LISTED = 20


def listed(problems: Sequence[str]) -> str:
    """The first problems, a line each and indented, and how many more there are."""
    more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    return "".join(f"\n  {problem}" for problem in [*problems[:LISTED], *more])


def whole_number(name: str, value: Any) -> int:
    """The value as an int, numpy's too.

    Raises:
        InvalidArgument: no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise InvalidArgument(f"{name} is {value!r}; expected a whole number of at least 1")
    return int(value)


def choose(what: str, given: str, known: Iterable[str]) -> str:
    """Return `given` if it is one of `known`, else raise with the nearest valid names."""
    names = sorted(known)
    if given in names:
        return given
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise InvalidArgument(f"unknown {what} {given!r}{hint} Known: {', '.join(names)}")
