"""Random changes of a batch of pictures: what is drawn, and crop, flip, AutoAugment and Cutout as tensor operations.

The order is crop, flip, AutoAugment, Cutout (method.md §5). The first three work on uint8 images. Cutout fills with the
mean, which is zero only after normalisation, so its squares travel along and are cut out at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.pictures.autoaugment import Policies
from spikedistill.data.pictures.prepare import normalised
from spikedistill.machine.device import sent
from spikedistill.tasks.task import Motion


@dataclasses.dataclass(frozen=True)
class Draw:
    """The random numbers of one batch of pictures.

    Attributes:
        offset: top and left of the crop in the padded picture, [N, 2].
        flip: whether to mirror, bool [N].
        centre: row and column of the middle of Cutout's square, [N, 2].
        policy: the sub-policies of AutoAugment.
    """

    offset: Tensor
    flip: Tensor
    centre: Tensor
    policy: Policies

    @classmethod
    def make(cls, count: int, height: int, width: int, augmentation: Augmentation, generator: torch.Generator) -> Draw:
        """Draw for `count` pictures.

        Everything is drawn, also for changes that are switched off: switching one leaves the numbers of the others.
        """
        # The order of these draws is part of what a seed means: changing it changes every training run.
        offset = torch.randint(0, 2 * augmentation.crop + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
        policy = Policies.draw(count, generator)
        return cls(offset, flip if augmentation.flip else torch.zeros_like(flip), centre.long(), policy)

    @classmethod
    def joined(cls, draws: Sequence[Draw]) -> Draw:
        """Those of several batches, one after the other."""
        offset = torch.cat([draw.offset for draw in draws])
        flip = torch.cat([draw.flip for draw in draws])
        centre = torch.cat([draw.centre for draw in draws])
        return cls(offset, flip, centre, Policies.joined([draw.policy for draw in draws]))

    def rows(self, index: Tensor) -> Draw:
        return Draw(self.offset[index], self.flip[index], self.centre[index], self.policy.rows(index))

    def to(self, device: torch.device) -> Draw:
        # Policies stay on the CPU: they are read one by one, to group the pictures by operation.
        offset, flip, centre = (sent(each, device) for each in (self.offset, self.flip, self.centre))
        return Draw(offset, flip, centre, self.policy)


def changed(images: Tensor, augmentation: Augmentation, draw: Draw) -> tuple[Tensor, ...]:
    """Changed uint8 images [N, C, H, W]; with Cutout also the centres [N, 2] and the side of its squares."""
    if augmentation.crop or augmentation.flip:
        # Where neither is wanted the gather would copy every picture onto itself.
        images = cropped_and_flipped(images, augmentation.crop, draw)
    if augmentation.autoaugment:
        images = draw.policy.apply(images)
    return (images, draw.centre, torch.tensor(augmentation.cutout)) if augmentation.cutout else (images,)


def finished(parts: tuple[Tensor, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """What `changed` gave, normalised and cut out: float32 [N, C, H, W]."""
    images, *square = parts
    images = normalised(images, mean, std)
    if not square:
        return images
    # Zero is the mean only after normalisation, so this comes last, on whichever device that was done.
    centre, side = square
    return cut_out(images, side, centre)


def cropped_and_flipped(images: Tensor, padding: int, draw: Draw) -> Tensor:
    """Pad uint8 images [N, C, H, W] with zeros, cut the old size out of them and mirror some, by `draw`.

    All of it is one gather of pixels, whose cost does not depend on what was drawn.
    """
    count, channels, height, width = images.shape
    # Which row and column of the padded picture each new pixel comes from, [N, H] and [N, W]:
    row = torch.arange(height, device=images.device) + draw.offset[:, :1]
    column = torch.arange(width, device=images.device).expand(count, width)
    column = torch.where(draw.flip[:, None], width - 1 - column, column) + draw.offset[:, 1:]
    padded = F.pad(images, [padding] * 4) if padding else images
    # and the same as one number for each pixel, [N, H, W], by which all channels are gathered.
    pixel = row[:, :, None] * padded.shape[3] + column[:, None, :]
    return padded.flatten(2).gather(2, pixel.view(count, 1, -1).expand(-1, channels, -1)).view(images.shape)


def motion_of(draw: Draw, padding: int, size: tuple[int, int]) -> Motion:
    """Where `cropped_and_flipped` moves what it shows: new = old + padding − offset, and then from the other side.

    Args:
        size: rows and columns of the picture.
    """
    shift = padding - draw.offset.flip(1).float()  # column first, then row
    scale = torch.ones_like(shift)
    mirrored = draw.flip.to(shift.device)
    scale[mirrored, 0] = -1.0
    # the mirrored column is taken from the picture before it is shifted by the crop
    shift[:, 0] = torch.where(mirrored, size[1] - shift[:, 0], shift[:, 0])
    return Motion(scale, shift, size)


def cut_out(images: Tensor, side: int | Tensor, centre: Tensor) -> Tensor:
    """Set a square of `side` around each `centre` [N, 2] to zero, the mean of normalised images; in place."""
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device) - (centre[:, :1] - side // 2)
    column = torch.arange(width, device=images.device) - (centre[:, 1:] - side // 2)
    # A square at the edge is clipped by there being no pixels beyond it.
    inside = ((row >= 0) & (row < side))[:, :, None] & ((column >= 0) & (column < side))[:, None, :]
    return images.masked_fill_(inside[:, None], 0.0)
