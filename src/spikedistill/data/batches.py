"""The batches of an epoch, from any kind of samples.

Every random choice comes from (seed, epoch, batch), so a batch can be made again without those before it, by any
worker, and the processes of a distributed run draw the same numbers and each takes its share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.mixing import classes_to_mix, mixed
from spikedistill.data.pictures.prepare import torchvision_functional
from spikedistill.data.samples import ManyAtOnce, Raw, Samples, Wanted, is_over_time
from spikedistill.errors import InvalidArgument, SpikedistillError

CPU = torch.device("cpu")
AT_ONCE = 1024
"""Samples of several batches that are changed at once, where that is faster: 1.6 times for AutoAugment on a CPU, and an
eighth of the calls on a GPU."""


def generator_for(*numbers: int) -> torch.Generator:
    """A random generator for this seed, epoch, batch ..."""
    seed = 0
    for number in numbers:
        # A large prime keeps (1, 2) and (2, 1) apart, and + 1 keeps a leading 0 apart from nothing.
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The training batches of every epoch.

    Args:
        data: the training samples.
        batch_size: of all processes together.
        augmentation: random changes of the samples.
        seed: of the order and of every random change.
        drop_last: leave out the last batch of an epoch if it is smaller.
        rank, processes: the share of each batch that this process gets.
        workers: processes that make batches ahead (0: made when asked for).
        rows: which of the samples are shown, int64 (None: all).

    Raises:
        InvalidArgument: batches that are smaller than the number of processes, or larger than the data.
    """

    data: Samples
    batch_size: int
    augmentation: Augmentation
    seed: int
    drop_last: bool = False
    rank: int = 0
    processes: int = 1
    workers: int = 0
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        if self.batch_size < self.processes:
            raise InvalidArgument(f"a batch of {self.batch_size} cannot be shared by {self.processes} processes")
        if len(self) == 0:
            raise InvalidArgument(
                f"{self.samples} training samples give no batch of {self.batch_size}; lower --optimizer.batch_size"
            )

    @property
    def samples(self) -> int:
        """How many are shown in an epoch."""
        return len(self.data) if self.rows is None else len(self.rows)

    def __len__(self) -> int:
        whole, rest = divmod(self.samples, self.batch_size)
        # A rest that cannot give each process a sample is no batch of its own: it joins the one before, see `span`. Nor
        # is a single sample, which has no statistics for batch norm, unless it is all there is.
        enough = max(self.processes, 2 if whole else 1)
        return whole + (rest >= enough and not self.drop_last)

    def span(self, k: int) -> slice:
        """The part of an epoch's order that batch k is; the last takes what is too little to share, so none is lost."""
        last = k == len(self) - 1 and not self.drop_last
        return slice(k * self.batch_size, None if last else (k + 1) * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The samples of one epoch in the order in which they come: int64 [M]; `span` says which are of a batch."""
        order = torch.randperm(self.samples, generator=generator_for(self.seed, epoch))
        return order if self.rows is None else self.rows[order]

    def of_this_process(self, count: int) -> Tensor:
        """Which of a batch's `count` samples this process has: their places in it."""
        return torch.arange(count).tensor_split(self.processes)[self.rank]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `start` on.

        Raises:
            DataError: a sample that cannot be read, by name.
            InvalidArgument: a random change that the data does not know.
        """
        # Workers get a copy on the CPU, while `self.data` says to which device their batches go.
        readable = dataclasses.replace(self, data=_readable(self.data, self.workers))
        made = _TrainingBatches(readable, self.order(epoch), epoch)
        several = max(1, AT_ONCE // self.batch_size) if isinstance(self.data, ManyAtOnce) else 1
        blocks = [range(k, min(k + several, len(self))) for k in range(start, len(self), several)]
        # the 3 keeps what workers draw apart from the rest
        batches = _finished(made, blocks, self.workers, self.data, generator_for(self.seed, epoch, 3))
        return self._mixed(batches, epoch, start) if self.augmentation.mixes else batches

    def _mixed(self, batches: Iterator[Batch], epoch: int, start: int) -> Iterator[Batch]:
        """Samples mixed with each other, where they lie; of several processes each mixes its own share."""
        classes = classes_to_mix(self.data.targets)
        for k, batch in enumerate(batches, start):
            # the 2 keeps these numbers apart from those of the single samples
            generator = generator_for(self.seed, epoch, k, 2)
            yield mixed(batch, self.augmentation, classes, is_over_time(self.data, batch.inputs), generator)


Made = list[Raw | SpikedistillError]
"""The batches of a block; the last may be the error that came instead of it."""


@dataclasses.dataclass(frozen=True)
class _TrainingBatches(Dataset[Made]):
    """A block of batches of an epoch, for a loader."""

    batches: Batches
    order: Tensor
    epoch: int

    def __getitem__(self, block: range) -> Made:
        data, augmentation = self.batches.data, self.batches.augmentation
        wanted = [self._wanted(k) for k in block]
        made: Made = []
        try:
            if isinstance(data, ManyAtOnce):
                made += data.read_changed_batches(wanted, augmentation)
            else:
                made += [data.read_changed(each.index, each.share, augmentation, each.generator) for each in wanted]
        except SpikedistillError as error:  # a loader would bury it in a traceback
            made.append(error)
        return made

    def _wanted(self, k: int) -> Wanted:
        batches = self.batches
        index = self.order[batches.span(k)]
        # Numbers are drawn for the whole batch in every process, and each keeps those of its share.
        share = batches.of_this_process(len(index))
        # The 1 keeps these numbers apart from those of the order, which come from (seed, epoch).
        return Wanted(index, share, generator_for(batches.seed, self.epoch, k, 1))


@dataclasses.dataclass(frozen=True)
class _InOrder(Dataset[Made]):
    """Batches of the samples in order, for a loader."""

    data: Samples
    batch_size: int
    share: Tensor

    def __getitem__(self, block: range) -> Made:
        rows = self.share[block.start * self.batch_size : block.stop * self.batch_size]
        try:
            return [self.data.read(index) for index in rows.split(self.batch_size)]
        except SpikedistillError as error:
            return [error]


def in_order(data: Samples, batch_size: int, workers: int = 0, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
    """Every sample once, for evaluation; of several processes each gets its own share.

    Raises:
        DataError: a sample that cannot be read, by name.
    """
    share = torch.arange(len(data)).tensor_split(processes)[rank]
    # Rounded up: the last batch is smaller rather than left out, as every sample counts once.
    count = -(-len(share) // batch_size)
    blocks = [range(k, k + 1) for k in range(count)]
    return _finished(_InOrder(_readable(data, workers), batch_size, share), blocks, workers, data, generator_for(0))


def _readable(data: Samples, workers: int) -> Samples:
    """Samples that the processes which read them can use: in a forked worker there is no GPU."""
    return data.to(CPU) if workers else data


def _finished(
    dataset: Dataset[Made], blocks: list[range], workers: int, data: Samples, generator: torch.Generator
) -> Iterator[Batch]:
    """The batches in `blocks` of `dataset`, moved to the device of `data` and made ready there.

    Workers hand over small types (uint8 images), which are a quarter of the bytes to copy, pin and send.
    """

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(data.device, non_blocking=True)

    for block in _loader(dataset, blocks, workers, data.device.type == "cuda", generator):
        for made in block:
            # What a worker could not read is raised here, in the words in which it was found.
            if isinstance(made, SpikedistillError):
                raise made
            # Targets may be a tensor or a tuple of them, so the whole of it is moved leaf by leaf.
            yield data.finish(tree_map(moved, made))


def _loader(
    dataset: Dataset[Made], blocks: list[range], workers: int, pin_memory: bool, generator: torch.Generator
) -> Iterable[Made]:
    if workers == 0:
        # One after the other in this process, when asked for: the same samples as with workers.
        return map(dataset.__getitem__, blocks)
    torchvision_functional()  # imported here once; each worker would import it anew in every epoch
    # The data set hands over whole batches, so the loader must not put its own around them (batch_size=None).
    # Of torch's own generator it would take a number, and a run that goes on would go on with others.
    return DataLoader(
        dataset, batch_size=None, sampler=blocks, num_workers=workers, pin_memory=pin_memory, generator=generator
    )
