"""What the loop, the measurements and the pictures of samples know about data: samples hand out batches.

Shapes: N samples of a batch, M samples of a data set, T time steps; images [N, C, H, W], event frames [T, N, 2, H, W].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data.augmentation import Augmentation
from spikedistill.errors import DataError
from spikedistill.tasks.task import Targets


class Raw(NamedTuple):
    """A batch in the form that takes least memory: what a worker process hands over.

    Attributes:
        parts: tensors that `Samples.finish` understands; uint8 images, say, and what is still to be done to them.
        targets: what `Targets.batch` hands out, changed along with the samples where geometry matters.
    """

    parts: tuple[Tensor, ...]
    targets: Any


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which samples of a batch are wanted, and where their random numbers come from.

    Attributes:
        index: the whole batch [N], of all processes.
        share: positions in it that are wanted, of this process.
        generator: of the batch.
    """

    index: Tensor
    share: Tensor
    generator: torch.Generator


class Samples(Protocol):
    """The samples of a data set with their targets, in memory or on disk."""

    @property
    def targets(self) -> Targets:
        """The right answers, one row for each sample."""
        ...

    @property
    def device(self) -> torch.device:
        """Where finished batches lie."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: Tensor | slice) -> Self:
        """Those of the samples `index`."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same samples, whose batches lie on `device`."""
        ...

    def with_targets(self, targets: Targets) -> Self:
        """The same samples with other targets, in the same order.

        Raises:
            DataError: not one row for each sample.
        """
        ...

    def read(self, index: Tensor) -> Raw:
        """The samples `index` [N] as they are."""
        ...

    def read_changed(self, index: Tensor, share: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Raw:
        """Randomly changed samples of one process: of the batch `index` [N], those numbered `share`.

        Random numbers are drawn for the whole batch, so that its samples do not depend on the number of processes.

        Raises:
            InvalidArgument: a change that this kind of data does not know.
        """
        ...

    def finish(self, raw: Raw) -> Batch:
        """What was read, made ready for the network where it lies."""
        ...

    def batch(self, index: Tensor) -> Batch:
        """The samples `index` [N] as they are, ready for the network."""
        ...

    def description(self) -> dict[str, Any]:
        """Plain values of what a network that learned these samples is fed: "input" in `config.json`.

        "shape" is that of one sample at one step, as [C, H, W]; the others are the reader's own.
        """
        ...


@runtime_checkable
class ManyAtOnce(Protocol):
    """Samples of which several batches are changed at once in less time than one after the other."""

    def read_changed_batches(self, wanted: Sequence[Wanted], augmentation: Augmentation) -> list[Raw]:
        """What `read_changed` gives for each of them, bit by bit."""
        ...


def is_over_time(samples: Samples, inputs: Tensor) -> bool:
    """Whether finished inputs of these samples are [T, N, ...] and not [N, ...]."""
    # "shape" is that of one sample at one step
    return inputs.dim() == len(samples.description()["shape"]) + 2


def refuse_other_input(given: Mapping[str, Any], learned: Mapping[str, Any]) -> None:
    """Refuse samples that are fed in another form than those that a network learns, by their descriptions.

    Raises:
        DataError: another kind or shape, or pictures that are normalised in another way.
    """
    for name in ("kind", "shape", "timesteps", "mean", "std", "framing"):
        if _plain(given.get(name)) != _plain(learned.get(name)):
            remedy = "; normalise both alike: sd.samples_of(..., like=train)" if name in ("mean", "std") else ""
            raise DataError(
                f"these samples have {name} {given.get(name)}, those of the training {learned.get(name)}{remedy}"
            )


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples are lists."""
    return list(value) if isinstance(value, tuple) else value


def check_rows(targets: Targets, samples: int) -> None:
    """Refuse targets that are not one row for each of `samples` samples.

    Raises:
        DataError: names both numbers.
    """
    # Rows of targets and samples are matched by position only; a shift of one would train on wrong answers.
    if len(targets) != samples:
        raise DataError(f"there are {samples} samples, but targets of {len(targets)}; each sample needs one row")
