"""What lies in a folder of data: its form, how much of each class, and which files cannot be used, with the reason."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from spikedistill.data.dataset import Request
from spikedistill.data.datasets import DATASETS
from spikedistill.data.events.event import DVS128, Sensor
from spikedistill.data.events.frames import checked_frames
from spikedistill.data.events.gestures import refuse_published_gestures
from spikedistill.data.events.layouts import CIFAR10_CLASSES, LAYOUTS
from spikedistill.data.events.recordings import PART_NAMES, READERS, Recordings, find_recordings, part_folder
from spikedistill.data.events.settings import LARGEST as LARGEST_SENSOR
from spikedistill.data.npz import read_npz
from spikedistill.data.pictures.boxed import annotated, check_annotated, is_annotated
from spikedistill.data.pictures.decode import decode
from spikedistill.data.pictures.folder import content, pictures_in, split_folders
from spikedistill.data.pictures.tables import bad_rows, parquet_table
from spikedistill.data.pictures.torchvision_files import read_torchvision
from spikedistill.data.scenes.layouts import SCENES, SceneLayout
from spikedistill.data.scenes.opened import glimpse, opened, recordings_in
from spikedistill.data.scenes.settings import SceneSettings
from spikedistill.data.scenes.windows import looked_for
from spikedistill.errors import DataError
from spikedistill.tasks import Boxes
from spikedistill.tasks.boxes import ANY_SIZE

File = TypeVar("File")
CLASSES_SHOWN = 12
OTHERS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Part:
    """A folder or file that was looked at.

    Attributes:
        name: which.
        form: what it holds.
        counts: samples by class.
        bad: what is wrong, by file or row.
        others: files that are not read, because they are no samples by their names.
    """

    name: str
    form: str
    counts: dict[str, int]
    bad: list[str]
    others: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """This part in words."""
        counts = self.counts
        shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:CLASSES_SHOWN])
        more = f", and {len(counts) - CLASSES_SHOWN} classes more" if len(counts) > CLASSES_SHOWN else ""
        lines = [f"{self.name}: {self.form}, {sum(counts.values())} in {len(counts)} classes ({shown}{more})"]
        if len(set(counts.values())) > 1:
            # Often the first sign of a copy or download that did not finish.
            lines.append(f"  classes are not equally large: {min(counts.values())} to {max(counts.values())}")
        if self.others:
            names = ", ".join(self.others[:OTHERS_SHOWN]) + (", ..." if len(self.others) > OTHERS_SHOWN else "")
            lines.append(f"  {len(self.others)} other files, which are not read: {names}")
        lines.append(f"  {len(self.bad)} cannot be used" + (":" if self.bad else ""))
        return lines + [f"    {problem}" for problem in self.bad]


def check(root: str | Path) -> list[Part]:
    """Read everything under a root once.

    Raises:
        DataError: nothing that is known lies there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    refuse_published_gestures(root)
    recordings = _all_scenes(root) or _all_recordings(root)
    parts = _tables(root) + _all_torchvision(root) + recordings
    if not recordings:  # classes lie in train/ and test/ in both forms; recordings are no pictures by their names
        parts += _all_pictures(root)
    if not parts:
        raise DataError(
            f"{root} holds nothing that is known (CLASS/*.aedat, events_np/, frames_number_T_split_by_number/, "
            f"train/CLASS/*.jpg, *.parquet, torchvision's files); it holds {content(root)}"
        )
    return parts


def _problems(read: Callable[[File], object], files: Iterable[File]) -> list[str]:
    """What is wrong with the files that cannot be read."""

    def one(file: File) -> str | None:
        try:
            read(file)
        except DataError as error:
            return str(error)
        return None

    # Threads do: decoding and decompressing release the interpreter's lock. The order of files is kept.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [problem for problem in pool.map(one, files) if problem]


# ---------------------------------------------------------------- recordings


def _all_recordings(root: Path) -> list[Part]:
    # Recordings may lie in the root, or divided into folders for training and test.
    return [part for where in (None, *PART_NAMES) for part in _recordings(root, where)]


def _recordings(folder: Path, where: str | None) -> list[Part]:
    try:
        found = find_recordings(folder, part=where)
    except DataError:
        return []
    if found.form == "frames":
        bad = _frame_problems(found)
    else:
        sensor = _sensor_of(found)
        bad = _problems(lambda path: READERS[found.form](path, False, sensor), found.paths)
    # Most classes of CIFAR10-DVS are there: then all should be. Other recordings may have classes of their own.
    missing = [name for name in CIFAR10_CLASSES if name not in found.classes]
    if missing and len(missing) < len(CIFAR10_CLASSES) / 2:
        bad.append(f"classes of CIFAR10-DVS that are missing: {', '.join(missing)}")
    elif found.empty:
        bad.append(f"folders without a recording of this form: {', '.join(found.empty)}")
    folders = sorted({path.parent for path in found.paths})
    names = {p for folder in folders for p in folder.iterdir() if not p.name.startswith(".")} - set(found.paths)
    others = sorted(str(p.relative_to(found.root)) for p in names)
    return [Part(str(found.root), f"recordings ({found.form})", found.counts(), bad, others)]


