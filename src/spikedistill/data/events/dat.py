"""Recordings of Prophesee cameras (DAT): GEN1, 1 Mpx, N-Cars, and what their tools write.

    header   lines that begin with "% ", as "% Width 304"
    2 bytes  kind and size of an event: 12 (or 0) and 8
    8 bytes  each event: time in µs (32 bits), then column (14 bits), row (14 bits) and polarity (4 bits), little-endian

Files of hours are read by the window: the events lie memory-mapped in the order of time.
"""

from __future__ import annotations

import bisect
import dataclasses
from pathlib import Path

import numpy as np

from spikedistill.data.events.event import DVS128, Backwards, Events, Sensor
from spikedistill.errors import DataError
from spikedistill.machine.files import write_atomically
from spikedistill.machine.reading import ReadError, regular

EVENT = np.dtype([("t", "<u4"), ("address", "<u4")])
KINDS, SIZE = (0, 12), 8
HEADER = 64 * 1024
"""Bytes in which a header must have ended."""
SIDE = 14
"""Bits of a column, and of a row."""
MASK = 2**SIDE - 1
PART = 2**22
"""Events whose times are looked at at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class DatFile:
    """An open recording.

    Attributes:
        path: of the file.
        records: the events, memory-mapped.
        times: of each; a memory-mapped column, or what time was mended to.
        sensor: what the header says of rows and columns; None where it says nothing.
        mended: whether time ran backwards, and was mended.
    """

    path: Path
    records: np.ndarray
    times: np.ndarray
    sensor: Sensor | None
    mended: bool = False

    @classmethod
    def open(cls, path: str | Path, backwards: Backwards = "refused") -> DatFile:
        """
        Args:
            backwards: what becomes of times that run backwards; "unseen", only `events` and `span` may be asked for.

        Raises:
            DataError: not readable, cut off, of another kind of event, or with times that run backwards.
        """
        path = Path(path)
        try:
            size = regular(path).stat().st_size
            with path.open("rb") as file:
                head = file.read(HEADER)
        except (OSError, ReadError) as error:
            raise DataError(
                str(error) if isinstance(error, ReadError) else f"{path} cannot be read: {error}"
            ) from error
        said, start = _header(head, path)
        rest = size - start
        if rest % SIZE:
            raise DataError(
                f"{path} is truncated: {rest} bytes of events are no multiple of {SIZE} ({rest // SIZE} whole events); "
                "copy or unpack it again"
            )
        records = np.memmap(path, EVENT, "r", offset=start) if rest else np.zeros(0, EVENT)
        times = records["t"]
        if backwards != "unseen" and (first := _first_backwards(times)) is not None:
            if backwards == "refused":
                raise DataError(
                    f"{path}: time runs backwards, first at event {first} ({int(times[first - 1])} to "
                    f"{int(times[first])} µs); sort the recording by time"
                )
            return cls(path, records, np.maximum.accumulate(np.asarray(times)), _sensor(said, path), mended=True)
        return cls(path, records, times, _sensor(said, path))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last event, in µs; 0 and 0 of an empty recording."""
        return (int(self.times[0]), int(self.times[-1])) if len(self.times) else (0, 0)

    def window(self, start: int, end: int) -> Events:
        """The events from `start` to before `end`, in µs, not checked; none is no error, for nothing may have moved."""
        # numpy's own search would first copy the whole column, which lies between those of the addresses
        rows = slice(bisect.bisect_left(self.times, start), bisect.bisect_left(self.times, end))
        return dataclasses.replace(self._decoded(rows), t=self.times[rows].astype(np.int64))

    def events(self) -> Events:
        """All events, not checked."""
        return self._decoded(slice(None))

    def _decoded(self, rows: slice) -> Events:
        records = self.records[rows]
        address = records["address"]
        polarity = (address >> (2 * SIDE)).astype(np.uint8)
        return Events.of(address & MASK, (address >> SIDE) & MASK, polarity, records["t"].astype(np.int64), self.path)


def _first_backwards(times: np.ndarray) -> int | None:
    """The first event that is earlier than the one before it; part by part, for a window is found by its times."""
    for start in range(0, len(times), PART):
        part = np.asarray(times[start : start + PART + 1])  # one more: from one part to the next
        wrong = np.flatnonzero(part[1:] < part[:-1])
        if len(wrong):
            return start + int(wrong[0]) + 1
    return None


def _header(head: bytes, path: Path) -> tuple[dict[str, str], int]:
    """What the lines say, by their first word in lower case, and where the events begin."""
    said, place = dict[str, str](), 0
    while head[place : place + 1] == b"%":
        end = head.find(b"\n", place)
        if end < 0:
            raise DataError(f"{path} is no DAT recording: its header does not end within {HEADER} bytes")
        words = head[place + 1 : end].decode("latin-1").split()
        if len(words) > 1:
            said[words[0].lower()] = words[1]
        place = end + 1
    kind = head[place : place + 2]
    if len(kind) < 2 or kind[0] not in KINDS or kind[1] != SIZE:
        found = list(kind) if len(kind) == 2 else "the end of the file"
        raise DataError(
            f"{path} is no DAT recording of events: after its header stands {found}; expected kind 12 (or 0) and 8 "
            "bytes an event"
        )
    return said, place + 2


def _sensor(said: dict[str, str], path: Path) -> Sensor | None:
    if not {"height", "width"} <= set(said):
        return None
    try:
        rows, columns = int(said["height"]), int(said["width"])
    except ValueError as error:
        raise DataError(f"{path}: its header says {said['width']!r} × {said['height']!r} pixels") from error
    if not (0 < rows <= MASK + 1 and 0 < columns <= MASK + 1):
        raise DataError(f"{path}: its header says {columns} × {rows} pixels, and there are 14 bits for each")
    return Sensor(rows, columns)


def read_dat(path: Path, repair: bool = False, sensor: Sensor = DVS128) -> Events:
    """All events of a recording.

    Args:
        repair: leave out events that are not of the sensor, and sort by time, instead of refusing the file.

    Raises:
        DataError: damaged, or not a usable recording.
    """
    events = DatFile.open(path, "unseen" if repair else "refused").events()
    return (events.repaired(sensor) if repair else events).checked(path, sensor)


def write_dat(path: Path, events: Events, sensor: Sensor) -> None:
    """Write a recording, whole or not at all.

    Raises:
        DataError: events that are not of the sensor, or times of more than 32 bits.
        WriteError: it could not be written.
    """
    if len(events):
        events.checked(path, sensor, "leave such events out, or sort them by time")
        if int(events.t[-1]) >= 2**32 or int(events.t[0]) < 0:
            raise DataError(f"{path}: times up to {int(events.t[-1])} µs do not fit into 32 bits; cut the recording")
    records = np.zeros(len(events), EVENT)
    records["t"] = events.t
    column, row, polarity = (part.astype(np.uint32) for part in (events.x, events.y, events.p))
    records["address"] = column | row << SIDE | polarity << (2 * SIDE)
    header = f"% Data file containing CD events.\n% Version 2\n% Height {sensor.rows}\n% Width {sensor.columns}\n"
    content = header.encode() + bytes([KINDS[1], SIZE]) + records.tobytes()
    write_atomically(Path(path), lambda file: file.write_bytes(content))
