"""Folders of pictures, `CLASS/*.jpg` as ImageNet has them: read when a batch asks for them, by worker processes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.pictures.memory import normalised
from spikedistill.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
FOLDER_CHANGES = ("flip", "resized_crop")
SPLIT_NAMES = {True: ("train",), False: ("val", "test", "validation")}


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What lies in a folder of classes.

    Attributes:
        folder: which.
        names: picture files below it, as `as_names` makes them.
        labels: int64 [M].
        classes: names, by label.
        others: files that are no pictures by their names, and are not read.
    """

    folder: Path
    names: np.ndarray
    labels: Tensor
    classes: tuple[str, ...]
    others: list[str]


def as_names(names: list[str]) -> np.ndarray:
    """File names as one block of bytes [M]: a million objects would be copied into each worker by being counted."""
    return np.array([os.fsencode(name) for name in names])


def find_pictures(root: Path, train: bool) -> Found:
    """The pictures `root/train/CLASS/*` or `root/val/CLASS/*`, also in folders below; labels follow the names' order.

    Raises:
        DataError: missing folders, or classes without a picture.
    """
    names = SPLIT_NAMES[train]
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        there = sorted(p.name for p in root.iterdir())[:10] if root.is_dir() else []
        raise DataError(
            f"{root} has no folder {' or '.join(names)}/ of CLASS/*.jpg; it holds {', '.join(there) or 'nothing'}"
        )
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = {name: _files_below(folder, name) for name in classes}
    pictures = {name: [file for file in files[name] if file.lower().endswith(SUFFIXES)] for name in classes}
    empty = [name for name in classes if not pictures[name]]
    if not classes or empty:
        what = f"empty: {', '.join(empty)}" if empty else "it holds no folders"
        raise DataError(f"{folder} should hold one folder of pictures for each class; {what}")
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(pictures[name]) for name in classes]))
    every = as_names([file for name in classes for file in pictures[name]])
    others = [file for name in classes for file in files[name] if not file.lower().endswith(SUFFIXES)]
    return Found(folder, every, labels, tuple(classes), others)


def _files_below(folder: Path, name: str) -> list[str]:
    """All files of a class, as names below `folder`, in order; what is hidden is left out."""
    found, start = [], len(str(folder)) + 1
    for place, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [os.path.join(place, file)[start:] for file in sorted(files) if not file.startswith(".")]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSet:
    """Picture files and labels.

    Attributes:
        folder, names: where they lie; see `Found`.
        labels: int64 [M].
        classes: names, by label.
        size: rows and columns of what a network sees.
        enlarged: the shorter side of a picture in evaluation, from whose centre `size` is cut.
    """

    folder: Path
    names: np.ndarray
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = 224
    enlarged: int = 256
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor | slice) -> FolderSet:
        numbers = torch.arange(len(self))[index].numpy()
        return dataclasses.replace(self, names=self.names[numbers], labels=self.labels[index])

    def to(self, device: torch.device) -> FolderSet:
        return dataclasses.replace(self, device=device)

    def path(self, k: int) -> Path:
        return self.folder / os.fsdecode(self.names[k])

    def description(self) -> dict[str, Any]:
        shape, enlarged = [3, self.size, self.size], self.enlarged
        return {"kind": "image", "shape": shape, "mean": self.mean, "std": self.std, "enlarged": enlarged}

    def read(self, index: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N, 3, size, size]: the shorter side to `enlarged`, the centre."""
        return (torch.stack([self._centre(read_picture(self.path(k))) for k in index.tolist()]),)

    def read_changed(
        self, index: Tensor, share: Tensor, how: Augmentation, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """uint8 [N, 3, size, size]."""
        how.only(FOLDER_CHANGES, "picture folders")
        draws = torch.rand(len(index), 24, generator=generator)[share]
        pictures = []
        for k, draw in zip(index[share].tolist(), draws, strict=True):
            picture = read_picture(self.path(k))
            picture = random_part(picture, self.size, draw) if how.resized_crop else self._centre(picture)
            pictures.append(picture.flip(-1) if how.flip and draw[-1] < 0.5 else picture)
        return (torch.stack(pictures),)

    def finish(self, *parts: Tensor) -> Tensor:
        return normalised(parts[0], self.mean, self.std)

    def batch(self, index: Tensor) -> Tensor:
        """Pictures as they are, normalised: [N, 3, size, size]."""
        return self.finish(*self.read(index))

    def _centre(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        scale = self.enlarged / min(height, width)
        picture = resize(picture, round(height * scale), round(width * scale))
        top, left = (round((side - self.size) / 2) for side in picture.shape[1:])
        return picture[:, top : top + self.size, left : left + self.size]


def read_picture(path: Path) -> Tensor:
    """uint8 [3, H, W].

    Raises:
        DataError: not a readable picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except Exception as error:
        raise DataError(f"{path} is not a readable picture ({error}); replace or remove it") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """uint8 [3, height, width], bilinear with antialiasing (torchvision v2)."""
    from torchvision.transforms.v2 import functional as V

    return V.resize(picture, [height, width], antialias=True)


def random_part(picture: Tensor, size: int, draw: Tensor) -> Tensor:
    """RandomResizedCrop: 8 to 100 % of the area with an aspect of 3/4 to 4/3, resized to size × size.

    Args:
        draw: 23 uniform numbers, or more: 10 tries at area and aspect, a place; else the centre, as in torchvision.
    """
    height, width = picture.shape[1:]
    place_y, place_x = draw[20:22].tolist()
    for share, aspect in draw[:20].view(10, 2).tolist():
        area = (0.08 + 0.92 * share) * height * width
        ratio = (3 / 4) * (16 / 9) ** aspect
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        place_y = place_x = 0.5
    top, left = int(place_y * (height - h + 1)), int(place_x * (width - w + 1))
    return resize(picture[:, top : top + h, left : left + w], size, size)


def in_memory(folder: FolderSet, channels: int, size: int) -> Tensor:
    """All pictures of a folder of small ones, uint8 [M, channels, size, size].

    Raises:
        DataError: a picture of another size, by name.
    """
    out = torch.empty(len(folder), channels, size, size, dtype=torch.uint8)
    for k in range(len(folder)):
        picture = read_picture(folder.path(k))
        if picture.shape[1:] != (size, size):
            found = "×".join(map(str, picture.shape[1:]))
            raise DataError(f"{folder.path(k)} is {found} pixels, expected {size}×{size}")
        out[k] = picture[:channels]  # of a grey picture all three are equal
    return out
