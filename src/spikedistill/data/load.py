"""Loading a data set: embedded pictures, torchvision's files, parquet, picture folders, events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from spikedistill.data.batches import Samples, generator_for
from spikedistill.data.events.cache import prepared
from spikedistill.data.events.frames import Framing
from spikedistill.data.events.frameset import FrameSet
from spikedistill.data.events.recordings import CIFAR10_CLASSES, Recordings, find_recordings
from spikedistill.data.events.splits import SPLITS, split
from spikedistill.data.pictures.folder import SPLIT_NAMES, FolderSet, find_pictures, in_memory
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.pictures.tables import HUB, Table, find_parquet, hub_table, parquet_table, read_tables
from spikedistill.data.specs import DATASETS, DataSettings, DataSpec
from spikedistill.errors import DataError, InvalidArgument

FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test samples; validation rows are never trained on, test rows read once, at the end.

    Attributes:
        division: what the test rows are, in words, where a data set comes without a test set of its own.
    """

    train: Samples
    validation: Samples | None
    test: Samples
    division: str = ""


def division(settings: DataSettings) -> str:
    """How recordings are divided, in words; "" for data sets that come with a test set."""
    name = settings.events.split
    if DATASETS[settings.name].kind != "events":
        return ""
    return f"split {name}: {SPLITS[name][0] if name in SPLITS else 'train/ and test/'}"


def load(settings: DataSettings, timesteps: int | None = None) -> Splits:
    """Load and split a data set.

    Args:
        timesteps: T, the number of frames of a recording; pictures do not need it.

    Raises:
        DataError: the folder or a file is missing or damaged, or there are too few rows.
    """
    train = _first(load_split(settings, True, timesteps), settings.train_rows, "train_rows")
    test = _first(load_split(settings, False, timesteps), settings.test_rows, "test_rows")
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"training and test samples must be of the same classes; only one has {', '.join(odd[:10])}")
    held_out = settings.validation_rows
    if held_out == 0:
        return Splits(train, None, test, division(settings))
    if held_out >= len(train):
        raise DataError(f"data.validation_rows={held_out} leaves nothing of {len(train)} training rows")
    order = torch.randperm(len(train), generator=generator_for(settings.split_seed))
    trained, validation = train.rows(order[held_out:].sort()[0]), train.rows(order[:held_out].sort()[0])
    return Splits(trained, validation, test, division(settings))


def _first(data: Samples, rows: int | None, name: str) -> Samples:
    if rows is not None and rows > len(data):
        raise DataError(f"data.{name}={rows}, but there are only {len(data)} rows")
    return data if rows is None else data.rows(slice(rows))


def load_split(settings: DataSettings, train: bool, timesteps: int | None = None) -> Samples:
    """The training or the test samples of a data set; see `load`."""
    spec = DATASETS[settings.name]
    if settings.name == "fashion-small":
        if settings.root is not None:
            raise InvalidArgument(f"data.root has no effect on {settings.name!r}, which ships with the package")
        return _embedded(spec, train)
    if settings.root is None:
        download = " (with --data.download true it is downloaded there)" if spec.torchvision else ""
        raise DataError(f"where is {settings.name}? Give its folder: --data.root FOLDER{download}")
    if settings.root.startswith(HUB):
        return _hub(spec, settings, train)
    root = Path(settings.root).expanduser()
    return _LOADERS[spec.kind](spec, settings, root, train, timesteps)


# ---------------------------------------------------------------- pictures in memory


def _memory(spec: DataSpec, settings: DataSettings, root: Path, train: bool, timesteps: int | None) -> ImageSet:
    files = find_parquet(root, spec.parquet or settings.name, "train" if train else "test")
    if files:
        return _of_tables(spec, settings, [parquet_table(file) for file in files], train)
    if any((root / name).is_dir() for name in SPLIT_NAMES[train]):
        found = _folder(spec, settings, root, train, timesteps)
        return _image_set(spec, in_memory(found, spec.channels, spec.size), found.labels, found.classes)
    return torchvision_set(spec, settings, root, train)


