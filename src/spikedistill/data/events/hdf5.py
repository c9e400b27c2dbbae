"""Recordings in HDF5 (the extra `hdf5`), as 1 Mpx is passed on and as Prophesee's tools write them.

    events/x, y, p, t      an array each; events/height and events/width say the camera
    CD/events              one array of records with x, y, p and t; the attribute "geometry" says the camera, "1280x720"

Compressed by what h5py and hdf5plugin know. Prophesee's own compression (ECF) needs its plugin for HDF5, which is in
no package of PyPI. What a file names outside itself is not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from spikedistill.data.events.event import DVS128, Backwards, Events, Sensor
from spikedistill.errors import DataError
from spikedistill.machine.reading import ReadError, regular

FIELDS = ("x", "y", "p", "t")
STRIDE = 4096
"""Of so many events the first time is kept in memory, to find windows by."""
PART = 1024 * STRIDE
"""Events whose times are looked at at once."""
MOST, AT_ONCE = 2**34, 2**28
"""Events of a recording, and of one that is read whole; a damaged or foreign file can claim any number."""
LARGEST_SIDE = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class Hdf5File:
    """An open recording, read by the window.

    Attributes:
        path: of the file.
        columns: HDF5 data sets, or one field of one, by name.
        times: of every `STRIDE`th event, int64, and of the last one.
        sensor: what the file says of rows and columns; None where it says nothing.
        mended: whether time ran backwards, and was mended.
    """

    path: Path
    columns: dict[str, Any]
    times: np.ndarray
    sensor: Sensor | None
    mended: bool = False

    @classmethod
    def open(cls, path: str | Path, backwards: Backwards = "refused") -> Hdf5File:
        """
        Args:
            backwards: what becomes of times that run backwards; "unseen", only `events` and `span` may be asked for.

        Raises:
            DataError: h5py is missing; or not readable, of another form, or with times that run backwards.
        """
        path = Path(path)
        h5py = _h5py(path)
        file = None
        try:
            regular(path)
            file = h5py.File(path, "r")
            columns = _columns(h5py, file, path)
            looked_at = _ends if backwards == "unseen" else _times
            times, mended = looked_at(columns["t"], path, backwards)
            # the file is open as long as its columns are needed
            return cls(path, columns, times, _sensor(h5py, file, path), mended)
        except Exception as error:  # libhdf5 meets damage in many ways
            if file is not None:
                file.close()
            if isinstance(error, (DataError, ReadError)):
                raise DataError(str(error)) from error
            raise DataError(f"{path} is not a readable HDF5 recording: {_words(error)}") from error

    def __len__(self) -> int:
        return len(self.columns["t"])

    @property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last event, in µs; 0 and 0 of an empty recording."""
        return (int(self.times[0]), int(self.times[-1])) if len(self) else (0, 0)

    def window(self, start: int, end: int) -> Events:
        """The events from `start` to before `end`, in µs, not checked; none is no error, for nothing may have moved.

        Raises:
            DataError: a damaged file.
        """
        if not len(self):
            return self._decoded(slice(0, 0))
        # Between which of the times that are kept both lie; what is read is at most a stride too much at both ends.
        known = self.times[:-1]
        first = max(int(np.searchsorted(known, start)) - 1, 0) * STRIDE
        last = min(int(np.searchsorted(known, end)) * STRIDE, len(self))
        events = self._decoded(slice(first, last))
        times = events.t
        if self.mended:  # what was earlier than the first of these is earlier than `start`, mended or not
            times = np.maximum.accumulate(times)
        low, high = np.searchsorted(times, (start, end))
        rows = slice(int(low), int(high))
        return Events(events.x[rows], events.y[rows], events.p[rows], times[rows])

    def events(self) -> Events:
        """All events, not checked.

        Raises:
            DataError: a damaged file, or more than are read at once.
        """
        if len(self) > AT_ONCE:
            raise DataError(f"{self.path} holds {len(self)} events, more than the {AT_ONCE} that are read whole")
        return self._decoded(slice(0, len(self)))

    def _decoded(self, rows: slice) -> Events:
        try:
            found = {name: np.asarray(self.columns[name][rows]) for name in FIELDS}
        except Exception as error:
            raise DataError(f"{self.path} cannot be read to its end: {_words(error)}") from error
        return Events.of(found["x"], found["y"], found["p"], found["t"], self.path)


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"reading {path} needs the package h5py: pip install 'spikedistill[hdf5]'") from error
    with contextlib.suppress(ImportError):  # plain and gzip files need none
        # tells libhdf5 of more compressions
        import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]
    return h5py


