"""A folder of simulated recordings in the layout of CIFAR10-DVS: train/CLASS/cifar10_CLASS_I.aedat, and test/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from spikedistill.data.batches import generator_for
from spikedistill.data.events.aedat import write_aedat2
from spikedistill.data.events.simulate import Camera, simulate
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.errors import DataError
from spikedistill.machine.files import whole_folder
from spikedistill.machine.progress import show_progress

TOGETHER = 32
"""Pictures simulated at a time."""

NOTE = """Recordings simulated by spikedistill, not real ones: pictures moved before an event camera that is a model.
Layout and format are those of CIFAR10-DVS. Numbers measured on them are not comparable with those of CIFAR10-DVS.
"""


def make_recordings(
    parts: Mapping[str, ImageSet], out: Path, source: str, seed: int, camera: Camera | None = None
) -> int:
    """Simulate a recording of every picture; returns the number of events written.

    Args:
        parts: pictures by the name of their folder in `out` ("train", "test").
        source: name of the pictures' data set, with which file names begin.

    Raises:
        DataError: `out` holds something already, or a part has no picture of some class: a folder of recordings
            without a class could not be read again.
        WriteError: a file could not be written; `out` is then not there.
    """
    camera, events = camera or Camera(), 0
    with whole_folder(out) as unfinished:
        _check_classes(parts, source)
        for number, (part, data) in enumerate(parts.items()):
            events += _part(data, unfinished / part, source, camera, (seed, number))
        (unfinished / "README.txt").write_text(f"{NOTE}source {source}, seed {seed}, {camera}\n")
    return events


def _check_classes(parts: Mapping[str, ImageSet], source: str) -> None:
    for part, data in parts.items():
        # The first few rows of a data set are often short of a class.
        found = set(_classes_of(data))
        missing = [name for name in data.targets.description()["classes"] if name not in found]
        if missing:
            raise DataError(
                f"the first {len(data)} {part} pictures of {source} are not of every class: {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Take more of them: --{part}-rows N, or leave it out "
                "for all"
            )


def _classes_of(data: ImageSet) -> list[str]:
    """The name of the class of each picture."""
    return data.targets.captions(torch.arange(len(data)))


def _part(data: ImageSet, folder: Path, source: str, camera: Camera, seeds: tuple[int, int]) -> int:
    # Class names become folders: T-shirt/top is not two of them.
    names = [name.replace("/", "-").replace(" ", "_") for name in _classes_of(data)]
    for name in set(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
    written, events = dict.fromkeys(names, 0), 0
    for start in range(0, len(data), TOGETHER):
        images = data.images[start : start + TOGETHER]
        # Each group has random numbers of its own, so that a recording does not depend on how many follow it.
        recordings = simulate(images, camera, generator_for(*seeds, start))
        for recording, name in zip(recordings, names[start : start + TOGETHER], strict=True):
            write_aedat2(folder / name / f"{source}_{name}_{written[name]}.aedat", recording.turned())
            written[name] += 1
            events += len(recording)
        show_progress(f"simulating {folder.name}", start + len(images), start, len(data))
    return events
