"""Images in memory as uint8, and their random changes as batched tensor operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.augmentation import Augmentation, Draw
from spikedistill.errors import DataError

IMAGE_CHANGES = ("crop", "flip", "autoaugment", "cutout")


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Pictures and labels.

    Attributes:
        images: uint8 [M, C, H, W].
        labels: int64 [M].
        classes: names, by label.
        mean, std: per channel, in units of the pixel range 0..1.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or len(self.images) != len(self.labels):
            raise DataError(
                f"images must be uint8 [M, C, H, W] with M labels; given {self.images.dtype} "
                f"{tuple(self.images.shape)} and {len(self.labels)} labels"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())}, but there are "
                f"{len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor | slice) -> ImageSet:
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device) -> ImageSet:
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def device(self) -> torch.device:
        return self.images.device

    def description(self) -> dict[str, Any]:
        """What a network that was trained on these pictures expects (`config.json`)."""
        return {"kind": "image", "shape": list(self.images.shape[1:]), "mean": self.mean, "std": self.std}

    def read(self, index: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, C, H, W]."""
        return (self.images[index.to(self.device)],)

    def read_changed(
        self, index: Tensor, share: Tensor, how: Augmentation, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """uint8 [N, C, H, W]; with Cutout also the centres [N, 2] and the side of the squares."""
        how.only(IMAGE_CHANGES, "pictures in memory")
        height, width = self.images.shape[2:]
        draw = Draw.make(len(index), height, width, how, generator).rows(share).to(self.device)
        images = augment(self.images[index[share].to(self.device)], how, draw)
        if how.autoaugment:
            images = draw.policy.apply(images)
        return (images, draw.centre, torch.tensor(how.cutout)) if how.cutout else (images,)

    def finish(self, *parts: Tensor) -> Tensor:
        """Normalised, and cut out: the mean is known only here."""
        images, *hole = parts
        images = normalised(images, self.mean, self.std)
        return cut_out(images, hole[1], hole[0]) if hole else images

    def batch(self, index: Tensor) -> Tensor:
        """Pictures as they are, normalised: [N, C, H, W]."""
        return self.finish(*self.read(index))


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [N, C, H, W] → float32, less the mean and by the deviation of each channel (of 0..1), channels_last."""
    centre = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    spread = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    images = images.to(torch.float32, memory_format=torch.channels_last)
    return images.div_(255).sub_(centre).div_(spread)


def augment(images: Tensor, how: Augmentation, draw: Draw) -> Tensor:
    """Crop and flip uint8 images [N, C, H, W] by `draw`: one gather."""
    count, channels, height, width = images.shape
    row = torch.arange(height, device=images.device) + draw.offset[:, :1]
    column = torch.arange(width, device=images.device).expand(count, width)
    column = torch.where(draw.flip[:, None], width - 1 - column, column) + draw.offset[:, 1:]
    padded = F.pad(images, [how.crop] * 4) if how.crop else images
    place = row[:, :, None] * padded.shape[3] + column[:, None, :]
    return padded.flatten(2).gather(2, place.view(count, 1, -1).expand(-1, channels, -1)).view(images.shape)


def cut_out(images: Tensor, side: int | Tensor, centre: Tensor) -> Tensor:
    """Set a square of `side` around each `centre` [N, 2] to zero, the mean of normalised images; in place."""
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device) - (centre[:, :1] - side // 2)
    column = torch.arange(width, device=images.device) - (centre[:, 1:] - side // 2)
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    return images.masked_fill_(inside[:, None], 0.0)
