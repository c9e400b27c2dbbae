"""Pictures as events without a camera: I2E (Ma et al. 2025, arXiv 2511.08065), as pictures are read.

The brightness V of a pixel is the largest of its colours. In each of eight steps the picture is compared with itself,
moved by a pixel or two in one of eight directions of the half circle:

    ΔV = V(there) − V(here),   darker where ΔV < −0.12 · (max V − min V), brighter where ΔV is above that

So nothing is written, the changes of pictures (crop, flip, AutoAugment) come before the events, and a picture of one
colour has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.pictures.prepare import whole_picture
from spikedistill.data.samples import Raw, Samples, Wanted
from spikedistill.errors import InvalidArgument
from spikedistill.tasks.task import Targets

STEPS = (
    ((1, 1), (0, -1)),
    ((0, -1), (-1, 1)),
    ((-1, 1), (1, 0)),
    ((1, 0), (-1, -1)),
    ((0, 0), (0, 1)),
    ((0, 0), (-1, 0)),
    ((0, 0), (-1, 1)),
    ((0, 0), (-1, -1)),
)
"""Here and there of each step: row and column beside the pixel. The first four are one path, as an eye would jump."""
SHARE = 0.12
"""The smallest change that is an event, as a share of the range of a picture's brightness."""


def check_steps(timesteps: int | None) -> int:
    """T, if the eight steps can be made into so many frames.

    Raises:
        InvalidArgument: None (a network without time), or no divisor of eight.
    """
    if timesteps is None:
        raise InvalidArgument("events of pictures have time steps; the ANN twin has none: give it the pictures")
    if timesteps < 1 or len(STEPS) % timesteps:
        raise InvalidArgument(f"a picture has events of 8 steps, in 8, 4, 2 or 1 frames; given --timesteps {timesteps}")
    return timesteps


def shifted(pictures: Tensor, timesteps: int = len(STEPS)) -> Tensor:
    """Events of uint8 pictures [N, C, H, W], counted: float32 [T, N, 2, H, W], darker and brighter.

    With fewer frames than steps, each counts the events of as many steps that follow each other.
    """
    count, (height, width) = len(pictures), pictures.shape[2:]
    brightness = pictures.amax(1, keepdim=True).float()
    flat = brightness.flatten(1)
    limit = (SHARE * (flat.amax(1) - flat.amin(1))).view(-1, 1, 1)
    padded = F.pad(brightness, [1] * 4, mode="replicate")[:, 0]

    def moved(by: tuple[int, int]) -> Tensor:
        return padded[:, 1 + by[0] : 1 + by[0] + height, 1 + by[1] : 1 + by[1] + width]

    events = padded.new_zeros(timesteps, count, 2, height, width)
    for step, (here, there) in enumerate(STEPS):
        change = moved(there) - moved(here)
        frame = events[step * timesteps // len(STEPS)]
        frame[:, 0] += change < -limit
        frame[:, 1] += change > limit
    return events


@dataclasses.dataclass(frozen=True)
class ShiftedSet:
    """Pictures in memory that are handed out as events.

    Attributes:
        pictures: and targets.
        timesteps: T, the frames of each.

    Raises:
        InvalidArgument: another T than 8, 4, 2 or 1.
    """

    pictures: ImageSet
    timesteps: int

    def __post_init__(self) -> None:
        check_steps(self.timesteps)

    @property
    def targets(self) -> Targets:
        return self.pictures.targets

    @property
    def device(self) -> torch.device:
        return self.pictures.device

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, index: Tensor | slice) -> ShiftedSet:
        return dataclasses.replace(self, pictures=self.pictures.rows(index))

    def to(self, device: torch.device) -> ShiftedSet:
        return dataclasses.replace(self, pictures=self.pictures.to(device))

    def with_targets(self, targets: Targets) -> ShiftedSet:
        return dataclasses.replace(self, pictures=self.pictures.with_targets(targets))

    def description(self) -> dict[str, Any]:
        """What a network that learned these events is fed."""
        channels, *size = self.pictures.images.shape[1:]
        described = {"kind": "shifts", "shape": [2, *size], "channels": channels, "timesteps": self.timesteps}
        return described | ({"stretched": True} if self.pictures.stretched else {})

    def read(self, index: Tensor) -> Raw:
        """uint8 pictures [N, C, H, W]: the events are made of them where they are needed."""
        return self.pictures.read(index)

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """uint8 pictures [N, C, H, W]."""
        return self.read_changed_batches([Wanted(index, share, generator)], augmentation)[0]

    def read_changed_batches(self, wanted: Sequence[Wanted], augmentation: Augmentation) -> list[Raw]:
        """As `read_changed` for each."""
        augmentation.only(("crop", "flip", "autoaugment"), "events of pictures")
        return self.pictures.read_changed_batches(wanted, augmentation)

    def finish(self, raw: Raw) -> Batch:
        """Events [T, N, 2, H, W]."""
        return Batch(shifted(raw.parts[0], self.timesteps), raw.targets)

    def batch(self, index: Tensor) -> Batch:
        """Events [T, N, 2, H, W] of the pictures as they are."""
        return self.finish(self.read(index))


def shifted_picture(path: str | Path, description: Mapping[str, Any]) -> Tensor:
    """A picture file as events [T, 1, 2, H, W], as in evaluation.

    Args:
        description: of the samples that the network learned, `Samples.description()`.

    Raises:
        DataError: not a readable picture.
    """
    picture = whole_picture(path, {**description, "shape": [description["channels"], *description["shape"][1:]]})
    return shifted(picture, description["timesteps"])


def reader_of(name: str, pictures: DataSet) -> Callable[[DataSet, Request], Samples]:
    """A reader of the events of another data set's pictures.

    Args:
        name, pictures: that data set's row.
    """

    def read(dataset: DataSet, request: Request) -> ShiftedSet:
        steps = check_steps(request.timesteps)
        found = pictures.read(dataclasses.replace(request, name=name))
        assert isinstance(found, ImageSet)  # such rows are made of pictures in memory only
        return ShiftedSet(found, steps)

    return read
