"""Pictures in Hugging Face's tables: a struct column of encoded bytes, and an integer label column.

The tables are parquet files, or a data set of the hub through the `datasets` library. Both are read piece by piece.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.data.dataset import HUB
from spikedistill.data.pictures.decode import decode
from spikedistill.errors import DataError
from spikedistill.machine.reading import regular
from spikedistill.tasks.classification import some_rows

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")
TEST_SPLITS = ("test", "validation", "valid")
SNAPSHOT_FOLDERS = ("", "data", "plain_text")
"""Where a snapshot of the hub keeps its tables."""
PIECE = 1024
"""Rows read at a time."""

MOST_CLASSES = 2**31
"""A label above this is no class."""

Piece = list[list[Any]]
"""Some rows, as one list for each of some columns."""
Pair = tuple[Any, Any]
"""A cell of a picture, {"bytes": ...}, and its label: as the file has them, so perhaps of another type."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of pictures.

    Attributes:
        name: what to call it in an error.
        rows: how many there are.
        classes: class names by label; empty if the table has none.
        pairs: its (cell, label), row by row.
        labels: its labels alone, which is quick: no picture is read from disk.
    """

    name: str
    rows: int
    classes: tuple[str, ...]
    pairs: Callable[[], Iterator[Pair]]
    labels: Callable[[], Iterator[Any]]

    def picture(self, row: int, cell: Any, channels: int) -> Tensor:
        """uint8 [C, H, W].

        Raises:
            DataError: not a readable picture, with the number of the row.
        """
        name = f"{self.name}, row {row}"
        content = cell.get("bytes") if isinstance(cell, dict) else None
        # Missing pictures are null in a table, and some tables hold paths instead of bytes.
        if not isinstance(content, bytes):
            raise DataError(f"{name} has no picture: expected a struct with bytes, found {type(cell).__name__}")
        return decode(content, channels, name)

    def label(self, row: int, label: Any) -> int:
        """A class index.

        Raises:
            DataError: not a whole number, with the number of the row.
        """
        # A missing label is None; as a number it would have to be some class.
        if isinstance(label, bool) or not isinstance(label, int):
            raise DataError(f"{self.name}, row {row}: the label is {label!r}, expected a whole number")
        if label < 0 or label >= (len(self.classes) or MOST_CLASSES):
            limit = f"0 to {len(self.classes) - 1}" if self.classes else "the number of a class, from 0"
            raise DataError(f"{self.name}, row {row}: the label is {label}, expected {limit}")
        return label


def find_parquet(root: Path, name: str, split: str) -> list[Path]:
    """Files of one split: `NAME-SPLIT.parquet`, or a hub snapshot's `SPLIT-*.parquet` in root or NAME/ (or below)."""
    # The first is how people name a file of their own; the others are how a snapshot of the hub lies on disk.
    exact = root / f"{name}-{split}.parquet"
    if exact.is_file():
        return [exact]
    for folder in (root, root / name):
        for below in SNAPSHOT_FOLDERS:
            files = sorted((folder / below).glob(f"{split}-*.parquet"))
            if files:
                return files
    return []


def check_all_there(files: list[Path]) -> None:
    """Of `train-00000-of-00002.parquet` there must be two.

    Raises:
        DataError: some are missing.
    """
    for file in files:
        count = re.search(r"-of-(\d+)\.parquet$", file.name)
        if count and len(files) != int(count[1]):
            names = ", ".join(each.name for each in files)
            raise DataError(
                f"{file.parent} holds {len(files)} of {int(count[1])} files ({names}); fetch the others, too"
            )


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
        # Only the end of the file is read here: names of columns and the number of rows.
        opened = pq.ParquetFile(regular(file))
    except Exception as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error
    image, label = _columns(str(file), opened.schema_arrow.names)

    def pieces(columns: list[str]) -> Iterator[Piece]:
        try:
            for piece in opened.iter_batches(PIECE, columns=columns):
                yield _lists(piece, columns)
        except Exception as error:  # pyarrow's errors of damaged pages are of several kinds
            raise DataError(f"{file} is not a readable parquet file: {error}") from error

    # Class names are in JSON that Hugging Face keeps in the file's metadata, and nowhere else.
    metadata = (opened.schema_arrow.metadata or {}).get(b"huggingface")
    return _table(str(file), opened.metadata.num_rows, _class_names(metadata, label), pieces, image, label)


