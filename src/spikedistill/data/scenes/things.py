"""What is to be seen in made scenes: recordings of N-MNIST, or pictures that a simulated camera records."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from spikedistill.data.batches import generator_for
from spikedistill.data.events.event import Events, Sensor
from spikedistill.data.events.layouts import LAYOUTS
from spikedistill.data.events.recordings import READERS, find_recordings
from spikedistill.data.events.simulate import Camera, simulate
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.errors import DataError
from spikedistill.tasks.classification import Labels

N_MNIST = "n-mnist"
MOST, TOGETHER = 1000, 32
"""Pictures that are shown at most, and recorded at a time: 0.3 MB each are kept, and one alone takes 0.1 s."""
MARGIN = 4
"""Pixels of the sensor beside a picture."""


class Things(Protocol):
    """Recordings of single things, each of a class."""

    @property
    def sensor(self) -> Sensor:
        """Of the camera that recorded them."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def note(self) -> str:
        """Where they come from: a sentence for those who find the scenes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, k: int) -> tuple[Events, int]:
        """Events and class of one of them."""
        ...


class Digits:
    """Recordings of N-MNIST, read when they are first needed.

    Raises:
        DataError: there are none in this folder.
    """

    sensor = LAYOUTS[N_MNIST].sensor
    note = "real recordings of N-MNIST (Orchard et al. 2015, CC BY-SA 4.0) that were moved over a larger sensor."

    def __init__(self, root: str | Path, part: str) -> None:
        self._found = find_recordings(root, None, LAYOUTS[N_MNIST].classes, part)
        if self._found.form not in READERS:
            raise DataError(f"{self._found.root} holds frames, and scenes are made of events; give the recordings")
        self._read: dict[int, Events] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return self._found.classes

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, k: int) -> tuple[Events, int]:
        if k not in self._read:
            self._read[k] = READERS[self._found.form](self._found.paths[k], False, self.sensor)
        return self._read[k], self._found.labels[k]


class Shown:
    """Pictures on a dark ground that a simulated camera records when they are first needed, one pixel for each.

    Args:
        pictures: of which the first `MOST` are shown.
        source: name of the pictures' data set.
        seed: of the camera's pixels.
    """

    def __init__(self, pictures: ImageSet, source: str, seed: int) -> None:
        side = pictures.images.shape[-1]
        # The recording is cut out of two loops. Noise comes over the whole scene, not only where a picture is.
        self.camera = Camera(sensor=side + 2 * MARGIN, side=side, around=0.0, noise=0.0, amplitude=MARGIN - 1, loops=2)
        self.sensor = Sensor(self.camera.sensor, self.camera.sensor)
        labels = pictures.targets
        assert isinstance(labels, Labels)
        self.classes = labels.names
        self.note = f"pictures of {source} that a simulated camera recorded, moved over a larger sensor; {self.camera}."
        self._images, self._seed = pictures.images[:MOST], seed
        self._labels = labels.numbers.tolist()
        self._recorded: dict[int, list[Events]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, k: int) -> tuple[Events, int]:
        # Each group has random numbers of its own, so that a recording is the same whatever else is shown.
        group, place = divmod(k, TOGETHER)
        if group not in self._recorded:
            images = self._images[group * TOGETHER : (group + 1) * TOGETHER]
            self._recorded[group] = simulate(images, self.camera, generator_for(self._seed, group))
        return self._recorded[group][place], self._labels[k]
