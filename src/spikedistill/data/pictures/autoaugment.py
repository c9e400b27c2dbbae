"""AutoAugment for CIFAR-10 (Cubuk et al. 2019, table 7; method.md §5) on whole batches.

Each picture gets one of 25 sub-policies; each of its two operations happens with its own probability. Pictures that get
the same operation at the same strength are changed together, by torchvision's operations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spikedistill.data.pictures.prepare import torchvision_functional
from spikedistill.machine.device import sent

SUB_POLICIES = (
    (("invert", 0.1, None), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, None), ("equalize", 0.9, None)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, None), ("equalize", 0.5, None)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, None), ("autocontrast", 0.4, None)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, None)),
    (("equalize", 0.2, None), ("autocontrast", 0.6, None)),
    (("equalize", 0.2, None), ("equalize", 0.6, None)),
    (("color", 0.9, 9), ("equalize", 0.6, None)),
    (("autocontrast", 0.8, None), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, None)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, None), ("solarize", 0.8, 3)),
    (("equalize", 0.8, None), ("invert", 0.1, None)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, None)),
)
"""(operation, probability, level 0..9) twice; operations without strength have no level."""


def _affine(images: Tensor, shift: tuple[int, int] = (0, 0), shear: float = 0.0) -> Tensor:
    """Shifted, or sheared along y about the corner."""
    degrees = [0.0, math.degrees(math.atan(shear))]
    return torchvision_functional().affine(images, 0.0, list(shift), 1.0, degrees, center=[0.0, 0.0] if shear else None)


def _rotate(images: Tensor, angle: float) -> Tensor:
    return torchvision_functional().rotate(images, angle)


def _blend(name: str) -> Callable[[Tensor, float], Tensor]:
    """An operation of torchvision that takes a factor, 1 for no change."""

    def change(images: Tensor, strength: float) -> Tensor:
        return getattr(torchvision_functional(), name)(images, 1.0 + strength)

    return change


def _whole(name: str) -> Callable[[Tensor, float], Tensor]:
    """An operation of torchvision that has no strength."""

    def change(images: Tensor, strength: float) -> Tensor:
        return getattr(torchvision_functional(), name)(images)

    return change


def _posterize(images: Tensor, bits: float) -> Tensor:
    """Keep the highest bits of every pixel."""
    # The mask of the highest bits: 3 bits keep 0b11100000.
    return images & (256 - (1 << (8 - int(bits))))


def _solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert the pixels from a threshold on."""
    # The threshold need not be whole, so the comparison is with a real number.
    return torch.where(images >= threshold, 255 - images, images)


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation on uint8 pictures [N, C, H, W], its strength by level and side, and whether it has a sign."""

    apply: Callable[[Tensor, float], Tensor]
    # From a level 0..9 and the side of the pictures along which it moves, because shifts are shares of it.
    strength: Callable[[int, int], float] = lambda level, side: 0.0
    signed: bool = False


OPERATIONS = {
    # A shift of 150 pixels was the largest on pictures of 331, and angles are in degrees.
    "shear_y": Operation(lambda x, s: _affine(x, shear=s), lambda level, side: 0.3 * level / 9, True),
    "translate_x": Operation(
        lambda x, s: _affine(x, shift=(int(s), 0)), lambda level, side: 150 / 331 * side * level / 9, True
    ),
    "translate_y": Operation(
        lambda x, s: _affine(x, shift=(0, int(s))), lambda level, side: 150 / 331 * side * level / 9, True
    ),
    "rotate": Operation(_rotate, lambda level, side: 30 * level / 9, True),
    "brightness": Operation(_blend("adjust_brightness"), lambda level, side: 0.9 * level / 9, True),
    "color": Operation(_blend("adjust_saturation"), lambda level, side: 0.9 * level / 9, True),
    "contrast": Operation(_blend("adjust_contrast"), lambda level, side: 0.9 * level / 9, True),
    "sharpness": Operation(_blend("adjust_sharpness"), lambda level, side: 0.9 * level / 9, True),
    "posterize": Operation(_posterize, lambda level, side: 8 - round(level / (9 / 4))),
    "solarize": Operation(_solarize, lambda level, side: 255 * (1 - level / 9)),
    "autocontrast": Operation(_whole("autocontrast")),
    "equalize": Operation(_whole("equalize")),
    "invert": Operation(_whole("invert")),
}
"""Strengths as in torchvision's AutoAugment."""


@dataclasses.dataclass(frozen=True)
class Policies:
    """What was drawn for each picture: sub-policy [N], and for its operations if and with which sign [N, 2]."""

    number: Tensor
    chance: Tensor
    sign: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> Policies:
        number = torch.randint(len(SUB_POLICIES), (count,), generator=generator)
        return cls(number, torch.rand(count, 2, generator=generator), torch.rand(count, 2, generator=generator) < 0.5)

    @classmethod
    def joined(cls, policies: Sequence[Policies]) -> Policies:
        number = torch.cat([each.number for each in policies])
        chance = torch.cat([each.chance for each in policies])
        return cls(number, chance, torch.cat([each.sign for each in policies]))

    def rows(self, index: Tensor) -> Policies:
        return Policies(self.number[index], self.chance[index], self.sign[index])

    def apply(self, images: Tensor) -> Tensor:
        """Change uint8 pictures [N, C, H, W] by what was drawn, in a copy."""
        images = images.clone(memory_format=torch.contiguous_format)
        numbers, chances, signs = self.number.tolist(), self.chance.tolist(), self.sign.tolist()
        for step in (0, 1):  # the second operation of a sub-policy sees what the first has made
            # Pictures with the same change are changed together: one call for a group and not for each picture.
            groups: dict[tuple[str, float], list[int]] = {}
            for k, number in enumerate(numbers):
                name, probability, level = SUB_POLICIES[number][step]
                if chances[k][step] < probability:
                    side = images.shape[-2 if name == "translate_y" else -1]
                    strength = signed_strength(name, level or 0, side, signs[k][step])
                    groups.setdefault((name, strength), []).append(k)
            for (name, strength), rows in groups.items():
                # torchvision's operations take batches, and treat each picture of one as if it were alone.
                chosen = sent(torch.tensor(rows), images.device)
                images[chosen] = OPERATIONS[name].apply(images[chosen], strength)
        return images


def signed_strength(name: str, level: int, side: int, negative: bool) -> float:
    """How strong an operation is at a level 0..9, on pictures of `side` columns (rows, where it moves along them)."""
    operation = OPERATIONS[name]
    strength = operation.strength(level, side)
    return -strength if operation.signed and negative else strength
