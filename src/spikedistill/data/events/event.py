"""What an event is: a pixel whose brightness changed, the direction of the change, and when."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from spikedistill.errors import DataError

SENSOR = 128
"""Rows and columns of the DVS128, the sensor of CIFAR10-DVS."""


class Sensor(NamedTuple):
    """The pixels of a camera."""

    rows: int
    columns: int


DVS128 = Sensor(SENSOR, SENSOR)

Backwards = Literal["refused", "mended", "unseen"]
"""What becomes of times that run backwards: "mended" gives an event at least the time of those before it."""

REPAIR = (
    "a larger camera has to be said: --data.events.sensor '[rows, columns]'. Is the file damaged? To leave such events "
    "out and sort by time: --data.events.repair true"
)

HINTS = {
    "x": "columns are counted from 0, in pixels",
    "y": "rows are counted from 0, in pixels",
    "p": "a polarity is 0 for darker or 1 for brighter",
    "t": "times are in whole µs",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """A recording of n events, in the order of time.

    Attributes:
        x, y: column and row, int16 [n]; wider where the numbers of a damaged file do not fit.
        p: polarity 0 or 1, int8 [n].
        t: timestamps in µs, int64 [n].
        left_out: how many a repair has left out.

    Raises:
        DataError: fields of different lengths.
    """

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray
    left_out: int = 0

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) == len(self.p) == len(self.t):
            lengths = ", ".join(f"{name} {len(getattr(self, name))}" for name in "xypt")
            raise DataError(f"the fields of events must have one length; given {lengths}")

    @classmethod
    def of(cls, x: npt.ArrayLike, y: npt.ArrayLike, p: npt.ArrayLike, t: npt.ArrayLike, source: object) -> Events:
        """Events of arrays of any number type; a polarity of −1 and 1 becomes 0 and 1.

        Args:
            source: what to call them in an error.

        Raises:
            DataError: numbers that are not whole (3.7, NaN), or another polarity.
        """
        column, row = (_narrowed(_whole(values, name, source)) for name, values in (("x", x), ("y", y)))
        return cls(column, row, _polarity(_whole(p, "p", source), source), _whole(t, "t", source).astype(np.int64))

    def __len__(self) -> int:
        return len(self.t)

    def turned(self) -> Events:
        """x' = 127 − y, y' = 127 − x, p' = 1 − p: from the sensor's addresses to an upright picture, and back.

        CIFAR10-DVS as other libraries show it is this of what its files hold.
        """
        return Events(SENSOR - 1 - self.y, SENSOR - 1 - self.x, 1 - self.p, self.t, self.left_out)

    def checked(self, source: object, sensor: Sensor = DVS128, remedy: str = REPAIR) -> Self:
        """Itself, if it is a recording that can be used.

        Args:
            source: what to call it in an error.
            remedy: what the error says that one can do.

        Raises:
            DataError: no events, a pixel that the sensor does not have, or time running backwards, with the numbers.
        """
        if len(self) == 0:
            raise DataError(f"{source} holds no events; record it again, or move it out of the folder")
        # Each of these would be an index into the frames: a wrong one would be counted at another pixel.
        for name, limit in (("x", sensor.columns), ("y", sensor.rows), ("p", 2)):
            values = getattr(self, name)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= limit:
                pixels = f"the sensor has {limit} {'columns' if name == 'x' else 'rows'}"
                expected = pixels if name != "p" else "a polarity is 0 or 1"
                raise DataError(f"{source}: {name} runs from {low} to {high}, but {expected}; {remedy}")
        # Bins of equal number take events in the order of the file, so the order must be that of time.
        backwards = self.t[1:] < self.t[:-1]
        if backwards.any():
            first = int(np.argmax(backwards)) + 1
            raise DataError(
                f"{source}: time runs backwards {int(backwards.sum())} times, first at event {first} "
                f"({int(self.t[first - 1])} to {int(self.t[first])} µs); {remedy}"
            )
        return self

    def inside(self, sensor: Sensor) -> Events:
        """Those of the sensor's pixels."""
        good = (self.x >= 0) & (self.x < sensor.columns) & (self.y >= 0) & (self.y < sensor.rows)
        if good.all():
            return self
        left_out = self.left_out + int(len(good) - good.sum())
        return Events(_narrowed(self.x[good]), _narrowed(self.y[good]), self.p[good], self.t[good], left_out)

    def repaired(self, sensor: Sensor = DVS128) -> Events:
        """Without the events outside the sensor, in the order of time (of equal times the order is kept)."""
        found = self.inside(sensor)
        order = np.argsort(found.t, kind="stable")
        return Events(found.x[order], found.y[order], found.p[order], found.t[order], found.left_out)


def unwrapped(t: np.ndarray, clock: int, near: int) -> np.ndarray:
    """Times in µs [n], int64, where a camera's clock began again at 0.

    Args:
        clock: times before it does.
        near: times so near to both ends of the clock are one that began again, and no damage.
    """
    again = (t[:-1] > clock - near) & (t[1:] < near)
    if not again.any():
        return t
    # an event of the round before, in disorder, is no second round
    back = (t[:-1] < near) & (t[1:] > clock - near)
    return t + clock * np.concatenate([[0], np.cumsum(again.astype(np.int64) - back)])


def _whole(values: npt.ArrayLike, name: str, source: object) -> np.ndarray:
    """Whole numbers [n], of an integer type or bool."""
    # Torch tensors, lists and fields of structured arrays all come out as arrays here.
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "buif":
        raise DataError(
            f"{source}: {name} is {values.dtype} {list(values.shape)}; expected one whole number for each event"
        )
    # Real numbers are taken if all of them are whole: many libraries keep every field of an event as float.
    if values.dtype.kind == "f":
        wrong = ~(np.abs(values) < 2.0**63) | (values != np.floor(values))  # NaN is neither less nor equal
    # The only integers that do not fit into int64.
    elif values.dtype == np.uint64:
        wrong = values >= 2**63
    else:
        return values
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"{source}: {name} is {values[first]} at event {first}, and no whole number of 64 bits at "
            f"{int(wrong.sum())} of {len(values)} events; {HINTS[name]}"
        )
    return values.astype(np.int64)


def _narrowed(values: np.ndarray) -> np.ndarray:
    """As int16 where the numbers fit; others stay as they are, so that a check can name them."""
    # A cast would wrap 65541 around to 5, which is a pixel of the sensor.
    limits = np.iinfo(np.int16)
    fits = np.can_cast(values.dtype, np.int16) or not len(values)
    if fits or (values.min() >= limits.min and values.max() <= limits.max):
        return values.astype(np.int16)
    return values.astype(np.int64)


def _polarity(values: np.ndarray, source: object) -> np.ndarray:
    """Polarities 0 and 1, int8 [n]."""
    # Bool is how AEDAT 4 and tonic have it.
    if values.dtype.kind == "b" or not len(values):
        return values.astype(np.int8)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 1:
        return values.astype(np.int8)
    if low == -1 and high <= 1 and not (values == 0).any():  # the other usual way to say it
        return (values > 0).astype(np.int8)
    found = ", ".join(str(value) for value in np.unique(values)[:5])
    raise DataError(
        f"{source}: a polarity is 0 or 1 (or -1 and 1); found {found}. Map yours to 0 for darker and 1 for brighter"
    )
