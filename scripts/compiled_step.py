"""A training step with fused kernels against one that is compiled as a whole: a table of docs/performance.md.

    OMP_NUM_THREADS=1 python scripts/compiled_step.py RECIPE REPEATS [WORDS OF TRAIN]...

A step is that of the trainer, with the batch that it makes and the optimizer. All live in one process and take their
steps in turn; the memory is what is alive at the peak, above the state before the step (`scripts/step_memory.py`).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from recipe_costs import NO_PHASES
from step_memory import alive_at_peak
from step_times import step_of, taken_in_turn

import spikedistill as sd
from spikedistill.data import load

ALONE = ["--branches.enabled", "false", "--objectives.self_distillation.teacher", "null"]
ROWS = {
    "ANN twin": [*ALONE, "--rule", "ann"],
    "rate-based alone": ALONE,
    "self-distillation": [],
    "BPTT": [*ALONE, "--rule", "bptt"],
}


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    name, repeats, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    own = sd.load_recipe(name, words)
    steps: dict[str, Callable[[], None]] = {}
    first: dict[str, float] = {}
    for row, more in ROWS.items():
        for how in ("on", "step"):
            recipe = sd.load_recipe(name, ["--precision", "fp32", *words, *NO_PHASES, *more, "--compile", how])
            # of recordings a rule without T is shown as many frames as the others
            steps[f"{row}, {how}"] = step_of(recipe, load(recipe.data, recipe.timesteps or own.timesteps), {})
            start = time.perf_counter()
            steps[f"{row}, {how}"]()
            first[f"{row}, {how}"] = time.perf_counter() - start
    seconds = taken_in_turn(steps, repeats)
    print(f"{torch.get_num_threads()} threads, {repeats} steps each")
    print("| training | fused kernels, s | MiB | compiled step, s | MiB | ratio | first step, s |")
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        on, step = (seconds[f"{row}, {how}"] for how in ("on", "step"))
        ratio = statistics.median(b / a for a, b in zip(on, step, strict=True))
        cells = [f"{statistics.median(on):.3f}", f"{alive_at_peak(steps[f'{row}, on']) / 2**20:.0f}"]
        cells += [f"{statistics.median(step):.3f}", f"{alive_at_peak(steps[f'{row}, step']) / 2**20:.0f}"]
        cells += [f"{ratio:.2f}", f"{first[f'{row}, on']:.0f} and {first[f'{row}, step']:.0f}"]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
