"""Milliseconds of a training step that is nearly all the host's work: a table of docs/gpu.md.

    OMP_NUM_THREADS=1 python scripts/host_times.py [REPEATS]

ResNet-18 with width 16 on two images of 8×8, T = 4, SGD, in fp32. The steps are taken in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

import spikedistill as sd
from spikedistill.core.kernels import EAGER, Kernels, compiled
from spikedistill.core.output import Batch
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.optimizers import SGD, make_optimizer

KINDS: dict[str, tuple[sd.ANN | sd.Rate, tuple[str, ...] | None, Kernels | None]] = {
    "ANN twin": (sd.ANN(), (), EAGER),
    "ANN twin with branches": (sd.ANN(), None, EAGER),
    "rate-based alone, eager kernels": (sd.Rate(4), (), EAGER),
    "self-distillation, eager kernels": (sd.Rate(4), None, EAGER),
    "rate-based alone, fused kernels": (sd.Rate(4), (), compiled()),
    "self-distillation, fused kernels": (sd.Rate(4), None, compiled()),
    "ANN twin, compiled step": (sd.ANN(), (), None),
    "rate-based alone, compiled step": (sd.Rate(4), (), None),
    "self-distillation, compiled step": (sd.Rate(4), None, None),
}
"""Rule, branches (None: all of them) and kernels (None: the step is compiled as a whole)."""
WARM_UP = 6


def step_of(rule: sd.ANN | sd.Rate, branches: tuple[str, ...] | None, kernels: Kernels | None) -> Callable[[], None]:
    network = sd.create_model("resnet18", width=16)
    learner = sd.SelfDistillation(network, rule, branches=branches, kernels=kernels or EAGER)
    learner = learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(learner, SGD())
    images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    labels = torch.tensor([3, 7])

    whole = CompiledStep(learner, "fp32") if kernels is None else None

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if whole is None:
            learner.loss(learner(images), labels).total.backward()
        else:
            whole(Batch(images, labels))
        optimizer.step()

    return step


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 34
    steps = {name: step_of(*kind) for name, kind in KINDS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(WARM_UP + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    first = statistics.median(seconds["ANN twin"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {1e3 * median:.1f} | {median / first:.1f} |")


if __name__ == "__main__":
    main()
