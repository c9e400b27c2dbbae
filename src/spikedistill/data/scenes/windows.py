"""The windows of events before labelled times: found in a folder, checked against their recordings, made into frames.

train/*_td.dat, train/*_bbox.npy, test/...    a recording (also *_td.h5) and its boxes have one name
classes.txt                                   the names of the classes, a line each, where the data set has none
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikedistill.data.events.event import Events, Sensor
from spikedistill.data.events.frames import to_frames_between
from spikedistill.data.events.recordings import part_folder
from spikedistill.data.scenes.box_files import LabelledBoxes, read_boxes
from spikedistill.data.scenes.layouts import SceneLayout
from spikedistill.data.scenes.opened import ENDS, Glimpse, glimpse, opened, recordings_in
from spikedistill.data.scenes.settings import SceneSettings, Windowing
from spikedistill.errors import DataError, listed
from spikedistill.machine.reading import ReadError, by_name, text_of
from spikedistill.tasks.boxes import usable, wrong

RECORDING, LABELS = "_td.dat", "_bbox.npy"
"""The ends of the names of a recording (its usual form) and of its boxes."""
OTHERS = ", ".join(end for end in ENDS if end != RECORDING)
STILL = 1000.0
"""ms after the last event of a recording in which there may still be boxes: nothing may have moved."""
REMEDY = "to mend times and leave out events outside the sensor: --data.scenes.repair true"


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
        repair: whether times that run backwards are mended, and events outside the sensor left out.
        repaired: by what was done, the files to which it was, as far as frames have been made.
    """

    root: Path
    files: tuple[Path, ...]
    recording: np.ndarray
    ends: np.ndarray
    boxes: tuple[Tensor, ...]
    names: tuple[str, ...]
    windowing: Windowing
    left_out: Counter[str]
    repair: bool = False
    repaired: dict[str, set[Path]] = dataclasses.field(default_factory=lambda: defaultdict(set))
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
            "repair": self.repair,
            **self.windowing.cut(),
        }

    def first(self, count: int | None) -> Windows:
        """The first so many (None: all)."""
        part = slice(count)
        recording, ends, boxes = self.recording[part], self.ends[part], self.boxes[part]
        return dataclasses.replace(self, recording=recording, ends=ends, boxes=boxes)

    def make(self, k: int) -> np.ndarray:
        """Where anything happened, in each frame: a bit each, eight columns to a byte."""
        return np.packbits(self.frames(k), axis=-1)

    def frames(self, k: int) -> np.ndarray:
        """Binary frames, bool [T, 2, rows, columns].

        Raises:
            DataError: the recording is damaged.
        """
        path, start = self.files[self.recording[k]], int(self.ends[k]) - self.windowing.microseconds
        file = opened(path, self.repair)
        events = file.window(start, int(self.ends[k]))
        if self.repair:
            events = events.inside(self.windowing.sensor)
            if file.mended:
                self.repaired["with times that ran backwards"].add(path)
            if events.left_out:
                self.repaired["with events outside the sensor, which are left out"].add(path)
        return _framed(events, start, self.windowing, self.name(k))

    def name(self, k: int) -> str:
        """What to call a window: its recording and time."""
        return f"{self.files[self.recording[k]].name} at {self.ends[k] / 1000:g} ms"


def _framed(events: Events, start: int, windowing: Windowing, called: object) -> np.ndarray:
    """Where anything happened in the window from `start` (µs) on, in T parts of equal time: bool [T, 2, rows, columns].

    Raises:
        DataError: events outside the sensor.
    """
    if len(events):  # none is no error, for nothing may have moved
        events.checked(called, windowing.sensor, REMEDY)
    end = start + windowing.microseconds
    return to_frames_between(events, windowing.timesteps, start, end, windowing.sensor) > 0


def last_window(path: str | Path, windowing: Windowing, repair: bool = False) -> np.ndarray:
    """The frames of the last window of a recording: bool [T, 2, rows, columns].

    Args:
        repair: mend times that run backwards, and leave out events outside the sensor.

    Raises:
        DataError: not a readable recording of this camera, or without events.
    """
    file = opened(Path(path), repair)
    if not len(file):
        raise DataError(f"{path} holds no events")
    _refuse_other_camera(file.sensor, path, windowing.sensor)
    end = file.span[1] + 1
    start = end - windowing.microseconds
    events = file.window(start, end)
    return _framed(events.inside(windowing.sensor) if repair else events, start, windowing, path)


def _refuse_other_camera(said: Sensor | None, path: str | Path, sensor: Sensor) -> None:
    """Raise DataError where a recording says that it is of another camera."""
    if said not in (None, sensor):
        raise DataError(
            f"{path} is of a camera of {said.rows} rows and {said.columns} columns; expected {sensor.rows} and "
            f"{sensor.columns}"
        )


