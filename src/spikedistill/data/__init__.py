"""Data sets by name: what they are is a table, how they lie on disk is found out by looking."""

from spikedistill.data.images import Augmentation, Batches, ImageSet, in_order
from spikedistill.data.sets import DATASETS, DataSettings, Splits, load

__all__ = ["DATASETS", "Augmentation", "Batches", "DataSettings", "ImageSet", "Splits", "in_order", "load"]
