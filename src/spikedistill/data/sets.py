"""The data sets, and how to load one: the embedded pictures, torchvision's files, Hugging Face parquet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch

from spikedistill.data.images import Augmentation, ImageSet, generator_for
from spikedistill.data.parquet import find_parquet, read_parquet
from spikedistill.errors import DataError, InvalidArgument, choose

FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a data set is: channels × size × size pictures, their classes, and the constants that normalise them."""

    summary: str
    channels: int
    size: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    torchvision: str | None = None  # class name in torchvision.datasets
    parquet: str | None = None  # files NAME-train.parquet and NAME-test.parquet


DATASETS = {
    "fashion-small": DataSpec(
        "6,000 + 1,000 pictures of Fashion-MNIST, shipped with the package", 1, 28, 10, (0.2860,), (0.3530,)
    ),
    "fashion-mnist": DataSpec(
        "Fashion-MNIST, 60,000 + 10,000", 1, 28, 10, (0.2860,), (0.3530,), "FashionMNIST", "fashion_mnist"
    ),
    "cifar10": DataSpec(
        "CIFAR-10, 50,000 + 10,000",
        3,
        32,
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        "CIFAR10",
        "cifar10",
    ),
    "cifar100": DataSpec(
        "CIFAR-100, 50,000 + 10,000",
        3,
        32,
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        "CIFAR100",
        "cifar100",
    ),
}


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which pictures to train and test on.

    Args:
        name: a key of `DATASETS`.
        root: folder that holds the data (torchvision's files or parquet files); not for the embedded set.
        download: let torchvision download what is missing.
        train_rows: use only the first rows of the training set (None: all).
        test_rows: use only the first rows of the test set (None: all).
        validation_rows: held out from the training rows, at random by `split_seed`.
        split_seed: seed of that split.
        augmentation: random changes of the training pictures.
    """

    name: str = "fashion-small"
    root: str | None = None
    download: bool = False
    train_rows: int | None = None
    test_rows: int | None = None
    validation_rows: int = 0
    split_seed: int = 0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        choose("dataset", self.name, DATASETS)
        for field in ("train_rows", "test_rows"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InvalidArgument(f"data.{field} is {value}; expected at least 1, or null for all")
        if self.validation_rows < 0:
            raise InvalidArgument(f"data.validation_rows is {self.validation_rows}; expected at least 0")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test pictures; validation rows are never trained on, test rows read once, at the end."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet


def load(settings: DataSettings) -> Splits:
    """Load and split a data set.

    Raises:
        DataError: the folder or a file is missing or damaged, or there are too few rows.
    """
    train = _first(load_split(settings, train=True), settings.train_rows, "train_rows")
    test = _first(load_split(settings, train=False), settings.test_rows, "test_rows")
    held_out = settings.validation_rows
    if held_out == 0:
        return Splits(train, None, test)
    if held_out >= len(train):
        raise DataError(f"data.validation_rows={held_out} leaves nothing of {len(train)} training rows")
    order = torch.randperm(len(train), generator=generator_for(settings.split_seed))
    return Splits(train.rows(order[held_out:].sort()[0]), train.rows(order[:held_out].sort()[0]), test)


def _first(data: ImageSet, rows: int | None, name: str) -> ImageSet:
    if rows is not None and rows > len(data):
        raise DataError(f"data.{name}={rows}, but there are only {len(data)} rows")
    return data if rows is None else data.rows(slice(rows))


def load_split(settings: DataSettings, train: bool) -> ImageSet:
    spec = DATASETS[settings.name]
    if spec.torchvision is None:
        if settings.root is not None:
            raise InvalidArgument(f"data.root has no effect on {settings.name!r}, which ships with the package")
        return _embedded(spec, train)
    if settings.root is None:
        raise DataError(
            f"where is {settings.name}? Give its folder: --data.root FOLDER (with --data.download true it is "
            "downloaded there)"
        )
    root = Path(settings.root).expanduser()
    files = find_parquet(root, spec.parquet or settings.name, "train" if train else "test")
    if files:
        images, labels, names = read_parquet(files, spec.channels, spec.size)
        names = names or tuple(str(k) for k in range(spec.classes))
        return _image_set(spec, images, labels, names)
    return _torchvision(spec, settings, root, train)


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


def _torchvision(spec: DataSpec, settings: DataSettings, root: Path, train: bool) -> ImageSet:
    import torchvision.datasets

    make: Callable[..., torchvision.datasets.CIFAR10] = getattr(torchvision.datasets, spec.torchvision or "")
    if not settings.download and not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; give the folder that holds {settings.name}")
    try:
        data = make(str(root), train=train, download=settings.download)
    except RuntimeError as error:
        there = sorted(p.name for p in root.iterdir())[:10] if root.is_dir() else []
        raise DataError(
            f"{root} holds no {settings.name}: neither {spec.parquet}-train.parquet nor torchvision's files ({error}). "
            f"It holds: {', '.join(there) or 'nothing'}. To download it there: --data.download true"
        ) from error
    images = torch.as_tensor(data.data)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return _image_set(spec, images, torch.as_tensor(data.targets), tuple(data.classes))
