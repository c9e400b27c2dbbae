"""The batches of an epoch, from any kind of samples.

Every random choice comes from (seed, epoch, batch), so a batch can be made again without those before it, by any
worker, and the processes of a distributed run draw the same numbers and each takes its share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikedistill.data.augmentation import Augmentation
from spikedistill.errors import DataError, InvalidArgument


class Samples(Protocol):
    """Labelled samples, in memory or not."""

    @property
    def labels(self) -> Tensor: ...  # int64 [M]

    @property
    def classes(self) -> tuple[str, ...]: ...  # names, by label

    @property
    def device(self) -> torch.device: ...  # where batches are made

    def __len__(self) -> int: ...

    def rows(self, index: Tensor | slice) -> Self: ...

    def to(self, device: torch.device) -> Self: ...

    def read(self, index: Tensor) -> tuple[Tensor, ...]:
        """Samples as they are, in the form that takes least memory: a worker process hands it over."""
        ...

    def read_changed(
        self, index: Tensor, share: Tensor, how: Augmentation, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Randomly changed samples: of the batch `index` those numbered `share`; numbers are drawn for all."""
        ...

    def finish(self, *parts: Tensor) -> Tensor:
        """What was read, made ready for the network where it lies: [N, C, H, W] or [T, N, C, H, W]."""
        ...

    def batch(self, index: Tensor) -> Tensor:
        """Samples as they are, ready for the network."""
        ...

    def description(self) -> dict[str, Any]:
        """What a network that was trained on these samples expects (`config.json`)."""
        ...


def generator_for(*numbers: int) -> torch.Generator:
    """A random generator for this seed, epoch, batch ..."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The training batches of every epoch.

    Args:
        batch_size: of all processes together.
        drop_last: leave out the last batch of an epoch if it is smaller.
        rank, processes: the share of each batch that this process gets.
        workers: processes that make batches ahead (0: made when asked for).
    """

    data: Samples
    batch_size: int
    augmentation: Augmentation
    seed: int
    drop_last: bool = False
    rank: int = 0
    processes: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < self.processes:
            raise InvalidArgument(f"a batch of {self.batch_size} cannot be shared by {self.processes} processes")
        if len(self) == 0:
            raise InvalidArgument(
                f"{len(self.data)} training samples give no batch of {self.batch_size}; lower --optimizer.batch_size"
            )

    def __len__(self) -> int:
        whole, rest = divmod(len(self.data), self.batch_size)
        return whole + (rest >= self.processes and not self.drop_last)

    def place(self, k: int) -> slice:
        """Where in an epoch's order batch k lies; the last takes what is too little to share, so none is left out."""
        last = k == len(self) - 1 and not self.drop_last
        return slice(k * self.batch_size, None if last else (k + 1) * self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (inputs [N, C, H, W] or [T, N, C, H, W], labels [N]) of one epoch, from batch `start` on."""
        order = torch.randperm(len(self.data), generator=generator_for(self.seed, epoch))
        how = dataclasses.replace(self, data=_at_home(self.data, self.workers))
        return _made(_TrainingBatches(how, order, epoch), range(start, len(self)), self.workers, self.data)


@dataclasses.dataclass(frozen=True)
class _TrainingBatches(Dataset[Any]):
    """Batch k of an epoch, for a loader."""

    batches: Batches
    order: Tensor
    epoch: int

    def __getitem__(self, k: int) -> tuple[tuple[Tensor, ...], Tensor] | DataError:
        how = self.batches
        index = self.order[how.place(k)]
        share = torch.arange(len(index)).tensor_split(how.processes)[how.rank]
        generator = generator_for(how.seed, self.epoch, k, 1)
        try:
            parts = how.data.read_changed(index, share, how.augmentation, generator)
        except DataError as error:  # a loader would bury it in a traceback
            return error
        return parts, how.data.labels[index[share].to(how.data.labels.device)]


@dataclasses.dataclass(frozen=True)
class _InOrder(Dataset[Any]):
    """Batch k of the samples in order, for a loader."""

    data: Samples
    batch_size: int
    share: Tensor

    def __getitem__(self, k: int) -> tuple[tuple[Tensor, ...], Tensor] | DataError:
        index = self.share[k * self.batch_size : (k + 1) * self.batch_size]
        try:
            return self.data.read(index), self.data.labels[index.to(self.data.labels.device)]
        except DataError as error:
            return error


def in_order(
    data: Samples, batch_size: int, workers: int = 0, rank: int = 0, processes: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every sample once, for evaluation; of several processes each gets its own share."""
    share = torch.arange(len(data)).tensor_split(processes)[rank]
    count = -(-len(share) // batch_size)
    return _made(_InOrder(_at_home(data, workers), batch_size, share), range(count), workers, data)


def _at_home(data: Samples, workers: int) -> Samples:
    """Samples whose batches worker processes can make: in a forked process there is no GPU."""
    return data.to(torch.device("cpu")) if workers else data


def _made(dataset: Any, numbers: range, workers: int, data: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    device = data.device
    if workers == 0:
        loader = map(dataset.__getitem__, numbers)
    else:
        import torchvision.transforms.v2.functional  # noqa: F401  (once here, not by every worker of every epoch)

        pin = device.type == "cuda"
        loader = DataLoader(dataset, batch_size=None, sampler=numbers, num_workers=workers, pin_memory=pin)  # type: ignore[arg-type]
    for made in loader:
        if isinstance(made, DataError):
            raise made
        parts, labels = made
        inputs = data.finish(*(part.to(device, non_blocking=True) for part in parts))
        yield inputs, labels.to(device, non_blocking=True)
