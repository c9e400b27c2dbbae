"""Pictures in Hugging Face's tables: a struct column of encoded bytes, and an integer label column.

The tables are parquet files, or a data set of the hub through the `datasets` library. Both are read piece by piece.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")
HUB = "hub:"
TEST_SPLITS = ("test", "validation", "valid")
PIECE = 1024
"""Rows read at a time."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of pictures.

    Attributes:
        place: what to call it in an error.
        rows: how many there are.
        names: class names by label; empty if the table has none.
        pairs: its (cell, label), row by row.
    """

    place: str
    rows: int
    names: tuple[str, ...]
    pairs: Callable[[], Iterator[tuple[Any, int]]]


SNAPSHOT_FOLDERS = ("", "data", "plain_text")
"""Where a snapshot of the hub keeps its tables."""


def find_parquet(root: Path, name: str, split: str) -> list[Path]:
    """Files of one split: `NAME-SPLIT.parquet`, or a hub snapshot's `SPLIT-*.parquet` in root or NAME/ (or below)."""
    exact = root / f"{name}-{split}.parquet"
    if exact.is_file():
        return [exact]
    for folder in (root, root / name):
        for below in SNAPSHOT_FOLDERS:
            files = sorted((folder / below).glob(f"{split}-*.parquet"))
            if files:
                return files
    return []


def parquet_table(file: Path) -> Table:
    """A parquet file.

    Raises:
        DataError: it cannot be read, or has other columns.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"reading {file} needs pyarrow: pip install 'spikedistill[parquet]'") from error
    try:
        opened = pq.ParquetFile(file)
    except Exception as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error
    image, label = _columns(str(file), opened.schema_arrow.names)

    def pairs() -> Iterator[tuple[Any, int]]:
        try:
            for piece in opened.iter_batches(PIECE, columns=[image, label]):
                yield from _pairs(piece, image, label)
        except OSError as error:  # pyarrow's errors of damaged pages
            raise DataError(f"{file} is not a readable parquet file: {error}") from error

    metadata = (opened.schema_arrow.metadata or {}).get(b"huggingface")
    features = json.loads(metadata)["info"]["features"] if metadata else {}
    names = tuple(features.get(label, {}).get("names", ()))
    return Table(str(file), opened.metadata.num_rows, names, pairs)


def hub_table(name: str, train: bool) -> Table:
    """A data set of the Hugging Face hub, downloaded and cached by the `datasets` library.

    Args:
        name: as on the hub, "uoft-cs/cifar10"; or a folder that the library can read.

    Raises:
        DataError: the library is missing, or the data set cannot be had or has other columns.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(f"{HUB}{name} needs the datasets library: pip install 'spikedistill[hub]'") from error
    place = f"{HUB}{name}"
    wanted = ("train",) if train else TEST_SPLITS
    try:
        splits = datasets.get_dataset_split_names(name)
        split = next((s for s in wanted if s in splits), None)
        data = datasets.load_dataset(name, split=split) if split else None
    except Exception as error:
        raise DataError(f"{place} cannot be loaded: {error}") from error
    if data is None:
        raise DataError(f"{place} has no split {' or '.join(wanted)}; it has {', '.join(splits)}")
    image, label = _columns(place, data.column_names)
    raw: Any = data.select_columns([image, label]).with_format("arrow")

    def pairs() -> Iterator[tuple[Any, int]]:
        for piece in raw.iter(PIECE):
            yield from _pairs(piece, image, label)

    return Table(f"{place}, {split}", len(data), tuple(getattr(data.features[label], "names", ())), pairs)


def read_tables(
    tables: list[Table], channels: int, size: int, rows: int | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Decode rows: images uint8 [M, C, H, W], labels [M], class names (empty if the tables have none).

    Args:
        rows: read no more than the first so many.

    Raises:
        DataError: a row that cannot be read, by number, or a picture of another size.
    """
    there = sum(table.rows for table in tables)
    count = there if rows is None else min(rows, there)
    images, labels = torch.empty(count, channels, size, size, dtype=torch.uint8), torch.empty(count, dtype=torch.int64)
    numbered = ((table, row, *pair) for table in tables for row, pair in enumerate(table.pairs()))
    for k, (table, row, cell, label) in enumerate(itertools.islice(numbered, count)):
        if not isinstance(label, int):
            raise DataError(f"{table.place}, row {row}: the label is {label!r}, expected a whole number")
        images[k] = _decode(cell, table.place, row, channels, size)
        labels[k] = label
    return images, labels, tables[-1].names


def bad_rows(table: Table) -> tuple[dict[str, int], list[str]]:
    """Samples by class, and what is wrong with the rows whose picture cannot be read."""
    import numpy as np
    from PIL import Image

    labels, bad = Counter[int](), []
    for row, (cell, label) in enumerate(table.pairs()):
        if isinstance(label, int):
            labels[label] += 1
        else:
            bad.append(f"{table.place}, row {row}: the label is {label!r}, expected a whole number")
        try:
            np.asarray(Image.open(io.BytesIO(cell["bytes"])))
        except Exception as error:
            bad.append(f"{table.place}, row {row}: not a readable picture ({error})")
    return {table.names[k] if k < len(table.names) else str(k): labels[k] for k in sorted(labels)}, bad


def _columns(place: str, there: list[str]) -> tuple[str, str]:
    """The columns of pictures and labels."""
    found = [next((name for name in names if name in there), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)]
    for name, names in zip(found, (IMAGE_COLUMNS, LABEL_COLUMNS), strict=True):
        if name is None:
            raise DataError(f"{place} has no column {' or '.join(names)}; it has {', '.join(there)}")
    return found[0], found[1]  # type: ignore[return-value]


def _pairs(piece: Any, image: str, label: str) -> Iterator[tuple[Any, int]]:
    return zip(piece.column(image).to_pylist(), piece.column(label).to_pylist(), strict=True)


def _decode(cell: Any, place: str, row: int, channels: int, size: int) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(cell["bytes"])) as picture:
            pixels = np.array(picture.convert("L" if channels == 1 else "RGB"))
    except Exception as error:
        raise DataError(f"{place}, row {row}: the picture cannot be decoded ({error})") from error
    if pixels.shape[:2] != (size, size):
        found = f"{pixels.shape[1]}×{pixels.shape[0]}"
        raise DataError(f"{place}, row {row}: the picture is {found}, expected {size}×{size}")
    tensor = torch.from_numpy(pixels)
    return tensor.unsqueeze(0) if tensor.dim() == 2 else tensor.permute(2, 0, 1)
