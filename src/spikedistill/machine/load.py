"""Whether the processor has other work: threads that wait for one another then lose most of their time."""

from __future__ import annotations

import os
import time

import torch


def other_work() -> str | None:
    """What to know before computing on this CPU, in words; None where its cores are free, or nothing is known."""
    try:
        load = os.getloadavg()[0]  # processes that wanted a core, the mean of about the last minute
    except (AttributeError, OSError):  # Windows has none
        return None
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    others = load - min(time.process_time() / 60, threads)  # without what this process itself has done
    # half a core is what a desktop does by itself
    if threads == 1 or others < 0.5 or others + threads < cores + 0.5:
        return None
    return (
        f"this machine has other work ({others:.1f} of {cores} cores), and {threads} threads that wait for one another "
        "may take many times as long; beside other work: OMP_NUM_THREADS=1"
    )
