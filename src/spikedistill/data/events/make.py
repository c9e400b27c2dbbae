"""A folder of simulated recordings in the layout of CIFAR10-DVS: train/CLASS/cifar10_CLASS_I.aedat, and test/."""

from __future__ import annotations

import shutil
from pathlib import Path

from spikedistill.data.batches import generator_for
from spikedistill.data.events.aedat import write_aedat2
from spikedistill.data.events.simulate import Camera, simulate
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.machine.progress import show_progress
from spikedistill.errors import DataError, WriteError

TOGETHER = 32
"""Pictures simulated at a time."""

NOTE = """Recordings simulated by spikedistill, not real ones: pictures moved before an event camera that is a model.
Layout and format are those of CIFAR10-DVS. Numbers measured on them are not comparable with those of CIFAR10-DVS.
"""


def make_recordings(parts: dict[str, ImageSet], out: Path, source: str, seed: int, camera: Camera | None = None) -> int:
    """Simulate a recording of every picture; returns the number of events written.

    Args:
        parts: pictures by the name of their folder in `out` ("train", "test").
        source: name of the pictures' data set, with which file names begin.

    Raises:
        DataError: `out` holds something already.
        WriteError: a file could not be written; `out` is then not there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already and is not overwritten; choose another --out")
    unfinished = out.with_name(f".{out.name}.making")
    shutil.rmtree(unfinished, ignore_errors=True)
    camera, events = camera or Camera(), 0
    try:
        for number, (part, data) in enumerate(parts.items()):
            events += _part(data, unfinished / part, source, camera, (seed, number))
        (unfinished / "README.txt").write_text(f"{NOTE}source {source}, seed {seed}, {camera}\n")
        if out.is_dir():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"could not write {out}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return events


def _part(data: ImageSet, folder: Path, source: str, camera: Camera, seeds: tuple[int, int]) -> int:
    names = [name.replace("/", "-").replace(" ", "_") for name in data.classes]
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    written, events = dict.fromkeys(names, 0), 0
    for start in range(0, len(data), TOGETHER):
        rows = data.rows(slice(start, start + TOGETHER))
        generator = generator_for(*seeds, start)
        for recording, label in zip(simulate(rows.images, camera, generator), rows.labels.tolist(), strict=True):
            name = names[label]
            write_aedat2(folder / name / f"{source}_{name}_{written[name]}.aedat", recording.turned())
            written[name] += 1
            events += len(recording)
        show_progress(f"simulating {folder.name}", start + len(rows), start, len(data))
    return events
