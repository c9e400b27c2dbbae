"""Data sets of recordings with boxes: which camera, which classes, which boxes count. Another is one more row."""

from __future__ import annotations

import dataclasses

from spikedistill.data.events.event import Sensor


@dataclasses.dataclass(frozen=True)
class SceneLayout:
    """A data set of recordings with boxes, in train/ and test/.

    Attributes:
        sensor: of the camera (None: what the headers of the recordings say).
        classes: names by number (None: a line each in ROOT/classes.txt).
        skip: boxes of the first so many ms do not count.
        diagonal, side: boxes with a shorter diagonal or side, in pixels, do not count.
    """

    sensor: Sensor | None = None
    classes: tuple[str, ...] | None = None
    skip: float = 0.0
    diagonal: float = 0.0
    side: float = 0.0


MEGAPIXEL = ("pedestrian", "two wheeler", "car", "truck", "bus", "traffic sign", "traffic light")

SCENES = {
    # which boxes count is as published results on these two have it (Perot et al. 2020)
    "gen1": SceneLayout(Sensor(240, 304), ("car", "pedestrian"), skip=500.0, diagonal=30.0, side=10.0),
    "megapixel": SceneLayout(Sensor(720, 1280), MEGAPIXEL, skip=500.0, diagonal=60.0, side=20.0),
    "event-boxes": SceneLayout(),
}
