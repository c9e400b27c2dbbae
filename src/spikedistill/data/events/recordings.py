"""Where recordings lie on a disk, and in which form: found by looking at folders and at the first bytes of a file."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spikedistill.data.events.aedat import VERSION_4, read_aedat2, read_aedat4
from spikedistill.data.events.aedat3 import VERSION_3, read_aedat3
from spikedistill.data.events.atis import read_atis
from spikedistill.data.events.cache import ABOUT, LOCK
from spikedistill.data.events.dat import read_dat
from spikedistill.data.events.event import DVS128, Events, Sensor
from spikedistill.data.events.frames import Framing, finished_frames, read_frames_npz, to_frames
from spikedistill.data.events.gestures import refuse_published_gestures
from spikedistill.data.events.hdf5 import read_hdf5
from spikedistill.data.npz import npz_keys, read_npz
from spikedistill.errors import DataError
from spikedistill.machine.reading import regular


def read_events_npz(path: str | Path, repair: bool = False, sensor: Sensor = DVS128) -> Events:
    """Events in SpikingJelly's layout `events_np`: arrays t, x, y, p; the picture is upright.

    Raises:
        DataError: damaged, or not a usable recording.
    """
    arrays = read_npz(Path(path), ("t", "x", "y", "p"))
    events = Events.of(arrays["x"], arrays["y"], arrays["p"], arrays["t"], path)
    return (events.repaired(sensor) if repair else events).checked(path, sensor)


def _upright_aedat2(path: Path, repair: bool, sensor: Sensor) -> Events:
    if sensor != DVS128:
        raise DataError(f"{path} is AEDAT 2.0, of a DVS128; the sensor of these settings is {tuple(sensor)}")
    return read_aedat2(path, repair).turned()


def _atis(path: Path, repair: bool, sensor: Sensor) -> Events:
    return read_atis(path, sensor, repair)


READERS: dict[str, Callable[[Path, bool, Sensor], Events]] = {
    "aedat2": _upright_aedat2,
    "aedat3": read_aedat3,
    "aedat4": read_aedat4,
    "atis": _atis,
    "events_np": read_events_npz,
    "dat": read_dat,
    "hdf5": read_hdf5,
}
"""Readers of upright events by form. The other form, "frames", is read by `read_frames_npz`."""
RAW = {
    ".aedat": "aedat",
    ".aedat4": "aedat",
    ".bin": "atis",
    ".dat": "dat",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
}
"""Kinds of files by suffix; the first bytes, or the arrays of a file, say more."""


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Files of recordings, ordered by class and then by name.

    Attributes:
        form: a key of `READERS`, or "frames".
        paths, labels: one of each per recording.
        classes: names, by label.
        empty: folders beside those of the classes without a file of this form, where no list says what is missing.
    """

    form: str
    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    empty: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def number(self, k: int) -> int:
        """The number at the end of a file's name: 17 of cifar10_cat_17.aedat."""
        # CIFAR10-DVS is numbered within each class, and some published splits go by that number.
        found = re.search(r"(\d+)$", self.paths[k].stem)
        if found is None:
            raise DataError(f"{self.paths[k]} has no number at its end, by which this split divides; use another split")
        return int(found.group(1))

    def refuse_empty(self) -> None:
        """Raise DataError where a class has no recording: its files did not come, and nobody would see it."""
        if self.empty:
            raise DataError(
                f"{self.root} has folders without a recording of the form {self.form}: {', '.join(self.empty)}. Copy "
                "what is missing, or move away what does not belong"
            )

    def counts(self) -> dict[str, int]:
        found = Counter(self.labels)
        return {name: found[label] for label, name in enumerate(self.classes)}

    def frames(
        self, k: int, framing: Framing, repair: bool = False, left_out: dict[Path, int] | None = None
    ) -> np.ndarray:
        """Frames float16 [T, 2, size, size] of one recording.

        Args:
            left_out: is told how many events of its file the repair has left out.

        Raises:
            DataError: the file cannot be used; says why.
        """
        path = self.paths[k]
        # Ready-made frames are upright and have no events left that could be repaired.
        if self.form == "frames":
            counts = read_frames_npz(path, framing.timesteps, framing.sensor)
        else:
            events = READERS[self.form](path, repair, framing.sensor)
            counts = to_frames(events, framing.timesteps, framing.by, framing.sensor)
            if left_out is not None and events.left_out:
                left_out[path] = events.left_out
        return finished_frames(counts, framing.size, path)


