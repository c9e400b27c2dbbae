"""Does a network that was trained on event frames use their order? Accuracy with the frames in other orders.

python scripts/frame_order.py RUN [RUN ...]      RUN: the folder of a finished run on event data
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import spikedistill as sd
from spikedistill.data import in_order, load_split
from spikedistill.machine.device import autocast
from spikedistill.training.recipe_files import saved_recipe


def shuffled(frames: torch.Tensor) -> torch.Tensor:
    """In an order that is neither the recorded one nor that backwards, and the same for all recordings."""
    count = len(frames)
    if count < 3:
        raise SystemExit(f"{count} frames have no other order than forwards and backwards")
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(count, generator=generator)
        if order.tolist() not in ([*range(count)], [*reversed(range(count))]):
            return frames[order]


ORDERS = {
    "as recorded": lambda frames: frames,
    "backwards": lambda frames: frames.flip(0),
    "shuffled": shuffled,
    "their mean at every step": lambda frames: frames.mean(0, keepdim=True).expand_as(frames),
}


def main(runs: list[Path]) -> None:
    for run in runs:
        recipe, trained = saved_recipe(run), sd.Trained.load(run)
        assert trained.timesteps is not None, "the ANN twin has no time steps"
        test = load_split(recipe.data, False, recipe.timesteps).rows(slice(recipe.data.test_rows))
        test = test.with_targets(test.targets.matched(trained.config["targets"]))
        for name, order in ORDERS.items():
            if not trained.network.is_over_time(next(in_order(test, 1)).inputs):
                raise SystemExit(f"{run} was shown the same at every step: there is no order of frames")
            batches = (sd.Batch(order(batch.inputs), batch.targets) for batch in in_order(test, 50))
            with autocast("bf16" if recipe.precision == "bf16" else "fp32", torch.device("cpu")):
                found = sd.evaluate(trained.network, batches, [trained.timesteps])
            print(f"{run.name:<12} {name:<26} {found.score[trained.timesteps]:.1%}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(word) for word in sys.argv[1:]])
