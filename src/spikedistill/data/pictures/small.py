"""Data sets of small pictures that are held in memory, from wherever they lie."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from spikedistill.data.dataset import HUB, DataSet, Request
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.folder import Found, find_pictures, split_folder
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.pictures.tables import (
    Table,
    check_all_there,
    find_parquet,
    hub_table,
    parquet_table,
    read_tables,
)
from spikedistill.data.pictures.torchvision_files import read_torchvision
from spikedistill.errors import DataError
from spikedistill.tasks.classification import Labels

FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read_small(dataset: DataSet, request: Request) -> ImageSet:
    """A data set of the hub, in parquet files, in folders of classes, or in torchvision's files: the first found.

    Raises:
        DataError: none of them, or one that is damaged or of another form.
    """
    if request.root is not None and request.root.startswith(HUB):
        return _of_tables(dataset, request, [hub_table(request.root.removeprefix(HUB), request.train)])
    form = _form(dataset, request)
    if form == PARQUET:
        files = _parquet(dataset, request, request.train)
        check_all_there(files)
        return _of_tables(dataset, request, [parquet_table(file) for file in files])
    if form == FOLDERS:
        found = find_pictures(request.folder(), request.train)
        return _image_set(dataset, _in_memory(found, dataset.channels, dataset.size), found.labels)
    return _image_set(dataset, *read_torchvision(dataset, request))


PARQUET, FOLDERS = "parquet files", "folders of classes"


def _form(dataset: DataSet, request: Request) -> str | None:
    """The first form that has both parts, or the part that is asked for; None for torchvision's.

    Raises:
        DataError: the other part is there, but in another form.
    """
    # What somebody made or fetched on purpose comes before what torchvision left in the same folder.
    there = {
        train: [
            *([PARQUET] if _parquet(dataset, request, train) else []),
            *([FOLDERS] if split_folder(request.folder(), train) else []),
        ]
        for train in (True, False)
    }
    both = [form for form in there[True] if form in there[False]]
    if both:
        return both[0]
    # Two parts that were made by different people may share pictures, and nobody would see it.
    if there[True] and there[False]:
        raise DataError(
            f"{request.folder()} holds training pictures as {there[True][0]} and test pictures as {there[False][0]}; "
            "expected both in one form: move one of them away, or add what is missing"
        )
    if there[not request.train] and not there[request.train]:  # torchvision's files would give it, of another source
        here, missing = ("test", "training") if request.train else ("training", "test")
        raise DataError(
            f"{request.folder()} holds {here} pictures as {there[not request.train][0]} and no {missing} pictures in "
            "that form; add what is missing, or, to read torchvision's files, move them away"
        )
    return next(iter(there[request.train]), None)


def _parquet(dataset: DataSet, request: Request, train: bool) -> list[Path]:
    return find_parquet(request.folder(), dataset.parquet or request.name, "train" if train else "test")


def read_embedded(dataset: DataSet, request: Request) -> ImageSet:
    """The pictures of Fashion-MNIST that ship with the package."""
    import numpy as np

    split = "train" if request.train else "test"
    file = resources.files("spikedistill.data") / "fashion_small.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays[f"{split}_images"]).unsqueeze(1)
        labels = torch.from_numpy(arrays[f"{split}_labels"]).long()
    return _image_set(dataset, images, Labels(labels, FASHION))


def _of_tables(dataset: DataSet, request: Request, tables: list[Table]) -> ImageSet:
    images, labels = read_tables(tables, dataset.channels, dataset.size, request.rows)
    for table in tables:
        if table.classes != tables[0].classes:
            raise DataError(f"{table.name} has other classes than {tables[0].name}, or in another order")
    # Tables that were not made by Hugging Face have no names: numbers stand for them.
    names = tables[0].classes or tuple(str(k) for k in range(dataset.classes or 0))
    return _image_set(dataset, images, Labels(labels, names))


def _in_memory(found: Found, channels: int, size: int) -> Tensor:
    """All pictures of a folder of small ones, uint8 [M, channels, size, size].

    Raises:
        DataError: a picture that cannot be read or is of another size, by name.
    """
    # Filled row by row: a list of pictures and their stack would take twice the memory.
    images = torch.empty(len(found.names), channels, size, size, dtype=torch.uint8)
    for k in range(len(found.names)):
        picture = decode(found.path(k), channels)
        if picture.shape[1:] != (size, size):
            height, width = picture.shape[1:]
            raise DataError(f"{found.path(k)} is {width}×{height} pixels, expected {size}×{size}")
        images[k] = picture
    return images


def _image_set(dataset: DataSet, images: Tensor, labels: Labels) -> ImageSet:
    expected = (dataset.channels, dataset.size, dataset.size)
    # A folder of other pictures under the name of this data set would train, and its numbers would be taken for real.
    if len(labels.names) != dataset.classes or images.shape[1:] != expected:
        raise DataError(
            f"expected {dataset.classes} classes of {'×'.join(map(str, expected))} pictures; found "
            f"{len(labels.names)} classes of {'×'.join(map(str, images.shape[1:]))}"
        )
    return ImageSet(images, labels, dataset.mean, dataset.std)
