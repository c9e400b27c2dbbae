"""Frames: a recording cut into T bins, in each of which the events of a pixel and polarity are counted.

Shapes: frames [T, 2, H, W]; a sequence of frames is what a network sees over its T time steps.
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.events.event import SENSOR, Events
from spikedistill.errors import DataError, InvalidArgument


@dataclasses.dataclass(frozen=True)
class Framing:
    """How a recording becomes frames.

    Args:
        timesteps: T, the number of bins.
        by: bins of equal "number" of events, or of equal "time".
        size: rows and columns that the frames are resized to (128: left as they are).
    """

    timesteps: int = 10
    by: Literal["number", "time"] = "number"
    size: int = 48

    def __post_init__(self) -> None:
        if self.timesteps < 1 or self.size < 1:
            raise InvalidArgument(
                f"frames need at least one bin and one pixel; given timesteps={self.timesteps}, size={self.size}"
            )
        if self.by not in BINNINGS:
            raise InvalidArgument(f"frames are cut by {' or '.join(BINNINGS)}; given {self.by!r}")


def _bins_by_number(t: np.ndarray, timesteps: int) -> np.ndarray:
    """Bin of each event: ⌊n/T⌋ events each, and the last takes what remains."""
    return np.minimum(np.arange(len(t)) // max(len(t) // timesteps, 1), timesteps - 1)


def _bins_by_time(t: np.ndarray, timesteps: int) -> np.ndarray:
    """Bin of each event: T parts of the time from the first event to the last."""
    span = max(int(t[-1] - t[0]), 1)
    return np.minimum((t - t[0]) * timesteps // span, timesteps - 1)


BINNINGS = {"number": _bins_by_number, "time": _bins_by_time}


def to_frames(events: Events, timesteps: int, by: str = "number", sensor: int = SENSOR) -> np.ndarray:
    """Count events: int64 [T, 2, sensor, sensor]. A bin without events is an empty frame.

    Raises:
        DataError: no events.
        InvalidArgument: T below 1 or an unknown way to cut.
    """
    Framing(timesteps, by)  # type: ignore[arg-type]
    if len(events) == 0:
        raise DataError("there are no events to make frames of")
    cell = (BINNINGS[by](events.t, timesteps) * 2 + events.p) * sensor + events.y
    counts = np.bincount(cell * sensor + events.x, minlength=timesteps * 2 * sensor * sensor)
    return counts.reshape(timesteps, 2, sensor, sensor)


def resized(frames: np.ndarray | Tensor, size: int) -> Tensor:
    """Frames [T, 2, size, size], float32: bilinear with antialiasing, as torchvision's Resize."""
    frames = torch.as_tensor(frames).float()
    if frames.shape[-2:] == (size, size):
        return frames
    return F.interpolate(frames, (size, size), mode="bilinear", antialias=True)


def read_frames_npz(path: str | Path, timesteps: int, sensor: int = SENSOR) -> np.ndarray:
    """Ready-made frames in SpikingJelly's layout: the key `frames`, [T, 2, H, W].

    Raises:
        DataError: damaged, or of another T or shape.
    """
    frames = read_npz(Path(path), ("frames",))["frames"]
    if frames.shape != (timesteps, 2, sensor, sensor):
        raise DataError(
            f"{path}: frames are {list(frames.shape)}, expected [T, 2, H, W] = {[timesteps, 2, sensor, sensor]}; use "
            "the folder that was made for this T, or set --timesteps to it"
        )
    return frames


def read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an npz file; pickles are refused.

    Raises:
        DataError: damaged, or without one of the keys.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in keys if key not in arrays]
            if missing:
                raise DataError(f"{path} has no array {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
            return {key: arrays[key] for key in keys}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable npz file: {error}") from error
