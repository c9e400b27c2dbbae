"""Picture files as samples: read when a batch asks for them, by worker processes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.pictures.changes import Draw, changed, finished
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.folder import find_pictures
from spikedistill.data.pictures.prepare import centre, resize
from spikedistill.data.samples import Raw, check_rows
from spikedistill.errors import DataError
from spikedistill.tasks.task import Targets

FOLDER_CHANGES = ("crop", "flip", "autoaugment", "cutout", "resized_crop")

TRIES = 10
"""How often RandomResizedCrop tries to find a part that fits into the picture; as in torchvision."""
NUMBERS = 2 * TRIES + 4
"""Random numbers for each picture: area and aspect of each try, row and column, one that is not used, the flip."""


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSet:
    """Picture files and targets.

    Attributes:
        folder, names: where they lie; see `Found`.
        targets: M rows; they must hold for a picture that is cropped or mirrored.
        mean, std: per channel, in units of the pixel range 0..1.
        size: rows and columns of what a network sees.
        device: where finished batches lie.

    Raises:
        DataError: not one row of targets for each file.
    """

    folder: Path
    names: np.ndarray
    targets: Targets
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = 224
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        check_rows(self.targets, len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, index: Tensor | slice) -> FolderSet:
        # By way of numbers, because numpy understands fewer kinds of index than torch.
        numbers = torch.arange(len(self))[index].numpy()
        return dataclasses.replace(self, names=self.names[numbers], targets=self.targets.rows(index))

    def to(self, device: torch.device) -> FolderSet:
        # Pictures are decoded on the CPU in any case, and moved when a batch is made.
        return dataclasses.replace(self, targets=self.targets.to(device), device=device)

    def with_targets(self, targets: Targets) -> FolderSet:
        return dataclasses.replace(self, targets=targets)

    def path(self, k: int) -> Path:
        return self.folder / os.fsdecode(self.names[k])

    @property
    def enlarged(self) -> int:
        """The shorter side of a picture from whose middle `size` is cut in evaluation: 256 for the usual 224."""
        return round(self.size * 256 / 224)

    def description(self) -> dict[str, Any]:
        shape = [3, self.size, self.size]
        return {"kind": "image", "shape": shape, "mean": self.mean, "std": self.std, "enlarged": self.enlarged}

    def read(self, index: Tensor) -> Raw:
        """uint8 [N, 3, size, size]: the shorter side to `enlarged`, the centre."""
        images = [self._centre(k) for k in index.tolist()]
        return Raw((torch.stack(images),), self.targets.batch(index))

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """uint8 [N, 3, size, size]; with Cutout also the centres [N, 2] and the side of the squares."""
        augmentation.only(("cutout",) if self.targets.are_places else FOLDER_CHANGES, "picture folders")
        # As many numbers for each picture, used or not: what one picture needs does not shift those of the next.
        numbers = torch.rand(len(index), NUMBERS, generator=generator)[share]
        unflipped = dataclasses.replace(augmentation, flip=False)
        draw = Draw.make(len(index), self.size, self.size, unflipped, generator).rows(share)
        # Pictures are of different sizes until they are cut, so each is cut alone; what follows works on the batch.
        images = [self._changed(k, row, augmentation) for k, row in zip(index[share].tolist(), numbers, strict=True)]
        parts = changed(torch.stack(images), unflipped, draw)
        return Raw(parts, self.targets.batch(index[share]))

    def finish(self, raw: Raw) -> Batch:
        """Images float32 [N, 3, size, size], normalised, and cut out where that was drawn."""
        return Batch(finished(raw.parts, self.mean, self.std), raw.targets)

    def batch(self, index: Tensor) -> Batch:
        """Images as they are, normalised: [N, 3, size, size]."""
        return self.finish(self.read(index))

    def _changed(self, k: int, numbers: Tensor, augmentation: Augmentation) -> Tensor:
        """One picture, cut and mirrored by its random numbers; mirroring it here is cheaper than in the batch."""
        if augmentation.resized_crop:
            picture = random_part(decode(self.path(k)), self.size, numbers)
        else:
            picture = self._centre(k)
        return picture.flip(-1) if augmentation.flip and numbers[-1] < 0.5 else picture

    def _centre(self, k: int) -> Tensor:
        return centre(decode(self.path(k)), self.enlarged, self.size)


def random_part(picture: Tensor, size: int, numbers: Tensor) -> Tensor:
    """RandomResizedCrop: 8 to 100 % of the area with an aspect of 3/4 to 4/3, resized to uint8 [C, size, size].

    Args:
        numbers: uniform in 0..1: two for each of 10 tries at area and aspect, then row and column. A picture into which
            no try fits gives its middle, with the nearest aspect.
    """
    height, width = picture.shape[1:]
    row, column = numbers[2 * TRIES : 2 * TRIES + 2].tolist()
    for share, aspect in numbers[: 2 * TRIES].view(TRIES, 2).tolist():
        area = (0.08 + 0.92 * share) * height * width
        # From 3/4 to 4/3, uniform in its logarithm: upright and wide parts are equally likely.
        ratio = (3 / 4) * (16 / 9) ** aspect  # uniform in its logarithm
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        row = column = 0.5
    top, left = int(row * (height - h + 1)), int(column * (width - w + 1))
    return resize(picture[:, top : top + h, left : left + w], size, size)


def read_folder(dataset: DataSet, request: Request) -> FolderSet:
    """A folder of pictures as a data set.

    Raises:
        DataError: no such folder, or other classes than the data set has.
    """
    root = request.folder()
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; give the one that holds train/ and val/")
    found = find_pictures(root, request.train)
    classes = len(found.labels.names)
    if dataset.classes is not None and classes != dataset.classes:
        raise DataError(
            f"{root} holds {classes} classes, {request.name} has {dataset.classes}; for other folders: "
            "--data.name picture-folder"
        )
    # What the user wants, or what the data set is known for.
    size = request.size or dataset.size
    return FolderSet(found.folder, found.names, found.labels, dataset.mean, dataset.std, size)