def _class_names(metadata: bytes | None, label: str) -> tuple[str, ...]:
    """The names in Hugging Face's metadata; none where it says something else."""
    try:
        names = json.loads(metadata or b"{}")["info"]["features"][label]["names"]
        return tuple(str(name) for name in names) if isinstance(names, list) else ()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


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
    if int(datasets.__version__.split(".")[0]) < 4:
        raise DataError(
            f"datasets {datasets.__version__} runs scripts that data sets bring along; {HUB}{name} needs version 4 or "
            "newer: pip install 'datasets>=4'"
        )
    # Not every data set calls its test rows so; some have a validation split only.
    wanted = ("train",) if train else TEST_SPLITS
    try:
        splits = datasets.get_dataset_split_names(name)
        split = next((s for s in wanted if s in splits), None)
        data = datasets.load_dataset(name, split=split) if split else None
    except Exception as error:
        raise DataError(f"{HUB}{name} cannot be loaded: {error}") from error
    if data is None:
        raise DataError(f"{HUB}{name} has no split {' or '.join(wanted)}; it has {', '.join(splits)}")
    image, label = _columns(f"{HUB}{name}", data.column_names)

    def pieces(columns: list[str]) -> Iterator[Piece]:
        encoded = data.select_columns(columns).with_format("arrow")  # the library would decode them itself
        return (_lists(piece, columns) for piece in encoded.iter(PIECE))

    names = tuple(getattr(data.features[label], "names", ()))
    return _table(f"{HUB}{name}, {split}", len(data), names, pieces, image, label)


def read_tables(tables: list[Table], channels: int, size: int, rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Decode rows: images uint8 [M, C, H, W] and class indices int64 [M].

    Args:
        rows: read no more than so many: the first, or of tables that are sorted by class, some of each.

    Raises:
        DataError: a label or a wanted picture that cannot be read, by its row, or a picture of another size.
    """
    there = sum(table.rows for table in tables)
    if there == 0:
        raise DataError(f"{tables[0].name} holds no rows; copy or download it again")
    labels = torch.tensor([table.label(*row) for table in tables for row in enumerate(table.labels())])
    if len(labels) != there:  # pictures that nobody wrote would be whatever lay in memory
        raise DataError(
            f"{tables[0].name} says that it has {there} rows, and has {len(labels)}; copy or download it again"
        )
    chosen = torch.arange(there)[slice(None) if rows is None else some_rows(labels, rows)]
    images = torch.empty(len(chosen), channels, size, size, dtype=torch.uint8)
    numbered = ((table, row, cell) for table in tables for row, (cell, _) in enumerate(table.pairs()))
    # Lazily: rows behind the last that is wanted are not even read from disk.
    wanted = itertools.islice(enumerate(numbered), int(chosen[-1]) + 1)
    place = {row: k for k, row in enumerate(chosen.tolist())}
    for number, (table, row, cell) in wanted:
        if number not in place:
            continue
        picture = table.picture(row, cell, channels)
        if picture.shape[1:] != (size, size):
            found = f"{picture.shape[2]}×{picture.shape[1]}"
            raise DataError(f"{table.name}, row {row}: the picture is {found}, expected {size}×{size}")
        images[place[number]] = picture
    return images, labels[chosen]


def bad_rows(table: Table) -> tuple[dict[str, int], list[str]]:
    """Samples by class, and what is wrong with the rows whose label or picture cannot be read."""
    counts: Counter[int] = Counter()
    bad: list[str] = []
    for row, (cell, label) in enumerate(table.pairs()):
        try:
            counts[table.label(row, label)] += 1
        except DataError as error:
            bad.append(str(error))
        try:
            table.picture(row, cell, 3)
        except DataError as error:
            bad.append(str(error))
    # A label without a name is shown as its number; whether it is out of range depends on the data set.
    names = {k: table.classes[k] if 0 <= k < len(table.classes) else str(k) for k in sorted(counts)}
    return {name: counts[k] for k, name in names.items()}, bad


def _columns(name: str, there: list[str]) -> tuple[str, str]:
    """The columns of pictures and labels."""
    return _first_of(IMAGE_COLUMNS, name, there), _first_of(LABEL_COLUMNS, name, there)


def _first_of(columns: tuple[str, ...], name: str, there: list[str]) -> str:
    found = next((column for column in columns if column in there), None)
    if found is None:
        raise DataError(f"{name} has no column {' or '.join(columns)}; it has {', '.join(there)}")
    return found


def _table(
    name: str,
    rows: int,
    classes: tuple[str, ...],
    pieces: Callable[[list[str]], Iterator[Piece]],
    image: str,
    label: str,
) -> Table:
    """A table that gives the columns that it is asked for in pieces."""

    def pairs() -> Iterator[Pair]:
        for images, labels in pieces([image, label]):
            yield from zip(images, labels, strict=True)

    return Table(name, rows, classes, pairs, lambda: (each for (labels,) in pieces([label]) for each in labels))


def _lists(piece: Any, columns: list[str]) -> Piece:
    """Columns of a table or batch of pyarrow, which have no common class."""
    return [piece.column(column).to_pylist() for column in columns]