def find_windows(root: Path, part: str, layout: SceneLayout, timesteps: int, settings: SceneSettings) -> Windows:
    """The windows of a part ("train", "test").

    Raises:
        DataError: no such folder, recordings without boxes or boxes without recording, or unusable ones: all by name.
    """
    windows, problems = looked_for(root, part, layout, timesteps, settings)
    if problems:
        raise DataError(f"{len(problems)} of {len(windows.files)} recordings cannot be used:{listed(problems)}")
    if not len(windows):
        raise DataError(f"{windows.root} holds {len(windows.files)} recordings, and no box that counts")
    return windows


def looked_for(
    root: Path, part: str, layout: SceneLayout, timesteps: int, settings: SceneSettings
) -> tuple[Windows, list[str]]:
    """The windows of those recordings that can be used, and what is wrong with the others.

    Raises:
        DataError: no such folder, names of classes or camera; recordings without boxes, or boxes without recording.
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
    seen, unreadable = _glimpses(recordings)
    sensor = layout.sensor or _sensor_of(seen)
    left_out, problems, chosen = Counter[str](), list(unreadable.values()), list[tuple[int, int, Tensor]]()
    for number, (name, path) in enumerate(recordings.items()):
        if path in unreadable:
            continue
        try:
            _refuse_other_camera(seen[path].sensor, path, sensor)
            found = _checked(read_boxes(labels[name]), labels[name], names, sensor, settings.repair, left_out)
            found = _counting(found, layout, left_out)
            _refuse_apart(found, path, seen[path].span)
        except DataError as error:
            problems.append(str(error))
            continue
        if not len(found):
            left_out["recordings without a box"] += 1
        times = _at_least_apart(np.unique(found.times), round(settings.apart * 1000), left_out)
        chosen += [(number, int(t), found.boxes[torch.from_numpy(found.times == t)]) for t in times]
    numbers, ends = (np.array([row[k] for row in chosen], np.int64) for k in (0, 1))
    boxes = tuple(row[2] for row in chosen)
    windowing = Windowing(timesteps, settings.window, sensor, settings.shown)
    files = tuple(recordings.values())
    return Windows(folder, files, numbers, ends, boxes, names, windowing, left_out, settings.repair), problems


def _glimpses(recordings: dict[str, Path]) -> tuple[dict[Path, Glimpse], dict[Path, str]]:
    """Cameras and spans of the recordings that can be read, and what is wrong with the others."""
    seen, unreadable = dict[Path, Glimpse](), dict[Path, str]()
    for path in recordings.values():
        try:
            seen[path] = glimpse(path)
        except DataError as error:
            unreadable[path] = str(error)
    return seen, unreadable


def _at_least_apart(times: np.ndarray, apart: int, left_out: Counter[str]) -> list[int]:
    """Of times [n] in µs, rising, those that are so far from the last one that was taken."""
    taken: list[int] = []
    for time in times.tolist():
        if not taken or time - taken[-1] >= apart:
            taken.append(time)
    left_out["labelled times that follow another one too soon"] += len(times) - len(taken)
    return taken


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
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    # the number of a class is that of its line: with an empty one all later names would be of others
    if "" in names:
        number = names.index("")
        raise DataError(f"line {number + 1} of {root / 'classes.txt'} is empty; write a name for class_id {number}")
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


def _sensor_of(seen: dict[Path, Glimpse]) -> Sensor:
    """What the headers of the recordings say, all the same.

    Raises:
        DataError: one says nothing, or something else than the others.
    """
    said = {path: glimpsed.sensor for path, glimpsed in seen.items()}
    if not said:
        raise DataError("none of the recordings can be read")
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
        ends = found.boxes[:, :2] + found.boxes[:, 2:4]
        low = found.boxes[:, :2].clamp(min=0)
        high = ends.minimum(torch.tensor([sensor.columns, sensor.rows]))
        across = ((low != found.boxes[:, :2]) | (high != ends)).any(1)
        cut = torch.cat([low, high - low, found.boxes[:, 4:]], 1)
        # end − start is not quite the width that it was added to; a box inside stays as it is
        cut = torch.where(across[:, None], cut, found.boxes)
        good = usable(cut, len(names), sensor)
        left_out["boxes cut at the edge"] += int((across & good).sum())
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
    early = found.times <= layout.skip * 1000 if layout.skip else np.zeros(len(found), bool)
    small = ~layout.smallest.reached(found.boxes[:, 2:4].double()).numpy()
    left_out["boxes that are too early"] += int(early.sum())
    left_out["boxes that are too small"] += int((small & ~early).sum())
    return found.rows(~(early | small))


def _refuse_apart(found: LabelledBoxes, path: Path, span: tuple[int, int]) -> None:
    """Boxes long after the last event, or all before the first one, are of another recording, or of another clock."""
    if not len(found):
        return
    first, last = int(found.times.min()), int(found.times.max())
    if first < 0 or last > span[1] + STILL * 1000 or last < span[0]:
        raise DataError(
            f"{path} has events from {span[0] / 1000:g} to {span[1] / 1000:g} ms, and its boxes are of "
            f"{first / 1000:g} to {last / 1000:g} ms; is it cut off, do its times begin elsewhere, or are these the "
            "boxes of another one?"
        )
