"""Frames: a recording cut into T bins, in each of which the events of a pixel and polarity are counted.

Shapes: frames [T, 2, H, W]; a sequence of frames is what a network sees over its T time steps.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.events.event import DVS128, Events, Sensor
from spikedistill.data.npz import read_npz
from spikedistill.errors import DataError, InvalidArgument, choose

Shown = Literal["each", "mean"]
"""What a network sees of frames: one at each step, or the mean of all at every step."""
LARGEST = 65504
"""The largest float16, in which frames are kept."""


@dataclasses.dataclass(frozen=True)
class Framing:
    """How a recording becomes frames.

    Args:
        timesteps: T, the number of bins.
        by: bins of equal "number" of events, or of equal "time".
        size: rows and columns that the frames are resized to (those of the sensor: left as they are).
        sensor: rows and columns of the camera.
        shown: the frame of each bin at a step of its own, or the mean of all at every step.

    Raises:
        InvalidArgument: less than one bin or pixel, or an unknown way to cut or to show.
    """

    timesteps: int = 10
    by: str = "number"
    size: int = 48
    sensor: Sensor = DVS128
    shown: Shown = "each"

    def __post_init__(self) -> None:
        check_shown(self.shown)
        object.__setattr__(self, "sensor", as_sensor(self.sensor))
        if not isinstance(self.timesteps, int) or not isinstance(self.size, int):
            raise InvalidArgument(
                f"frames have whole numbers of bins and pixels; given timesteps={self.timesteps}, size={self.size}"
            )
        if min(self.timesteps, self.size, *self.sensor) < 1:
            raise InvalidArgument(
                f"frames need at least one bin and one pixel; given timesteps={self.timesteps}, size={self.size}, "
                f"{self.sensor}"
            )
        if self.by not in BINNINGS:
            raise InvalidArgument(f"frames are cut by {' or '.join(BINNINGS)}; given {self.by!r}")

    def cut(self) -> dict[str, Any]:
        """What decides the frames, as plain values in the form in which JSON gives them back."""
        values = dataclasses.asdict(self) | {"sensor": list(self.sensor)}
        del values["shown"]
        return values

    def says(self) -> dict[str, Any]:
        """All of it, likewise; a frame at each step goes without saying, as in older runs."""
        return self.cut() | ({} if self.shown == "each" else {"shown": self.shown})


def check_shown(shown: object) -> None:
    """Raise InvalidArgument unless it is a way to show frames."""
    choose("way to show frames", str(shown), get_args(Shown))


def frames_wanted(timesteps: int | None, frames: int | None, shown: Shown, setting: str) -> int | None:
    """How many frames a sample has for a network of T steps (None: the ANN twin); None where nobody says it.

    Args:
        frames: what the user said.
        setting: the group of recipe fields, for an error.

    Raises:
        InvalidArgument: another number of frames than steps, where each has one.
    """
    if shown == "each" and timesteps is not None and frames not in (None, timesteps):
        raise InvalidArgument(
            f"{setting}.frames is {frames}, and the network has T = {timesteps} time steps: a frame each. Leave it "
            f"out, or show their mean: --{setting}.shown mean"
        )
    return frames or timesteps


def fed(frames: Tensor, shown: Shown) -> Tensor:
    """Frames over time [F, N, ...] as a network is fed, float32: so, or their mean [N, ...]."""
    frames = frames.float()
    return frames.mean(0) if shown == "mean" else frames.contiguous()


def as_sensor(sensor: object) -> Sensor:
    """Rows and columns, of any two whole numbers: JSON gives a list.

    Raises:
        InvalidArgument: something else.
    """
    sides = tuple(sensor) if isinstance(sensor, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in sides):
        raise InvalidArgument(
            f"a sensor is (rows, columns), two whole numbers; given {sensor!r} (tonic's sensor_size is columns, rows, "
            "polarities)"
        )
    return Sensor(int(sides[0]), int(sides[1]))


def _bins_by_number(t: np.ndarray, timesteps: int) -> np.ndarray:
    """Bin of each event: ⌊n/T⌋ events each, and the last takes what remains."""
    # With fewer events than bins each bin has one event, and the last bins have none.
    return np.minimum(np.arange(len(t)) // max(len(t) // timesteps, 1), timesteps - 1)


def _bins_by_time(t: np.ndarray, timesteps: int) -> np.ndarray:
    """Bin of each event: T parts of the time from the first event to the last."""
    span = max(int(t[-1] - t[0]), 1)
    # The last event would fall into a bin of its own: it belongs to the last one.
    return np.minimum((t - t[0]) * timesteps // span, timesteps - 1)


def to_frames_between(events: Events, timesteps: int, start: int, end: int, sensor: Sensor) -> np.ndarray:
    """Count events in T parts of the time from `start` to `end`: int64 [T, 2, rows, columns].

    Args:
        events: of that time, and of the sensor; there may be none.
        start, end: in µs.
    """
    bins = (events.t - start) * timesteps // (end - start)
    return _counted(events, bins, timesteps, sensor)


def _counted(events: Events, bins: np.ndarray, timesteps: int, sensor: Sensor) -> np.ndarray:
    # One number for each pixel, polarity and bin: counting these is counting events.
    cell = (bins * 2 + events.p) * sensor.rows + events.y
    counts = np.bincount(cell * sensor.columns + events.x, minlength=timesteps * 2 * sensor.rows * sensor.columns)
    return counts.reshape(timesteps, 2, *sensor)


BINNINGS = {"number": _bins_by_number, "time": _bins_by_time}


def to_frames(events: Events, timesteps: int, by: str = "number", sensor: Sensor = DVS128) -> np.ndarray:
    """Count events: int64 [T, 2, rows, columns] of the sensor. A bin without events is an empty frame.

    Raises:
        DataError: no events, events outside the sensor, or time running backwards.
        InvalidArgument: T below 1, an unknown way to cut, or a sensor that is none.
    """
    sensor = Framing(timesteps, by, sensor=sensor).sensor
    events.checked("a recording to make frames of", sensor, "leave such events out, or sort them by time")
    return _counted(events, BINNINGS[by](events.t, timesteps), timesteps, sensor)


def resized(frames: np.ndarray | Tensor, size: int) -> Tensor:
    """Frames [T, 2, size, size], float32: bilinear with antialiasing, as torchvision's Resize."""
    frames = torch.as_tensor(frames).float()
    # Resizing to the same size would leave the values, but not for free.
    if frames.shape[-2:] == (size, size):
        return frames
    return F.interpolate(frames, (size, size), mode="bilinear", antialias=True)


