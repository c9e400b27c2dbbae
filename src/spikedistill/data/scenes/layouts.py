"""Data sets of recordings with boxes: which camera, which classes, which boxes count. Another is one more row."""

from __future__ import annotations

import dataclasses

from spikedistill.data.events.event import Sensor
from spikedistill.tasks.boxes import ANY_SIZE, Smallest


@dataclasses.dataclass(frozen=True)
class SceneLayout:
    """A data set of recordings with boxes, in train/ and test/.

    Attributes:
        sensor: of the camera (None: what the headers of the recordings say).
        classes: names by number (None: a line each in ROOT/classes.txt).
        skip: boxes of the first so many ms do not count; with 0 all do.
        smallest: boxes that are smaller do not count.
    """

    sensor: Sensor | None = None
    classes: tuple[str, ...] | None = None
    skip: float = 0.0
    smallest: Smallest = ANY_SIZE


MEGAPIXEL = ("pedestrian", "two wheeler", "car", "truck", "bus", "traffic sign", "traffic light")

SCENES = {
    # which boxes count, true ones and found ones, is as published results on these two have it (Perot et al. 2020)
    "gen1": SceneLayout(Sensor(240, 304), ("car", "pedestrian"), 500.0, Smallest(diagonal=30.0, side=10.0)),
    "megapixel": SceneLayout(Sensor(720, 1280), MEGAPIXEL, 500.0, Smallest(diagonal=60.0, side=20.0)),
    "event-boxes": SceneLayout(),
}