@dataclasses.dataclass(frozen=True)
class RecordedFrames:
    """The frames of recordings (a `FrameSource` of the cache): float16 [M, T, 2, size, size].

    `left_out` has how many events a repair has left out of which files, as far as frames have been made.
    """

    recordings: Recordings
    framing: Framing
    repair: bool = False
    left_out: dict[Path, int] = dataclasses.field(default_factory=dict)
    dtype: np.dtype = np.dtype(np.float16)

    @property
    def files(self) -> tuple[Path, ...]:
        return self.recordings.paths

    @property
    def root(self) -> Path:
        return self.recordings.root

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.framing.timesteps, 2, self.framing.size, self.framing.size)

    def __len__(self) -> int:
        return len(self.recordings)

    def says(self) -> dict[str, Any]:
        source = {"form": self.recordings.form, "labels": list(self.recordings.labels), "repair": self.repair}
        return source | self.framing.cut()

    def make(self, k: int) -> np.ndarray:
        return self.recordings.frames(k, self.framing, self.repair, self.left_out)


def frames_of_file(path: str | Path, framing: Framing, repair: bool = False) -> np.ndarray:
    """Frames float16 [T, 2, size, size] of one file of any of the forms.

    Raises:
        DataError: the file cannot be used; says why.
    """
    path = Path(path)
    try:
        # A single file, given to `predict`: its suffix and first bytes must do.
        form = _form(RAW.get(path.suffix.lower(), "aedat"), (path,))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return Recordings(form, path.parent, (path,), (0,), ("",)).frames(0, framing, repair)


def joined(first: Recordings, second: Recordings, root: Path) -> Recordings:
    """The recordings of two folders of one form, in the order of `Recordings`.

    Raises:
        DataError: of two forms, or of other classes.
    """
    if (first.form, first.classes) != (second.form, second.classes):
        raise DataError(
            f"{first.root} and {second.root} do not go together: {first.form} of {len(first.classes)} classes, "
            f"{second.form} of {len(second.classes)}"
        )
    files = sorted(
        [*zip(first.labels, first.paths, strict=True), *zip(second.labels, second.paths, strict=True)],
        key=lambda file: (file[0], file[1].name, str(file[1])),
    )
    labels, paths = zip(*files, strict=True)
    return Recordings(first.form, root, paths, labels, first.classes, (*first.empty, *second.empty))


# ---------------------------------------------------------------- looking


def _suffixes(kind: str) -> tuple[str, ...]:
    return tuple(suffix for suffix, each in RAW.items() if each == kind)


def _class_folders(folder: Path) -> list[Path]:
    return [p for p in _inside(folder) if p.is_dir() and not p.name.startswith(".") and p.name not in OF_THE_DISK]


OF_THE_DISK = ("lost+found", "System Volume Information", "$RECYCLE.BIN")
"""Folders that stand at the root of one; most people may not look into them."""


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except PermissionError as error:
        raise DataError(f"{folder} may not be looked into; change its permissions, or move it away") from error


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [p for p in _inside(folder) if p.suffix.lower() in suffixes and not p.name.startswith(".")]


def _candidates(root: Path, framing: Framing | None) -> list[tuple[str, Path, tuple[str, ...]]]:
    """(form, folder of classes, suffixes) in the order of preference."""
    cut = framing.by if framing else "*"
    # Frames that were cut in another way are another data set: they are never taken instead.
    frames = sorted(p for p in root.glob(f"frames_number_*_split_by_{cut}") if p.is_dir())
    if framing is not None:  # frames of another T are tried too: their reader says what is wrong with them
        frames.sort(key=lambda folder: folder.name != f"frames_number_{framing.timesteps}_split_by_{framing.by}")
    raw = [
        (kind, folder, suffixes)
        for folder in (root, root / "extract")
        for kind, suffixes in ((kind, _suffixes(kind)) for kind in ("aedat", "atis", "dat", "hdf5"))
    ]
    ready = [("frames", folder, (".npz",)) for folder in frames]
    return [*raw, ("events_np", root / "events_np", (".npz",)), *ready, ("npz", root, (".npz",))]


