"""Memory that is alive at the peak of a training step, by T and by parts of the batch: a table of docs/performance.md.

    OMP_NUM_THREADS=1 python scripts/step_memory.py [WIDTH [BATCH [PRECISION]]]     default: 64 32 bf16

ResNet-18 on images of 32×32, 100 classes, compiled kernels, SGD with momentum; above the state before the step, to
which the gradients of the step before belong. It adds up every allocation of PyTorch's, as
`torch.cuda.max_memory_allocated` does on a GPU: what the C allocator keeps beside that is not in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import spikedistill as sd
from spikedistill.core.kernels import Kernels, compiled, in_parts
from spikedistill.training.optimizers import SGD, make_optimizer

TIMESTEPS = (2, 4, 8)
PARTS = (1, 4, 8, 16)
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
BRANCHES: dict[str, tuple[str, ...] | None] = {"rate-based alone": (), "self-distillation": None}


def step_of(
    kernels: Kernels, timesteps: int, branches: tuple[str, ...] | None, width: int, batch: int, precision: torch.dtype
) -> Callable[[], None]:
    network = sd.create_model("resnet18", 100, width=width)
    learner = sd.SelfDistillation(network, sd.Rate(timesteps), branches=branches, kernels=kernels)
    learner = learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(learner, SGD())
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 100

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = learner.loss(learner(images), labels).total
        loss.backward()
        optimizer.step()

    return step


def alive_at_peak(step: Callable[[], None]) -> int:
    """Bytes; of a step that has been taken before, so that the optimizer has its state."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()  # whose gradients the next one frees: what is allocated before a record is never seen to be freed in it
        with record_function("measured"):
            step()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    begin = next(event.start_ns() for event in results.events() if event.name() == "measured")
    events = [e for e in results.events() if e.name() == "[memory]" and e.start_ns() >= begin]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events)  # pyright: ignore[reportAttributeAccessIssue]
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def main() -> None:
    given = (*sys.argv[1:], *("64", "32", "bf16")[len(sys.argv) - 1 :])
    width, batch, precision = int(given[0]), int(given[1]), PRECISIONS[given[2]]
    for name, branches in BRANCHES.items():
        for parts in PARTS:
            kernels = compiled() if parts == 1 else in_parts(compiled(), parts)
            row = []
            for timesteps in TIMESTEPS:
                step = step_of(kernels, timesteps, branches, width, batch, precision)
                step()
                step()
                row.append(alive_at_peak(step) / 1e6)
            numbers = " | ".join(f"{each:.0f}" for each in row)
            print(f"| {name} | {parts} | {numbers} | {row[-1] / row[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
