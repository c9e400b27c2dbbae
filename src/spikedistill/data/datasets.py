"""The data sets, as a table. Another is one more row, and a file with its reader if none of these can read it."""

from __future__ import annotations

import dataclasses
from typing import NoReturn

from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.events.layouts import LAYOUTS
from spikedistill.data.events.read import read_events
from spikedistill.data.pictures.boxed import read_boxed
from spikedistill.data.pictures.folderset import read_folder
from spikedistill.data.pictures.shifts import reader_of
from spikedistill.data.pictures.small import read_embedded, read_small
from spikedistill.data.scenes.sceneset import read_scenes
from spikedistill.errors import DataError

# Mean and standard deviation of the training pictures, as they are commonly used for each of these data sets.
FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

GIVEN = "given"
"""The name of samples that were handed over in Python: a recipe cannot read them again."""


def _refuse_given(dataset: DataSet, request: Request) -> NoReturn:
    """The reader of samples that only Python has.

    Raises:
        DataError: always.
    """
    raise DataError(
        "the samples of this run were handed over in Python; hand them over again: spikedistill.resume(folder, "
        "data=...), or evaluate with spikedistill.load(folder).evaluate(samples)"
    )


def _recordings(name: str, summary: str) -> DataSet:
    """A row for recordings: two channels, darker and brighter; `data.events.size` changes the size."""
    layout = LAYOUTS[name]
    classes = None if layout.classes is None else len(layout.classes)
    settings = ("root", "events")
    return DataSet(summary, read_events, "events", settings, 2, layout.size, classes, recordings=layout)


def _scenes(summary: str) -> DataSet:
    """A row for recordings with boxes: binary frames of the sensor's own size."""
    return DataSet(summary, read_scenes, "scenes", ("root", "scenes"), 2, 0)


DATASETS: dict[str, DataSet] = {
    "fashion-small": DataSet(
        "6,000 + 1,000 pictures of Fashion-MNIST, shipped with the package",
        read_embedded,
        kind="memory",
        settings=(),
        channels=1,
        size=28,
        classes=10,
        mean=FASHION_MEAN,
        std=FASHION_STD,
    ),
    "fashion-mnist": DataSet(
        "Fashion-MNIST, 60,000 + 10,000",
        read_small,
        kind="memory",
        settings=("root", "download"),
        channels=1,
        size=28,
        classes=10,
        mean=FASHION_MEAN,
        std=FASHION_STD,
        torchvision=("FashionMNIST", "FashionMNIST"),
        parquet="fashion_mnist",
    ),
    "cifar10": DataSet(
        "CIFAR-10, 50,000 + 10,000",
        read_small,
        kind="memory",
        settings=("root", "download"),
        channels=3,
        size=32,
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        torchvision=("CIFAR10", "cifar-10-batches-py"),
        parquet="cifar10",
    ),
    "cifar100": DataSet(
        "CIFAR-100, 50,000 + 10,000",
        read_small,
        kind="memory",
        settings=("root", "download"),
        channels=3,
        size=32,
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        torchvision=("CIFAR100", "cifar-100-python"),
        parquet="cifar100",
    ),
    "imagenet": DataSet(
        "ImageNet, train/CLASS/*.jpg and val/CLASS/*.jpg",
        read_folder,
        kind="folder",
        settings=("root", "size"),
        channels=3,
        size=224,
        classes=1000,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    # The constants of ImageNet for any other pictures: networks that were trained on ImageNet expect them.
    "picture-folder": DataSet(
        "any train/CLASS/*.jpg and val/CLASS/*.jpg",
        read_folder,
        kind="folder",
        settings=("root", "size"),
        channels=3,
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "picture-boxes": DataSet(
        "any pictures with boxes: train/*.jpg with train.json of COCO, or a file of VOC beside each",
        read_boxed,
        kind="boxes",
        settings=("root", "size"),
        channels=3,
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "cifar10-dvs": _recordings(
        "cifar10-dvs", "CIFAR10-DVS, 10,000 recordings: AEDAT 2 or 4, or SpikingJelly's events and frames"
    ),
    "n-mnist": _recordings("n-mnist", "N-MNIST, 60,000 + 10,000 recordings of 34×34: Train/DIGIT/*.bin and Test/"),
    "dvs128-gesture": _recordings(
        "dvs128-gesture",
        "DVS128 Gesture, 11 gestures: as data cut-gestures makes it, or SpikingJelly's events or frames",
    ),
    "n-caltech101": _recordings("n-caltech101", "N-Caltech101, 8,709 recordings: CLASS/*.bin"),
    "recordings": _recordings("recordings", "any CLASS/*.aedat, *.bin, *.dat, *.h5 or *.npz of events, of any camera"),
    "gen1": _scenes("Prophesee GEN1, boxes of cars and pedestrians: train/*_td.dat with *_bbox.npy, and test/"),
    "megapixel": _scenes("Prophesee 1 Megapixel, boxes of seven classes, in the form of gen1"),
    "event-boxes": _scenes("any recordings with boxes in the form of gen1, and classes.txt"),
    GIVEN: DataSet(
        "samples of your own, in Python: spikedistill.train(..., data=Splits(...))",
        _refuse_given,
        kind="memory",
        settings=(),
        channels=1,
        size=1,
    ),
}


def _shifted(name: str) -> DataSet:
    """A row for the pictures of another data set, as events of I2E."""
    pictures = DATASETS[name]
    summary = f"{pictures.summary}, as events of I2E with T = 8, 4, 2 or 1"
    # its files are those of the pictures, and found and read by that row
    return dataclasses.replace(
        pictures,
        summary=summary,
        reader=reader_of(name, pictures),
        kind="shifts",
        channels=2,
        torchvision=None,
        parquet=None,
    )


DATASETS |= {f"{name}-i2e": _shifted(name) for name in ("fashion-small", "fashion-mnist", "cifar10", "cifar100")}
