"""Windows of recordings with their boxes as samples."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.events.cache import OnDisk, prepared
from spikedistill.data.events.frames import fed
from spikedistill.data.pictures.changes import Draw, cropped_and_flipped, motion_of
from spikedistill.data.samples import Raw, check_rows
from spikedistill.data.scenes.layouts import SCENES
from spikedistill.data.scenes.settings import Windowing
from spikedistill.data.scenes.windows import find_windows
from spikedistill.machine.output import say
from spikedistill.tasks import Boxes, Targets

SCENE_CHANGES = ("crop", "flip")


@dataclasses.dataclass(frozen=True, eq=False)
class SceneSet(OnDisk):
    """Binary frames of windows, and targets.

    Attributes:
        packed: array uint8 [M, T, 2, rows, ⌈columns/8⌉], in memory or memory-mapped: a bit for each pixel.
        index: the rows of `packed` that are samples, int64 [n].
        targets: n rows.
        windowing: how the frames were made.
        device: where finished batches lie.

    Raises:
        DataError: not one row of targets for each sample.
    """

    array: ClassVar[str] = "packed"
    packed: np.ndarray
    index: Tensor
    targets: Targets
    windowing: Windowing
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        check_rows(self.targets, len(self.index))

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, index: Tensor | slice) -> SceneSet:
        return dataclasses.replace(self, index=self.index[index], targets=self.targets.rows(index))

    def to(self, device: torch.device) -> SceneSet:
        return dataclasses.replace(self, targets=self.targets.to(device), device=device)

    def with_targets(self, targets: Targets) -> SceneSet:
        return dataclasses.replace(self, targets=targets)

    def description(self) -> dict[str, Any]:
        """What a network that learned these windows is fed."""
        return {"kind": "scenes", "shape": [2, *self.windowing.sensor], "framing": self.windowing.says()}

    def read(self, index: Tensor) -> Raw:
        """Frames uint8 [N, T, 2, rows, columns] of 0 and 1."""
        return Raw((self._frames(index),), self.targets.batch(index))

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """Frames uint8 [N, T, 2, rows, columns], shifted and mirrored, the same at all time steps; boxes with them."""
        augmentation.only(SCENE_CHANGES, "scenes")
        sensor = self.windowing.sensor
        draw = Draw.make(len(index), *sensor, augmentation, generator).rows(share)
        frames = self._frames(index[share])
        if augmentation.crop or augmentation.flip:
            moved = cropped_and_flipped(frames.flatten(1, 2), augmentation.crop, draw.to(frames.device))
            frames = moved.view(frames.shape)
        motion = motion_of(draw, augmentation.crop, sensor)
        return Raw((frames,), self.targets.moved(self.targets.batch(index[share]), motion))

    def finish(self, raw: Raw) -> Batch:
        """Frames [T, N, 2, rows, columns] of 0 and 1, or their mean [N, 2, rows, columns]: float32."""
        return Batch(fed(raw.parts[0].transpose(0, 1), self.windowing.shown), raw.targets)

    def batch(self, index: Tensor) -> Batch:
        """Windows as they are."""
        return self.finish(self.read(index))

    def _frames(self, index: Tensor) -> Tensor:
        bits = np.ascontiguousarray(self.packed[self.index[index].numpy()])
        frames = np.unpackbits(bits, axis=-1, count=self.windowing.sensor.columns)
        return torch.from_numpy(frames).to(self.device)


def read_scenes(dataset: DataSet, request: Request) -> SceneSet:
    """The windows of a folder's training or test recordings; says how many boxes do not count, and why.

    Raises:
        DataError: missing or unusable recordings or boxes, or a cache folder that cannot be written.
        InvalidArgument: no number of time steps.
    """
    settings, root = request.scenes, request.folder()
    part = "train" if request.train else "test"
    timesteps = settings.timesteps(request.timesteps)
    layout = SCENES[request.name]
    windows = find_windows(root, part, layout, timesteps, settings).first(request.rows)
    left_out = ", ".join(f"{count} {what}" for what, count in windows.left_out.items() if count)
    if left_out:
        say(f"{windows.root}: left out, or changed: {left_out}", "stderr")
    called = [windows.name(k) for k in range(len(windows))]
    targets = Boxes.of(windows.boxes, windows.names, windows.windowing.sensor, called, layout.smallest)
    packed = prepared(windows, settings.cache, "data.scenes.cache")
    for what, files in windows.repaired.items():
        say(f"{windows.root}: repaired {len(files)} of {len(windows.files)} recordings {what}", "stderr")
    return SceneSet(packed, torch.arange(len(windows)), targets, windows.windowing)
