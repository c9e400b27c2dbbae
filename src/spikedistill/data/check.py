"""What lies in a folder of data: its form, how much of each class, and which files cannot be used, with the reason."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spikedistill.data.events.frames import read_npz
from spikedistill.data.events.recordings import CIFAR10_CLASSES, READERS, Recordings, find_recordings
from spikedistill.data.pictures.folder import SPLIT_NAMES, Found, find_pictures, read_picture
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.pictures.tables import bad_rows, parquet_table
from spikedistill.data.load import torchvision_set
from spikedistill.data.specs import DATASETS, DataSettings
from spikedistill.errors import DataError


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
        total = sum(self.counts.values())
        shown = ", ".join(f"{name} {count}" for name, count in list(self.counts.items())[:12])
        more = f", and {len(self.counts) - 12} classes more" if len(self.counts) > 12 else ""
        lines = [f"{self.name}: {self.form}, {total} in {len(self.counts)} classes ({shown}{more})"]
        if len(set(self.counts.values())) > 1:
            low, high = min(self.counts.values()), max(self.counts.values())
            lines.append(f"  classes are not equally large: {low} to {high}")
        if self.others:
            more = ", ..." if len(self.others) > 5 else ""
            lines.append(f"  {len(self.others)} other files, which are not read: {', '.join(self.others[:5])}{more}")
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
    parts = [_parquet(file) for pattern in ("*.parquet", "*/*.parquet") for file in sorted(root.glob(pattern))]
    unpacked = [k for k, spec in DATASETS.items() if spec.torchvision and (root / spec.torchvision[1]).is_dir()]
    parts += [_torchvision(name, root, train) for name in unpacked for train in (True, False)]
    for folder in (root, *(root / name for names in SPLIT_NAMES.values() for name in names)):
        if folder.is_dir():
            parts += _recordings(folder)
    if not any(part.form.startswith("recordings") for part in parts):
        parts += [_pictures(root, train) for train in (True, False) if _has_split(root, train)]
    if not parts:
        there = sorted(p.name for p in root.iterdir())[:10]
        raise DataError(
            f"{root} holds nothing that is known (CLASS/*.aedat, events_np/, frames_number_T_split_by_number/, "
            f"train/CLASS/*.jpg, *.parquet, torchvision's files); it holds {', '.join(there) or 'nothing'}"
        )
    return parts


def _all(read: Callable[[Path], object], paths: Iterable[Path]) -> list[str]:
    """What is wrong with the files that cannot be read."""

    def one(path: Path) -> str | None:
        try:
            read(path)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [problem for problem in pool.map(one, paths) if problem]


def _recordings(folder: Path) -> list[Part]:
    try:
        found = find_recordings(folder)
    except DataError:
        return []
    bad = _all(_reader(found), found.paths)
    missing = [name for name in CIFAR10_CLASSES if name not in found.classes]
    if missing and len(missing) < len(CIFAR10_CLASSES):
        bad.append(f"classes of CIFAR10-DVS that are missing: {', '.join(missing)}")
    folders = sorted({path.parent for path in found.paths})
    names = {p for folder in folders for p in folder.iterdir() if not p.name.startswith(".")} - set(found.paths)
    others = sorted(str(p.relative_to(found.root)) for p in names)
    return [Part(str(found.root), f"recordings ({found.form})", found.counts(), bad, others)]


def _reader(found: Recordings) -> Callable[[Path], object]:
    if found.form != "frames":
        return lambda path: READERS[found.form](path, False)
    shape = read_npz(found.paths[0], ("frames",))["frames"].shape

    def read(path: Path) -> None:
        frames = read_npz(path, ("frames",))["frames"]
        if frames.shape != shape:
            raise DataError(f"{path}: frames are {list(frames.shape)}, those of {found.paths[0].name} {list(shape)}")

    return read


def _has_split(root: Path, train: bool) -> bool:
    return any((root / name).is_dir() for name in SPLIT_NAMES[train])


def _pictures(root: Path, train: bool) -> Part:
    found = find_pictures(root, train)
    paths = [found.folder / os.fsdecode(name) for name in found.names]
    return Part(str(found.folder), "pictures", _counts(found), _all(read_picture, paths), found.others)


def _torchvision(name: str, root: Path, train: bool) -> Part:
    part = f"{root}, {name}, {'training' if train else 'test'} rows"
    try:
        data = torchvision_set(DATASETS[name], DataSettings(name, str(root)), root, train)
    except DataError as error:
        return Part(part, "torchvision's files", {}, [str(error)])
    return Part(part, "torchvision's files", _counts(data), [])


def _counts(data: Found | ImageSet) -> dict[str, int]:
    """Samples by class."""
    return dict(zip(data.classes, data.labels.bincount(minlength=len(data.classes)).tolist(), strict=True))


def _parquet(file: Path) -> Part:
    counts, bad = bad_rows(parquet_table(file))
    return Part(str(file), "parquet", counts, bad)
