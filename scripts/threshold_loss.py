"""How much of a layer's currents a neuron's rate passes on, by threshold and T (method.md §2.8).

    python scripts/threshold_loss.py

Currents behind batch norm are taken as standard normal and constant over time. A ReLU passes on their positive part;
of its variance, a rate loses the share that no linear map of the rate gives back: what is cut off where the neuron
fires at every step, and what is rounded to one of T + 1 rates. Two neurons: the preset, with its leak, and one without
a leak that begins at half of its threshold.
"""

from __future__ import annotations

import torch

import spikedistill as sd
from spikedistill.core.neuron import rate_response

TIMESTEPS, THRESHOLDS = (2, 4, 8), (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
KINDS = {
    "with a leak (the preset's)": lambda threshold: sd.Neuron(threshold=threshold),
    "without a leak": lambda threshold: sd.Neuron(decay=1.0, threshold=threshold, start=threshold / 2),
}


def lost(neuron: sd.Neuron, timesteps: int) -> float:
    """The share of a ReLU's variance that the rates do not have, from 0 to 1."""
    # quantiles of the normal distribution in the place of draws: all equally likely
    middles = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    currents = torch.special.ndtri(middles)
    rates = rate_response(currents.expand(timesteps, -1), neuron).rate
    return 1 - float(torch.corrcoef(torch.stack([rates, currents.relu()]))[0, 1] ** 2)


def main() -> None:
    print(f"| neuron | T | {' | '.join(f'θ = {threshold:g}' for threshold in THRESHOLDS)} |")
    print(f"|---|---|{'---|' * len(THRESHOLDS)}")
    for kind, neuron in KINDS.items():
        for timesteps in TIMESTEPS:
            cells = [f"{100 * lost(neuron(threshold), timesteps):.1f} %" for threshold in THRESHOLDS]
            print(f"| {kind} | {timesteps} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
