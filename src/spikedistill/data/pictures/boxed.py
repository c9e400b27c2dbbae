"""Pictures with boxes: a file of COCO for each part, or a file of VOC beside each picture.

    ROOT/train/*.jpg, ROOT/train.json               COCO: images, annotations with bbox [x, y, w, h], categories
    ROOT/train/*.jpg, ROOT/train/*.xml              VOC: object with name and bndbox, beside the picture of its name
    ROOT/val/... or ROOT/test/...                   likewise

Pictures are resized to a square of `data.size`, each side by a factor of its own, and their boxes with them.
"""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.folder import SUFFIXES, content, split_folders
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.pictures.prepare import resize
from spikedistill.errors import DataError, listed
from spikedistill.machine.output import say
from spikedistill.machine.reading import ReadError, by_name, plain_json, text_of
from spikedistill.tasks.boxes import Boxes, wrong

LARGEST = 256 * 1024**2
"""Bytes of a file of annotations."""


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A picture and what is said of it.

    Attributes:
        path: of the picture.
        boxes: left, top, width, height in pixels of the picture, and the name of the class.
    """

    path: Path
    boxes: tuple[tuple[float, float, float, float, str], ...]


def read_boxed(dataset: DataSet, request: Request) -> ImageSet:
    """The training or test pictures of a folder, in memory; classes are in the order of their names.

    Raises:
        DataError: no pictures or annotations, a picture without annotation (or the other way round), damaged files, or
            boxes that cannot be: all of them by name.
    """
    root, size = request.folder(), request.size or dataset.size
    folder = annotated_folder(root, request.train)
    if folder is None:
        raise DataError(f"{root} has no folder of pictures train/ and val/; it holds {content(root)}")
    found = annotated(root, folder)
    names = sorted({box[4] for each in found for box in each.boxes})
    if not names:
        raise DataError(f"{folder}: there is no box on any of its {len(found)} pictures")
    pictures, boxes, bad = list[Tensor](), list[Tensor](), list[str]()
    for each in found[: request.rows]:
        try:
            picture = decode(each.path, turned=False)
        except DataError as error:
            bad.append(str(error))
            continue
        pictures.append(resize(picture, size, size))
        boxes.append(_resized(each, names, picture.shape[1], picture.shape[2], size))
    if bad:
        raise DataError(f"{len(bad)} of {len(found)} pictures cannot be used:{listed(bad)}")
    empty = sum(not len(each) for each in boxes)
    if empty:
        say(f"{folder}: {empty} of {len(boxes)} pictures have no box", "stderr")
    called = [str(each.path) for each in found[: request.rows]]
    targets = Boxes.of(boxes, names, (size, size), called)
    return ImageSet(torch.stack(pictures), targets, dataset.mean, dataset.std, stretched=True)


def check_annotated(each: Annotated) -> None:
    """
    Raises:
        DataError: the picture cannot be read, or a box on it cannot be; as training would say.
    """
    picture = decode(each.path, turned=False)
    names = sorted({box[4] for box in each.boxes})
    height, width = picture.shape[1:]
    size = max(height, width)
    if problem := wrong(_resized(each, names, height, width, size), names, (size, size)):
        raise DataError(f"{each.path}: {problem}")


def _resized(each: Annotated, names: list[str], height: int, width: int, size: int) -> Tensor:
    """The boxes [b, 5] in pixels of the resized picture; what rounding puts beyond an edge ends there."""
    rows = [[*box[:4], names.index(box[4])] for box in each.boxes]
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 5)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]
    beyond = torch.tensor([width, height]) + 1  # VOC counts pixels from 1
    inside = (high <= beyond) & (low >= -1)
    factor = torch.tensor([size / width, size / height])
    low, high = low * factor, high * factor
    cut_low, cut_high = low.clamp(min=0), high.clamp(max=size)
    low, high = torch.where(inside, cut_low, low), torch.where(inside, cut_high, high)
    return torch.cat([low, high - low, boxes[:, 4:]], 1)


def annotated_folder(root: Path, train: bool) -> Path | None:
    """The folder of training or of test pictures: of several the first with annotations; None if there is no folder."""
    there = split_folders(root, train)
    return next((path for path in there if is_annotated(root, path)), there[0] if there else None)


def is_annotated(root: Path, folder: Path) -> bool:
    """Whether there are annotations of COCO or VOC for the pictures of a folder."""
    return _table(root, folder).exists() or any(folder.rglob("*.xml"))


def _table(root: Path, folder: Path) -> Path:
    return root / f"{folder.name}.json"


def annotated(root: Path, folder: Path) -> list[Annotated]:
    """The pictures of a part with their boxes, in the order of their names.

    Raises:
        DataError: no annotations, or ones that do not go with the pictures.
    """
    table = _table(root, folder)
    known_by = _name if table.exists() else _stem
    pictures = by_name([path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES], known_by)
    if table.exists():
        found = coco_boxes(table)
    else:
        found = {name: voc_boxes(xml) for name, xml in by_name(sorted(folder.rglob("*.xml")), known_by).items()}
    if not found:
        raise DataError(f"{folder} has no annotations: expected {table}, as COCO has it, or NAME.xml beside NAME.jpg")
    alone = [f"{pictures[name]} has no annotation" for name in pictures if name not in found]
    alone += [f"{folder / name} is annotated and is not there" for name in found if name not in pictures]
    if alone:
        raise DataError(f"pictures and annotations do not go together:{listed(alone)}")
    return [Annotated(path, tuple(found[name])) for name, path in pictures.items()]


def _name(path: Path) -> str:
    return path.name


def _stem(path: Path) -> str:
    return path.stem


Named = list[tuple[float, float, float, float, str]]


def coco_boxes(path: Path) -> dict[str, Named]:
    """Boxes by name of the picture; regions of a crowd are no boxes of one thing, and are left out."""
    try:
        content = plain_json(path, LARGEST)
        classes = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        names = {entry["id"]: Path(str(entry["file_name"])).name for entry in content["images"]}
        if len(set(names.values())) < len(content["images"]):
            raise ValueError("two images have one id, or one file name")
        found: dict[str, Named] = {name: [] for name in names.values()}
        for entry in content["annotations"]:
            if not entry.get("iscrowd"):
                found[names[entry["image_id"]]].append(_box(entry["bbox"], classes[entry["category_id"]]))
    except ReadError as error:
        raise DataError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not as COCO has it: {type(error).__name__}: {error}") from error
    return found


def _box(values: Any, name: str) -> tuple[float, float, float, float, str]:
    x, y, w, h = (float(value) for value in values)
    return x, y, w, h, name


def voc_boxes(path: Path) -> Named:
    try:
        text = text_of(path)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can stand for billions of characters
            raise ValueError("it declares entities, which are not read")
        found = []
        for thing in ElementTree.fromstring(text).iter("object"):
            corners: Mapping[str, float] = {
                name: float(thing.findtext(f"bndbox/{name}", "missing")) for name in ("xmin", "ymin", "xmax", "ymax")
            }
            # both corners are pixels of the box, counted from 1
            left, top = corners["xmin"] - 1, corners["ymin"] - 1
            box = [left, top, corners["xmax"] - left, corners["ymax"] - top]
            found.append(_box(box, str(thing.findtext("name", "")).strip()))
            if not found[-1][4]:
                raise ValueError("an object has no name")
    except ReadError as error:
        raise DataError(str(error)) from error
    except (ValueError, ElementTree.ParseError) as error:
        raise DataError(f"{path} is not as VOC has it: {error}") from error
    return found
