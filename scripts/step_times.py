"""Seconds per training step, each beside another on the same machine: tables of docs/performance.md.

    python scripts/step_times.py FOLDER [REPEATS [WIDTH [NAME]...]]
        FOLDER: with CIFAR-10; WIDTH: of the third table alone; NAME: the first of its rows and those that begin so

1. The loop of docs/your-own.md (`sd.tune`) against the trainer's.
2. Optimizers, label smoothing, mixup and the moving average against plain SGD, in the trainer.
3. Learning rules, twins and teachers against self-distillation, in the trainer.

All of a table live in one process and take their steps in turn, so the drift of the machine hits all alike.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

import spikedistill as sd
from spikedistill.data import Splits, load
from spikedistill.machine.allocator import keep_memory
from spikedistill.machine.device import find_device
from spikedistill.machine.processes import Process
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.loop import _Losses, _take
from spikedistill.training.prepared import Run, prepare
from spikedistill.training.recipe import Recipe
from spikedistill.training.run import _batches
from spikedistill.training.step import Step
from spikedistill.training.teachers import FrozenTeacher

SMOOTHING = ["--objectives.self_distillation.label_smoothing", "0.1"]
MIXUP, EMA = ["--data.augmentation.mixup", "0.2"], ["--optimizer.ema", "0.99"]
ADAMW = ["--optimizer", "adamw", "--optimizer.warmup_epochs", "1", "--optimizer.schedule_per", "step"]
KINDS = {
    "SGD": [],
    "AdamW with warm-up": ADAMW,
    "label smoothing": SMOOTHING,
    "mixup": MIXUP,
    "moving average": EMA,
    "all four": [*ADAMW, *SMOOTHING, *MIXUP, *EMA],
}

NO_BRANCHES = ["--branches.enabled", "false"]
RULES = {
    "self-distillation": [],
    "rate-based alone": NO_BRANCHES,
    "rate-based alone, T = 1": [*NO_BRANCHES, "--timesteps", "1"],
    "rate-based alone, T = 2": [*NO_BRANCHES, "--timesteps", "2"],
    "rate-based alone, T = 8": [*NO_BRANCHES, "--timesteps", "8"],
    "BPTT": [*NO_BRANCHES, "--rule", "bptt"],
    "ANN twin alone": [*NO_BRANCHES, "--rule", "ann"],
    "ANN twin with branches": ["--rule", "ann"],
    "rate twin alone": [*NO_BRANCHES, "--rule", "rate_twin"],
    "rate twin with branches": ["--rule", "rate_twin"],
    "self-distillation with an ANN teacher": ["--teacher", "ann"],
    "rate-based alone with CKDSNN's losses": [
        *NO_BRANCHES,
        *["--objectives.activation_maps.teacher", "ann", "--objectives.noise_smoothed.teacher", "ann"],
    ],
}


def teachers_of(recipe: Recipe, width: int) -> dict[str, FrozenTeacher]:
    """An ANN of the same form whose batch norm has seen a batch: its answer takes as long as if it were trained."""
    network = sd.create_model("resnet18", num_classes=10, width=width)
    network(torch.randn(8, 3, 32, 32), timesteps=None)
    names = {name for objective in recipe.objectives.values() for name in objective.needs().teachers}
    return {name: FrozenTeacher(network, precision=recipe.precision) for name in names}


def trainers_step(root: str, words: list[str], width: int = 16) -> Callable[[], None]:
    """A step of the trainer on the CIFAR-10 protocol, with the batch that it makes."""
    recipe = sd.load_recipe("cifar10-foundation", ["--data.root", root, "--model.width", str(width), *words])
    return step_of(recipe, load(recipe.data), teachers_of(recipe, width))


def step_of(recipe: Recipe, splits: Splits, teachers: Mapping[str, FrozenTeacher]) -> Callable[[], None]:
    """A step of the trainer, with the batch that it makes; nothing is written.

    Pictures in memory are augmented in blocks of 1,024 samples: that falls on one step in eight of batch 128, and so is
    in no median.
    """
    folder: Any = None
    run = Run(recipe, folder, splits, None, False, Process(), find_device("cpu"), teachers=teachers)
    prepared = prepare(run, resume=False)
    recipe, session = prepared.run.recipe, prepared.session
    print(recipe.rule, prepared.precision_reason, prepared.kernels_reason, sep="; ", file=sys.stderr)
    session.learner.train()
    batches = (batch for epoch in itertools.count() for batch in _batches(prepared.run).epoch(epoch))
    losses, meter = _Losses(session.progress), recipe.task.training_meter()
    compiled = CompiledStep(session.learner, recipe.precision) if recipe.compile == "step" else None
    step = Step(
        session.learner, session.forward, session.optimizer, recipe.optimizer, recipe.precision, compiled=compiled
    )
    phase, lr = session.phases.at(0, 0, 1), recipe.optimizer.lr

    def take() -> None:
        _take(session, step, next(batches), phase, lr, losses, meter)

    return take


def documented_step(root: str) -> Callable[[], None]:
    """The loop of docs/your-own.md with the same network, data and optimizer."""
    recipe = sd.load_recipe("cifar10-foundation", ["--data.root", root])
    splits = load(recipe.data)
    net = sd.create_model("resnet18", num_classes=10, width=16)
    learner = sd.SelfDistillation(net, timesteps=4)
    batches = sd.Batches(splits.train, 128, recipe.data.augmentation, seed=0, drop_last=True)
    made = (batch for epoch in itertools.count() for batch in batches.epoch(epoch))
    tuning = sd.tune(learner, next(made).inputs, samples=10 * len(splits.train))
    print(str(tuning).replace("\n", "; "))
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        batch = next(made)
        with tuning.autocast():
            output = learner(batch.inputs)
        terms = learner.loss(output, batch.targets)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()

    return step


def choose_here(root: str, width: int) -> str:
    """The precision that the trainer chooses on this machine, for all rules alike."""
    recipe = sd.load_recipe("cifar10-foundation", ["--data.root", root])
    learner = sd.SelfDistillation(sd.create_model("resnet18", num_classes=10, width=width), recipe.rule)
    return sd.tune(learner, torch.randn(128, 3, 32, 32), 10**6).precision


def taken_in_turn(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, so often; the drift of the machine hits all alike. Memory is kept as in training."""
    keep_memory()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat >= 2:  # the first compile
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(steps: dict[str, Callable[[], None]], repeats: int) -> None:
    """Medians, and ratios to the first."""
    seconds = taken_in_turn(steps, repeats)
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, first, strict=True)]
        spread = f"{min(times):.3f} to {max(times):.3f}"
        print(f"| {name} | {statistics.median(times):.3f} ({spread}) | {statistics.median(ratios):.3f} |", flush=True)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root, repeats = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 15
    print(f"{torch.get_num_threads()} threads, {repeats} steps each")
    if len(sys.argv) > 3:
        width = int(sys.argv[3])
        precision = choose_here(root, width)
        words = ["--precision", precision, "--compile", "on"]
        first, names = next(iter(RULES)), tuple(sys.argv[4:]) or ("",)
        chosen = {name: rule for name, rule in RULES.items() if name == first or name.startswith(names)}
        table({name: trainers_step(root, [*words, *rule], width) for name, rule in chosen.items()}, repeats)
        return
    table({"trainer": trainers_step(root, []), "docs/your-own.md": documented_step(root)}, repeats)
    table({name: trainers_step(root, words) for name, words in KINDS.items()}, repeats)


if __name__ == "__main__":
    main()
