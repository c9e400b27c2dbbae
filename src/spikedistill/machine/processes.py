"""The processes of a distributed run: which of several this is, and numbers added up over them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from spikedistill.errors import InvalidArgument

Value = TypeVar("Value")


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
        """This process, by torchrun's variables; without them it is the only one.

        Raises:
            InvalidArgument: only some of them are set, or they are no such numbers.
        """
        there = {name: os.environ[name] for name in (*_TORCHRUN, *_MEETING) if name in os.environ}
        if "WORLD_SIZE" not in there and "RANK" not in there:
            return cls()
        try:
            rank, count = int(there["RANK"]), int(there["WORLD_SIZE"])
            process = cls(rank, count, int(there.get("LOCAL_RANK", 0)))
        except (KeyError, ValueError):
            process = None
        missing = [name for name in _MEETING if name not in there]
        if process is None or not 0 <= process.rank < process.count or (process.count > 1 and missing):
            raise InvalidArgument(
                f"the environment says of several processes {there}; expected whole numbers {', '.join(_TORCHRUN)} and "
                f"an address {', '.join(_MEETING)}. Start with torchrun, or unset them"
            )
        return process

    @property
    def is_first(self) -> bool:
        return self.rank == 0


_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def process_group(process: Process, device: torch.device) -> Iterator[None]:
    """Connect the processes of a run for the `with` block; nothing where there is only one."""
    if process.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.distributed.init_process_group("nccl", device_id=device)
    else:
        torch.distributed.init_process_group("gloo")
    try:
        yield
        # A process that leaves while another still talks to it can abort at its exit.
        torch.distributed.barrier()
    finally:
        # What still holds the group would end its threads only when the interpreter ends, and abort it.
        gc.collect()
        torch.distributed.destroy_process_group()


def _is_distributed() -> bool:
    # Asked of torch and not of a `Process`: an objective is called by code that has none.
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number over the processes of a distributed run; itself otherwise."""
    if not _is_distributed():
        return value
    value = value.clone()  # all_reduce writes into its argument
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def from_all_processes(value: Value) -> list[Value]:
    """`value` of every process, by rank; plain values and CPU tensors. A list of one where there is one process."""
    if not _is_distributed():
        return [value]
    found = [value] * torch.distributed.get_world_size()  # every entry is overwritten
    torch.distributed.all_gather_object(found, value)
    return found
