"""DVS128 Gesture as it was published (Amir et al. 2017), cut into one file for each gesture.

The published folder holds one recording of a user under one light (`user01_fluorescent.aedat`), beside it a table of
what was shown when (`user01_fluorescent_labels.csv`: class, start and end in µs), and two lists of recordings,
`trials_to_train.txt` and `trials_to_test.txt`. What is written is train/CLASS/*.npz with arrays t, x, y, p: classes 1
to 11 become 0 to 10, as in other libraries.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from spikedistill.data.events.aedat3 import read_aedat3
from spikedistill.data.events.layouts import LAYOUTS
from spikedistill.errors import DataError, listed
from spikedistill.machine.files import whole_folder
from spikedistill.machine.progress import show_progress
from spikedistill.machine.reading import ReadError, text_of

LISTS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}
REMEDY = "is the file damaged? To leave such events out and sort by time: --repair"
COLUMNS = ("class", "startTime_usec", "endTime_usec")
CLASSES = 11


@dataclasses.dataclass(frozen=True)
class Gesture:
    """A line of a table of labels.

    Attributes:
        label: class, from 0 on.
        start, end: in µs, on the clock of the recording.
    """

    label: int
    start: int
    end: int


def cut_gestures(root: str | Path, out: Path, repair: bool = False) -> dict[str, int]:
    """Write each gesture as a file of its own; lists and tables are looked at before the first recording is read.

    Args:
        root: the published folder.
        repair: as in `read_aedat3`.

    Returns:
        The number of gestures by part.

    Raises:
        DataError: `out` holds something already; or a list, a table or a recording is missing or damaged, or a gesture
            has no events.
        WriteError: a file could not be written; `out` is then not there.
    """
    root = Path(root).expanduser()
    tables, problems = dict[str, dict[Path, list[Gesture]]](), list[str]()
    files = {part: _listed_files(root / name) for part, name in LISTS.items()}
    twice = [path.name for path, count in Counter(itertools.chain(*files.values())).items() if count > 1]
    if twice:
        raise DataError(f"{root}: {', '.join(twice)} stands in the lists more than once; a recording trains or tests")
    for part, paths in files.items():
        tables[part] = {}
        for path in paths:
            try:
                tables[part][path] = read_gestures(path)
            except DataError as error:
                problems.append(str(error))
    if problems:
        raise DataError(f"{len(problems)} recordings of {root} cannot be used:{listed(problems)}")
    counts = dict.fromkeys(LISTS, 0)
    with whole_folder(out) as unfinished:
        for part, table in tables.items():
            for label in LAYOUTS["dvs128-gesture"].classes or ():
                (unfinished / part / label).mkdir(parents=True)
            for k, (path, gestures) in enumerate(table.items()):
                counts[part] += _cut(path, gestures, unfinished / part, repair)
                show_progress(f"cutting {part}", k + 1, k, len(table))
    return counts


def refuse_published_gestures(root: Path) -> None:
    """
    Raises:
        DataError: the published folder, with what to do.
    """
    if (root / LISTS["train"]).is_file():
        raise DataError(
            f"{root} is DVS128 Gesture as it was published, whose recordings hold many gestures each; cut them first: "
            f"spikedistill data cut-gestures --root {root} --out FOLDER, and give --data.root FOLDER"
        )


def read_gestures(recording: Path) -> list[Gesture]:
    """The table of labels beside a recording.

    Raises:
        DataError: the recording or the table is missing, or a line is not a class from 1 to 11 with a start and a later
            end.
    """
    if not recording.is_file():
        raise DataError(f"{recording} is missing; copy or unpack it again, or leave its line out of the list")
    path = recording.with_name(f"{recording.stem}_labels.csv")
    lines = [line.split(",") for line in _text(path).splitlines()]
    if not lines or tuple(cell.strip() for cell in lines[0]) != COLUMNS:
        found = ",".join(lines[0]) if lines else "nothing"
        raise DataError(f"{path} should begin with {','.join(COLUMNS)}; it begins with {found[:100]}")
    gestures = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        try:
            label, start, end = (int(cell) for cell in line)
        except ValueError:
            label, start, end = 0, 0, 0
        if not (1 <= label <= CLASSES and 0 <= start < end):
            raise DataError(
                f"{path}, line {number}: {','.join(line)[:100]}; expected a class from 1 to {CLASSES}, a start and a "
                "later end in µs"
            )
        gestures.append(Gesture(label - 1, start, end))
    return gestures


def _listed_files(path: Path) -> list[Path]:
    names = [line.strip() for line in _text(path).splitlines() if line.strip()]
    # a list from anywhere shall not lead out of its folder
    outside = [name for name in names if Path(name).name != name]
    if outside or not names:
        raise DataError(
            f"{path} should list recordings of its own folder, one in a line; given {', '.join(outside[:3]) or 'none'}"
        )
    return [path.with_name(name) for name in names]


def _text(path: Path) -> str:
    try:
        return text_of(path)
    except ReadError as error:
        raise DataError(
            f"{error}. Expected the folder of DVS128 Gesture as it was published: {', '.join(LISTS.values())}, "
            "userNN_LIGHT.aedat and userNN_LIGHT_labels.csv"
        ) from error


def _cut(path: Path, gestures: list[Gesture], folder: Path, repair: bool) -> int:
    """Write the gestures of one recording; how many they are."""
    events = read_aedat3(path, repair, remedy=REMEDY)
    for k, gesture in enumerate(gestures):
        first, last = np.searchsorted(events.t, (gesture.start, gesture.end))
        rows = slice(int(first), int(last))
        if first == last:
            raise DataError(
                f"{path} has no events from {gesture.start} to {gesture.end} µs, in which its table names class "
                f"{gesture.label + 1}; it runs from {int(events.t[0])} to {int(events.t[-1])} µs"
            )
        arrays = {name: getattr(events, name)[rows] for name in "txyp"}
        np.savez(folder / str(gesture.label) / f"{path.stem}_{k}.npz", **arrays)
    return len(gestures)
