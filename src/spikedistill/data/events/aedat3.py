"""AEDAT 3.1 files, in which DVS128 Gesture was published, and their division into gestures.

After lines that begin with `#`, the last of which is `#!END-HEADER`, come packets. A packet has 28 bytes of header,
little-endian: type (int16), source (int16), then as int32 the size of an event, the offset of its time in it, how often
the clock ran over, the capacity, the number of events and how many are valid. A polarity event (type 1) is two 32-bit
words: from the lowest bit on 1 bit valid, 1 polarity, 15 row, 15 column; and the time in µs, of 31 bits. The picture is
upright.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spikedistill.data.events.event import DVS128, REPAIR, Events, Sensor
from spikedistill.errors import DataError
from spikedistill.machine.output import say
from spikedistill.machine.reading import ReadError, content_of

LARGEST = 2 * 1024**3
"""Bytes of a recording."""
VERSION_3 = b"#!AER-DAT3.1"
END = b"#!END-HEADER"
POLARITY = 1
PACKET = np.dtype(
    [("type", "<i2"), ("source", "<i2"), *((name, "<i4") for name in ("size", "at", "over", "room", "count", "good"))]
)
CLOCK = 31
"""Bits of a time."""


def read_aedat3(path: str | Path, repair: bool = False, sensor: Sensor = DVS128, remedy: str = REPAIR) -> Events:
    """Decode an AEDAT 3.1 recording; packets of other events (frames, inertial data) are passed over.

    Args:
        repair: leave out events that are not of the sensor, what follows a damaged packet, and sort by time, instead of
            refusing the file.
        remedy: what an error says that one can do.

    Raises:
        DataError: not AEDAT 3.1, truncated, without events, of another sensor, or with time running backwards.
    """
    path = Path(path)
    try:
        content = content_of(path, LARGEST)
    except ReadError as error:
        raise DataError(str(error)) from error
    words, times = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for over, packet in _polarity_packets(path, content, _end_of_header(path, content), None if repair else remedy):
        valid = packet[:, 0] & 1 == 1
        words.append(packet[valid, 0])
        times.append(packet[valid, 1].astype(np.int64) + (over << CLOCK))
    word = np.concatenate(words)
    events = Events.of(word >> 17, word >> 2 & 0x7FFF, word >> 1 & 1, np.concatenate(times), path)
    return (events.repaired(sensor) if repair else events).checked(path, sensor, remedy)


def _end_of_header(path: Path, content: bytes) -> int:
    if not content.startswith(VERSION_3):
        found = content[:12].decode("latin-1").strip() or "nothing"
        raise DataError(f"{path} is not an AEDAT 3.1 file: it begins with {found!r}, not with '#!AER-DAT3.1'")
    last = content.find(END)
    end = content.find(b"\n", last)
    if last < 0 or end < 0:
        raise DataError(f"{path} has no line {END.decode()}: it holds no events; copy or download it again")
    return end + 1


def _polarity_packets(path: Path, content: bytes, start: int, remedy: str | None) -> Iterator[tuple[int, np.ndarray]]:
    """How often the clock ran over, and words and times uint32 [n, 2], of each packet of polarity events.

    Args:
        remedy: what the error about a damaged packet says that one can do; None: end there without one.
    """
    while start < len(content):
        header = np.frombuffer(content[start : start + PACKET.itemsize].ljust(PACKET.itemsize, b"\0"), PACKET)[0]
        kind, size, count, over = (int(header[name]) for name in ("type", "size", "count", "over"))
        first = start + PACKET.itemsize
        end = first + size * count
        if kind == POLARITY and (size != 8 or int(header["at"]) != 4):
            problem = f"polarity events of {size} bytes with the time at byte {int(header['at'])}, expected 8 and 4"
        elif size < 1 or count < 0 or over < 0:
            problem = f"{count} events of {size} bytes, {over} times around the clock"
        elif end > len(content):
            problem = f"{count} events of {size} bytes, but the file ends {end - len(content)} bytes before that"
        else:
            if kind == POLARITY:
                yield over, np.frombuffer(content[first:end], "<u4").reshape(-1, 2)
            start = end
            continue
        if remedy is None:
            say(f"{path} is damaged at byte {start} of {len(content)} ({problem}); what follows is left out", "stderr")
            return
        raise DataError(f"{path} is damaged or truncated: at byte {start} it announces {problem}; {remedy}")
