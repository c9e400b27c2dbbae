"""The windows of events before labelled times: found in a folder, checked against their recordings, made into frames.

train/*_td.dat, train/*_bbox.npy, test/...    a recording (also *_td.h5) and its boxes have one name
classes.txt                                   the names of the classes, a line each, where the data set has none
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikedistill.data.events.event import Sensor
from spikedistill.data.events.frames import to_frames_between
from spikedistill.data.events.recordings import part_folder
from spikedistill.data.scenes.box_files import LabelledBoxes, read_boxes
from spikedistill.data.scenes.layouts import SceneLayout
from spikedistill.data.scenes.opened import ENDS, Opened, opened, recordings_in
from spikedistill.data.scenes.settings import Windowing
from spikedistill.errors import DataError, listed
from spikedistill.machine.reading import ReadError, by_name, text_of
from spikedistill.tasks.boxes import usable, wrong

RECORDING, LABELS = "_td.dat", "_bbox.npy"
"""The ends of the names of a recording (its usual form) and of its boxes."""
OTHERS = ", ".join(end for end in ENDS if end != RECORDING)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Windows of recordings (a `FrameSource` of the cache): packed frames uint8 [M, T, 2, rows, ⌈columns/8⌉].

    Attributes:
        root: the folder of the part.
        files: recordings.
        recording: of each window, the number of its file, int64 [M].
        ends: of each window, in µs, int64 [M].
        boxes: of each window, [b, 5].
        names: of the classes.
        windowing: how they become frames.
        left_out: how many boxes or recordings do not count, by reason.
    """

    root: Path
    files: tuple[Path, ...]
    recording: np.ndarray
    ends: np.ndarray
    boxes: tuple[Tensor, ...]
    names: tuple[str, ...]
    windowing: Windowing
    left_out: Counter[str]
    dtype: np.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.windowing.sensor
        return (self.windowing.timesteps, 2, rows, -(-columns // 8))

    def says(self) -> dict[str, Any]:
        return {
            "form": "windows",
            "recording": self.recording.tolist(),
            "ends": self.ends.tolist(),
            **self.windowing.says(),
        }

    def make(self, k: int) -> np.ndarray:
        """Where anything happened, in each frame: a bit each, eight columns to a byte."""
        return np.packbits(self.frames(k), axis=-1)

    def frames(self, k: int) -> np.ndarray:
        """Binary frames, bool [T, 2, rows, columns].

        Raises:
            DataError: the recording is damaged.
        """
        return binary_frames(opened(self.files[self.recording[k]]), int(self.ends[k]), self.windowing)

    def name(self, k: int) -> str:
        """What to call a window: its recording and time."""
        return f"{self.files[self.recording[k]].name} at {self.ends[k] / 1000:g} ms"


def binary_frames(file: Opened, end: int, windowing: Windowing) -> np.ndarray:
    """Where anything happened in the window before `end` (µs), in T parts of equal time: bool [T, 2, rows, columns].

    Raises:
        DataError: events outside the sensor.
    """
    start = end - round(windowing.window * 1000)
    events = file.window(start, end, windowing.sensor)
    return to_frames_between(events, windowing.timesteps, start, end, windowing.sensor) > 0


def last_window(path: str | Path, windowing: Windowing) -> np.ndarray:
    """The frames of the last window of a recording: bool [T, 2, rows, columns].

    Raises:
        DataError: not a readable recording of this camera, or without events.
    """
    file = opened(Path(path))
    if not len(file):
        raise DataError(f"{path} holds no events")
    return binary_frames(file, file.end + 1, windowing)


def find_windows(
    root: Path, part: str, layout: SceneLayout, timesteps: int, window: float, repair: bool = False
) -> Windows:
    """The windows of a part ("train", "test").

    Raises:
        DataError: no such folder, recordings without boxes or boxes without recording, or unusable ones: all by name.
    """
    folder = part_folder(root, part)
    if not folder.is_dir():
        raise DataError(
            f"{root} holds no folder {part}/; expected {part}/NAME{RECORDING} (or {OTHERS}) and {part}/NAME{LABELS}"
        )
    names = classes_of(root, layout)
    recordings = recordings_in(folder)
    labels = by_name(sorted(folder.rglob(f"*{LABELS}")), lambda path: path.name.removesuffix(LABELS))
    _refuse_alone(folder, recordings, labels)
    sensor = layout.sensor or _sensor_of([*recordings.values()])
    left_out, problems, chosen = Counter[str](), list[str](), list[tuple[int, int, Tensor]]()
    for number, (name, path) in enumerate(recordings.items()):
        try:
            found = _checked(read_boxes(labels[name]), labels[name], names, sensor, repair, left_out)
            found = _counting(found, layout, left_out)
            _refuse_late(found, path, window)
        except DataError as error:
            problems.append(str(error))
            continue
        if not len(found):
            left_out["recordings without a box"] += 1
        chosen += [(number, int(t), found.boxes[torch.from_numpy(found.times == t)]) for t in np.unique(found.times)]
    if problems:
        raise DataError(f"{len(problems)} of {len(recordings)} recordings cannot be used:{listed(problems)}")
    if not chosen:
        raise DataError(f"{folder} holds {len(recordings)} recordings, and no box that counts")
    numbers, ends, boxes = zip(*chosen, strict=True)
    windowing = Windowing(timesteps, window, sensor)
    files = tuple(recordings.values())
    return Windows(folder, files, np.array(numbers), np.array(ends), boxes, names, windowing, left_out)


def classes_of(root: Path, layout: SceneLayout) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        DataError: nobody says them.
    """
    if layout.classes is not None:
        return layout.classes
    try:
        lines = text_of(root / "classes.txt").splitlines()
    except ReadError as error:
        raise DataError(f"the names of the classes are missing: {error}. Write them there, a line each") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise DataError(f"{root / 'classes.txt'} holds {len(names)} names, {len(set(names))} different ones")
    return names


def _refuse_alone(folder: Path, recordings: dict[str, Path], labels: dict[str, Path]) -> None:
    alone = [f"{recordings[name]} has no {name}{LABELS}" for name in recordings if name not in labels]
    alone += [f"{labels[name]} has no {name}{RECORDING} (or {OTHERS})" for name in labels if name not in recordings]
    if alone:
        raise DataError(
            f"recordings and boxes do not go together; add what is missing, or move these away:{listed(alone)}"
        )
    if not recordings:
        raise DataError(f"{folder} holds no NAME{RECORDING} (or {OTHERS}) with NAME{LABELS} beside it")


def _sensor_of(paths: list[Path]) -> Sensor:
    """What the headers of the recordings say, all the same.

    Raises:
        DataError: one says nothing, or something else than the others.
    """
    said = {path: opened(path).sensor for path in paths}
    silent = [str(path) for path, sensor in said.items() if sensor is None]
    if silent:
        raise DataError(
            f"{silent[0]} does not say rows and columns of its camera (DAT: % Height and % Width in its header; HDF5: "
            'events/height and events/width, or the attribute "geometry")'
        )
    kinds = Counter(said.values())
    if len(kinds) > 1:
        usual = kinds.most_common(1)[0][0]
        other = next(path for path, sensor in said.items() if sensor != usual)
        raise DataError(f"{other} is of a camera {said[other]}, most others of {usual}; put them into another folder")
    sensor = next(iter(kinds))
    assert sensor is not None
    return sensor


def _checked(
    found: LabelledBoxes, path: Path, names: tuple[str, ...], sensor: Sensor, repair: bool, left_out: Counter[str]
) -> LabelledBoxes:
    """The boxes, all of which can be used.

    Raises:
        DataError: some cannot, and are not to be left out.
    """
    if repair:
        low = found.boxes[:, :2].clamp(min=0)
        limit = torch.tensor([sensor.columns, sensor.rows])
        high = (found.boxes[:, :2] + found.boxes[:, 2:4]).minimum(limit)
        cut = torch.cat([low, high - low, found.boxes[:, 4:]], 1)
        moved = (cut != found.boxes).any(1)
        good = usable(cut, len(names), sensor)
        left_out["boxes cut at the edge"] += int((moved & good).sum())
        left_out["boxes that cannot be used"] += int((~good).sum())
        return LabelledBoxes(found.times, cut).rows(good.numpy())
    if problem := wrong(found.boxes, names, sensor):
        time = found.times[int((~usable(found.boxes, len(names), sensor)).nonzero()[0])]
        raise DataError(
            f"{path} at {time / 1000:g} ms: {problem}. To cut boxes at the edge, and to leave out what cannot be used: "
            "--data.scenes.repair true"
        )
    return found


def _counting(found: LabelledBoxes, layout: SceneLayout, left_out: Counter[str]) -> LabelledBoxes:
    """The boxes that count by the rules of the data set."""
    w, h = found.boxes[:, 2].double().numpy(), found.boxes[:, 3].double().numpy()
    early = found.times < layout.skip * 1000
    small = (np.hypot(w, h) < layout.diagonal) | (np.minimum(w, h) < layout.side)
    left_out["boxes that are too early"] += int(early.sum())
    left_out["boxes that are too small"] += int((small & ~early).sum())
    return found.rows(~(early | small))


def _refuse_late(found: LabelledBoxes, path: Path, window: float) -> None:
    """A box long after the last event is of another recording."""
    file = opened(path)
    last = int(found.times.max()) if len(found) else 0
    if len(found) and (int(found.times.min()) < 0 or last > file.end + window * 1000):
        raise DataError(
            f"{path} ends at {file.end / 1000:g} ms, and its boxes are of {found.times.min() / 1000:g} to "
            f"{last / 1000:g} ms; is the recording cut off, or are these the boxes of another one?"
        )
