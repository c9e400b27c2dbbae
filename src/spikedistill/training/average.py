"""The moving average of a network while it is trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """The moving average of weights and of batch norm's statistics, in `module`.

    Its decay rises to `decay`, as (1 + n)/(10 + n) after n steps: else a short run would keep its first weights.

    Args:
        model: is copied.
        decay: of the average, from 0 to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in what `model` is after another step."""
        seen = int(self.n_averaged)  # it lies on the CPU, so that no device is waited for
        share = 1 - min((1 + seen) / (10 + seen), self.decay) if seen else 1.0
        for old, new in zip(_tensors(self.module), _tensors(model), strict=True):
            if old.is_floating_point() and share < 1:
                # what does not change stays as it is: a mask of −∞ would become NaN
                old.copy_(torch.where(old == new, old, old.lerp(new.detach(), share)))
            else:  # the first, or the number of batches that batch norm has seen
                old.copy_(new)
        self.n_averaged += 1


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
