"""The command line's `data` commands: check, show, prepare, simulate-dvs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from spikedistill.errors import DataError, InvalidArgument, choose

USAGE = """\
usage: spikedistill data COMMAND ...

  check FOLDER                                what is there, in which form, how much of each class, bad files by name
  show RECIPE [--FIELD VALUE ...] [--out FILE]
                                              a grid of a recipe's training samples, after augmentation
  prepare RECIPE [--FIELD VALUE ...]          make the frames of recordings now, and say where they are kept
  simulate-dvs --source cifar10 --root FOLDER --out FOLDER [--train-rows N] [--test-rows N] [--seed N]
                                              simulated recordings of pictures, in the layout of CIFAR10-DVS
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgument(f"{self.prog}: {message}")


def check(words: list[str]) -> None:
    from spikedistill.data.check import check as look

    parser = Parser(prog="data check", allow_abbrev=False)
    parser.add_argument("folder")
    parts = look(parser.parse_args(words).folder)
    for part in parts:
        print("\n".join(part.lines()))
    bad = sum(len(part.bad) for part in parts)
    if bad:
        raise DataError(f"{bad} problems; see above")


def _recipe(command: str, words: list[str]) -> Any:
    from spikedistill.training.recipe_files import load_recipe

    if not words or words[0].startswith("-"):
        raise InvalidArgument(f"data {command} needs a recipe: spikedistill data {command} RECIPE --data.root FOLDER")
    return load_recipe(words[0], words[1:])


def show(words: list[str]) -> None:
    from spikedistill.data import Batches, load
    from spikedistill.report.grid import grid

    out = Path("samples.png")
    if "--out" in words[:-1]:
        place = words.index("--out")
        out = Path(words[place + 1])
        words = words[:place] + words[place + 2 :]
    if out.suffix not in (".png", ".jpg", ".pdf", ".svg") or not out.parent.is_dir():
        raise InvalidArgument(f"data show writes a .png, .jpg, .pdf or .svg in a folder that exists; given --out {out}")
    recipe = _recipe("show", words)
    train = load(recipe.data, recipe.timesteps).train
    batches = Batches(train, min(16, len(train)), recipe.data.augmentation, recipe.seed)
    inputs, labels = next(iter(batches.epoch(0)))
    grid(inputs, [train.classes[k] for k in labels.tolist()], out)
    print(f"{len(labels)} training samples of {recipe.data.name}, after augmentation: {out}")


def prepare(words: list[str]) -> None:
    import time

    from spikedistill.data import DATASETS, load
    from spikedistill.data.events.cache import default_folder

    recipe = _recipe("prepare", words)
    if DATASETS[recipe.data.name].kind != "events":
        raise InvalidArgument(f"{recipe.data.name} holds pictures, which need no preparation; it is for recordings")
    start = time.perf_counter()
    splits = load(recipe.data, recipe.timesteps)
    print(
        f"{len(splits.train)} training and {len(splits.test)} test recordings (split {recipe.data.events.split}), "
        f"T = {recipe.timesteps}, ready in {time.perf_counter() - start:.1f} s in "
        f"{recipe.data.events.cache or default_folder()}"
    )


def simulate_dvs(words: list[str]) -> None:
    from spikedistill.data import DATASETS, DataSettings, load
    from spikedistill.data.events.make import make_recordings
    from spikedistill.data.pictures.memory import ImageSet

    parser = Parser(prog="data simulate-dvs", allow_abbrev=False)
    parser.add_argument("--source", default="cifar10")
    parser.add_argument("--root", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-rows", type=int, default=None)
    parser.add_argument("--test-rows", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    choose("source", given.source, [name for name, spec in DATASETS.items() if spec.kind == "memory"])
    settings = DataSettings(given.source, given.root, train_rows=given.train_rows, test_rows=given.test_rows)
    splits = load(settings)
    parts = {"train": splits.train, "test": splits.test}
    images = {name: part for name, part in parts.items() if isinstance(part, ImageSet)}
    events = make_recordings(images, given.out, given.source, given.seed)
    count = len(splits.train) + len(splits.test)
    print(f"{count} simulated recordings, {events / count:,.0f} events each, in {given.out} (split: folders)")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "check": check,
    "show": show,
    "prepare": prepare,
    "simulate-dvs": simulate_dvs,
}


def data(words: list[str]) -> None:
    """Run a `data` command."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    COMMANDS[choose("data command", words[0], COMMANDS)](words[1:])
