"""Data sets by name: what they are is a table, how they lie on disk is found out by looking."""

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import Batches, in_order
from spikedistill.data.datasets import DATASETS
from spikedistill.data.events import Framing, frames_of
from spikedistill.data.load import Splits, division, load, load_split
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.samples import Raw, Samples
from spikedistill.data.settings import DataSettings
from spikedistill.data.tensors import TensorSet, samples_of

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batches",
    "DataSettings",
    "Framing",
    "ImageSet",
    "Raw",
    "Samples",
    "Splits",
    "TensorSet",
    "division",
    "frames_of",
    "in_order",
    "load",
    "load_split",
    "samples_of",
]
