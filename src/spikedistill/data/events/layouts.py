"""Data sets of recordings: which sensor, which classes, which division. Another one is one more row in `LAYOUTS`."""

from __future__ import annotations

import dataclasses

from spikedistill.data.events.event import DVS128, Sensor

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DRAWN, FOLDERS = "stratified-90-10", "folders"
"""Divisions: one of `SPLITS`, and that of recordings which lie in folders for training and test."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A data set of recordings, one folder for each class.

    Attributes:
        sensor: of the camera.
        size: rows and columns that frames are resized to, where the user says nothing.
        split: how recordings are divided, where the user says nothing: a key of `SPLITS`, or "folders".
        classes: names of all classes (None: the folders that are there).
    """

    sensor: Sensor = DVS128
    size: int = 48
    split: str = DRAWN
    classes: tuple[str, ...] | None = None


LAYOUTS = {
    "cifar10-dvs": Layout(classes=CIFAR10_CLASSES),
    "n-mnist": Layout(Sensor(34, 34), 34, FOLDERS, tuple("0123456789")),
    "dvs128-gesture": Layout(DVS128, 128, FOLDERS, tuple(map(str, range(11)))),
    "n-caltech101": Layout(Sensor(180, 240)),
    "recordings": Layout(),
}
