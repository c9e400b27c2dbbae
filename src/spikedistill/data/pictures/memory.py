"""Small pictures in memory as uint8."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.pictures.changes import Draw, changed, finished, motion_of
from spikedistill.data.samples import Raw, Wanted, check_rows
from spikedistill.errors import DataError
from spikedistill.machine.device import sent
from spikedistill.tasks.task import Targets

IMAGE_CHANGES = ("crop", "flip", "autoaugment", "cutout")


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Pictures and targets.

    Attributes:
        images: uint8 [M, C, H, W].
        targets: M rows.
        mean, std: per channel, in units of the pixel range 0..1.
        stretched: whether files of other sizes are resized each side by its own factor, and not cut from the middle.

    Raises:
        DataError: images of another type or shape, or not one row of targets for each.
    """

    images: Tensor
    targets: Targets
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stretched: bool = False

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(f"images must be uint8 [M, C, H, W]; given {self.images.dtype} {tuple(self.images.shape)}")
        check_rows(self.targets, len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: Tensor | slice) -> ImageSet:
        return dataclasses.replace(self, images=self.images[index], targets=self.targets.rows(index))

    def to(self, device: torch.device) -> ImageSet:
        return dataclasses.replace(self, images=self.images.to(device), targets=self.targets.to(device))

    def with_targets(self, targets: Targets) -> ImageSet:
        return dataclasses.replace(self, targets=targets)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def description(self) -> dict[str, Any]:
        """What a network that learned these pictures is fed."""
        # Small pictures have no `enlarged`: they are shown whole, see `prepared_picture`.
        described = {"kind": "image", "shape": list(self.images.shape[1:]), "mean": self.mean, "std": self.std}
        return described | ({"stretched": True} if self.stretched else {})

    def read(self, index: Tensor) -> Raw:
        """uint8 [N, C, H, W]."""
        return Raw((self.images[sent(index, self.device)],), self.targets.batch(index))

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """uint8 [N, C, H, W]; with Cutout also the centres [N, 2] and the side of the squares."""
        return self.read_changed_batches([Wanted(index, share, generator)], augmentation)[0]

    def read_changed_batches(self, wanted: Sequence[Wanted], augmentation: Augmentation) -> list[Raw]:
        """As `read_changed` for each; AutoAugment makes one call for all pictures that get the same change."""
        augmentation.only(IMAGE_CHANGES, "pictures in memory")
        if self.targets.are_places:  # which AutoAugment would shear and rotate
            augmentation.only(("crop", "flip", "cutout"), "pictures with boxes")
        height, width = self.images.shape[2:]
        # Drawn on the CPU for whole batches: the same numbers on every device and in every process.
        draws = [
            Draw.make(len(each.index), height, width, augmentation, each.generator).rows(each.share) for each in wanted
        ]
        shares = [each.index[each.share] for each in wanted]
        images = self.images[sent(torch.cat(shares), self.device)]
        images, *square = changed(images, augmentation, Draw.joined(draws).to(self.device))
        sizes = [len(share) for share in shares]
        parts = [(each,) for each in images.split(sizes)]
        if square:  # a centre for each picture, and one side for all
            parts = [(*part, centre, square[1]) for part, centre in zip(parts, square[0].split(sizes), strict=True)]
        targets = [self.targets.batch(share) for share in shares]
        if self.targets.are_places:
            motions = [motion_of(draw, augmentation.crop, (height, width)) for draw in draws]
            targets = [self.targets.moved(each, motion) for each, motion in zip(targets, motions, strict=True)]
        return [Raw(part, each) for part, each in zip(parts, targets, strict=True)]

    def finish(self, raw: Raw) -> Batch:
        """Images float32 [N, C, H, W], normalised, and cut out where that was drawn."""
        return Batch(finished(raw.parts, self.mean, self.std), raw.targets)

    def batch(self, index: Tensor) -> Batch:
        """Images as they are, normalised: [N, C, H, W]."""
        return self.finish(self.read(index))
