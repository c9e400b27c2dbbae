"""Folders of runs: made at once, so that two runs never share one."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from spikedistill.errors import CheckpointError, InvalidArgument, WriteError
from spikedistill.machine.files import half_written
from spikedistill.machine.locks import Held, locked


@contextlib.contextmanager
def new_folder(out: str | Path | None, name: str) -> Iterator[Path]:
    """Make the folder of a new run for the `with` block: `out`, or the first free runs/NAME, runs/NAME-2, ...

    Making it is what takes it, and a lock holds it while the run lives: of two runs that start together, each gets its
    own, or the second an error. A run that fails before it has written anything leaves no folder behind.

    Raises:
        InvalidArgument: `out` exists and holds something, or another run lives in it.
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
        if out is not None and not (folder / LOCK).exists():
            _refuse_full(folder)  # before anything is touched: it is not a run's
        with owned(folder):
            try:
                if out is not None:
                    _refuse_full(folder)  # again: a run may have come and gone
                    shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # curves would show both starts
                yield folder
            finally:  # while the lock is held: that of another run is never taken away
                if not [path for path in folder.glob("*") if path.name != LOCK]:
                    (folder / LOCK).unlink(missing_ok=True)
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
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file; name a folder for the run")
    return folder


def _refuse_full(folder: Path) -> None:
    """Refuse a folder that holds anything, but for a start that was killed before its first checkpoint."""
    there = {path.name for path in folder.iterdir() if half_written(path) not in WRITTEN}
    # Without a lock no run has been there, and what lies there is the user's.
    if not there or (LOCK in there and there - {LOCK} <= STARTED):
        return
    raise InvalidArgument(
        f"{folder} exists already and is not overwritten; go on with: spikedistill train --resume {folder}, or "
        "choose another --out"
    )


LOCK = ".lock"
STARTED = {"recipe.yaml", "environment.json", "tensorboard"}
"""What a run writes before its first checkpoint."""
WRITTEN = {
    *("recipe.yaml", "environment.json", "checkpoint.pt", "metrics.csv", "model.safetensors", "config.json"),
    "result.json",
}
"""Files of a run of which a process that was killed may leave one half written."""


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[Path]:
    """Hold a run's folder for the `with` block: nobody else trains in it. Half-written files are cleared away.

    Raises:
        InvalidArgument: another run lives in it; says which process.
        CheckpointError: there is no such folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, wait=False))
        except Held as error:
            raise InvalidArgument(
                f"a run is training in {folder}: {error}. Wait for its end, or choose another --out"
            ) from error
        for path in (*folder.iterdir(), *(folder / "best").glob("*")):
            if half_written(path) in WRITTEN:
                path.unlink(missing_ok=True)
        yield folder
