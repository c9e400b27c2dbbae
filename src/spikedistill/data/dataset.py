"""What a data set is and what is wanted of it: the two things that a reader of a data set gets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from spikedistill.data.events.layouts import Layout
from spikedistill.data.events.settings import EventSettings
from spikedistill.data.samples import Samples
from spikedistill.data.scenes.settings import SceneSettings
from spikedistill.errors import DataError

HUB = "hub:"
"""What a root begins with that is not a folder but a data set of the Hugging Face hub."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One part of a data set, and where it lies.

    Attributes:
        name: a key of `DATASETS`.
        train: the training part, or else the test part.
        root: the folder given by the user, or `HUB` and a name of the hub.
        rows: only the first so many are needed (None: all); a reader may read more.
        timesteps: T, the number of frames of a recording.
        size: rows and columns of what the network sees (None: those of the data set).
        download: fetch what is missing.
        split_seed: seed of the division of recordings into training and test.
        events: how recordings become samples.
        scenes: how recordings with boxes do.
    """

    name: str
    train: bool
    root: str | None = None
    rows: int | None = None
    timesteps: int | None = None
    size: int | None = None
    download: bool = False
    split_seed: int = 0
    events: EventSettings = EventSettings()
    scenes: SceneSettings = SceneSettings()

    def folder(self) -> Path:
        """The folder that the user gave; whether it is there is not looked at.

        Raises:
            DataError: none was given, or a data set of the hub, where only a folder can be read.
        """
        # Only a reader knows whether it needs a folder, so this is asked here and not when settings are made.
        if self.root is None:
            raise DataError(f"where is {self.name}? Give its folder: --data.root FOLDER")
        if self.root.startswith(HUB):
            raise DataError(
                f"{self.name} is read from a folder, not from {self.root}; download it and give --data.root FOLDER"
            )
        return Path(self.root).expanduser()


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set: a row of `DATASETS`.

    Attributes:
        summary: what it is, in a line.
        reader: the function that reads a part of it.
        kind: pictures held in "memory", such as events ("shifts"), a "folder" of picture files read as needed,
            recordings of "events", or such with boxes ("scenes"), or pictures with boxes ("boxes").
        settings: those of `DataSettings` that only some data sets know, and this is one of them.
        channels, size: a picture is channels × size × size.
        classes: how many (None: as many as there are folders).
        mean, std: the constants that normalise pictures, per channel; frames of events are used as counted.
        torchvision: class name in torchvision.datasets, and the folder in the root that its files lie in.
        recordings: sensor, classes and division of recordings of events.
        parquet: files are called NAME-train.parquet and NAME-test.parquet.
    """

    # What every data set has to say:
    summary: str
    reader: Callable[[DataSet, Request], Samples]
    kind: Literal["memory", "shifts", "folder", "events", "scenes", "boxes"]
    settings: tuple[str, ...]
    channels: int
    size: int
    # What readers of pictures want to know:
    classes: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    torchvision: tuple[str, str] | None = None
    parquet: str | None = None
    # What the reader of recordings wants to know:
    recordings: Layout = Layout()

    @property
    def is_one(self) -> bool:
        """Whether it is the same wherever it lies. Of others people keep parts, so the folder decides."""
        return bool(self.torchvision or self.parquet) or "root" not in self.settings

    def read(self, request: Request) -> Samples:
        """A part of this data set.

        Raises:
            DataError: it is missing or damaged, or nobody said where it lies.
        """
        return self.reader(self, request)
