"""Folders of pictures, `CLASS/*.jpg` as ImageNet has them: which files are there, and of which class."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch

from spikedistill.errors import DataError
from spikedistill.tasks.classification import Labels

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
SPLIT_NAMES = {True: ("train",), False: ("test", "val", "validation")}
"""What the folders of training and of test pictures may be called; the first that holds classes of training counts."""


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What lies in a folder of classes.

    Attributes:
        folder: which.
        names: picture files below it, as `as_names` makes them.
        labels: the class of each.
        others: files that are no pictures by their names, and are not read.
    """

    folder: Path
    names: np.ndarray
    labels: Labels
    others: list[str]

    def path(self, k: int) -> Path:
        return self.folder / os.fsdecode(self.names[k])


def as_names(names: list[str]) -> np.ndarray:
    """File names as one block of bytes [M]: a million objects would be copied into each worker by being counted."""
    # Bytes, because a file name need not be valid text.
    return np.array([os.fsencode(name) for name in names])


def split_folder(root: Path, train: bool) -> Path | None:
    """The folder of training or of test pictures under `root`, if there is one.

    A `test/` without labels, as ImageNet's or `test/images/`, is not taken where there is `val/`.
    """
    there = split_folders(root, train)
    known = {name for path in split_folders(root, True) for name in _class_names(path)}
    return next((path for path in there if known & {*_class_names(path)}), there[0] if there else None)


def split_folders(root: Path, train: bool) -> list[Path]:
    """Everything that could be the folder of training or of test pictures."""
    return [root / name for name in SPLIT_NAMES[train] if (root / name).is_dir()]


def _class_names(folder: Path) -> list[str]:
    # Sorted: the order of a folder differs between file systems, and it numbers the classes.
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def find_pictures(root: Path, train: bool) -> Found:
    """The pictures `root/train/CLASS/*` or `root/test/CLASS/*`, also in folders below; labels follow the names' order.

    Raises:
        DataError: missing folders, classes without a picture, or a link that leads back.
    """
    folder = split_folder(root, train)
    if folder is None:
        raise DataError(
            f"{root} has no folder {' or '.join(SPLIT_NAMES[train])}/ of CLASS/*.jpg; it holds {content(root)}"
            f"{_undivided(root)}"
        )
    return pictures_in(folder)


def pictures_in(folder: Path) -> Found:
    """The pictures `folder/CLASS/*`; raises as `find_pictures`."""
    classes = _class_names(folder)
    pictures: dict[str, list[str]] = {}
    # What lies beside the classes belongs to none of them.
    others = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    for name in classes:
        files = _files_below(folder, name)
        pictures[name] = [file for file in files if file.lower().endswith(SUFFIXES)]
        others += [file for file in files if not file.lower().endswith(SUFFIXES)]
    # A class without a picture is more likely a copy that did not finish than what somebody wants.
    empty = [name for name in classes if not pictures[name]]
    if not classes or empty:
        what = f"empty: {', '.join(empty)}" if empty else "it holds no folders"
        raise DataError(f"{folder} should hold one folder of pictures for each class; {what}")
    counts = torch.tensor([len(pictures[name]) for name in classes])
    labels = Labels(torch.arange(len(classes)).repeat_interleave(counts), tuple(classes))
    return Found(folder, as_names([file for name in classes for file in pictures[name]]), labels, others)


def _undivided(root: Path) -> str:
    """What to do with folders of classes that nobody has divided yet; "" where it is something else."""
    if not root.is_dir():
        return ""
    folders = [path for path in root.iterdir() if path.is_dir()]
    if not any(file.lower().endswith(SUFFIXES) for path in folders[:3] for file in os.listdir(path)):
        return ""
    return (
        f". Divide the pictures first: move most of each class to {root / 'train'}/CLASS/, and those for the test to "
        f"{root / 'val'}/CLASS/"
    )


def content(folder: Path) -> str:
    """The first names in a folder, for an error."""
    there = sorted(p.name for p in folder.iterdir())[:10] if folder.is_dir() else []
    return ", ".join(there) or "nothing"


def _files_below(folder: Path, name: str) -> list[str]:
    """All files of a class, as names below `folder`, in order; what is hidden is left out."""
    # Folders are cut off as text: pathlib would make an object for each of perhaps a million files.
    found, start = [], len(str(folder)) + 1

    def refuse(error: OSError) -> None:  # os.walk would pass over it, and its pictures would be missing in silence
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for path, folders, files in os.walk(folder / name, onerror=refuse, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))  # os.walk goes on with what is left here
        for link in (os.path.join(path, f) for f in folders if os.path.islink(os.path.join(path, f))):
            # Pictures of other classes would be taken for this one's, and its own again and again.
            target = os.path.realpath(link)
            if os.path.commonpath([os.path.realpath(path), target]) == target:
                raise DataError(f"{link} is a link to {target}, which it lies in; remove it")
        found += [os.path.join(path, file)[start:] for file in sorted(files) if not file.startswith(".")]
    return found
