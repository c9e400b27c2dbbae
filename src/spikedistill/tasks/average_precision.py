"""The average precision of COCO, by its own library (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from torch import Tensor

from spikedistill.errors import InvalidArgument

OVERALL, AT_HALF, AT_THREE_QUARTERS = 0, 1, 2
"""Positions in what the library calls stats."""


def require_pycocotools() -> None:
    """
    Raises:
        InvalidArgument: it is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise InvalidArgument(
            f"detection is scored by pycocotools, which cannot be imported ({error}); install it: pip install "
            "'spikedistill[detection]'"
        ) from error


def average_precision(found: Tensor, boxes: Tensor, classes: int) -> dict[str, float]:
    """Mean average precision over classes, and over overlaps from 0.5 to 0.95 ("map"); at 0.5 and 0.75 alone.

    Args:
        found: [M, D, 6] of M samples: left, top, width, height, confidence, class.
        boxes: [M, B, 5]: left, top, width, height, class; class −1: none.

    Returns:
        "map", "map50" and "map75", 0 to 1; empty where there is no box.
    """
    # pycocotools numbers annotations and marks those that are matched by their number, so 0 would be none
    true = [
        {"image_id": k, "bbox": box[:4], "area": box[2] * box[3], "category_id": int(box[4]), "iscrowd": 0}
        for k, row in enumerate(boxes.tolist())
        for box in row
        if box[4] >= 0
    ]
    if not true:
        return {}
    true = [annotation | {"id": number} for number, annotation in enumerate(true, 1)]
    stats = _stats(true, _results(found), len(boxes), classes)
    return {"map": stats[OVERALL], "map50": stats[AT_HALF], "map75": stats[AT_THREE_QUARTERS]}


def _results(found: Tensor) -> np.ndarray:
    """As the library takes them: [n, 7], the number of the sample in front."""
    samples = np.repeat(np.arange(len(found)), found.shape[1])[:, None]
    results = np.concatenate([samples, found.double().flatten(0, 1).numpy()], 1)
    return results[results[:, 5] > 0]  # places that are no peak


def _stats(true: list[dict[str, Any]], results: np.ndarray, samples: int, classes: int) -> list[float]:
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it says a line for each of its steps
        truth = COCO()
        dataset: Any = {"info": {}, "images": [{"id": k} for k in range(samples)], "annotations": true}
        dataset["categories"] = [{"id": k} for k in range(classes)]
        truth.dataset = dataset
        truth.createIndex()
        if not len(results):
            return [0.0] * 12
        # an array of these seven columns is taken, whatever the annotation says
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")  # type: ignore[arg-type]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]
