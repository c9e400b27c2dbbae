"""Table and figure of the runs of learning_rules.sh.

python scripts/learning_rules.py RUNS_FOLDER [...] [--figure docs/figures/learning_rules.png]
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path

KINDS = {
    "sd": "rate-based self-distillation",
    "nosoft": "branches, no soft loss",
    "rate": "rate-based backpropagation alone",
    "bptt": "BPTT",
    "ann": "ANN twin",
    "sd-all": "self-distillation, decay on all parameters",
    "rate-all": "rate-based alone, decay on all parameters",
    "sd-eager": "self-distillation, eager kernels",
    "sd-bf16": "self-distillation, bf16",
    "rate-eager": "rate-based alone, eager kernels",
    "rate-unscaled": "rate-based alone, loss not divided by T",
    "sd-unscaled": "self-distillation, loss not divided by T",
}


def read(folders: list[Path]) -> dict[str, dict[int, dict]]:
    found: dict[str, dict[int, dict]] = {kind: {} for kind in KINDS}
    for path in sorted(p for folder in folders for p in folder.glob("*/result.json")):
        kind, _, seed = path.parent.name.rpartition("-")
        accuracy = json.loads(path.read_text())["test_accuracy"]
        with (path.parent / "metrics.csv").open() as file:
            seconds = statistics.median(float(row["seconds"]) for row in csv.DictReader(file))
        commit = json.loads((path.parent / "environment.json").read_text())["commit"]
        found[kind][int(seed)] = {"accuracy": 100 * list(accuracy.values())[-1], "seconds": seconds, "commit": commit}
    return {kind: runs for kind, runs in found.items() if runs}


def table(found: dict[str, dict[int, dict]]) -> str:
    lines = ["| learning rule | n | test accuracy, % (by seed) | mean | sd | s per epoch (median) | commit |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kind, runs in found.items():
        values = [run["accuracy"] for _, run in sorted(runs.items())]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        by_seed = ", ".join(f"{value:.2f}" for value in values)
        commits = ", ".join(sorted({run["commit"] for run in runs.values()}))
        mean = statistics.mean(values)
        seconds = statistics.median(run["seconds"] for run in runs.values())
        start = f"| {KINDS[kind]} | {len(values)} | {by_seed} | **{mean:.2f}** | {spread} "
        lines.append(f"{start}| {seconds:.0f} | {commits} |")
    return "\n".join(lines)


def figure(found: dict[str, dict[int, dict]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("rate", "bptt", "nosoft", "sd", "ann") if kind in found]
    canvas = Figure(figsize=(8, 2.8), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for row, kind in enumerate(kinds):
        values = [run["accuracy"] for run in found[kind].values()]
        colour = "tab:grey" if kind == "ann" else "tab:orange" if kind == "sd" else "tab:blue"
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.6)
        axes.plot([statistics.mean(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=3)
        axes.text(max(values) + 0.6, row, f"{statistics.mean(values):.1f} (n = {len(values)})", va="center")
    axes.set_yticks(range(len(kinds)), [KINDS[kind] for kind in kinds])
    axes.set(xlim=(46, 68), ylim=(-0.6, len(kinds) - 0.4), xlabel="test accuracy (%): seeds and their mean")
    axes.set_title("CIFAR-10, 10,000 training pictures, ResNet-18 width 16, T = 4, 10 epochs", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    results = read(arguments.folders)
    print(table(results))
    if arguments.figure:
        figure(results, arguments.figure)
