"""Uniform random numbers for rounding, many at a time.

PyTorch draws on a CPU one number after the other, in one thread: for the rate twin that took longer than all else a
neuron does. Here a table is drawn once, and each sample of a batch reads a stretch of it that begins somewhere else.
Where to begin is drawn by PyTorch, so that a seed means the same run; two neurons that round by the same number in one
step will not in the next.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SIZE = 2**21


@functools.cache
def _table() -> Tensor:
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(0))


def uniform_like(current: Tensor) -> Tensor:
    """Random numbers from 0 to 1, float32, in the shape and memory layout of `current` [N, C, ...]: to be read only."""
    batch, numbers = current.shape[0], current[:1].numel()
    furthest = (SIZE - numbers) // max(batch, 1)
    # a GPU draws in parallel; and samples that begin at nearly the same place would round alike
    if current.device.type != "cpu" or batch == 0 or furthest < SIZE // (4 * batch):
        return torch.rand_like(current, dtype=torch.float32)
    apart, first = (int(n) for n in torch.randint(SIZE // (8 * batch), furthest + 1, (2,)))
    rows = _table().as_strided((batch, numbers), (apart, 1), first)
    if current.is_contiguous():
        return rows.view(current.shape)
    return rows.view(batch, *current.shape[2:], current.shape[1]).movedim(-1, 1)
