"""Boxes of recordings as Prophesee labels them: a structured array in `NAME_bbox.npy` beside `NAME_td.dat`.

ts or t            time in µs
x, y, w, h         left, top, width and height in pixels
class_id           number of the class
class_confidence or confidence, track_id    not read
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spikedistill.data.npz import read_npy
from spikedistill.errors import DataError
from spikedistill.machine.files import write_atomically

TIMES = ("ts", "t")
FIELDS = ("x", "y", "w", "h", "class_id")
WRITTEN = np.dtype(
    [
        ("ts", "<u8"),
        *((name, "<f4") for name in ("x", "y", "w", "h")),
        ("class_id", "u1"),
        ("class_confidence", "<f4"),
        ("track_id", "<u4"),
    ]
)
"""As GEN1 has them."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """The boxes of a recording.

    Attributes:
        times: of each, in µs, int64 [n].
        boxes: left, top, width, height, class: float32 [n, 5].
    """

    times: np.ndarray
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, index: np.ndarray) -> LabelledBoxes:
        return LabelledBoxes(self.times[index], self.boxes[torch.from_numpy(np.flatnonzero(index))])


def read_boxes(path: str | Path) -> LabelledBoxes:
    """
    Raises:
        DataError: not readable, or without one of the fields.
    """
    array = read_npy(Path(path))
    names = array.dtype.names or ()
    time = next((name for name in TIMES if name in names), None)
    missing = [name for name in FIELDS if name not in names] + ([] if time else ["ts"])
    if missing or array.ndim != 1:
        raise DataError(
            f"{path} has no field {', '.join(missing) or 'of one box each'}; expected an array of "
            f"ts (or t), {', '.join(FIELDS)}; it has {', '.join(names) or f'{array.dtype} {list(array.shape)}'}"
        )
    assert time is not None
    wrong = [name for name in (time, *FIELDS) if array.dtype[name].kind not in "buif" or array.dtype[name].shape]
    if wrong:
        raise DataError(f"{path}: {wrong[0]} is {array.dtype[wrong[0]]}; expected a number for each box")
    values = np.stack([array[name].astype(np.float64) for name in FIELDS], -1)
    times = array[time]
    if times.dtype.kind not in "iu" and not (np.isfinite(times).all() and (times == np.floor(times)).all()):
        raise DataError(f"{path}: times are in whole µs; found {times.dtype}")
    return LabelledBoxes(times.astype(np.int64), torch.from_numpy(values).float())


def write_boxes(path: Path, labels: LabelledBoxes) -> None:
    """Write boxes as GEN1 has them, whole or not at all; each box of a time is a track of its own."""
    array = np.zeros(len(labels), WRITTEN)
    array["ts"], array["class_confidence"], array["track_id"] = labels.times, 1.0, np.arange(len(labels))
    for column, name in enumerate(FIELDS):
        array[name] = labels.boxes[:, column].numpy()
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomically(path, lambda file: file.write_bytes(content.getvalue()))
