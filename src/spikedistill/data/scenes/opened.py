"""Recordings that are read by the window, whatever form they have: NAME_td.dat, NAME_td.h5 and so on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol

from spikedistill.data.events.dat import DatFile
from spikedistill.data.events.event import Events, Sensor
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
    def end(self) -> int:
        """Time of the last event, in µs; 0 of an empty recording."""
        ...

    def __len__(self) -> int:
        """Events."""
        ...

    def window(self, start: int, end: int, sensor: Sensor) -> Events:
        """The events from `start` to before `end`, in µs.

        Raises:
            DataError: events outside the sensor, or a damaged file.
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


def opened(path: Path) -> Opened:
    """
    Raises:
        DataError: not a readable recording, or with times that run backwards.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return _kept_open(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=OPEN)
def _kept_open(path: Path, modified: int, size: int) -> Opened:
    # the windows of a recording follow each other, and opening one looks at all of its times; a file that was replaced
    # is another one
    return Hdf5File.open(path) if path.suffix in HDF5 else DatFile.open(path)
