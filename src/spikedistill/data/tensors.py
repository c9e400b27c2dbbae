"""Samples that are numbers already: features, sequences, pictures of floats; each one input, or one for every step."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.events.frameset import Dataset, as_label
from spikedistill.data.npz import read_npy
from spikedistill.data.pictures.changes import Draw, changed, cut_out
from spikedistill.data.pictures.decode import CHANNELS, pixels_of
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.samples import Raw, Samples, check_rows
from spikedistill.errors import DataError
from spikedistill.machine.device import sent
from spikedistill.tasks.classification import Labels
from spikedistill.tasks.task import Targets

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_CHANGES = ("crop", "flip", "cutout")


@dataclasses.dataclass(frozen=True, eq=False)
class TensorSet:
    """Samples as one tensor of floats, which networks get as they are.

    Args:
        values: [M, ...], one sample each: features [M, F], sequences [M, C, L], normalised pictures [M, C, H, W]; with
            `over_time` [M, T, ...], one input for every step.
        targets: M rows.
        over_time: whether dimension 1 is time.

    Raises:
        DataError: values of another type or form, or that are not finite; or not one row of targets for each.
    """

    values: Tensor
    targets: Targets
    over_time: bool = False

    def __post_init__(self) -> None:
        values = self.values
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.dim() < 2 + self.over_time:
            form = "[M, T, ...]" if self.over_time else "[M, ...]"
            kind = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise DataError(
                f"values must be a tensor of floats {form} with at least one number for each sample; given {kind}. "
                "(uint8 pictures are an ImageSet)"
            )
        check_rows(self.targets, len(values))
        # a NaN never fires: it would train on, and nobody would see it
        bad = (~values.flatten(1).float().isfinite().all(1)).nonzero().flatten().tolist()
        if bad:
            raise DataError(
                f"{len(bad)} samples are not finite (NaN, or too large for float32): {bad[:10]}; mend or leave them out"
            )

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: Tensor | slice) -> TensorSet:
        return self._with(self.values[index], self.targets.rows(index))

    def to(self, device: torch.device) -> TensorSet:
        return self._with(self.values.to(device), self.targets.to(device))

    def with_targets(self, targets: Targets) -> TensorSet:
        check_rows(targets, len(self))
        return self._with(self.values, targets)

    def _with(self, values: Tensor, targets: Targets) -> TensorSet:
        """Values that were looked at already are not looked at again: on a GPU that would wait."""
        made = copy.copy(self)
        object.__setattr__(made, "values", values)
        object.__setattr__(made, "targets", targets)
        return made

    @property
    def device(self) -> torch.device:
        return self.values.device

    def description(self) -> dict[str, Any]:
        """What a network that learned these is fed: the shape of a sample at one step, and T where it has time."""
        first = 1 + self.over_time
        steps = {"timesteps": self.values.shape[1]} if self.over_time else {}
        return {"kind": "tensor", "shape": list(self.values.shape[first:]), **steps}

    def read(self, index: Tensor) -> Raw:
        """[N, ...] or [T, N, ...] in the type in which they are kept."""
        return Raw((self._chosen(index),), self.targets.batch(index))

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """As `read`; pictures may be cropped, mirrored and cut out, with zeros, the mean of normalised ones."""
        picture = self.values.dim() == 4 and not self.over_time
        what = "pictures of floats" if picture else "samples that are no pictures"
        augmentation.only(PICTURE_CHANGES if picture else (), what)
        values, targets = self._chosen(index[share]), self.targets.batch(index[share])
        if not picture:
            return Raw((values,), targets)
        height, width = values.shape[2:]
        draw = Draw.make(len(index), height, width, augmentation, generator).rows(share).to(self.device)
        values, *square = changed(values, augmentation, draw)
        return Raw((cut_out(values, square[1], square[0]) if square else values,), targets)

    def finish(self, raw: Raw) -> Batch:
        """In float32; [N, ...], or [T, N, ...]."""
        return Batch(raw.parts[0].float(), raw.targets)

    def batch(self, index: Tensor) -> Batch:
        """As they are."""
        return self.finish(self.read(index))

    def _chosen(self, index: Tensor) -> Tensor:
        # indexing copies: what is changed in place afterwards is nobody else's
        chosen = self.values[sent(index, self.device)]
        return chosen.transpose(0, 1).contiguous() if self.over_time else chosen


def samples_of(
    dataset: Dataset, classes: Iterable[str], *, like: Samples | None = None, over_time: bool = False
) -> ImageSet | TensorSet:
    """Samples from any map-style dataset that yields (input, label), such as torchvision's or your own.

    Every item is read once and kept in memory: random transforms of the dataset's own would be the same in every epoch.
    Let it give plain pictures, and name random changes in the recipe.

    Args:
        dataset: `len` and `[k]` → (input, class index). An input is a Pillow picture, uint8 [C, H, W] or [H, W]; or
            floats of any shape.
        classes: names, by label.
        like: the training samples, whose mean and deviation normalise pictures (None: those of these pictures).
        over_time: whether floats are [T, ...], one input for every step.

    Returns:
        An `ImageSet` of pictures, a `TensorSet` of floats.

    Raises:
        DataError: an item of another form than the first, or a label that is none; says which.
    """
    if isinstance(classes, int):
        raise DataError(f"classes are {classes}; expected their names, as ('cat', 'dog')")
    values, targets = _read_all(dataset, tuple(classes))
    if values.dtype != torch.uint8:
        if like is not None:
            raise DataError(
                "floats are taken as they are, so `like` has no effect; leave it out, or give uint8 pictures"
            )
        return TensorSet(values, targets, over_time)
    if over_time:
        raise DataError("pictures of uint8 have no time here; give floats [T, C, H, W] for frames")
    return ImageSet(values, targets, *_normalisation(values, like))


def _read_all(dataset: Dataset, names: tuple[str, ...]) -> tuple[Tensor, Labels]:
    """Every item of a dataset, inputs as one tensor [M, ...]."""
    first, _ = _as_tensor(_first(dataset), 0)
    # Filled row by row: a list of items and their stack would take twice the memory.
    values = torch.empty(len(dataset), *first.shape, dtype=first.dtype)
    labels = torch.empty(len(dataset), dtype=torch.long)
    for k in range(len(dataset)):
        value, label = _as_tensor(dataset[k], k)
        if value.shape != first.shape or value.dtype != first.dtype:
            raise DataError(
                f"item {k} is {value.dtype} {list(value.shape)}, item 0 {first.dtype} {list(first.shape)}; give all "
                "the same form"
            )
        values[k], labels[k] = value, as_label(label, names, f"item {k}")
    return values, Labels(labels, names)


def _first(dataset: Dataset) -> Any:
    """Item 0, if it is a dataset that has items by number."""
    try:
        if len(dataset) == 0:
            raise DataError("the dataset is empty")
    except TypeError as error:
        raise DataError(
            f"a {type(dataset).__name__} has no len; expected a dataset with len and [k] → (input, label)"
        ) from error
    try:
        return dataset[0]
    except TypeError as error:
        raise DataError(f"a {type(dataset).__name__} has no [k]; give the dataset itself, not a loader") from error


def _upright(picture: Image) -> Image:
    """A picture of a turned camera is turned back, as one that is read from a file."""
    from PIL import ExifTags, ImageOps

    # only where it says so: a copy has lost its format, which tells what its numbers mean
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(picture) if turned else picture


def _as_tensor(item: Any, k: int) -> tuple[Tensor, Any]:
    """An item's input as uint8 [C, H, W] or floats, and its label as it is."""
    from PIL.Image import Image

    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"item {k} is a {type(item).__name__}; expected a pair (input, label)")
    value, label = item
    if isinstance(value, Image):
        grey = len(value.getbands()) == 1 and value.mode != "P"  # a palette stands for colours
        try:
            value = torch.from_numpy(pixels_of(_upright(value), CHANNELS[1 if grey else 3]))
        except Exception as error:  # a file that is read only now may be damaged
            raise DataError(f"item {k}: {error}") from error
        value = value.permute(2, 0, 1) if value.dim() == 3 else value
    try:
        value = torch.as_tensor(value)
    except Exception as error:  # of another kind for each that is no number
        raise DataError(
            f"item {k} has a {type(value).__name__} as its input: {error}; give a picture or numbers"
        ) from error
    if value.dtype == torch.uint8 and value.dim() == 2:
        value = value.unsqueeze(0)
    if value.dtype == torch.uint8 and (value.dim() != 3 or value.shape[0] not in (1, 3)):
        raise DataError(f"item {k} is uint8 {list(value.shape)}; expected a picture [C, H, W] with 1 or 3 channels")
    if value.dtype != torch.uint8 and not value.is_floating_point():
        raise DataError(f"item {k} is of {value.dtype}; expected uint8 pictures, or floats")
    return value, label


