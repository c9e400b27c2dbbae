"""spikedistill data"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from spikedistill.cli.parser import Parser, recipe_from, take_option, wants_help
from spikedistill.errors import DataError, InvalidArgument, choose

USAGE = """\
usage: spikedistill data COMMAND ...

  check FOLDER                                what is there, in which form, how much of each class, bad files by name
  show RECIPE [--FIELD VALUE ...] [--out FILE]
                                              a grid of a recipe's training samples, after augmentation
  prepare RECIPE [--FIELD VALUE ...]          make the frames of recordings now, and say where they are kept
  simulate-dvs --root FOLDER --out FOLDER     simulated recordings of pictures, in the layout of CIFAR10-DVS
"""
SHOWN = 16


def run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    _COMMANDS[choose("data command", words[0], _COMMANDS)](words[1:])


def _check(words: list[str]) -> None:
    parser = Parser("data check", "Read everything under a folder once, and say what cannot be used.")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(words)

    from spikedistill.data.check import check

    parts = check(given.folder)
    for part in parts:
        print("\n".join(part.lines()))
    bad = sum(len(part.bad) for part in parts)
    if bad:
        raise DataError(f"{bad} problems; see above")


def _needs_recipe(command: str, words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        raise InvalidArgument(f"data {command} needs a recipe: spikedistill data {command} RECIPE --data.root FOLDER")


def _show(words: list[str]) -> None:
    from spikedistill.report.figure import FORMATS

    if wants_help(words):
        print(USAGE)
        return
    out = Path(take_option(words, "out") or "samples.png")
    if out.suffix not in FORMATS or not out.parent.is_dir():
        raise InvalidArgument(f"data show writes a {', '.join(FORMATS)} in a folder that exists; given --out {out}")
    _needs_recipe("show", words)

    import torch

    from spikedistill.data import load
    from spikedistill.data.batches import generator_for
    from spikedistill.report.grid import grid

    _, recipe = recipe_from(words, "")
    train = load(recipe.data, recipe.timesteps).train
    shown = torch.randperm(len(train), generator=generator_for(recipe.seed, 0))[:SHOWN]
    everything, generator = torch.arange(len(shown)), generator_for(recipe.seed, 0, 0, 1)
    raw = train.read_changed(shown, everything, recipe.data.augmentation, generator)
    grid(train.finish(raw).inputs, train.targets.captions(shown), out)
    print(f"{len(shown)} training samples of {recipe.data.name}, after augmentation: {out}")


def _prepare(words: list[str]) -> None:
    if wants_help(words):
        print(USAGE)
        return
    _needs_recipe("prepare", words)

    from spikedistill.data import DATASETS, load
    from spikedistill.data.events.cache import default_folder

    _, recipe = recipe_from(words, "")
    if DATASETS[recipe.data.name].kind != "events":
        raise InvalidArgument(f"{recipe.data.name} holds pictures, which need no preparation; it is for recordings")
    start = time.perf_counter()
    splits = load(recipe.data, recipe.timesteps)
    print(
        f"{len(splits.train)} training and {len(splits.test)} test recordings (split {recipe.data.events.split}), "
        f"T = {recipe.timesteps}, ready in {time.perf_counter() - start:.1f} s in "
        f"{recipe.data.events.cache or default_folder()}"
    )


def _simulate_dvs(words: list[str]) -> None:
    from spikedistill.data import DATASETS, DataSettings, ImageSet, load
    from spikedistill.data.events.make import make_recordings

    in_memory = [name for name, spec in DATASETS.items() if spec.kind == "memory"]
    parser = Parser("data simulate-dvs", "Show each picture to a modelled event camera; write AEDAT 2.0 recordings.")
    parser.add_argument("--source", default="cifar10", help=f"one of {', '.join(in_memory)} (default: cifar10)")
    parser.add_argument("--root", default=None, help="folder of the pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings, new or empty")
    parser.add_argument("--train-rows", type=int, default=None, help="only the first pictures of the training set")
    parser.add_argument("--test-rows", type=int, default=None, help="only the first pictures of the test set")
    parser.add_argument("--seed", type=int, default=0, help="of the camera's noise")
    given = parser.parse_args(words)
    choose("source", given.source, in_memory)
    settings = DataSettings(given.source, given.root, train_rows=given.train_rows, test_rows=given.test_rows)
    splits = load(settings)
    parts = {"train": splits.train, "test": splits.test}
    images = {name: part for name, part in parts.items() if isinstance(part, ImageSet)}
    events = make_recordings(images, given.out, given.source, given.seed)
    count = len(splits.train) + len(splits.test)
    print(f"{count} simulated recordings, {events / count:,.0f} events each, in {given.out} (split: folders)")


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "check": _check,
    "show": _show,
    "prepare": _prepare,
    "simulate-dvs": _simulate_dvs,
}
