"""How far a small change of the input grows through a network's layers, as an ANN and on spikes.

    python scripts/signal_by_depth.py RECIPE [--FIELD VALUE ...]

Untrained, in training mode. Of 8 recordings, in binary frames, a share of 0.002 of all pixels is flipped. For each
layer of neurons: the root mean square of the change of its rates, over that between one recording and the next. At 1 a
recording is as far from itself with these pixels flipped as from any other.
"""

from __future__ import annotations

import sys

import torch

import spikedistill as sd
from spikedistill.data import load
from spikedistill.training.build import make_network

SAMPLES, SHARE = 8, 0.002


@torch.no_grad()
def rates(network: sd.Network, inputs: torch.Tensor, timesteps: int | None) -> list[torch.Tensor]:
    """The rates of every layer of neurons, in the order in which they are computed."""
    found: list[torch.Tensor] = []

    def keep(_module, _inputs, output) -> None:
        found.append(getattr(output, "rate", output).float())

    handles = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, sd.LIF)]
    network(inputs.mean(0) if timesteps is None and network.is_over_time(inputs) else inputs, timesteps=timesteps)
    for handle in handles:
        handle.remove()
    return found


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recipe = sd.load_recipe(sys.argv[1], ["--data.train_rows", "64", *sys.argv[2:]])
    samples = load(recipe.data, recipe.timesteps).train
    torch.manual_seed(0)
    network = make_network(recipe, samples)
    inputs = samples.batch(torch.arange(SAMPLES)).inputs
    if not set(inputs.unique().tolist()) <= {0.0, 1.0}:
        sys.exit("these inputs are not binary; for scenes: --data.scenes.shown each --data.scenes.frames null")
    flipped = torch.rand(inputs.shape, generator=torch.manual_seed(1)) < SHARE
    changed = torch.where(flipped, 1 - inputs, inputs)
    for name, timesteps in (("ANN", None), (f"spikes, T = {recipe.timesteps}", recipe.timesteps)):
        row = []
        for a, b in zip(rates(network, inputs, timesteps), rates(network, changed, timesteps), strict=True):
            row.append(float((a - b).square().mean().sqrt() / (a - a.roll(1, 0)).square().mean().sqrt()))
        print(f"{name}: {' '.join(f'{ratio:.2f}' for ratio in row)}")


if __name__ == "__main__":
    main()
