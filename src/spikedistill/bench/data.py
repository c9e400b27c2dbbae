"""How many samples a second the batches of a recipe bring, without training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

from spikedistill.core.output import Batch
from spikedistill.data import DATASETS, Augmentation, Batches, ImageSet, Samples, load
from spikedistill.data.datasets import GIVEN
from spikedistill.errors import InvalidArgument
from spikedistill.machine.allocator import keep_memory
from spikedistill.machine.device import find_device, wait_for
from spikedistill.tasks import Labels
from spikedistill.training.recipe import Recipe

AS_IN_THE_PAPER = Augmentation(autoaugment=True, cutout=16)
"""Crop and flip are the defaults; see method.md §5."""


def random_images(name: str, count: int = 50_000) -> ImageSet:
    """Noise in the form of a data set: for its speed, the content of an image does not matter."""
    dataset = DATASETS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (count, dataset.channels, dataset.size, dataset.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    classes = dataset.classes or 10
    labels = Labels(torch.arange(count) % classes, tuple(str(k) for k in range(classes)))
    return ImageSet(images, labels, dataset.mean, dataset.std)


def batches_without_end(batches: Batches) -> Iterator[Batch]:
    """Batches of epoch after epoch."""
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def samples_per_second(batches: Batches, seconds: float = 2.0, repeats: int = 5) -> list[float]:
    """Samples a second in each of `repeats` stretches of time, after the first batch."""
    source = batches_without_end(batches)
    next(source)  # starts the workers
    rates = []
    # Several stretches instead of a long one: their spread shows how busy the machine is.
    for _ in range(repeats):
        start, samples = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            samples += len(next(source))
        wait_for(batches.data.device)
        rates.append(samples / (time.perf_counter() - start))
    return rates


def augmentations_for(recipe: Recipe, samples: Samples) -> dict[str, Augmentation]:
    """What is measured, by name: no change, the recipe's, and of colour images in memory all of the paper's."""
    found = {"as they are": Augmentation(crop=0, flip=False), "as the recipe says": recipe.data.augmentation}
    if isinstance(samples, ImageSet) and samples.images.shape[1] == 3:
        found["crop, flip, AutoAugment, Cutout 16"] = AS_IN_THE_PAPER
    return found


def bench_data(recipe: Recipe) -> dict[str, float]:
    """Median samples a second by augmentation, also printed; on noise where a data set that needs a root has none.

    Raises:
        InvalidArgument: a data set that is handed over, or rows of noise.
        DataError: the data set is missing or damaged.
    """
    # As a training run does; without it a large batch is paid for in page faults each time.
    keep_memory()
    data = recipe.data
    dataset = DATASETS[data.name]
    if data.name == GIVEN:
        raise InvalidArgument(f"the samples of {data.name!r} are handed over in Python; name a data set to measure")
    on_noise = dataset.kind == "memory" and "root" in dataset.settings and data.root is None
    if on_noise and (data.train_rows, data.validation_rows) != (None, 0):
        raise InvalidArgument("without data.root this measures on noise, which has no rows to choose; leave them out")
    device = find_device(recipe.device)
    samples = random_images(data.name) if on_noise else load(data, recipe.rule.timesteps).train
    samples = samples.to(device)
    # Recipes are written for whole data sets; a small one has fewer samples than a batch.
    batch_size = min(recipe.optimizer.batch_size, len(samples))
    source = "noise in the form of" if on_noise else f"{len(samples)} samples of"
    threads = torch.get_num_threads()
    print(f"{source} {data.name}, batches of {batch_size}, {data.workers} workers, {threads} threads, {device}")
    found = {}
    for name, augmentation in augmentations_for(recipe, samples).items():
        rates = samples_per_second(Batches(samples, batch_size, augmentation, seed=0, workers=data.workers))
        found[name] = statistics.median(rates)
        print(f"  {name:<36} {found[name]:>9,.0f} samples/s ({min(rates):,.0f} to {max(rates):,.0f})", flush=True)
    return found
