"""A folder of recordings as a data set: found, divided into training and test, and its frames prepared."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.events.cache import prepared
from spikedistill.data.events.frames import Framing
from spikedistill.data.events.frameset import FrameSet
from spikedistill.data.events.layouts import FOLDERS
from spikedistill.data.events.recordings import RecordedFrames, Recordings, find_recordings, has_parts, joined
from spikedistill.data.events.settings import EventSettings
from spikedistill.data.events.splits import split
from spikedistill.errors import DataError
from spikedistill.machine.output import say
from spikedistill.tasks.classification import Labels


def read_events(dataset: DataSet, request: Request) -> FrameSet:
    """The training or the test recordings of a folder, as frames.

    Raises:
        DataError: missing or unusable recordings, or a cache folder that cannot be written.
        InvalidArgument: no number of time steps.
    """
    settings = request.events.of(dataset.recordings)
    framing = settings.framing(request.timesteps)
    found, rows = divided(request, settings, framing, dataset.recordings.classes)
    source = RecordedFrames(found, framing, settings.repair)
    frames = prepared(source, settings.cache)
    if source.left_out:
        count, (height, width) = sum(source.left_out.values()), framing.sensor
        where = f"the sensor of {height} rows and {width} columns"
        say(f"{found.root}: left out {count} events outside {where}, of {len(source.left_out)} recordings", "stderr")
    return FrameSet(frames, rows, Labels(torch.tensor(found.labels)[rows], found.classes), framing)


def divided(
    request: Request, settings: EventSettings, framing: Framing, classes: tuple[str, ...] | None
) -> tuple[Recordings, Tensor]:
    """The recordings under a root, and the rows of them that train or test."""
    root, division = request.folder(), settings.split
    assert division is not None  # `of` has filled it in
    if division == FOLDERS:
        found = find_recordings(root, framing, classes, part="train" if request.train else "test")
        found.refuse_empty()
        return found, torch.arange(len(found))
    found = _all_recordings(root, framing, classes)
    found.refuse_empty()
    training, test = split(found, division, request.split_seed)
    return found, training if request.train else test


def _all_recordings(root: Path, framing: Framing, classes: tuple[str, ...] | None) -> Recordings:
    """Those in folders of classes; where there are none, those of the folders for training and test together."""
    try:
        return find_recordings(root, framing, classes)
    except DataError:
        if not has_parts(root):
            raise
    train, test = (find_recordings(root, framing, classes, part) for part in ("train", "test"))
    return joined(train, test, root)
