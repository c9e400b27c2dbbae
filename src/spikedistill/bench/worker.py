"""One subject in a process of its own: takes a step when told to, and says how long it took and what memory it had.

    python -m spikedistill.bench.worker SUBJECT POINT_AS_JSON

It takes a first step and answers {"ready": seconds since its start, "precision": ..., "setting": ...}. Then it reads
lines: "step" answers {"seconds": time of a step}, "memory" answers {"bytes": peak above the state before the first
step}. Where it cannot go on it answers {"failure": why} and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import torch

from spikedistill.bench.point import Point
from spikedistill.bench.step import Step

STATUS = Path("/proc/self/status")


class Memory:
    """The peak of the process's memory above where it was when this was made, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Tensors in reference cycles would count as in use until Python happens to collect them.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
            return
        # What earlier steps left free goes back to the system; else this step would reuse it and seem to need nothing.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak VmHWM back to what is in use now
        self.before = _status("VmRSS")

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _status("VmHWM") - self.before


def _status(name: str) -> int:
    """A line of the process's status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def answers(subject: str, point: Point, requests: Iterator[str]) -> Iterator[dict[str, float | str]]:
    """One answer when the first step is done, and one to each request."""
    started = time.perf_counter()
    step = Step(subject, point)
    # Machine code, weights and oneDNN's caches are no part of a step, so they come before the count.
    step.warm()
    memory = Memory(step.device)
    step.record()
    step()
    yield {"ready": time.perf_counter() - started, "precision": step.precision, "setting": step.setting}
    for request in requests:
        if request == "step":
            before = time.perf_counter()
            step()
            yield {"seconds": time.perf_counter() - before}
        elif request == "memory":
            yield {"bytes": memory.peak()}


def main(stdout: TextIO) -> None:
    """Answer on `stdout` what is asked on stdin."""
    requests = (line.strip() for line in sys.stdin)
    # Libraries that print something must not get between the answers.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            for answer in answers(sys.argv[1], Point(**json.loads(sys.argv[2])), requests):
                print(json.dumps(answer), file=stdout, flush=True)
        except Exception as error:
            # Whatever it is, the row of this subject says it in one line; the traceback goes to stderr.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            print(json.dumps({"failure": lines[0]}), file=stdout, flush=True)
            raise


if __name__ == "__main__":
    # Libraries in C write to the file itself, which has another number from here on.
    answered = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(answered)
