"""How a signal stops a run: after a step, in all processes alike."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

from spikedistill.errors import Interrupted
from spikedistill.machine.processes import mean_over_processes
from spikedistill.training.loop import Progress, Watcher


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Signals received (SIGINT, SIGTERM): the first is noted, the second of Ctrl-C ends the program at once.

    A thread other than the main one gets none: there the program that started it decides.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

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