def _of_tables(spec: DataSpec, settings: DataSettings, tables: list[Table], train: bool) -> ImageSet:
    rows = settings.train_rows if train else settings.test_rows
    images, labels, names = read_tables(tables, spec.channels, spec.size, rows)
    return _image_set(spec, images, labels, names or tuple(str(k) for k in range(spec.classes or 0)))


def _hub(spec: DataSpec, settings: DataSettings, train: bool) -> ImageSet:
    root = settings.root or ""
    if spec.parquet is None:
        raise DataError(
            f"{settings.name} is read from a folder, not from {root}; download it and give --data.root FOLDER"
        )
    return _of_tables(spec, settings, [hub_table(root.removeprefix(HUB), train)], train)


def _image_set(spec: DataSpec, images: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> ImageSet:
    if len(classes) != spec.classes or images.shape[1:] != (spec.channels, spec.size, spec.size):
        raise DataError(
            f"expected {spec.classes} classes of {spec.channels}×{spec.size}×{spec.size} pictures; found "
            f"{len(classes)} classes of {'×'.join(map(str, images.shape[1:]))}"
        )
    return ImageSet(images, labels, classes, spec.mean, spec.std)


def _embedded(spec: DataSpec, train: bool) -> ImageSet:
    import numpy as np

    split = "train" if train else "test"
    file = resources.files("spikedistill.data") / "fashion_small.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    return _image_set(spec, torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long(), FASHION)


def torchvision_set(spec: DataSpec, settings: DataSettings, root: Path, train: bool) -> ImageSet:
    """A data set in torchvision's own files.

    Raises:
        DataError: missing, damaged, or not to be downloaded.
    """
    import torchvision.datasets

    assert spec.torchvision is not None
    make: Callable[..., torchvision.datasets.CIFAR10] = getattr(torchvision.datasets, spec.torchvision[0])
    if not settings.download and not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; give the folder that holds {settings.name}")
    try:
        data = make(str(root), train=train, download=settings.download)
    except Exception as error:  # each class and file meets damage in its own way
        if settings.download:
            raise DataError(f"{settings.name} could not be downloaded to {root}: {error}") from error
        there = sorted(p.name for p in root.iterdir())[:10] if root.is_dir() else []
        raise DataError(
            f"{root} holds no {settings.name}: neither {spec.parquet}-train.parquet nor torchvision's files ({error}). "
            f"It holds: {', '.join(there) or 'nothing'}. To download it there: --data.download true"
        ) from error
    images = torch.as_tensor(data.data)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return _image_set(spec, images, torch.as_tensor(data.targets), tuple(data.classes))


# ---------------------------------------------------------------- picture files and recordings


def _folder(spec: DataSpec, settings: DataSettings, root: Path, train: bool, timesteps: int | None) -> FolderSet:
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; give the one that holds train/ and val/")
    found = find_pictures(root, train)
    if spec.classes is not None and len(found.classes) != spec.classes:
        raise DataError(
            f"{root} holds {len(found.classes)} classes, {settings.name} has {spec.classes}; for other folders: "
            "--data.name picture-folder"
        )
    return FolderSet(found.folder, found.names, found.labels, found.classes, spec.mean, spec.std, spec.size)


def recordings_of(settings: DataSettings, root: Path, train: bool, framing: Framing) -> tuple[Recordings, torch.Tensor]:
    """The recordings under a root, and the rows of them that train or test."""
    if settings.events.split == "folders":
        found = find_recordings(root / ("train" if train else "test"), framing, CIFAR10_CLASSES)
        return found, torch.arange(len(found))
    found = find_recordings(root, framing, CIFAR10_CLASSES)
    training, test = split(found, settings.events.split, settings.split_seed)
    return found, training if train else test


def _events(spec: DataSpec, settings: DataSettings, root: Path, train: bool, timesteps: int | None) -> FrameSet:
    framing = settings.events.framing(timesteps)
    found, rows = recordings_of(settings, root, train, framing)
    frames = prepared(found, framing, settings.events.cache, settings.events.repair)
    return FrameSet(frames, rows, torch.tensor(found.labels)[rows], found.classes, framing)


_LOADERS: dict[str, Callable[..., Any]] = {"memory": _memory, "folder": _folder, "events": _events}
