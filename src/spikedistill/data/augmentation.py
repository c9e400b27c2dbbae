"""Random changes of training samples: what a recipe can ask for. Each kind of data draws and makes its own."""

from __future__ import annotations

import dataclasses
import math

from spikedistill.errors import InvalidArgument

MIXES = ("mixup", "cutmix")
"""Changes that take two samples of a batch."""


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
        mixup: blend each sample with another by a share from Beta(mixup, mixup), and their labels too; 0: none.
        cutmix: paste a rectangle of another sample instead, its share of the area from Beta(cutmix, cutmix); 0: none.
            With both, each batch gets one of them.
    """

    crop: int = 4
    flip: bool = True
    autoaugment: bool = False
    cutout: int = 0
    resized_crop: bool = False
    roll: int = 0
    nda: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout", "roll"):
            # A negative padding would crop, and a negative side would cut nothing out: neither is what was meant.
            if getattr(self, name) < 0:
                raise InvalidArgument(f"augmentation.{name} is in pixels, at least 0; given {getattr(self, name)}")
        for name in MIXES:
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidArgument(
                    f"augmentation.{name} is the parameter of a Beta distribution, at least 0 (0: off; 0.2 and 1 are "
                    f"usual); given {getattr(self, name)}"
                )

    @property
    def mixes(self) -> bool:
        """Whether samples of a batch are mixed with each other (mixing.py)."""
        return bool(self.mixup or self.cutmix)

    def only(self, known: tuple[str, ...], what: str) -> None:
        """Refuse changes that would have no effect.

        Args:
            known: the fields that this kind of data knows.
            what: the kind of data, in words.

        Raises:
            InvalidArgument: names the change, and how to switch it off.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # false and 0 switch a change off; mixing needs no change of a single sample, and is for every kind of data
            if value and field.name not in (*known, *MIXES):
                # The defaults are for small pictures, so people meet this with other data: say how to switch it off.
                off = "false" if isinstance(value, bool) else "0"
                raise InvalidArgument(
                    f"augmentation.{field.name} has no effect on {what}, which know {', '.join(known) or 'none'}; "
                    f"switch it off: --data.augmentation.{field.name} {off}"
                )
