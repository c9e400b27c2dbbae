"""Folders of pictures, `CLASS/*.jpg` as ImageNet has them: read when a batch asks for them, by worker processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.data.augmentation import Augmentation
from spikedistill.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
FOLDER_CHANGES = ("flip", "resized_crop")
SPLIT_NAMES = {True: ("train",), False: ("val", "test", "validation")}


def find_pictures(root: Path, train: bool) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Paths, labels and class names of `root/train/CLASS/*` or `root/val/CLASS/*`; labels follow the names' order.

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
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    pictures = {c.name: sorted(p for p in c.iterdir() if p.suffix.lower() in SUFFIXES) for c in classes}
    empty = [name for name, files in pictures.items() if not files]
    if not classes or empty:
        what = f"empty: {', '.join(empty)}" if empty else "it holds no folders"
        raise DataError(f"{folder} should hold one folder of pictures for each class; {what}")
    paths = [path for files in pictures.values() for path in files]
    labels = [label for label, files in enumerate(pictures.values()) for _ in files]
    return paths, labels, tuple(pictures)


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSet:
    """Picture files and labels.

    Attributes:
        paths: a file per sample.
        labels: int64 [M].
        classes: names, by label.
        size: rows and columns of what a network sees.
        enlarged: the shorter side of a picture in evaluation, from whose centre `size` is cut.
    """

    paths: tuple[Path, ...]
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
        numbers = torch.arange(len(self))[index].tolist()
        return dataclasses.replace(self, paths=tuple(self.paths[k] for k in numbers), labels=self.labels[index])

    def to(self, device: torch.device) -> FolderSet:
        return dataclasses.replace(self, device=device)

    def description(self) -> dict[str, Any]:
        shape, enlarged = [3, self.size, self.size], self.enlarged
        return {"kind": "image", "shape": shape, "mean": self.mean, "std": self.std, "enlarged": enlarged}

    def batch(self, index: Tensor) -> Tensor:
        """Pictures [N, 3, size, size]: the shorter side to `enlarged`, the centre, normalised."""
        return self._normalised([self._centre(read_picture(self.paths[k])) for k in index.tolist()])

    def training_batch(self, index: Tensor, share: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
        how.only(FOLDER_CHANGES, "picture folders")
        draws = torch.rand(len(index), 24, generator=generator)[share]
        pictures = []
        for k, draw in zip(index[share].tolist(), draws, strict=True):
            picture = read_picture(self.paths[k])
            picture = random_part(picture, self.size, draw) if how.resized_crop else self._centre(picture)
            pictures.append(picture.flip(-1) if how.flip and draw[-1] < 0.5 else picture)
        return self._normalised(pictures)

    def _centre(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        scale = self.enlarged / min(height, width)
        picture = resize(picture, round(height * scale), round(width * scale))
        top, left = (round((side - self.size) / 2) for side in picture.shape[1:])
        return picture[:, top : top + self.size, left : left + self.size]

    def _normalised(self, pictures: list[Tensor]) -> Tensor:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (
            torch.stack(pictures).float().div_(255).sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
        )


def read_picture(path: Path) -> Tensor:
    """uint8 [3, H, W].

    Raises:
        DataError: not a readable picture.
    """
    import numpy as np
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
    for k, path in enumerate(folder.paths):
        picture = read_picture(path)
        if picture.shape[1:] != (size, size):
            found = "×".join(map(str, picture.shape[1:]))
            raise DataError(f"{path} is {found} pixels, expected {size}×{size}")
        out[k] = picture[:channels]  # of a grey picture all three are equal
    return out
