"""The processes of a distributed run: which of several this is, and numbers added up over them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Process:
    """Which of how many processes this is; torchrun says it in the environment.

    Attributes:
        rank: number of this process; the first, 0, writes and shows.
        count: how many there are.
        local_rank: number on this machine, which chooses the GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def find(cls) -> Process:
        numbers = (os.environ.get(name, default) for name, default in _TORCHRUN)
        return cls(*(int(number) for number in numbers))

    @property
    def is_first(self) -> bool:
        return self.rank == 0


_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextlib.contextmanager
def process_group(process: Process, device: torch.device) -> Iterator[None]:
    """Connect the processes of a run for the `with` block; nothing where there is only one."""
    if process.count == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        torch.distributed.barrier()  # a process that leaves while another still talks to it can abort at its exit
    finally:
        gc.collect()  # what still holds the group would end its threads only when the interpreter ends, and abort it
        torch.distributed.destroy_process_group()


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number over the processes of a distributed run; itself otherwise."""
    if not _is_distributed():
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def from_all_processes(value: Any) -> list[Any]:
    """`value` of every process, by rank; plain values and CPU tensors. A list of one where there is one process."""
    if not _is_distributed():
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found
