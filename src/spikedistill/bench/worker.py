"""One subject in a process of its own: takes a step when told to, and says how long it took and what memory it had.

    python -m spikedistill.bench.worker SUBJECT POINT_AS_JSON

Reads lines: "step" answers {"seconds": s}; "memory" answers {"bytes": peak above the state before the first step}.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from spikedistill.bench.subjects import Point, Step


class Memory:
    """The peak of the process's memory above where it was when this was made."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self.before = self._status("VmRSS")

    def peak(self) -> int:
        return (torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")) - self.before

    @staticmethod
    def _status(name: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        return 0


def answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    started = time.perf_counter()
    step = Step(sys.argv[1], Point(**json.loads(sys.argv[2])))
    step.warm()
    memory = Memory(step.device)
    step()
    answer(ready=time.perf_counter() - started, precision=step.precision)
    for line in sys.stdin:
        if line.strip() == "step":
            before = time.perf_counter()
            step()
            answer(seconds=time.perf_counter() - before)
        elif line.strip() == "memory":
            answer(bytes=memory.peak())


if __name__ == "__main__":
    main()
