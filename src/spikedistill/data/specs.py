"""What the data sets are, as a table, and what a user may say about them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.events.frames import BINNINGS, Framing
from spikedistill.data.events.splits import SPLITS
from spikedistill.errors import InvalidArgument, choose


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a data set is.

    Args:
        channels, size: pictures are channels × size × size.
        classes: how many (None: as many as there are folders).
        mean, std: the constants that normalise pictures; frames of events are used as counted.
        torchvision: class name in torchvision.datasets, and the folder in the root that its files lie in.
        parquet: files are called NAME-train.parquet and NAME-test.parquet.
        kind: pictures in "memory", a "folder" of picture files read as needed, or "events".
    """

    summary: str
    channels: int
    size: int
    classes: int | None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    torchvision: tuple[str, str] | None = None
    parquet: str | None = None
    kind: Literal["memory", "folder", "events"] = "memory"


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


DATASETS = {
    "fashion-small": DataSpec(
        "6,000 + 1,000 pictures of Fashion-MNIST, shipped with the package", 1, 28, 10, (0.2860,), (0.3530,)
    ),
    "fashion-mnist": DataSpec(
        "Fashion-MNIST, 60,000 + 10,000",
        1,
        28,
        10,
        (0.2860,),
        (0.3530,),
        ("FashionMNIST", "FashionMNIST"),
        "fashion_mnist",
    ),
    "cifar10": DataSpec(
        "CIFAR-10, 50,000 + 10,000",
        3,
        32,
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        ("CIFAR10", "cifar-10-batches-py"),
        "cifar10",
    ),
    "cifar100": DataSpec(
        "CIFAR-100, 50,000 + 10,000",
        3,
        32,
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        ("CIFAR100", "cifar-100-python"),
        "cifar100",
    ),
    "imagenet": DataSpec(
        "ImageNet, train/CLASS/*.jpg and val/CLASS/*.jpg", 3, 224, 1000, IMAGENET_MEAN, IMAGENET_STD, kind="folder"
    ),
    "picture-folder": DataSpec(
        "any train/CLASS/*.jpg and val/CLASS/*.jpg", 3, 224, None, IMAGENET_MEAN, IMAGENET_STD, kind="folder"
    ),
    "cifar10-dvs": DataSpec(
        "CIFAR10-DVS, 10,000 recordings: AEDAT 2 or 4, or SpikingJelly's events and frames", 2, 48, 10, kind="events"
    ),
}


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """How recordings become samples.

    Args:
        by: frames of equal "number" of events or of equal "time"; there are T of them.
        size: rows and columns that frames are resized to.
        split: a key of `SPLITS`, or "folders" for recordings that lie in train/ and test/.
        cache: folder that keeps the prepared frames (null: ~/.cache/spikedistill).
        repair: leave out impossible events and sort by time, instead of refusing the file.
    """

    by: str = "number"
    size: int = 48
    split: str = "stratified-90-10"
    cache: str | None = None
    repair: bool = False

    def __post_init__(self) -> None:
        choose("split", self.split, [*SPLITS, "folders"])
        choose("way to cut frames", self.by, BINNINGS)

    def framing(self, timesteps: int | None) -> Framing:
        if timesteps is None:
            raise InvalidArgument("event frames are as many as time steps; the ANN twin has none, so it needs pictures")
        return Framing(timesteps, self.by, self.size)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which pictures to train and test on.

    Args:
        name: a key of `DATASETS`.
        root: folder that holds the data (torchvision's files, parquet files, pictures or recordings), or "hub:NAME" of
            the Hugging Face hub; not for the embedded set.
        download: let torchvision download what is missing.
        train_rows: use only the first rows of the training set (None: all).
        test_rows: use only the first rows of the test set (None: all).
        validation_rows: held out from the training rows, at random by `split_seed`.
        split_seed: seed of that split.
        augmentation: random changes of the training samples.
        workers: processes that prepare batches ahead (0: none; folders of pictures want some).
        events: how recordings become samples.
    """

    name: str = "fashion-small"
    root: str | None = None
    download: bool = False
    train_rows: int | None = None
    test_rows: int | None = None
    validation_rows: int = 0
    split_seed: int = 0
    augmentation: Augmentation = Augmentation()
    workers: int = 0
    events: EventSettings = EventSettings()

    def __post_init__(self) -> None:
        choose("dataset", self.name, DATASETS)
        if DATASETS[self.name].kind != "events" and self.events != EventSettings():
            raise InvalidArgument(f"data.events has no effect on {self.name!r}, which holds pictures")
        for field in ("train_rows", "test_rows"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InvalidArgument(f"data.{field} is {value}; expected at least 1, or null for all")
        for field in ("validation_rows", "workers"):
            if getattr(self, field) < 0:
                raise InvalidArgument(f"data.{field} is {getattr(self, field)}; expected at least 0")
