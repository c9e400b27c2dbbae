"""What finished runs cost and what they are worth, one line for each: tables of docs/results.md.

    OMP_NUM_THREADS=1 python scripts/run_costs.py REPEATS [--precision PRECISION] RUN...

RUN: folders of runs of one data set. A step is that of each run's own rule in the trainer, with the batch that it makes
and without the phases before the rule; the steps are taken in turn, and their ratios are to the first run. The memory
is what is alive at the peak (`scripts/step_memory.py`). Operations and energy are those of the trained network on
SAMPLES test samples, at the run's T (`spikedistill evaluate --operations`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from step_memory import alive_at_peak
from step_times import step_of, taken_in_turn

from spikedistill.cli.evaluate import operations_of
from spikedistill.data import load
from spikedistill.training.phases import PhaseSettings
from spikedistill.training.recipe_files import saved_recipe
from spikedistill.training.trained import Trained

SAMPLES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repeats", type=int)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    given = parser.parse_args()
    recipes = {run: saved_recipe(run) for run in given.runs}
    data = [recipe.data for recipe in recipes.values()]
    if any(each != data[0] for each in data):
        parser.error(
            "these runs are of other data or settings of data; give runs that differ in the network or the rule"
        )
    # of recordings a rule without T is shown as many frames as the others; of pictures T makes nothing else
    most = max(recipe.timesteps or 0 for recipe in recipes.values()) or None
    shown = {run: recipe.timesteps or most for run, recipe in recipes.items()}
    splits = {timesteps: load(data[0], timesteps) for timesteps in set(shown.values())}
    # its own weights: they need no others to begin from, which may be gone
    alone = {"init": None, "init_fit": False, "phases": PhaseSettings(), "precision": given.precision, "compile": "on"}
    steps = {
        str(run): step_of(dataclasses.replace(recipe, **alone), splits[shown[run]], {})
        for run, recipe in recipes.items()
    }
    seconds = taken_in_turn(steps, given.repeats)
    first = seconds[str(given.runs[0])]
    print(f"{torch.get_num_threads()} threads, {given.precision}, {given.repeats} steps each, {SAMPLES} test samples")
    print("| run | parameters | test score | s a step (min to max) | ratio | MiB | twin's MAC | AC | MAC | µJ, fp32 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for run, recipe in recipes.items():
        times = seconds[str(run)]
        ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
        network = Trained.load(run).network
        counted = operations_of(recipe, network, splits[shown[run]].test, SAMPLES)
        scores = json.loads((run / "result.json").read_text())
        score = next(by_t for name, by_t in scores.items() if name.startswith("test_") and isinstance(by_t, dict))
        cells = [
            run.name,
            f"{sum(p.numel() for p in network.parameters()):,}",
            f"{100 * score[str(recipe.timesteps or 'ann')]:.2f}",
            f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})",
            f"{ratio:.2f}",
            f"{alive_at_peak(steps[str(run)]) / 2**20:.0f}",
            f"{counted.macs / 1e6:.2f} M",
            f"{counted.accumulates / 1e6:.2f} M",
            f"{counted.multiplies / 1e6:.2f} M",
            f"{counted.energy() if recipe.timesteps else counted.twins_energy():.1f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
