"""What an event is: a pixel whose brightness changed, the direction of the change, and when."""

from __future__ import annotations

import dataclasses

import numpy as np

from spikedistill.errors import DataError

SENSOR = 128
"""Rows and columns of the DVS128, the sensor of CIFAR10-DVS."""


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """A recording of n events, in the order of time.

    Attributes:
        x, y: column and row, int16 [n].
        p: polarity 0 or 1, int8 [n].
        t: timestamps in µs, int64 [n].
    """

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) == len(self.p) == len(self.t):
            lengths = ", ".join(f"{name} {len(getattr(self, name))}" for name in "xypt")
            raise DataError(f"the fields of events must have one length; given {lengths}")

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray) -> Events:
        """Events of arrays of any number type."""
        return cls(x.astype(np.int16), y.astype(np.int16), p.astype(np.int8), t.astype(np.int64))

    def __len__(self) -> int:
        return len(self.t)

    def turned(self) -> Events:
        """x' = 127 − y, y' = 127 − x, p' = 1 − p: from the sensor's addresses to an upright picture, and back.

        CIFAR10-DVS as other libraries show it is this of what its files hold.
        """
        return Events(SENSOR - 1 - self.y, SENSOR - 1 - self.x, 1 - self.p, self.t)

    def checked(self, source: object, sensor: int = SENSOR) -> Events:
        """Itself, if it is a recording that can be used.

        Raises:
            DataError: no events, a pixel that the sensor does not have, or time running backwards, with the numbers.
        """
        if len(self) == 0:
            raise DataError(f"{source} holds no events; record it again, or move it out of the folder")
        for name in "xy":
            values = getattr(self, name)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= sensor:
                raise DataError(
                    f"{source}: {name} runs from {low} to {high}, but the sensor has {sensor} pixels a side; {REPAIR}"
                )
        back = int((self.t[1:] < self.t[:-1]).sum())
        if back:
            first = int(np.argmax(self.t[1:] < self.t[:-1])) + 1
            raise DataError(
                f"{source}: time runs backwards {back} times, first at event {first} ({int(self.t[first - 1])} to "
                f"{int(self.t[first])} µs); {REPAIR}"
            )
        return self

    def repaired(self, sensor: int = SENSOR) -> Events:
        """Without the events outside the sensor, in the order of time (of equal times the order is kept)."""
        inside = (self.x >= 0) & (self.x < sensor) & (self.y >= 0) & (self.y < sensor)
        order = np.flatnonzero(inside)[np.argsort(self.t[inside], kind="stable")]
        return Events(self.x[order], self.y[order], self.p[order], self.t[order])


REPAIR = "is the file damaged? To leave such events out and sort by time: --data.events.repair true"