ANYTHING = Sensor(LARGEST_SENSOR, LARGEST_SENSOR)
LIMITED = {"aedat2": DVS128, "atis": Sensor(240, 256)}
"""The largest sensor that a form can say."""


def _sensor_of(found: Recordings) -> Sensor:
    """That of the data set with these classes; of an unknown one whatever the form can say."""
    known = [layout.sensor for layout in LAYOUTS.values() if layout.classes == found.classes]
    return known[0] if known else LIMITED.get(found.form, ANYTHING)


def _frame_problems(found: Recordings) -> list[str]:
    """Ready-made frames: what is wrong with those that cannot be read or are of another shape than most."""
    shapes: dict[Path, tuple[int, ...]] = {}

    def read(path: Path) -> None:
        shapes[path] = checked_frames(read_npz(path, ("frames",))["frames"], path).shape

    bad = _problems(read, found.paths)
    readable = [path for path in found.paths if path in shapes]
    # Which T is wanted is not known here, so the shape of most files is taken to be the right one.
    usual = Counter(shapes[path] for path in readable).most_common(1)
    for path in readable:
        if shapes[path] != usual[0][0]:
            bad.append(f"{path}: frames are {list(shapes[path])}, those of most files {list(usual[0][0])}")
    return bad


# ---------------------------------------------------------------- recordings with boxes


def _all_scenes(root: Path) -> list[Part]:
    """Of the parts that hold recordings in the form of GEN1."""
    folders = {part: part_folder(root, part) for part in PART_NAMES}
    return [_scenes(root, part, folder) for part, folder in folders.items() if recordings_in(folder)]


def _scenes(root: Path, part: str, folder: Path) -> Part:
    recordings = [*recordings_in(folder).values()]
    bad = _problems(opened, recordings)
    everything = dataclasses.replace(_scene_layout(root, recordings), skip=0.0, smallest=ANY_SIZE)
    counts: dict[str, int] = {}
    try:
        windows, problems = looked_for(root, part, everything, 1, SceneSettings())
        counts = Boxes.of(windows.boxes, windows.names, windows.windowing.sensor).counts()
        bad += [problem for problem in problems if problem not in bad]  # of the same file it may be the same
    except DataError as error:
        bad.append(str(error))
    return Part(str(folder), f"recordings with boxes, {len(recordings)} files, boxes by class", counts, bad)


def _scene_layout(root: Path, recordings: list[Path]) -> SceneLayout:
    """Without classes.txt the data set may be one whose classes are known: that of the first camera that is told."""
    own = SCENES["event-boxes"]
    if (root / "classes.txt").exists():
        return own
    for path in recordings:
        with contextlib.suppress(DataError):
            sensor = glimpse(path).sensor
            return next((layout for layout in SCENES.values() if sensor and layout.sensor == sensor), own)
    return own


# ---------------------------------------------------------------- pictures


def _all_pictures(root: Path) -> list[Part]:
    # of test/ and val/ a training reads one; here both are looked at
    return [_part(root, folder) for train in (True, False) for folder in split_folders(root, train)]


def _part(root: Path, folder: Path) -> Part:
    """Classes of pictures, beside which other annotations may lie; or pictures with boxes."""
    try:
        return _pictures(folder)
    except DataError as error:
        problem = error
    if is_annotated(root, folder):
        try:
            return _pictures_with_boxes(root, folder)
        except DataError as error:
            problem = error
    return Part(str(folder), "pictures", {}, [str(problem)])


def _pictures_with_boxes(root: Path, folder: Path) -> Part:
    found = annotated(root, folder)
    counts = Counter(box[4] for each in found for box in each.boxes)
    bad = _problems(check_annotated, found)
    return Part(str(folder), f"{len(found)} pictures with boxes, boxes by class", dict(sorted(counts.items())), bad)


def _pictures(folder: Path) -> Part:
    found = pictures_in(folder)
    paths = [found.path(k) for k in range(len(found.names))]
    return Part(str(found.folder), "pictures", found.labels.counts(), _problems(decode, paths), found.others)


def _tables(root: Path) -> list[Part]:
    files = [file for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet") for file in sorted(root.glob(pattern))]
    return [_table(file) for file in files]


def _table(file: Path) -> Part:
    try:
        counts, bad = bad_rows(parquet_table(file))
    except DataError as error:
        return Part(str(file), "parquet", {}, [str(error)])
    return Part(str(file), "parquet", counts, bad)


def _all_torchvision(root: Path) -> list[Part]:
    """Of every data set whose unpacked files lie there: what torchvision reads."""
    parts = []
    for name, dataset in DATASETS.items():
        if dataset.torchvision and (root / dataset.torchvision[1]).is_dir():
            parts += [_torchvision(name, root, train) for train in (True, False)]
    return parts


def _torchvision(name: str, root: Path, train: bool) -> Part:
    title = f"{root}, {name}, {'training' if train else 'test'} rows"
    try:
        _, labels = read_torchvision(DATASETS[name], Request(name, train, str(root)))
    except DataError as error:
        return Part(title, "torchvision's files", {}, [str(error)])
    return Part(title, "torchvision's files", labels.counts(), [])
