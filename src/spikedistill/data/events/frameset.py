"""Frames of recordings as samples, and samples made of anybody's dataset of events or frames."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.events.cache import OnDisk
from spikedistill.data.events.changes import Changes, change
from spikedistill.data.events.event import Events
from spikedistill.data.events.frames import Framing, fed, finished_frames, to_frames
from spikedistill.data.samples import Raw, check_rows
from spikedistill.errors import DataError
from spikedistill.tasks.classification import Labels
from spikedistill.tasks.task import Targets

FRAME_CHANGES = ("flip", "roll", "nda")


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSet(OnDisk):
    """Event frames and targets.

    Attributes:
        frames: array [M, T, 2, H, W], in memory or memory-mapped.
        index: the rows of `frames` that are samples, int64 [n].
        targets: n rows; those that are places allow no random change.
        framing: how the frames were made.
        device: where finished batches lie.

    Raises:
        DataError: not one row of targets for each sample.
    """

    array: ClassVar[str] = "frames"
    frames: np.ndarray
    index: Tensor
    targets: Targets
    framing: Framing
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        check_rows(self.targets, len(self.index))

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, index: Tensor | slice) -> FrameSet:
        return dataclasses.replace(self, index=self.index[index], targets=self.targets.rows(index))

    def to(self, device: torch.device) -> FrameSet:
        # The frames stay where they are: they may be more than fits on a device.
        return dataclasses.replace(self, targets=self.targets.to(device), device=device)

    def with_targets(self, targets: Targets) -> FrameSet:
        return dataclasses.replace(self, targets=targets)

    def description(self) -> dict[str, Any]:
        """What a network that learned these frames is fed."""
        size = self.framing.size
        return {"kind": "events", "shape": [2, size, size], "framing": self.framing.says()}

    def read(self, index: Tensor) -> Raw:
        """Frames [T, N, 2, H, W] in the type in which they are kept."""
        return Raw((self._frames(index),), self.targets.batch(index))

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """Changed frames [T, N, 2, H, W] in the type in which they are kept."""
        augmentation.only(() if self.targets.are_places else FRAME_CHANGES, "event frames")
        changes = Changes.draw(len(index), augmentation, generator).rows(share)
        return Raw((change(self._frames(index[share]), changes),), self.targets.batch(index[share]))

    def finish(self, raw: Raw) -> Batch:
        """Frames [T, N, 2, H, W], float32, as counted; or their mean [N, 2, H, W]."""
        return Batch(fed(raw.parts[0], self.framing.shown), raw.targets)

    def batch(self, index: Tensor) -> Batch:
        """Frames as they are, without augmentation."""
        return self.finish(self.read(index))

    def _frames(self, index: Tensor) -> Tensor:
        # The rows of a batch are scattered over the file; they are copied together once.
        chosen = np.ascontiguousarray(self.frames[self.index[index].numpy()])  # a memory-mapped file is read here
        return torch.from_numpy(chosen).to(self.device).transpose(0, 1)


class Dataset(Protocol):
    """A map-style dataset, such as tonic's and SpikingJelly's: item k is a recording and its class index."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: int, /) -> tuple[Any, Any]: ...


def frames_of(dataset: Dataset, classes: Iterable[str], framing: Framing) -> FrameSet:
    """Samples from any map-style dataset that yields (events or frames, label): tonic's, SpikingJelly's, your own.

    Args:
        dataset: `len` and `[k]` → (recording, label). A recording is frames [T, 2, H, W], or events: a structured
            array, a mapping or an `Events` with x, y, p and t.
        classes: names, by label.

    Raises:
        DataError: an item of another form, or with numbers that cannot be; says which.
    """
    names = tuple(classes)
    arrays, labels = [], []
    for k in range(len(dataset)):
        item = dataset[k]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            given = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else type(item).__name__
            raise DataError(f"item {k} is a {given}; expected a pair (recording, label)")
        recording, label = item
        arrays.append(_as_frames(recording, framing, f"item {k}"))
        labels.append(as_label(label, names, f"item {k}"))
    # np.stack would say the same in words about arrays.
    if not arrays:
        raise DataError("the dataset is empty")
    return FrameSet(np.stack(arrays), torch.arange(len(labels)), Labels(torch.tensor(labels), names), framing)


def as_label(label: Any, names: tuple[str, ...], source: str) -> int:
    """A label as a class index.

    Raises:
        DataError: none, or outside the names.
    """
    try:
        # Takes integers of Python, numpy and torch, and no 0.5, which int() would cut to 0.
        number = operator.index(label)
    except TypeError as error:
        raise DataError(f"{source} has label {label!r}; expected a class index, a whole number") from error
    if not 0 <= number < len(names):
        raise DataError(f"{source} has label {number}, but there are {len(names)} classes")
    return number


def _as_frames(recording: Any, framing: Framing, source: str) -> np.ndarray:
    """Frames float16 [T, 2, size, size] of events or frames."""
    fields = _fields(recording)
    if fields is not None:
        events = Events.of(fields["x"], fields["y"], fields["p"], fields["t"], source)
        events.checked(
            source, framing.sensor, remedy="leave such events out, or sort them by time, before they come here"
        )
        frames = to_frames(events, framing.timesteps, framing.by, framing.sensor)
    else:
        # Frames that were made elsewhere: what they count and how they were cut is up to their maker.
        frames = np.asarray(recording)
    if frames.ndim != 4 or frames.shape[:2] != (framing.timesteps, 2):
        raise DataError(
            f"{source} is {type(recording).__name__} {list(frames.shape)}; expected frames [T, 2, H, W] with "
            f"T = {framing.timesteps}, or events with x, y, p and t"
        )
    return finished_frames(frames, framing.size, source)


def _fields(recording: Any) -> Mapping[str, Any] | np.ndarray | None:
    """What x, y, p and t can be taken from by name; None if it has no such fields."""
    # An `Events` may have been made by hand, so it is checked like any other.
    if isinstance(recording, Events):
        return vars(recording)
    names = recording.dtype.names or () if isinstance(recording, np.ndarray) else ()
    if isinstance(recording, Mapping):
        names = recording.keys()
    return recording if set("xypt") <= set(names) else None
