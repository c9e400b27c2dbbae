"""Where the time of one training step goes, and how far it is from its bare convolutions and matrix products."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from spikedistill.bench.point import Point
from spikedistill.bench.runner import check
from spikedistill.bench.step import Step
from spikedistill.errors import InvalidArgument, whole_number

_aten = torch.ops.aten
BARE = {_aten.convolution, _aten.convolution_backward, _aten.mm, _aten.addmm, _aten.bmm}
"""The operations that any way of training this network has to do."""
KERNELS_SHOWN = 15


class Profile(TypedDict):
    """Seconds of a step and of its bare operations, their ratio, and the self time of the largest kernels by name."""

    step: float
    bare: float
    ratio: float
    kernels: dict[str, float]


class _Recorder(TorchDispatchMode):
    """Keeps the calls of bare operations with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[OpOverload, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Arguments are kept as they are, not copied: the same memory, layout and types as in the step.
        if func.overloadpacket in BARE:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def seconds_of(function: Callable[[], object]) -> float:
    """Time of one call."""
    before = time.perf_counter()
    function()
    return time.perf_counter() - before


def bare_step(step: Step) -> Callable[[], None]:
    """A function that does only the convolutions and matrix products of a step, on the same tensors."""
    # Compiled code refuses to be recorded. Its convolutions are the same, so an eager step serves as well.
    with torch.compiler.set_stance("force_eager"), _Recorder() as recorder:
        step()

    def replay() -> None:
        # Backward convolutions are in the list themselves, so nothing has to be remembered for a backward pass.
        with torch.no_grad():
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)
        if step.device.type == "cuda":
            torch.cuda.synchronize(step.device)

    return replay


def profile(subject: str, point: Point, repeats: int = 9) -> Profile:
    """Where the time of a step goes.

    Step and bare operations are timed in turn, so that drift of the machine hits both.

    Args:
        subject: a key of `SUBJECTS`.
        repeats: how often both are timed; seconds are medians, and `ratio` is the median of the ratios.

    Raises:
        InvalidArgument: an unknown subject, model or device, a package that is not installed, images that are too
            small, or a subject whose bare operations are not those of a step.
    """
    check([subject], point)
    whole_number("repeats", repeats)
    if subject.endswith(("-8bit", "-parts", "-compiled")):
        raise InvalidArgument(
            f"of {subject} the bare operations cannot be told: they are others, or computed twice; profile "
            f"{subject.rpartition('-')[0]} and compare the seconds of a step"
        )
    step = Step(subject, point)
    # Both are run once untimed: the first run compiles, and finds its memory not yet mapped.
    step.warm()
    step()
    bare = bare_step(step)
    step()
    bare()
    pairs = [(seconds_of(step), seconds_of(bare)) for _ in range(repeats)]
    return {
        "step": statistics.median(whole for whole, _ in pairs),
        "bare": statistics.median(alone for _, alone in pairs),
        "ratio": statistics.median(whole / alone for whole, alone in pairs),
        "kernels": _kernels(step),
    }


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
        # Each fused kernel has a name of its own, which says nothing to a reader.
        name = "fused kernels (torch.compile)" if "CompiledFxGraph" in event.key else event.key
        times[name] += spent / 1e6
    largest = sorted(times.items(), key=lambda item: item[1], reverse=True)
    return dict(largest[:KERNELS_SHOWN])
