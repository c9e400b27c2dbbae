"""What a user may say about recordings of events."""

from __future__ import annotations

import dataclasses

from spikedistill.data.events.event import Sensor
from spikedistill.data.events.frames import BINNINGS, Framing, Shown, check_shown, frames_wanted
from spikedistill.data.events.layouts import FOLDERS, Layout
from spikedistill.data.events.splits import SPLITS
from spikedistill.errors import InvalidArgument, choose

LARGEST = 10_000
"""Rows or columns of a sensor."""


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """How recordings become samples.

    Args:
        by: frames of equal "number" of events or of equal "time".
        frames: how many (null: T; the ANN twin, which has none, sees the mean of so many).
        shown: "each": a frame at each step; "mean": the mean of all at every step, so that T is free.
        size: rows and columns that frames are resized to (null: as is usual for the data set).
        split: a key of `SPLITS`, or "folders" for recordings that lie in train/ and test/ (null: the data set's own).
        sensor: rows and columns of the camera (null: that of the data set).
        cache: folder that keeps the prepared frames (null: ~/.cache/spikedistill).
        repair: leave out impossible events and sort by time, instead of refusing the file.
    """

    by: str = "number"
    frames: int | None = None
    shown: Shown = "each"
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
        check_shown(self.shown)
        if self.frames is not None and self.frames < 1:
            raise InvalidArgument(f"data.events.frames is {self.frames}; expected at least 1")

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
            InvalidArgument: T is None (a network without time) and nobody says how many frames, or not possible.
        """
        wanted = frames_wanted(timesteps, self.frames, self.shown, "data.events")
        if wanted is None:
            raise InvalidArgument(
                "the ANN twin has no T, so it does not say how many frames there are; say it: --data.events.frames 10"
            )
        assert self.size is not None
        assert self.sensor is not None
        return Framing(wanted, self.by, self.size, Sensor(*self.sensor), self.shown)

    def division(self) -> str:
        """How recordings are divided into training and test, in words."""
        assert self.split is not None
        return f"split {self.split}: {SPLITS[self.split][0] if self.split in SPLITS else 'train/ and test/'}"
