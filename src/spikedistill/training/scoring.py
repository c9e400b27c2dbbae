"""The score of a run's network on a split, by all processes of the run together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.network import Network
from spikedistill.data import Samples, in_order
from spikedistill.machine.device import autocast
from spikedistill.machine.processes import Process, from_all_processes
from spikedistill.measure.evaluation import EVALUATION_BATCH, Evaluation, evaluate
from spikedistill.tasks import Inspector
from spikedistill.training.recipe import Recipe


def score(
    recipe: Recipe,
    network: Network,
    data: Samples,
    timesteps: Sequence[int] | None = None,
    kernels: Kernels = EAGER,
    process: Process | None = None,
    inspect: Callable[[], Inspector | None] = lambda: None,
) -> Evaluation:
    """Evaluate at `timesteps` (None: those of the recipe) with the recipe's precision.

    The processes of a distributed run evaluate a share each, all with the buffers of the first: batch norm's running
    statistics differ between them, and those of the first are saved.
    """
    process = process or Process()
    steps = None if recipe.timesteps is None else timesteps or [recipe.timesteps]
    shared = 1 < process.count <= len(data)
    if shared:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    rank, count = (process.rank, process.count) if shared else (0, 1)
    # no larger than training's batches: what fits there fits here
    batch = max(1, min(EVALUATION_BATCH, recipe.optimizer.batch_size // process.count))
    batches = in_order(data, batch, recipe.data.workers, rank, count)
    with autocast("bf16" if recipe.precision == "bf16" else "fp32", data.device):
        return evaluate(
            network,
            batches,
            steps,
            task=recipe.task,
            description=data.targets.description(),
            kernels=kernels,
            gather=from_all_processes if shared else lambda value: [value],
            inspect=inspect,
        )
