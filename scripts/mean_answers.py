"""The mean rate of each layer's neurons over their mean current, in a trained spiking network (method.md §2.8).

    python scripts/mean_answers.py RUN [NOISE]      RUN: the folder of a run on images whose data are where they were
                                                    NOISE: that of the rate twin (default: the run's, or 0.3)

A row for each layer: the rate around currents of 0.5, 0.7, ... 1.3 (bins of 0.2), how much currents vary over time, and
how far the rates of the rate twin, behind the same mean currents, are from those of the spikes (root mean square), and
how far the mean rate of the spikes is above its.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import spikedistill as sd
from spikedistill.core.dual import Unrolled
from spikedistill.core.learning import RateTwin
from spikedistill.core.rate_twin import mean_response
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
    settled = recipe.phases.noise if recipe.phases.noise is not None else RateTwin().noise
    noise = float(sys.argv[2]) if len(sys.argv) > 2 else settled
    train = load(recipe.data, timesteps).train
    images = train.batch(torch.arange(min(256, len(train)))).inputs

    def show(name: str):
        def hook(module, inputs, output) -> None:
            current, rate = inputs[0].rate.flatten(), output.rate.flatten()
            cells = []
            for centre in CENTRES:
                near = (current >= centre - 0.1) & (current < centre + 0.1)
                cells.append(f"{float(rate[near].mean()):.2f}")
            varies, apart, above = 0.0, 0.0, 0.0  # behind static input the twin is exact
            if isinstance(inputs[0], Unrolled):
                steps = inputs[0].values.unflatten(0, (timesteps, -1))
                varies = float(steps.std(0, correction=0).mean())
                curve = mean_response(module.neuron, timesteps, noise)
                twin, _ = curve.at(current, torch.rand_like(current), timesteps)
                apart = float((twin - rate).square().mean().sqrt())
                above = float(rate.mean() / twin.mean()) - 1
            print(f"| {name} | {' | '.join(cells)} | {varies:.2f} | {apart:.3f} | {100 * above:+.1f} % |")

        return hook

    print(f"| layer | {' | '.join(map(str, CENTRES))} | deviation over time | twin, noise {noise} | spikes above it |")
    for name, module in trained.network.body.named_modules():
        if isinstance(module, sd.LIF):
            module.register_forward_hook(show(name))
    trained.network(images, timesteps=timesteps)


if __name__ == "__main__":
    main()
