"""Recordings of N-MNIST and N-Caltech101 (.bin): five bytes an event, as Orchard et al. (2015) published them.

    byte 0: x    byte 1: y    byte 2, high bit: polarity    the other 23 bits, high byte first: time in µs

An event with y = 240 is none: the camera's counter ran over, and all later times are 2^13 µs later. A clock of 23 bits
begins again at 0 after 8.4 s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikedistill.data.events.event import Events, Sensor, unwrapped
from spikedistill.errors import DataError
from spikedistill.machine.reading import ReadError, content_of

LARGEST = 1024**3
"""Bytes of a recording."""
EVENT = 5
OVERFLOW_Y, OVERFLOW = 240, 2**13
CLOCK, NEAR = 2**23, 2**20
"""Times before the clock begins again, and how near to both ends they are where it did (a second)."""


def read_atis(path: str | Path, sensor: Sensor, repair: bool = False) -> Events:
    """Decode a recording; its picture is upright.

    Args:
        repair: leave out events that are not of the sensor, and sort by time, instead of refusing the file.

    Raises:
        DataError: truncated, without events, of another sensor, or with time running backwards.
    """
    path = Path(path)
    if sensor.rows > OVERFLOW_Y or sensor.columns > 256:
        raise DataError(
            f"{path} has 8 bits for a column and rows up to {OVERFLOW_Y - 1}; the sensor of these settings is "
            f"{tuple(sensor)}"
        )
    try:
        content = content_of(path, LARGEST)
    except ReadError as error:
        raise DataError(str(error)) from error
    if len(content) % EVENT:
        raise DataError(
            f"{path} is truncated: {len(content)} bytes are no multiple of {EVENT} ({len(content) // EVENT} whole "
            "events); copy or unpack it again"
        )
    octets = np.frombuffer(content, np.uint8).reshape(-1, EVENT)
    high = octets[:, 2].astype(np.int64)
    t = (high & 127) << 16 | octets[:, 3].astype(np.int64) << 8 | octets[:, 4]
    over = octets[:, 1] == OVERFLOW_Y
    t = (unwrapped(t, CLOCK, NEAR) + OVERFLOW * np.cumsum(over))[~over]
    x, y, p = octets[~over, 0], octets[~over, 1], (high >> 7)[~over]
    events = Events.of(x, y, p, t, path)
    return (events.repaired(sensor) if repair else events).checked(path, sensor)
