"""AEDAT files: version 2.0, in which CIFAR10-DVS was published, and version 4, as newer mirrors have it.

AEDAT 2.0: lines that begin with `#`, then for each event two big-endian uint32: an address, and the time in µs. Of a
DVS128 address a: x = (a & 0xFE) >> 1, y = (a & 0x7F00) >> 8, polarity = a & 1. The fields are given as they are in the
file; `Events.turned` makes the upright picture.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from spikedistill.data.events.event import DVS128, REPAIR, SENSOR, Events, Sensor, unwrapped
from spikedistill.errors import DataError
from spikedistill.machine.files import write_atomically
from spikedistill.machine.reading import ReadError, content_of

LARGEST = 2 * 1024**3
"""Bytes of a recording."""
CLOCK, NEAR = 2**32, 2**28
"""Times before the clock begins again (71 minutes), and how near to both ends they are where it did (4.5 minutes)."""
VERSION_2 = b"#!AER-DAT2.0"
VERSION_4 = b"#!AER-DAT4.0"
HEADER = VERSION_2 + b"\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"


def read_aedat2(path: str | Path, repair: bool = False) -> Events:
    """Decode an AEDAT 2.0 recording of a DVS128.

    Args:
        repair: leave out events that are not of the sensor, and sort by time, instead of refusing the file.

    Raises:
        DataError: not AEDAT 2.0, truncated, without events, of another sensor, or with time running backwards.
    """
    path = Path(path)
    body = _after_header(path, _content(path))
    if len(body) % 8:
        raise DataError(
            f"{path} is truncated: {len(body)} bytes of events are no multiple of 8 ({len(body) // 8} whole events); "
            "copy or download it again"
        )
    words = np.frombuffer(body, ">u4").reshape(-1, 2)
    # A DVS128 uses 15 bits; others are of another sensor, of special events, or of a damaged file.
    foreign = words[:, 0] & 0xFFFF8000 != 0
    count = int(np.count_nonzero(foreign))
    if count and not repair:
        first = int(np.argmax(foreign))
        raise DataError(
            f"{path}: {count} of {len(words)} addresses are not of a DVS128, first event {first} "
            f"(0x{int(words[first, 0]):08X}; at most 0x7FFF); {REPAIR}"
        )
    if count:
        words = words[~foreign]
        body = words.tobytes()
    # Taking x, y and p from single bytes is several times as fast as shifting and masking the words.
    octets = np.frombuffer(body, np.uint8).reshape(-1, 8)
    low = octets[:, 3]
    events = Events.of(
        low >> 1, octets[:, 2] & 0x7F, low & 1, unwrapped(words[:, 1].astype(np.int64), CLOCK, NEAR), path
    )
    events = dataclasses.replace(events, left_out=count)
    return (events.repaired() if repair else events).checked(path)


def _content(path: Path) -> bytes:
    try:
        return content_of(path, LARGEST)
    except ReadError as error:
        raise DataError(str(error)) from error


def _after_header(path: Path, content: bytes) -> bytes:
    if not content.startswith(VERSION_2):
        found = content[:12].decode("latin-1").strip() or "nothing"
        newer = "; AEDAT 4 is read by read_aedat4" if content.startswith(VERSION_4) else ""
        raise DataError(f"{path} is not an AEDAT 2.0 file: it begins with {found!r}, not with '#!AER-DAT2.0'{newer}")
    start = 0
    # The first event is never taken for a line of the header: an address of 15 bits begins with a zero byte.
    while content[start : start + 1] == b"#":
        end = content.find(b"\n", start)
        if end < 0:
            raise DataError(f"{path} ends inside its header: it holds no events; copy or download it again")
        start = end + 1
    return content[start:]


def write_aedat2(path: str | Path, events: Events) -> None:
    """Write an AEDAT 2.0 recording: the inverse of `read_aedat2`, written whole or not at all.

    Raises:
        DataError: values that the format cannot say.
    """
    for name, limit in (("x", SENSOR), ("y", SENSOR), ("p", 2), ("t", 2**32)):
        values = getattr(events, name)
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < limit):
            raise DataError(
                f"{path}: {name} must lie in 0..{limit - 1}; given {int(values.min())} to {int(values.max())}"
            )
    # Big-endian, whatever this machine is.
    words = np.empty((len(events), 2), ">u4")
    words[:, 0] = events.y.astype(np.uint32) << 8 | events.x.astype(np.uint32) << 1 | events.p.astype(np.uint32)
    words[:, 1] = events.t
    write_atomically(Path(path), lambda file: file.write_bytes(HEADER + words.tobytes()))


def read_aedat4(path: str | Path, repair: bool = False, sensor: Sensor = DVS128) -> Events:
    """Decode an AEDAT 4 recording with the `aedat` package (the extra `aedat4`).

    Raises:
        DataError: the package is missing, or the file is damaged, without events or with time running backwards.
    """
    path = Path(path)
    if not _content(path).startswith(VERSION_4):
        raise DataError(f"{path} is not an AEDAT 4 file: it does not begin with '#!AER-DAT4.0'")
    try:
        import aedat  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(f"reading {path} needs the package aedat: pip install 'spikedistill[aedat4]'") from error
    try:
        # A recording may also hold frames and inertial data of the camera, in packets of their own.
        packets = [packet["events"] for packet in aedat.Decoder(str(path)) if "events" in packet]
    except Exception as error:
        raise DataError(f"{path} is not a readable AEDAT 4 file: {error}") from error
    if not packets:
        raise DataError(f"{path} holds no events; record it again, or move it out of the folder")
    joined = np.concatenate(packets)
    events = Events.of(joined["x"], joined["y"], joined["on"], joined["t"], path)
    return (events.repaired(sensor) if repair else events).checked(path, sensor)
