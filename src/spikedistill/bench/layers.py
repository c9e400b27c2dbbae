"""Where the time of one training step goes, and how far it is from its bare convolutions and matrix products."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spikedistill.bench.subjects import Point, Step

_aten = torch.ops.aten
BARE = {_aten.convolution, _aten.convolution_backward, _aten.mm, _aten.addmm, _aten.bmm}
"""The operations that any way of training this network has to do."""


class _Recorder(TorchDispatchMode):
    """Keeps the calls of bare operations with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in BARE:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def seconds_of(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        function()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def bare_step(step: Step) -> Callable[[], None]:
    """A function that does only the convolutions and matrix products of a step, on the same tensors."""
    with torch.compiler.set_stance("force_eager"), _Recorder() as recorder:  # compiled code refuses to be recorded
        step()

    def replay() -> None:
        with torch.no_grad():
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)
        if step.device.type == "cuda":
            torch.cuda.synchronize()

    return replay


def profile(subject: str, point: Point, repeats: int = 9) -> dict[str, Any]:
    """Seconds of a step, of its bare operations, their ratio, and the share of each kernel.

    Step and bare operations are timed in turn, so that drift of the machine hits both.
    """
    step = Step(subject, point)
    step.warm()
    step()
    bare = bare_step(step)
    step()
    bare()
    pairs = [(seconds_of(step, 1), seconds_of(bare, 1)) for _ in range(repeats)]
    whole, alone = statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)
    ratio = statistics.median(p[0] / p[1] for p in pairs)
    return {"step": whole, "bare": alone, "ratio": ratio, "kernels": _kernels(step)}


def _kernels(step: Step) -> dict[str, float]:
    """Self time in seconds by kernel, largest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    cuda = step.device.type == "cuda"
    with torch_profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        step()
    times: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        name = "fused kernels (torch.compile)" if "CompiledFxGraph" in event.key else event.key
        times[name] += spent / 1e6
    return dict(sorted(times.items(), key=lambda item: -item[1])[:15])