def _columns(h5py: Any, file: Any, path: Path) -> dict[str, Any]:
    """
    Raises:
        DataError: no events in one of the two forms.
    """
    records = _inside(h5py, file, "CD/events", path)
    if records is not None:
        names = records.dtype.names or ()
        missing = [name for name in FIELDS if name not in names]
        if missing:
            raise DataError(f"{path}: CD/events has no {', '.join(missing)}; it has {', '.join(names) or 'no fields'}")
        columns = {name: records.fields(name) for name in FIELDS}
        kinds = [records.dtype[name].kind for name in FIELDS]
        lengths = {records.shape}
    else:
        found = {name: _inside(h5py, file, f"events/{name}", path) for name in FIELDS}
        missing = [f"events/{name}" for name, column in found.items() if column is None]
        if missing:
            held = ", ".join(sorted(file)[:8]) or "nothing"
            raise DataError(f"{path} has no {', '.join(missing)}, and no CD/events; it holds {held}")
        columns = found
        kinds = [column.dtype.kind for column in found.values()]
        lengths = {column.shape for column in found.values()}
    shape = next(iter(lengths))
    if len(lengths) > 1 or len(shape) != 1 or shape[0] > MOST or not set(kinds) <= set("buif"):
        raise DataError(
            f"{path}: x, y, p and t must be rows of numbers, as many of each and at most {MOST}; given "
            f"{' and '.join(map(str, lengths))}"
        )
    return columns


def _inside(h5py: Any, file: Any, name: str, path: Path) -> Any:
    """A data set of the file itself; None where there is none.

    Raises:
        DataError: it leads to another file.
    """
    place = file
    for word in name.split("/"):
        if not isinstance(place, h5py.Group) or word not in place:
            return None
        if not isinstance(place.get(word, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: {name} is a link; copy what it leads to into the file")
        place = place[word]
    if not isinstance(place, h5py.Dataset):
        return None
    if place.external or place.is_virtual:
        raise DataError(f"{path}: the numbers of {name} lie in another file; copy them into this one")
    if place.size and not place.id.get_storage_size():
        raise DataError(f"{path}: {name} claims {place.size} numbers and holds none; copy or download the file again")
    return place


def _ends(column: Any, path: Path, backwards: Backwards) -> tuple[np.ndarray, bool]:
    """As `_times`, the first and the last alone."""
    last = len(column) - 1
    return np.array([int(column[k]) for k in (0, last) if last >= 0], np.int64), False


def _times(column: Any, path: Path, backwards: Backwards) -> tuple[np.ndarray, bool]:
    """Every `STRIDE`th time and the last one, and whether they had to be mended."""
    kept, last, mended = [], None, False
    for start in range(0, len(column), PART):
        part = np.asarray(column[start : start + PART]).astype(np.int64)
        joined = part if last is None else np.concatenate([[last], part])
        wrong = np.flatnonzero(joined[1:] < joined[:-1])
        if len(wrong) and backwards == "mended":
            mended = True
            part = np.maximum.accumulate(joined)[len(joined) - len(part) :]
        elif len(wrong):
            first = start + int(wrong[0]) + (last is None)
            before, after = joined[wrong[0]], joined[wrong[0] + 1]
            raise DataError(
                f"{path}: time runs backwards, first at event {first} ({int(before)} to {int(after)} µs); sort the "
                "recording by time"
            )
        kept.append(part[::STRIDE])
        last = part[-1]
    return np.concatenate([*kept, [] if last is None else [last]]).astype(np.int64), mended


def _sensor(h5py: Any, file: Any, path: Path) -> Sensor | None:
    said = [_inside(h5py, file, f"events/{name}", path) for name in ("height", "width")]
    if all(side is not None and side.size == 1 for side in said):
        rows, columns = (int(np.asarray(side[()]).reshape(-1)[0]) for side in said)
    else:
        geometry = file.attrs.get("geometry", "")
        text = geometry.decode("latin-1") if isinstance(geometry, bytes) else str(geometry)
        found = re.fullmatch(r"(\d+)\s*x\s*(\d+)", text)
        if found is None:
            return None
        columns, rows = int(found.group(1)), int(found.group(2))
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise DataError(f"{path} says {columns} × {rows} pixels, which cannot be")
    return Sensor(rows, columns)


def _words(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    # the number of Prophesee's filter; h5py only says that a filter is missing
    return f"{text} (Prophesee's ECF needs its own plugin for HDF5: see hdf5_ecf)" if "filter" in text else text


def read_hdf5(path: Path, repair: bool = False, sensor: Sensor = DVS128) -> Events:
    """All events of a recording.

    Args:
        repair: leave out events that are not of the sensor, and sort by time, instead of refusing the file.

    Raises:
        DataError: damaged, or not a usable recording.
    """
    events = Hdf5File.open(path, "unseen" if repair else "refused").events()
    return (events.repaired(sensor) if repair else events).checked(path, sensor)
