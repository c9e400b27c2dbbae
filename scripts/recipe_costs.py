"""Time and memory of a training step of any recipe, under every learning rule and by T: tables of docs/results.md.

    OMP_NUM_THREADS=1 python scripts/recipe_costs.py RECIPE REPEATS [WORDS OF TRAIN]...

A step is that of the trainer, with the batch that it makes. All live in one process and take their steps in turn, so
the drift of the machine hits all alike; the memory is what is alive at the peak, above the state before the step
(`scripts/step_memory.py`), and does not count what the data are kept in. All compute in one precision, fp32 unless
--precision says another; kernels are compiled. The last row is SpikingJelly's BPTT, compiled as a whole, where that is
installed and can do what the recipe asks for.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import statistics
import sys
from collections.abc import Callable

import torch
from peer_accuracy import Training, left_out
from step_memory import alive_at_peak
from step_times import step_of, taken_in_turn

import spikedistill as sd
from spikedistill.data import load
from spikedistill.training.phases import PhaseSettings

TIMESTEPS = (2, 4, 8)
# what comes before the rule is a row of its own
USUAL = {f"--phases.{field.name}": json.dumps(field.default) for field in dataclasses.fields(PhaseSettings)}
NO_PHASES = [word for pair in USUAL.items() for word in pair]


def rows(timesteps: int) -> dict[str, list[str]]:
    """What is measured: words after those of the user, by a name."""
    found = {"ANN twin": ["--rule", "ann"], "rate twin": ["--rule", "rate_twin"]}
    for rule, name in (("rate", "rate-based"), ("bptt", "BPTT")):
        for t in sorted({*TIMESTEPS, timesteps}):
            found[f"{name}, T = {t}"] = ["--rule", rule, "--timesteps", str(t)]
    return found


def peer_steps(recipe: sd.Recipe) -> dict[str, Callable[[], object]]:
    """A step of SpikingJelly, with the batch that it makes, by the name of its row; none where it cannot take one."""
    splits = load(recipe.data, recipe.timesteps)
    if ignored := left_out(recipe, splits):
        print(f"SpikingJelly has no row: {', '.join(ignored)}", file=sys.stderr)
        return {}
    try:
        training = Training(recipe, splits)
        batches = (batch for epoch in itertools.count() for batch in training.batches.epoch(epoch))
        training.take(next(batches))
    except Exception as error:  # without all it needs; layers that do not take what ours do, or that cannot be compiled
        print(f"SpikingJelly has no row: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return {}
    return {f"SpikingJelly's BPTT, T = {recipe.timesteps}": lambda: training.take(next(batches))}


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    name, repeats, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    words = ["--precision", "fp32", "--compile", "on", *words]
    own = sd.load_recipe(name, words)
    if own.timesteps is None:
        sys.exit(f"{name} is an ANN; give a recipe of a rule with T")
    steps = {}
    for row, more in rows(own.timesteps).items():
        recipe = sd.load_recipe(name, [*words, *NO_PHASES, *more])
        # of recordings a rule without T is shown as many frames as the others
        steps[row] = step_of(recipe, load(recipe.data, recipe.timesteps or own.timesteps), {})
    plain = sd.load_recipe(name, [*words, *NO_PHASES])
    if importlib.util.find_spec("spikingjelly") is not None:
        steps |= peer_steps(plain)
    seconds = taken_in_turn(steps, repeats)
    first = seconds[f"rate-based, T = {own.timesteps}"]
    print(f"{torch.get_num_threads()} threads, {repeats} steps each")
    print("| training | s a step (min to max) | ratio | MiB |")
    print("|---|---|---|---|")
    for row, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
        spread = f"{min(times):.3f} to {max(times):.3f}"
        memory = alive_at_peak(steps[row]) / 2**20
        print(f"| {row} | {statistics.median(times):.3f} ({spread}) | {ratio:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