def checked_frames(frames: np.ndarray, source: object) -> np.ndarray:
    """The same frames, if every number in them is a count that a network can be fed.

    One NaN would reach all weights in a step of training, without a word.

    Raises:
        DataError: no numbers, or numbers that are NaN, infinite, negative or too large for float16.
    """
    # Text, complex numbers and objects are no counts; some of them would survive the conversion to float.
    if frames.dtype.kind not in "buif":
        raise DataError(f"{source}: frames are {frames.dtype}; expected counts of events, whole or real numbers")
    if frames.size == 0:
        raise DataError(f"{source}: frames are empty ({list(frames.shape)})")
    # Two passes over the frames; a mask of finite numbers is made only to describe what was found.
    low, high = float(frames.min()), float(frames.max())  # NaN if any of them is
    if not (low >= 0 and high <= LARGEST):
        problem = f"run from {low:g} to {high:g}"
        if not np.isfinite(frames).all():
            problem = f"hold {int((~np.isfinite(frames)).sum())} numbers that are NaN or infinite"
        raise DataError(
            f"{source}: frames {problem}; expected counts of events from 0 to {LARGEST}. Make these frames again, or "
            "leave the recording out"
        )
    return frames


def finished_frames(frames: np.ndarray, size: int, source: object) -> np.ndarray:
    """Frames [T, 2, H, W] as they are kept: checked, resized, float16 [T, 2, size, size].

    Raises:
        DataError: as `checked_frames`.
    """
    return resized(checked_frames(frames, source), size).half().numpy()


def read_frames_npz(path: str | Path, timesteps: int, sensor: Sensor = DVS128) -> np.ndarray:
    """Ready-made frames in SpikingJelly's layout: the key `frames`, [T, 2, H, W].

    Raises:
        DataError: damaged, of another T or shape, or with numbers that are no counts.
    """
    frames = read_npz(Path(path), ("frames",))["frames"]
    if frames.shape != (timesteps, 2, *sensor):
        raise DataError(
            f"{path}: frames are {list(frames.shape)}, expected [T, 2, H, W] = {[timesteps, 2, *sensor]}; use "
            "the folder that was made for this T, or set --timesteps to it"
        )
    return checked_frames(frames, path)
