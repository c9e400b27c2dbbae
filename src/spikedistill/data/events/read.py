"""A folder of recordings as a data set: found, divided into training and test, and its frames prepared."""

from __future__ import annotations

import torch
from torch import Tensor

from spikedistill.data.dataset import DataSet, Request
from spikedistill.data.events.cache import prepared
from spikedistill.data.events.frames import Framing
from spikedistill.data.events.frameset import FrameSet
from spikedistill.data.events.recordings import CIFAR10_CLASSES, Recordings, find_recordings
from spikedistill.data.events.splits import FOLDERS, split
from spikedistill.tasks.classification import Labels


def read_events(dataset: DataSet, request: Request) -> FrameSet:
    """The training or the test recordings of a folder, as frames.

    Raises:
        DataError: missing or unusable recordings, or a cache folder that cannot be written.
        InvalidArgument: no number of time steps.
    """
    framing = request.events.framing(request.timesteps)
    found, rows = divided(request, framing)
    frames = prepared(found, framing, request.events.cache, request.events.repair)
    return FrameSet(frames, rows, Labels(torch.tensor(found.labels)[rows], found.classes), framing)


def divided(request: Request, framing: Framing) -> tuple[Recordings, Tensor]:
    """The recordings under a root, and the rows of them that train or test."""
    root, division = request.folder(), request.events.split
    if division == FOLDERS:
        found = find_recordings(root / ("train" if request.train else "test"), framing, CIFAR10_CLASSES)
        return found, torch.arange(len(found))
    found = find_recordings(root, framing, CIFAR10_CLASSES)
    training, test = split(found, division, request.split_seed)
    return found, training if request.train else test
