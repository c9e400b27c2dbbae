"""Folders of runs: made at once, so that two runs never share one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from spikedistill.errors import InvalidArgument, WriteError


@contextlib.contextmanager
def new_folder(out: str | Path | None, name: str) -> Iterator[Path]:
    """Make the folder of a new run for the `with` block: `out`, or the first free runs/NAME, runs/NAME-2, ...

    Making it is what takes it: of two runs that start together, each gets its own. A run that fails before it has
    written anything leaves no folder behind.

    Raises:
        InvalidArgument: `out` exists and holds something.
        WriteError: it cannot be made.
    """
    folder = Path(out) if out is not None else None
    missing = [*_missing(folder if folder is not None else Path("runs"))]
    try:
        folder = _given(folder) if folder is not None else _first_free(name)
    except OSError as error:
        if isinstance(error, (InvalidArgument, WriteError)):
            raise
        raise WriteError(f"the folder {folder or 'runs'} of the run cannot be made: {error}") from error
    try:
        yield folder
    finally:
        made_here = missing if out is not None else [folder, *missing]
        for made in dict.fromkeys(made_here):
            with contextlib.suppress(OSError):  # it holds something, or is gone
                made.rmdir()


def _missing(folder: Path) -> Iterator[Path]:
    """The folder and those above it that are not there yet, the innermost first."""
    while not folder.exists() and folder != folder.parent:
        yield folder
        folder = folder.parent


def _first_free(name: str) -> Path:
    for number in itertools.count(1):
        folder = Path(f"runs/{name}" if number == 1 else f"runs/{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("itertools.count does not end")


def _given(folder: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        return folder
    if not folder.is_dir() or any(folder.iterdir()):
        raise InvalidArgument(
            f"{folder} exists already and is not overwritten; go on with: spikedistill train --resume {folder}, or "
            "choose another --out"
        )
    return folder
