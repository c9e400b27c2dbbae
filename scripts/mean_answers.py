"""The mean rate of each layer's neurons over their mean current, in a trained spiking network (method.md §2.8).

    python scripts/mean_answers.py RUN      RUN: the folder of a run on images whose data are where they were

A row for each layer: the rate around currents of 0.5, 0.7, ... 1.3 (bins of 0.2), and how much currents vary over time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import spikedistill as sd
from spikedistill.core.dual import Unrolled
from spikedistill.data import load
from spikedistill.training.recipe_files import saved_recipe

CENTRES = (0.5, 0.7, 0.9, 1.1, 1.3)


@torch.no_grad()
def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    trained, recipe = sd.load(folder), saved_recipe(folder)
    timesteps = trained.timesteps
    assert timesteps is not None, "the ANN twin has no spikes"
    train = load(recipe.data, timesteps).train
    images = train.batch(torch.arange(min(256, len(train)))).inputs

    def show(name: str):
        def hook(_module, inputs, output) -> None:
            current, rate = inputs[0].rate.flatten(), output.rate.flatten()
            cells = []
            for centre in CENTRES:
                near = (current >= centre - 0.1) & (current < centre + 0.1)
                cells.append(f"{float(rate[near].mean()):.2f}")
            varies = 0.0  # behind static input
            if isinstance(inputs[0], Unrolled):
                steps = inputs[0].values.unflatten(0, (timesteps, -1))
                varies = float(steps.std(0, correction=0).mean())
            print(f"| {name} | {' | '.join(cells)} | {varies:.2f} |")

        return hook

    print(f"| layer | {' | '.join(map(str, CENTRES))} | deviation over time |")
    for name, module in trained.network.body.named_modules():
        if isinstance(module, sd.LIF):
            module.register_forward_hook(show(name))
    trained.network(images, timesteps=timesteps)


if __name__ == "__main__":
    main()
