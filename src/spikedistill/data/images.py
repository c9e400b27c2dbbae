"""Images in memory as uint8, and the batches of an epoch.

Every random choice comes from (seed, epoch, batch), so a batch can be made again without those before it, and the
processes of a distributed run draw the same numbers and each takes its share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.errors import DataError, InvalidArgument


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

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] → float32, zero mean and unit variance by this set's constants, channels_last."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training pictures, as batched tensor operations.

    Args:
        crop: pixels of zero padding before a random crop to the old size; 0: none.
        flip: mirror left-right with probability 1/2.
        cutout: side of a square set to the mean, its centre anywhere in the picture (Cutout); 0: none.
    """

    crop: int = 4
    flip: bool = True
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise InvalidArgument(f"crop and cutout are pixels, at least 0; given {self.crop} and {self.cutout}")


@dataclasses.dataclass(frozen=True)
class Draw:
    """The random numbers of one batch: offsets of the crop, flips and centres of the cutout, each [N, ...]."""

    offset: Tensor
    flip: Tensor
    centre: Tensor

    @classmethod
    def make(cls, count: int, height: int, width: int, how: Augmentation, generator: torch.Generator) -> Draw:
        offset = torch.randint(0, 2 * how.crop + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
        return cls(offset, flip if how.flip else torch.zeros_like(flip), centre.long())

    def rows(self, index: Tensor) -> Draw:
        return Draw(self.offset[index], self.flip[index], self.centre[index])

    def to(self, device: torch.device) -> Draw:
        return Draw(self.offset.to(device), self.flip.to(device), self.centre.to(device))


def augment(images: Tensor, how: Augmentation, draw: Draw) -> Tensor:
    """Crop and flip uint8 images [N, C, H, W] by `draw`: one gather."""
    count, _, height, width = images.shape
    row = torch.arange(height, device=images.device) + draw.offset[:, :1]
    column = torch.arange(width, device=images.device).expand(count, width)
    column = torch.where(draw.flip[:, None], width - 1 - column, column) + draw.offset[:, 1:]
    padded = F.pad(images, [how.crop] * 4) if how.crop else images
    sample = torch.arange(count, device=images.device)
    return padded[sample[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int, centre: Tensor) -> Tensor:
    """Set a square of `side` around each `centre` [N, 2] to zero, the mean of normalised images."""
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device) - (centre[:, :1] - side // 2)
    column = torch.arange(width, device=images.device) - (centre[:, 1:] - side // 2)
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def generator_for(*numbers: int) -> torch.Generator:
    """A random generator for this seed, epoch, batch ..."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The training batches of every epoch.

    Args:
        batch_size: of all processes together.
        drop_last: leave out the last batch of an epoch if it is smaller.
        rank, processes: the share of each batch that this process gets.
    """

    data: ImageSet
    batch_size: int
    augmentation: Augmentation
    seed: int
    drop_last: bool = False
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < self.processes:
            raise InvalidArgument(f"a batch of {self.batch_size} cannot be shared by {self.processes} processes")
        if len(self) == 0:
            raise InvalidArgument(
                f"{len(self.data)} training pictures give no batch of {self.batch_size}; lower --optimizer.batch_size"
            )

    def __len__(self) -> int:
        whole, rest = divmod(len(self.data), self.batch_size)
        return whole + (rest >= self.processes and not self.drop_last)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (normalised images [N, C, H, W], labels [N]) of one epoch, from batch `start` on."""
        order = torch.randperm(len(self.data), generator=generator_for(self.seed, epoch))
        for k in range(start, len(self)):
            yield self._batch(order[k * self.batch_size : (k + 1) * self.batch_size], epoch, k)

    def _batch(self, index: Tensor, epoch: int, k: int) -> tuple[Tensor, Tensor]:
        data, how, device = self.data, self.augmentation, self.data.images.device
        height, width = data.images.shape[2:]
        share = torch.arange(len(index)).tensor_split(self.processes)[self.rank]
        draw = Draw.make(len(index), height, width, how, generator_for(self.seed, epoch, k, 1)).rows(share).to(device)
        rows = data.rows(index[share].to(device))
        images = data.normalised(augment(rows.images, how, draw))
        return (cut_out(images, how.cutout, draw.centre) if how.cutout else images), rows.labels


def in_order(data: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every picture once, for evaluation."""
    for start in range(0, len(data), batch_size):
        rows = data.rows(slice(start, start + batch_size))
        yield data.normalised(rows.images), rows.labels
