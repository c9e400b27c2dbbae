"""Frames prepared once: a memory-mapped array beside its labels, whole or not there.

A cache is named by everything that matters: the files (names, sizes, times of change) and what their source says. It is
made under a lock, in a temporary folder of the process, and moved into place. So two processes do not disturb each
other, even where there are no locks, and a preparation that was killed leaves nothing that is taken for a cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import platform
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from spikedistill.errors import DataError, listed
from spikedistill.machine.locks import locked
from spikedistill.machine.output import say
from spikedistill.machine.progress import show_progress
from spikedistill.machine.reading import plain_json

FORMAT = 3
"""Changed whenever the same files would give other frames, or are refused: older caches are then not found."""


ABOUT = "about.json"
"""The file in a cache that says of what it is made."""
LOCK = ".lock"
MAKING = "making"
"""How the name of a folder ends that a process is filling."""


class OnDisk:
    """Samples whose array may be mapped from a file: a process that is sent them opens the file, and gets no copy."""

    array: ClassVar[str]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        frames = state[self.array]
        if isinstance(frames, np.memmap) and isinstance(frames.base, mmap.mmap):  # the whole of it, and no part
            state[self.array] = _Mapped(frames.filename, frames.dtype, frames.offset, frames.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        frames = state[self.array]
        opened = frames.opened() if isinstance(frames, _Mapped) else frames
        vars(self).update(state | {self.array: opened})


class _Mapped(NamedTuple):
    """Where an array lies."""

    path: Any
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]

    def opened(self) -> np.memmap:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/spikedistill`, or `~/.cache/spikedistill`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikedistill"


class FrameSource(Protocol):
    """What frames are made of, and how."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that they are made of."""
        ...

    @property
    def root(self) -> Path:
        """The folder above all of these."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample as it is kept."""
        ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def says(self) -> dict[str, Any]:
        """All that decides the frames beside the files, as plain values."""
        ...

    def make(self, k: int) -> np.ndarray:
        """The frames of sample k.

        Raises:
            DataError: its file cannot be used; says why.
        """
        ...


def key(source: FrameSource) -> str:
    """The name of the cache of these frames."""
    stats = []
    for path in source.files:
        # Reading the files to see whether they changed would take as long as preparing them.
        stat = path.stat()
        stats.append((str(path.relative_to(source.root)), stat.st_size, stat.st_mtime_ns))
    # The time of change is enough to notice a file that was replaced by one of the same size.
    return hashlib.sha256(json.dumps([FORMAT, stats, source.says()]).encode()).hexdigest()[:20]


def prepared(source: FrameSource, folder: str | Path | None, setting: str = "data.events.cache") -> np.ndarray:
    """The frames [M, ...] of all samples, memory-mapped; made now if they are not there.

    Args:
        folder: of the caches (None: `default_folder`).
        setting: the recipe field by which another folder is given, for an error.

    Raises:
        DataError: unusable recordings, all of them by name; or a cache folder that cannot be written.
    """
    folder = default_folder() if folder is None else Path(folder).expanduser()
    target = folder / key(source)
    if not is_whole(target):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A name with a dot is never taken for a cache, nor for one that is being made.
            with locked(folder / f".{target.name}{LOCK}", wait=True) as alone:
                if not is_whole(target):  # another process may have made it meanwhile
                    shutil.rmtree(target, ignore_errors=True)
                    if alone:  # what is there is of preparations that were killed
                        for unfinished in folder.glob(f".{target.name}.*{MAKING}"):
                            shutil.rmtree(unfinished, ignore_errors=True)
                    _prepare(source, target)
        except OSError as error:
            megabytes = len(source) * math.prod(source.shape) * source.dtype.itemsize / 1e6
            raise DataError(
                f"the frames cannot be kept in {folder}: {error}. Give a folder with room for {megabytes:.0f} MB: "
                f"--{setting} FOLDER"
            ) from error
    # Read-only, and shared by the processes of a run: the system keeps one copy in memory.
    return np.load(target / "frames.npy", mmap_mode="r", allow_pickle=False)


def _seal(frames: Path) -> dict[str, Any]:
    """What is noted of a file of frames, so that another one is noticed."""
    found = frames.stat()
    with frames.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    return {"bytes": found.st_size, "modified": found.st_mtime_ns, "digest": digest}


def is_whole(target: Path) -> bool:
    """Whether a folder holds the frames that were made there, all of them and unchanged.

    A file whose size and time are as noted is taken for it; of another time (a copy) the content is looked at.
    """
    frames = target / "frames.npy"
    if not target.is_dir():
        return False
    try:
        about, found = plain_json(target / ABOUT), frames.stat()
        if found.st_size == about["bytes"] and (
            found.st_mtime_ns == about["modified"] or _seal(frames)["digest"] == about["digest"]
        ):
            return True
    except (OSError, KeyError, TypeError):
        pass  # half of it is gone, or another version made it
    say(f"warning: the frames in {target} are not those that were made there; they are made again", "stderr")
    return False


def _prepare(source: FrameSource, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{platform.node()}-{os.getpid()}-{threading.get_ident()}.{MAKING}")
    temporary.mkdir()
    try:
        # Written through the memory map, in place: the frames may be larger than the memory.
        out = np.lib.format.open_memmap(temporary / "frames.npy", "w+", source.dtype, (len(source), *source.shape))
        # All files are tried before any is complained about: people mend a folder once, not file by file.
        bad = list(_fill(out, source))
        if bad:
            named = list(dict.fromkeys(bad))  # several samples may be of one file
            raise DataError(f"{len(bad)} of {len(source)} recordings cannot be used:{listed(named)}")
        out.flush()
        del out  # Windows does not rename a folder with a file that is mapped
        about: dict[str, Any] = {"root": str(source.root), "samples": len(source)}
        about |= _seal(temporary / "frames.npy")
        (temporary / ABOUT).write_text(json.dumps(about | source.says(), indent=1))
        # Renaming is all or nothing: whoever sees this folder sees it whole.
        try:
            temporary.rename(target)
        except OSError:
            if not is_whole(target):  # without locks another process may have been first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(out: np.ndarray, source: FrameSource) -> Iterator[str]:
    """Write the frames of every sample; yields what is wrong with those that cannot be used."""

    def one(k: int) -> str | None:
        try:
            out[k] = source.make(k)
        except DataError as error:
            return str(error)
        return None

    # numpy and torch release the interpreter's lock, and every thread writes rows of its own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, problem in enumerate(pool.map(one, range(len(source))), 1):
            if problem is not None:
                yield problem
            show_progress("preparing frames", done, done - 1, len(source))
