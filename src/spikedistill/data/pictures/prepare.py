"""From a decoded picture to what a network is fed: resized, cut from the middle, normalised."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spikedistill.data.pictures.decode import decode
from spikedistill.machine.device import sent


@functools.cache
def torchvision_functional() -> ModuleType:
    """torchvision's operations. Importing them takes two seconds, so it is done where a picture first needs one."""
    from torchvision.transforms.v2 import functional

    return functional


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """uint8 [C, height, width], bilinear with antialiasing."""
    return torchvision_functional().resize(picture, [height, width], antialias=True)


THIN = 16
"""A side that is so many times the other is cut before anything is enlarged: a line of pixels would be gigabytes."""


def centre(picture: Tensor, enlarged: int, size: int, columns: int | None = None) -> Tensor:
    """uint8 [C, size, columns]: the shorter side of a picture [C, H, W] becomes `enlarged`, and the middle is cut out.

    Args:
        enlarged: that of a square; of another shape the side that would be too short decides, by the same share.
        columns: None: as many as rows.
    """
    columns = size if columns is None else columns
    height, width = picture.shape[1:]
    if max(height, width) > THIN * (shorter := min(height, width)) * max(size, columns) / min(size, columns):
        picture = _middle(picture, min(height, THIN * shorter), min(width, THIN * shorter))
        height, width = picture.shape[1:]
    # Both sides by one factor: the aspect is kept, and what is too long is cut off at both ends.
    scale = max(enlarged / height, enlarged * columns / size / width)
    return _middle(resize(picture, round(height * scale), round(width * scale)), size, columns)


def _middle(picture: Tensor, height: int, width: int) -> Tensor:
    top, left = round((picture.shape[1] - height) / 2), round((picture.shape[2] - width) / 2)
    return picture[:, top : top + height, left : left + width]


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, C, H, W] → float32, less the mean and by the deviation of each channel (of 0..1), channels_last."""
    middle, spread = (sent(torch.tensor(each), images.device).view(1, -1, 1, 1) for each in (mean, std))
    # In place from here on: a batch is a large tensor, and no one else has seen this copy of it.
    images = images.to(torch.float32, memory_format=torch.channels_last)
    return images.div_(255).sub_(middle).div_(spread)


def whole_picture(path: str | Path, description: Mapping[str, Any]) -> Tensor:
    """A picture file in the size that a network learned: uint8 [1, C, H, W].

    A picture of another size is resized by its shorter side and cut from the middle (of samples that were stretched:
    each side by its own factor); one of the right size is kept.

    Args:
        description: of the samples that the network learned, `Samples.description()`.

    Raises:
        DataError: not a readable picture.
    """
    # Small pictures (CIFAR-10) are shown whole, without a margin: nothing is enlarged beyond what the network sees.
    channels, size, width = description["shape"]
    decoded = decode(Path(path), channels)
    if description.get("stretched"):
        return resize(decoded, size, width).unsqueeze(0)
    return centre(decoded, description.get("enlarged", size), size, width).unsqueeze(0)


def prepared_picture(path: str | Path, description: Mapping[str, Any]) -> Tensor:
    """A picture file as a network sees it in evaluation: float32 [1, C, H, W], by `whole_picture`."""
    return normalised(whole_picture(path, description), tuple(description["mean"]), tuple(description["std"]))
