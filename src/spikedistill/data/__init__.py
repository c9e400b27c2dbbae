"""Data sets by name: what they are is a table, how they lie on disk is found out by looking."""

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import Batches, Samples, in_order
from spikedistill.data.pictures.memory import ImageSet
from spikedistill.data.load import Splits, load
from spikedistill.data.specs import DATASETS, DataSettings

__all__ = ["DATASETS", "Augmentation", "Batches", "DataSettings", "ImageSet", "Samples", "Splits", "in_order", "load"]
