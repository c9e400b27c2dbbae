"""The processes of a run: which of several this is, and how a signal to one stops them all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import Any

import torch

from spikedistill.objectives.self_distillation import mean_over_processes
from spikedistill.errors import Interrupted
from spikedistill.training.loop import Progress, Watcher


@dataclasses.dataclass(frozen=True)
class Place:
    """Which of how many processes this is; torchrun says it in the environment."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0

    @classmethod
    def find(cls) -> Place:
        numbers = (os.environ.get(name, default) for name, default in _TORCHRUN)
        return cls(*(int(number) for number in numbers))


_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextlib.contextmanager
def process_group(place: Place, device: torch.device) -> Iterator[None]:
    if place.processes == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        torch.distributed.barrier()  # a process that leaves while another still talks to it can abort at its exit
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Signals received (SIGINT, SIGTERM): the first is noted, the second of Ctrl-C ends the program at once."""
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stoppable:
    """A watcher that ends the run, in all processes alike, after the step in which a signal came to one of them."""

    def __init__(self, watcher: Watcher, received: list[int], device: torch.device) -> None:
        self.watcher, self.received, self.device = watcher, received, device

    def on_step(self, progress: Progress, steps: int) -> None:
        self.watcher.on_step(progress, steps)
        if mean_over_processes(torch.tensor(float(len(self.received)), device=self.device)) > 0:
            raise Interrupted("stopped")

    def on_epoch(self, row: dict[str, float]) -> None:
        self.watcher.on_epoch(row)
