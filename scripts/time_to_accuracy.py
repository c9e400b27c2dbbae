"""Accuracy over minutes of finished runs, as a figure.

    python scripts/time_to_accuracy.py FIGURE.png RUN ... [PEER.csv ...]

A line for each run, by the seconds of its epochs (its start is not in them): accuracy on the training images as they
were shown, by epoch (but for those that left easy ones out), coloured by what trained (ANN twin, rate twin, spikes),
and a point for the test accuracy on spikes. A peer's table (`scripts/peer_accuracy.py`, whose seconds begin before the
data are read) is a line of its accuracy on held-out rows and a point for the test rows. All have to come from one
machine.
"""

from __future__ import annotations

import csv
import math
import sys
from itertools import accumulate
from pathlib import Path

from spikedistill.core.learning import ANN, RateTwin
from spikedistill.machine.reading import plain_json
from spikedistill.report.figure import new_figure, save_figure
from spikedistill.report.metrics import read_metrics
from spikedistill.training.phases import Phases
from spikedistill.training.recipe import Recipe
from spikedistill.training.recipe_files import saved_recipe

ALL = 0.95
"""A last batch that is left out is less than the rest of this."""
COLOURS = {"ANN twin": "tab:gray", "rate twin": "tab:orange", "spikes": "tab:blue"}


def phases_of(recipe: Recipe, epochs: int) -> list[str]:
    """What trained in each epoch."""
    phases = Phases(recipe.rule, recipe.phases, epochs, recipe.seed)
    rules = [phases.at(epoch, 0, 1).rule for epoch in range(epochs)]
    return ["ANN twin" if isinstance(r, ANN) else "rate twin" if isinstance(r, RateTwin) else "spikes" for r in rules]


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    figure = new_figure(6.5, 3.6)
    axes = figure.subplots()
    for name in sys.argv[2:]:
        path = Path(name)
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            minutes = [float(row["seconds"]) / 60 for row in rows]
            axes.plot(minutes, [100 * float(row["validation"] or "nan") for row in rows], "--", color="tab:red", lw=1)
            axes.plot(minutes[-1], 100 * float(rows[-1]["test"] or "nan"), "*", color="tab:red", ms=10)
            continue
        rows = read_metrics(path / "metrics.csv")
        if "train_accuracy" not in rows[0]:
            sys.exit(f"{path} is no run of classification")
        minutes = [0.0, *accumulate(float(row["seconds"]) / 60 for row in rows)]
        # of all the hard samples and few of the easy ones: no accuracy that compares with the others
        pruned = [row.get("shown", 1.0) < ALL for row in rows]
        accuracy = [math.nan if few else 100 * row["train_accuracy"] for row, few in zip(rows, pruned, strict=True)]
        recipe = saved_recipe(path, teachers=False)
        phases = phases_of(recipe, len(rows))
        for k in range(len(rows)):
            start = max(k - 1, 0)  # a line from the epoch before; the first epoch is a point
            axes.plot(minutes[start + 1 : k + 2], accuracy[start : k + 1], ".-", color=COLOURS[phases[k]], lw=1, ms=4)
        result = plain_json(path / "result.json")
        axes.plot(
            minutes[-1], 100 * result["test_accuracy"][str(recipe.timesteps or "ann")], "*", color="tab:blue", ms=10
        )
    for phase, colour in COLOURS.items():
        axes.plot([], [], ".-", color=colour, label=f"{phase}, training images")
    axes.plot([], [], "*", color="tab:blue", ms=10, ls="none", label="spikes, test images")
    if any(name.endswith(".csv") for name in sys.argv[2:]):
        axes.plot([], [], "*--", color="tab:red", label="SpikingJelly's BPTT, held-out and test images")
    for aim in (85, 90):
        axes.axhline(aim, color="k", lw=0.5, ls=":")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("accuracy, %")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, Path(sys.argv[1]), dpi=110)


if __name__ == "__main__":
    main()
