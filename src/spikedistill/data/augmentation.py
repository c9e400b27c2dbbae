"""Random changes of training samples: what can be asked for, and the numbers drawn for a batch."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spikedistill.data.pictures.autoaugment import Policies
from spikedistill.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training samples; each kind of data knows some of them and refuses the others.

    Args:
        crop: pixels of zero padding before a random crop to the old size; 0: none.
        flip: mirror left-right with probability 1/2.
        autoaugment: one of the 25 sub-policies of AutoAugment for CIFAR-10 on each picture.
        cutout: side of a square set to the mean, its centre anywhere in the picture (Cutout); 0: none.
        resized_crop: a random part of the picture, of 8 to 100 % of its area, resized to the input (ImageNet).
        roll: shift event frames by up to so many pixels in each direction, around the edges; 0: none.
        nda: one more change of event frames per recording, drawn from roll, rotation, shear and cutout.
    """

    crop: int = 4
    flip: bool = True
    autoaugment: bool = False
    cutout: int = 0
    resized_crop: bool = False
    roll: int = 0
    nda: bool = False

    def __post_init__(self) -> None:
        for name in ("crop", "cutout", "roll"):
            if getattr(self, name) < 0:
                raise InvalidArgument(f"augmentation.{name} is in pixels, at least 0; given {getattr(self, name)}")

    def only(self, known: tuple[str, ...], what: str) -> None:
        """Refuse changes that would have no effect.

        Raises:
            InvalidArgument: names the change, and how to switch it off.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value and field.name not in known:
                off = "false" if isinstance(value, bool) else "0"
                raise InvalidArgument(
                    f"augmentation.{field.name} has no effect on {what}, which know {', '.join(known)}; "
                    f"switch it off: --data.augmentation.{field.name} {off}"
                )


@dataclasses.dataclass(frozen=True)
class Draw:
    """The random numbers of one batch of pictures: crop offsets, flips, cutout centres, policies; each [N, ...]."""

    offset: Tensor
    flip: Tensor
    centre: Tensor
    policy: Policies

    @classmethod
    def make(cls, count: int, height: int, width: int, how: Augmentation, generator: torch.Generator) -> Draw:
        offset = torch.randint(0, 2 * how.crop + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
        policy = Policies.draw(count, generator)
        return cls(offset, flip if how.flip else torch.zeros_like(flip), centre.long(), policy)

    def rows(self, index: Tensor) -> Draw:
        return Draw(self.offset[index], self.flip[index], self.centre[index], self.policy.rows(index))

    def to(self, device: torch.device) -> Draw:
        return Draw(self.offset.to(device), self.flip.to(device), self.centre.to(device), self.policy)