def _normalisation(images: Tensor, like: Samples | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, in units of 0..1."""
    if like is None:
        deviation, mean = torch.std_mean(images.float() / 255, (0, 2, 3))
        return tuple(mean.tolist()), tuple(deviation.clamp(min=1e-3).tolist())
    description = like.description()
    if "mean" not in description:
        raise DataError(f"these are pictures, and `like` is a {type(like).__name__} without mean and deviation")
    if len(description["mean"]) != images.shape[1]:
        raise DataError(
            f"these pictures have {images.shape[1]} channels, those of `like` {len(description['mean'])}; convert them"
        )
    return tuple(description["mean"]), tuple(description["std"])


def read_values(path: str | Path, description: dict[str, Any]) -> Tensor:
    """A file .npy as a network sees it that learned a `TensorSet`: [1, ...], or [T, 1, ...].

    Raises:
        DataError: not readable, or of another shape.
    """
    expected = [*([description["timesteps"]] if "timesteps" in description else []), *description["shape"]]
    array = read_npy(Path(path))
    if array.dtype.kind not in "buif":
        raise DataError(f"{path} is not a readable .npy file of numbers (it holds {array.dtype})")
    values = torch.from_numpy(array.astype(np.float32))
    if list(values.shape) != expected:
        raise DataError(f"{path} holds {list(values.shape)}; the network was trained on {expected}")
    if not values.isfinite().all():
        raise DataError(f"{path} holds numbers that are not finite")
    return values.unsqueeze(1 if "timesteps" in description else 0)
