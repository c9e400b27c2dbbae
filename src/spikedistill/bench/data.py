"""How many samples a second the batches of a recipe bring, without training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from spikedistill.data import DATASETS, Augmentation, Batches, ImageSet, load
from spikedistill.training.recipe import Recipe
from spikedistill.training.setup import keep_memory


def random_pictures(name: str, count: int = 50_000) -> ImageSet:
    """Noise in the form of a data set: for its speed, the content of a picture does not matter."""
    spec = DATASETS[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, spec.channels, spec.size, spec.size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % (spec.classes or 10)
    return ImageSet(images, labels, tuple(map(str, range(spec.classes or 10))), spec.mean, spec.std)


def stream(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of epoch after epoch."""
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def samples_per_second(batches: Batches, seconds: float = 2.0, repeats: int = 5) -> list[float]:
    """Samples a second in each of `repeats` stretches of time, after the first batch."""
    source = stream(batches)
    next(source)
    rates = []
    for _ in range(repeats):
        start, samples = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            samples += len(next(source)[1])
        rates.append(samples / (time.perf_counter() - start))
    return rates


def bench_data(recipe: Recipe) -> dict[str, float]:
    """Median samples a second by what is done to them, printed; on noise where data.root is not given.

    Pictures in memory are measured with no change, with the recipe's, and with all of the paper's; others with theirs.
    """
    keep_memory()  # as a training run does
    data = recipe.data
    on_noise = DATASETS[data.name].kind == "memory" and data.root is None
    samples = random_pictures(data.name) if on_noise else load(data, recipe.timesteps).train
    ways = {"as they are": Augmentation(crop=0, flip=False), "as the recipe says": data.augmentation}
    if isinstance(samples, ImageSet) and samples.images.shape[1] == 3:
        ways["crop, flip, AutoAugment, Cutout 16"] = Augmentation(autoaugment=True, cutout=16)
    found = {}
    source = "noise in the form of" if on_noise else f"{len(samples)} samples of"
    print(f"{source} {data.name}, batches of {recipe.optimizer.batch_size}, {data.workers} workers, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    for name, how in ways.items():
        batches = Batches(samples, min(recipe.optimizer.batch_size, len(samples)), how, 0, workers=data.workers)
        rates = samples_per_second(batches)
        found[name] = statistics.median(rates)
        print(f"  {name:<36} {found[name]:>9,.0f} samples/s ({min(rates):,.0f} to {max(rates):,.0f})", flush=True)
    return found
