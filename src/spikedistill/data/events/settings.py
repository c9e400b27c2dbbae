"""What a user may say about recordings of events."""

from __future__ import annotations

import dataclasses

from spikedistill.data.events.event import Sensor
from spikedistill.data.events.frames import BINNINGS, Framing
from spikedistill.data.events.layouts import FOLDERS, Layout
from spikedistill.data.events.splits import SPLITS
from spikedistill.errors import InvalidArgument, choose

LARGEST = 10_000
"""Rows or columns of a sensor."""


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """How recordings become samples.

    Args:
        by: frames of equal "number" of events or of equal "time"; there are T of them.
        size: rows and columns that frames are resized to (null: as is usual for the data set).
        split: a key of `SPLITS`, or "folders" for recordings that lie in train/ and test/ (null: the data set's own).
        sensor: rows and columns of the camera (null: that of the data set).
        cache: folder that keeps the prepared frames (null: ~/.cache/spikedistill).
        repair: leave out impossible events and sort by time, instead of refusing the file.
    """

    by: str = "number"
    size: int | None = None
    split: str | None = None
    sensor: list[int] | None = None
    cache: str | None = None
    repair: bool = False

    def __post_init__(self) -> None:
        if self.split is not None:
            choose("split", self.split, [*SPLITS, FOLDERS])
        whole = [n for n in self.sensor or () if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= LARGEST]
        if self.sensor is not None and not len(whole) == len(self.sensor) == 2:
            raise InvalidArgument(
                f"data.events.sensor is {self.sensor}; expected rows and columns from 1 to {LARGEST}, as [180, 240]"
            )
        choose("way to cut frames", self.by, BINNINGS)

    def of(self, layout: Layout) -> EventSettings:
        """The same, with what was left open as the data set has it."""
        return dataclasses.replace(
            self,
            size=layout.size if self.size is None else self.size,
            split=layout.split if self.split is None else self.split,
            sensor=list(layout.sensor) if self.sensor is None else self.sensor,
        )

    def framing(self, timesteps: int | None) -> Framing:
        """Frames for a network of T time steps, where nothing is left open (`of`).

        Raises:
            InvalidArgument: T is None (a network without time), or not possible.
        """
        if timesteps is None:
            raise InvalidArgument("event frames are as many as time steps; the ANN twin has none, so it needs pictures")
        assert self.size is not None
        assert self.sensor is not None
        return Framing(timesteps, self.by, self.size, Sensor(*self.sensor))

    def division(self) -> str:
        """How recordings are divided into training and test, in words."""
        assert self.split is not None
        return f"split {self.split}: {SPLITS[self.split][0] if self.split in SPLITS else 'train/ and test/'}"
