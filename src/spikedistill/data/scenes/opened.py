"""Recordings that are read by the window, whatever form they have: NAME_td.dat, NAME_td.h5 and so on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple, Protocol

from spikedistill.data.events.dat import DatFile
from spikedistill.data.events.event import Backwards, Events, Sensor
from spikedistill.data.events.hdf5 import Hdf5File
from spikedistill.errors import DataError
from spikedistill.machine.reading import by_name

OPEN = 64
"""Recordings that are open at a time."""


class Opened(Protocol):
    """An open recording: `DatFile`, `Hdf5File`."""

    @property
    def sensor(self) -> Sensor | None:
        """What the file says of its camera."""
        ...

    @property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last event, in µs; 0 and 0 of an empty recording."""
        ...

    @property
    def mended(self) -> bool:
        """Whether time ran backwards, and was mended."""
        ...

    def __len__(self) -> int:
        """Events."""
        ...

    def window(self, start: int, end: int) -> Events:
        """The events from `start` to before `end`, in µs, not checked.

        Raises:
            DataError: a damaged file.
        """
        ...


ENDS = ("_td.dat", "_td.h5", "_td.hdf5", "_td.dat.h5")
"""What the name of a recording ends with, behind the part that its boxes have too."""
HDF5 = (".h5", ".hdf5")
"""Suffixes; what has another one is taken for DAT."""


def recordings_in(folder: Path) -> dict[str, Path]:
    """The recordings in a folder and those below it, by the part of their names that their boxes have too.

    Raises:
        DataError: two of one name.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.name.endswith(ENDS)]
    return by_name(found, lambda path: path.name[: path.name.rindex("_td.")])


def opened(path: Path, repair: bool = False) -> Opened:
    """A recording whose times have been looked at, all of them: it can be read by the window.

    Args:
        repair: mend times that run backwards.

    Raises:
        DataError: not a readable recording, or with times that run backwards.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return _kept_open(path, repair, found.st_mtime_ns, found.st_size)


class Glimpse(NamedTuple):
    """What is known of a recording without a look at its events; see `Opened`."""

    sensor: Sensor | None
    span: tuple[int, int]


def glimpse(path: Path) -> Glimpse:
    """
    Raises:
        DataError: not a readable recording.
    """
    file = _open(path, "unseen")  # closed when nobody has it: of thousands not all can be open
    return Glimpse(file.sensor, file.span)


@functools.lru_cache(maxsize=OPEN)
def _kept_open(path: Path, repair: bool, modified: int, size: int) -> Opened:
    # the windows of a recording follow each other, and opening one looks at all of its times; a file that was replaced
    # is another one
    return _open(path, "mended" if repair else "refused")


def _open(path: Path, backwards: Backwards) -> Opened:
    return (Hdf5File if path.suffix in HDF5 else DatFile).open(path, backwards)
