"""Scenes of recorded things that move over a larger sensor, in the files of GEN1.

Digits of N-MNIST were recorded by a camera (which saccades over a still digit, Orchard et al. 2015), pictures by a
simulated one. Position, start time and motion are drawn. Noise events are uniform over sensor and time. So boxes are
known exactly: where the thing's own events lie at the labelled time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from spikedistill.data.batches import generator_for
from spikedistill.data.events.dat import write_dat
from spikedistill.data.events.event import Events, Sensor
from spikedistill.data.scenes.box_files import LabelledBoxes, write_boxes
from spikedistill.data.scenes.things import Things
from spikedistill.data.scenes.windows import LABELS, RECORDING
from spikedistill.errors import InvalidArgument
from spikedistill.machine.files import whole_folder
from spikedistill.machine.progress import show_progress

EDGE = 0.01
"""Share of a thing's events that may lie beyond each side of its box: single ones far off are the camera's noise."""
TRIES = 100
"""Positions that are drawn for a thing before it is left out of a scene."""
PERIOD = 100_000
"""µs of events before the label from which a box is taken: one saccade."""
NOTE = """Numbers measured on these scenes are not comparable with those of other data sets.
"""


@dataclasses.dataclass(frozen=True)
class Scenery:
    """What a scene looks like.

    Args:
        sensor: rows and columns.
        most: things in a scene, 1 to so many.
        length: of a scene, in µs; the label is at its end.
        speed: largest motion in each direction, in pixels per second.
        noise: events per pixel and second.
        overlap: intersection over union of two boxes, at most.

    Raises:
        InvalidArgument: no pixel, no thing, or no time.
    """

    sensor: Sensor = Sensor(96, 128)
    most: int = 4
    length: int = 150_000
    speed: float = 60.0
    noise: float = 0.5
    overlap: float = 0.1

    def __post_init__(self) -> None:
        if min(*self.sensor, self.most, self.length) < 1:
            raise InvalidArgument(f"a scene needs a sensor, a thing and some time; given {self}")


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Events and boxes.

    Attributes:
        events: in the order of time.
        boxes: at its end.
    """

    events: Events
    boxes: LabelledBoxes


def make_scenes(
    things: Mapping[str, Things], out: Path, counts: Mapping[str, int], seed: int, scenery: Scenery | None = None
) -> int:
    """Write scenes: of each part those of its own things.

    Args:
        things: by part ("train", "test"), of the same classes.
        counts: scenes by part.

    Returns:
        The number of boxes.

    Raises:
        DataError: `out` holds something already, or a recording cannot be used.
        InvalidArgument: a sensor that is smaller than a thing's.
        WriteError: a file could not be written; `out` is then not there.
    """
    scenery, boxes = scenery or Scenery(), 0
    some = next(iter(things.values()))
    if some.sensor.rows > scenery.sensor.rows or some.sensor.columns > scenery.sensor.columns:
        raise InvalidArgument(
            f"a scene needs a sensor of at least {some.sensor.columns} × {some.sensor.rows} pixels; given {scenery}"
        )
    with whole_folder(out) as unfinished:
        for number, (part, count) in enumerate(counts.items()):
            (unfinished / part).mkdir()
            for k in range(count):
                # numbers of its own, so that a scene does not depend on how many there are
                scene = make_scene(things[part], scenery, generator_for(seed, number, k))
                name = f"scene_{k:05}"
                write_dat(unfinished / part / f"{name}{RECORDING}", scene.events, scenery.sensor)
                write_boxes(unfinished / part / f"{name}{LABELS}", scene.boxes)
                boxes += len(scene.boxes)
                show_progress(f"making {part}", k + 1, k, count)
        (unfinished / "classes.txt").write_text("".join(f"{name}\n" for name in some.classes))
        about = f"Scenes made by spikedistill: {some.note}\n{NOTE}seed {seed}, {scenery}\n"
        (unfinished / "README.txt").write_text(about)
    return boxes


def make_scene(things: Things, scenery: Scenery, generator: torch.Generator) -> Scene:
    """Draw a scene: 1 to `most` things that do not hide each other, and noise."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def whole(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    parts, boxes = [_noise(scenery, generator)], list[tuple[float, float, float, float, int]]()
    for _ in range(1 + whole(scenery.most)):
        events, label = things[whole(len(things))]
        shown = _cut(events, uniform(0, max(0, int(events.t[-1]) - scenery.length)), scenery.length)
        if not len(shown):
            continue
        own = _own_box(shown, scenery.length)
        velocity = (uniform(-scenery.speed, scenery.speed), uniform(-scenery.speed, scenery.speed))
        for _ in range(TRIES):
            left = uniform(0, scenery.sensor.columns - own[2])
            top = uniform(0, scenery.sensor.rows - own[3])
            box = (left, top, own[2], own[3], label)
            if all(_overlap(box, other) <= scenery.overlap for other in boxes):
                # where the recording's own corner lies at the label, and before
                parts.append(_moved(shown, (left - own[0], top - own[1]), velocity, scenery))
                boxes.append(box)
                break
    events = _together(parts)
    times = np.full(len(boxes), scenery.length, np.int64)
    return Scene(events, LabelledBoxes(times, torch.tensor(boxes).view(-1, 5).float()))


def _cut(events: Events, start: float, length: int) -> Events:
    """The events of `length` µs from `start` on, whose times begin at 0."""
    first, last = np.searchsorted(events.t, [start, start + length])
    rows = slice(int(first), int(last))
    return Events(events.x[rows], events.y[rows], events.p[rows], events.t[rows] - round(start))


def _own_box(events: Events, length: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of a thing in its recording, by its events of the last saccade."""
    late = events.t >= length - PERIOD
    sides = [np.quantile(values[late] if late.any() else values, [EDGE, 1 - EDGE]) for values in (events.x, events.y)]
    (left, right), (top, bottom) = sides
    # a pixel is as wide as one: from its left side to the right side of the last
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _moved(events: Events, place: tuple[float, float], velocity: tuple[float, float], scenery: Scenery) -> Events:
    """A thing on the large sensor, at `place` at the end; what lies beyond the sensor is not seen."""
    before = (events.t - scenery.length) / 1e6
    x = np.floor(events.x + place[0] + velocity[0] * before + 0.5).astype(np.int64)
    y = np.floor(events.y + place[1] + velocity[1] * before + 0.5).astype(np.int64)
    seen = (x >= 0) & (x < scenery.sensor.columns) & (y >= 0) & (y < scenery.sensor.rows)
    return Events(x[seen], y[seen], events.p[seen], events.t[seen])


def _noise(scenery: Scenery, generator: torch.Generator) -> Events:
    rows, columns = scenery.sensor
    mean = scenery.noise * rows * columns * scenery.length / 1e6
    count = int(torch.poisson(torch.tensor(float(mean)), generator=generator))
    limits = (columns, rows, 2, scenery.length)
    x, y, p, t = (torch.randint(limit, (count,), generator=generator).numpy() for limit in limits)
    return Events(x, y, p, t)


def _together(parts: list[Events]) -> Events:
    x, y, p, t = (np.concatenate([getattr(part, name) for part in parts]) for name in "xypt")
    order = np.argsort(t, kind="stable")
    return Events.of(x[order], y[order], p[order], t[order], "a scene")


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