PART_NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "validation")}
"""Folders of a part, in upper or lower case; of several that are there the first that is named here."""


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part ("train", "test") in `folder`; where there is none, what it should be."""
    there = {p.name.lower(): p for p in _inside(folder) if p.is_dir()} if folder.is_dir() else {}
    return next((there[name] for name in PART_NAMES[part] if name in there), folder / part)


def has_parts(root: Path) -> bool:
    """Whether a root, or a folder in it, holds one of training or test recordings."""
    return any(part_folder(folder, part).is_dir() for folder in (root, *_class_folders(root)) for part in PART_NAMES)


def find_recordings(
    root: str | Path,
    framing: Framing | None = None,
    classes: tuple[str, ...] | None = None,
    part: str | None = None,
) -> Recordings:
    """The recordings under `root`, in the first form found.

    CLASS/* of the suffixes in `RAW` (AEDAT 2.0, 3.1 or 4), events_np/CLASS/*.npz, or
    frames_number_T_split_by_number/CLASS/*.npz.

    Args:
        framing: what the frames shall be; ready-made ones must have been cut so, and those of that T are preferred.
        classes: the folders that must be there, if any of them is (None: those that are).
        part: "train" or "test": those of a folder of that name, which stands above the form or right below it.

    Raises:
        DataError: no such folder, no recordings, or missing classes; says what is there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder that holds one folder of recordings for each class")
    candidates = _candidates(root, framing)
    if part is not None:
        above = _candidates(part_folder(root, part), framing) if part_folder(root, part).is_dir() else []
        candidates = [*above, *((kind, part_folder(folder, part), suffixes) for kind, folder, suffixes in candidates)]
    for kind, folder, suffixes in candidates:
        if folder.is_dir() and any(_files(c, suffixes) for c in _class_folders(folder)):
            return _collect(kind, folder, suffixes, classes)
    refuse_published_gestures(root)
    archives = sorted(p.name for p in root.iterdir() if p.suffix in (".zip", ".gz", ".tar", ".tgz"))
    if archives:
        raise DataError(f"{root} holds archives ({', '.join(archives[:4])}) and no folders of recordings; unpack them")
    there = ", ".join(sorted(p.name for p in root.iterdir())[:10])
    cut = f"frames_number_{framing.timesteps}_split_by_{framing.by}" if framing else "frames_number_T_split_by_number"
    inside = "" if part is None else f"{part}/"
    raise DataError(
        f"{root} holds no recordings: expected {inside}CLASS/* of {', '.join(RAW)}, events_np/{inside}CLASS/*.npz or "
        f"{cut}/{inside}CLASS/*.npz; it holds {there or 'nothing'}"
    )


def _collect(kind: str, folder: Path, suffixes: tuple[str, ...], classes: tuple[str, ...] | None) -> Recordings:
    found = {c.name: _files(c, suffixes) for c in _class_folders(folder)}
    empty = tuple(name for name, files in found.items() if not files and not _is_no_class(folder / name))
    found = {name: files for name, files in found.items() if files}
    # Folders that share no name with the expected classes are another data set, in the same layout.
    names = classes if classes and set(found) & set(classes) else tuple(found)
    odd = {
        "missing or empty": [name for name in names if name not in found],
        "unknown": [name for name in found if name not in names],
    }
    problems = [f"{what}: {', '.join(which)}" for what, which in odd.items() if which]
    if problems:
        raise DataError(
            f"{folder} should hold the classes {', '.join(names)}; {'; '.join(problems)}. Copy what is missing, or "
            "move away what does not belong"
        )
    paths = tuple(path for name in names for path in found[name])
    labels = tuple(label for label, name in enumerate(names) for _ in found[name])
    return Recordings(_form(kind, paths), folder, paths, labels, names, () if names is classes else empty)


def _is_no_class(folder: Path) -> bool:
    """Whether a folder beside those of the classes is of another form, or of a part, or holds prepared frames."""
    others = {"events_np", "extract", "download", *(part for names in PART_NAMES.values() for part in names)}
    if folder.name.lower() in others or folder.name.startswith(("frames_number_", "duration_")):
        return True
    return any((path / ABOUT).is_file() or path.suffix == LOCK for path in _inside(folder))


def _form(kind: str, files: tuple[Path, ...]) -> str:
    """The form of a folder's files, from the first of them that can be opened."""
    # Three versions share the suffix .aedat; the first bytes tell them apart.
    if kind == "aedat":
        with regular(files[0]).open("rb") as file:
            return {VERSION_3: "aedat3", VERSION_4: "aedat4"}.get(file.read(len(VERSION_4)), "aedat2")
    if kind != "npz":
        return kind
    problems = []
    for path in files:
        try:
            return "frames" if "frames" in npz_keys(path) else "events_np"
        except DataError as error:
            problems.append(str(error))
    raise DataError(problems[0])
