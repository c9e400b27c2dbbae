"""Fewer easy samples: which samples an epoch shows, and what each counts (InfoBatch, arXiv 2303.04947; method.md §5.1).

Of the samples whose last loss was below the mean, each epoch leaves out a share r at random. The gradients of those
that are shown are multiplied with 1/(1−r), so that their sum over an epoch is that of all samples, on average.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spikedistill.core.output import Batch
from spikedistill.data import Batches
from spikedistill.data.batches import generator_for
from spikedistill.errors import CheckpointError, InvalidArgument
from spikedistill.machine.device import sent
from spikedistill.machine.processes import from_all_processes

_UNTIL = 0.875
"""As its authors have it: the last epochs see the samples as they are."""


@dataclasses.dataclass(frozen=True)
class Pruning:
    """How many of the easy samples each epoch leaves out.

    The first epoch shows all, for their losses are not known yet. Losses and accuracies of the epochs after it are of
    the samples that were shown, so they look worse than those of all.

    Args:
        share: of the samples whose last loss was below the mean, drawn anew for each epoch (0: all are shown; 0.5 is
            usual).
        until: the epochs after the first so many show all again (below 1: a share of all epochs).

    Raises:
        InvalidArgument: a share outside 0 to below 1, or `until` that is no number of epochs or leaves only the first.
    """

    share: float = 0.0
    until: int | float = _UNTIL

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InvalidArgument(f"pruning.share is {self.share}; expected from 0 (all samples) to below 1, as 0.5")
        if not (0 < self.until < 1 or (self.until >= 2 and float(self.until).is_integer())):
            raise InvalidArgument(
                f"pruning.until is {self.until}; expected a number of epochs from 2 on, for the first shows all "
                "samples, or a share of the epochs below 1"
            )

    def counted(self, epochs: int) -> Pruning:
        """The same with a number in the place of a share of so many epochs, rounded down; of too few it is none."""
        if not self.share or self.until >= 1:
            return self
        until = int(self.until * epochs + 1e-9)
        return dataclasses.replace(self, until=until) if until >= 2 else Pruning()


@dataclasses.dataclass(frozen=True)
class Shown:
    """The batches of one epoch, and what their samples count.

    Attributes:
        batches: of the samples that are shown.
        epoch: its number.
        weights: what the gradient of each sample of the data is multiplied with, [M]; None: 1.
    """

    batches: Batches
    epoch: int
    weights: Tensor | None = None

    @functools.cached_property
    def order(self) -> Tensor:
        """The samples in the order in which they come; looked at only where samples are left out."""
        return self.batches.order(self.epoch)

    def index(self, k: int) -> Tensor:
        """The samples of batch k that this process has, int64 [N]."""
        whole = self.order[self.batches.span(k)]
        return whole[self.batches.of_this_process(len(whole))]

    def weighted(self, batch: Batch, k: int) -> Batch:
        """Batch k with the weights of its samples."""
        if self.weights is None:
            return batch
        return dataclasses.replace(batch, weights=sent(self.weights[self.index(k)], batch.inputs.device))


class Pruner:
    """The last loss of every sample, and what follows from it.

    Args:
        settings: how many are left out, with a number of epochs.
        samples: M, of the data.
        seed: of what is drawn.
    """

    def __init__(self, settings: Pruning, samples: int, seed: int) -> None:
        self.settings, self.samples, self.seed = settings, samples, seed
        # float32 [M], NaN where a sample has not been shown
        self.before = torch.full((samples,), torch.nan)  # this epoch: what decides who is shown in it
        self.now = torch.full((samples,), torch.nan)  # in it, by this process

    def shown(self, batches: Batches, epoch: int) -> Shown:
        """What an epoch shows; the same whenever it is asked within that epoch."""
        easy = self.before < self.before.nanmean()  # never, for a sample without a loss
        if epoch >= self.settings.until or not easy.any():
            return Shown(batches, epoch)
        # the 4 keeps these numbers apart from those of order, changes and workers
        drawn = torch.rand(len(easy), generator=generator_for(self.seed, epoch, 4))
        rows = (~easy | (drawn >= self.settings.share)).nonzero().flatten()
        if len(rows) < (batches.batch_size if batches.drop_last else max(2, batches.processes)):
            # hardly a sample is hard: an epoch without a batch would train nothing
            return Shown(batches, epoch)
        weights = torch.where(easy, 1 / (1 - self.settings.share), 1.0)
        return Shown(dataclasses.replace(batches, rows=rows), epoch, weights)

    def note(self, index: Tensor, losses: Tensor | None) -> None:
        """Keep the losses [N] of the samples `index` [N], of which none comes twice in an epoch."""
        assert losses is not None, "a task without them is refused before anything is trained"
        if self.now.device != losses.device:  # at the first batch; a GPU need not wait for each
            self.now = self.now.to(losses.device)
        self.now[sent(index, losses.device)] = losses.detach().float()

    def next_epoch(self) -> None:
        """What all processes have seen decides the next epoch."""
        self.before, self.now = _newer(self.before, self._seen_by_all()), torch.full_like(self.now, torch.nan)

    def _seen_by_all(self) -> Tensor:
        seen = torch.full_like(self.before, torch.nan)
        for each in from_all_processes(self.now.cpu()):
            seen = _newer(seen, each)
        return seen

    def state(self) -> dict[str, Tensor]:
        """Everything so far, of all processes; each of them has to ask."""
        return {"before": self.before, "now": self._seen_by_all()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            CheckpointError: not the losses of so many samples.
        """
        for name in ("before", "now"):
            value = state.get(name) if isinstance(state, Mapping) else None
            if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.shape != self.before.shape:
                what = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise CheckpointError(f"the losses of the samples are {what:.80}; expected {len(self.before)} float32")
            setattr(self, name, value.clone())


def _newer(old: Tensor, new: Tensor) -> Tensor:
    return torch.where(new.isnan(), old, new)
