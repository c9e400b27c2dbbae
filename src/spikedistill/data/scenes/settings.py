"""What a user may say about recordings with boxes."""

from __future__ import annotations

import dataclasses
from typing import Any

from spikedistill.data.events.event import Sensor
from spikedistill.data.events.frames import Shown, check_shown, frames_wanted
from spikedistill.errors import InvalidArgument

LONGEST = 1e6
"""ms of a window."""


@dataclasses.dataclass(frozen=True)
class Windowing:
    """How a window of events becomes binary frames.

    Args:
        timesteps: frames of equal time; where each is shown at a step of its own, T.
        window: ms.
        sensor: rows and columns of the camera.
        shown: a frame at each step, or their mean at every step.

    Raises:
        InvalidArgument: numbers that are not above 0, or no such way to show them.
    """

    timesteps: int
    window: float
    sensor: Sensor
    shown: Shown = "each"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sensor", Sensor(*self.sensor))  # JSON gives a list
        whole = (self.timesteps, *self.sensor)
        if not all(isinstance(n, int) and n > 0 for n in whole) or not 0 < self.window < LONGEST:
            raise InvalidArgument(f"frames of a window need whole numbers above 0, and some ms; given {self}")
        check_shown(self.shown)

    @property
    def microseconds(self) -> int:
        """Of a window."""
        return round(self.window * 1000)

    def cut(self) -> dict[str, Any]:
        """What decides the frames, as plain values in the form in which JSON gives them back."""
        return {"timesteps": self.timesteps, "window": self.window, "sensor": list(self.sensor)}

    def says(self) -> dict[str, Any]:
        """All of it, likewise; a frame at each step goes without saying, as in older runs."""
        return self.cut() | ({} if self.shown == "each" else {"shown": self.shown})


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """How recordings with boxes become samples.

    Args:
        window: ms before a labelled time that a sample shows.
        frames: how many, of equal time (null: T; the ANN twin, which has none, sees the mean of so many).
        shown: "each": a frame at each step; "mean": the mean of all at every step, so that T is free.
        cache: folder that keeps the prepared frames (null: ~/.cache/spikedistill).
        apart: ms that the labelled times of a recording are apart at least; what follows sooner is left out.
        repair: cut boxes at the edge of the sensor, mend times that run backwards, and leave out boxes and events that
            cannot be used, instead of refusing them.

    Raises:
        InvalidArgument: a window or number of frames that is not above 0.
    """

    window: float = 100.0
    frames: int | None = None
    shown: Shown = "each"
    cache: str | None = None
    apart: float = 0.0
    repair: bool = False

    def __post_init__(self) -> None:
        check_shown(self.shown)
        if not 0 < self.window < LONGEST:
            raise InvalidArgument(f"data.scenes.window is {self.window}; expected ms above 0")
        if not 0 <= self.apart < LONGEST:
            raise InvalidArgument(f"data.scenes.apart is {self.apart}; expected ms, 0 or more")
        if self.frames is not None and self.frames < 1:
            raise InvalidArgument(f"data.scenes.frames is {self.frames}; expected at least 1")

    def timesteps(self, timesteps: int | None) -> int:
        """The number of frames for a network of T time steps.

        Raises:
            InvalidArgument: neither says it, or both do.
        """
        wanted = frames_wanted(timesteps, self.frames, self.shown, "data.scenes")
        if wanted is None:
            raise InvalidArgument(
                "the ANN twin has no T, so it does not say how many frames there are; say it: --data.scenes.frames 5"
            )
        return wanted
