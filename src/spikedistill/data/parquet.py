"""Pictures in Hugging Face's parquet layout: a struct column of encoded bytes, and an integer label column."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")


def find_parquet(root: Path, name: str, split: str) -> list[Path]:
    """Files of one split: `NAME-SPLIT.parquet`, or a hub snapshot's `SPLIT-*.parquet` in root, data/ or NAME/."""
    exact = root / f"{name}-{split}.parquet"
    if exact.is_file():
        return [exact]
    for folder in (root, root / "data", root / name, root / name / "data"):
        files = sorted(folder.glob(f"{split}-*.parquet")) if folder.is_dir() else []
        if files:
            return files
    return []


def read_parquet(files: list[Path], channels: int, size: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Decode every row: images uint8 [M, C, H, W], labels [M], class names (empty if the file has none).

    Raises:
        DataError: a file or row that cannot be read, by name and number, or a picture of another size.
    """
    images, labels, names = [], [], ()
    for file in files:
        table = _table(file)
        image_column = _column(file, table, IMAGE_COLUMNS)
        label_column = _column(file, table, LABEL_COLUMNS)
        names = _class_names(table, label_column)
        for row, cell in enumerate(table.column(image_column).to_pylist()):
            images.append(_decode(cell, file, row, channels, size))
        labels += table.column(label_column).to_pylist()
    return torch.stack(images), torch.tensor(labels), names


def _table(file: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"reading {file} needs pyarrow: pip install 'spikedistill[parquet]'") from error
    try:
        return pq.read_table(file)
    except Exception as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error


def _column(file: Path, table: Any, candidates: tuple[str, ...]) -> str:
    for name in candidates:
        if name in table.column_names:
            return name
    raise DataError(f"{file} has no column {' or '.join(candidates)}; it has {', '.join(table.column_names)}")


def _class_names(table: Any, label_column: str) -> tuple[str, ...]:
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return ()
    features = json.loads(metadata)["info"]["features"]
    return tuple(features[label_column].get("names", ()))


def _decode(cell: Any, file: Path, row: int, channels: int, size: int) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(cell["bytes"])) as picture:
            pixels = np.array(picture.convert("L" if channels == 1 else "RGB"))
    except Exception as error:
        raise DataError(f"{file}, row {row}: the picture cannot be decoded ({error})") from error
    if pixels.shape[:2] != (size, size):
        found = f"{pixels.shape[1]}×{pixels.shape[0]}"
        raise DataError(f"{file}, row {row}: the picture is {found}, expected {size}×{size}")
    tensor = torch.from_numpy(pixels)
    return tensor.unsqueeze(0) if tensor.dim() == 2 else tensor.permute(2, 0, 1)


def bad_rows(file: Path) -> tuple[dict[str, int], list[str]]:
    """Samples by class, and what is wrong with the rows whose picture cannot be read.

    Raises:
        DataError: the file itself cannot be read.
    """
    import numpy as np
    from PIL import Image

    table = _table(file)
    label_column = _column(file, table, LABEL_COLUMNS)
    names = _class_names(table, label_column)
    labels = Counter(table.column(label_column).to_pylist())
    bad = []
    for row, cell in enumerate(table.column(_column(file, table, IMAGE_COLUMNS)).to_pylist()):
        try:
            np.asarray(Image.open(io.BytesIO(cell["bytes"])))
        except Exception as error:
            bad.append(f"{file}, row {row}: not a readable picture ({error})")
    return {names[k] if k < len(names) else str(k): labels[k] for k in sorted(labels)}, bad
