"""spikedistill data"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import add_recipe, check_picture, recipe_from
from spikedistill.errors import DataError, InvalidArgument, choose

if TYPE_CHECKING:
    from spikedistill.data.scenes.things import Things

SHOWN = 16
SAMPLES = Path("samples.png")
ON_DARK = ("fashion-small", "fashion-mnist")
"""Pictures whose ground is dark, so that a thing has edges of its own."""


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=type(parser))

    check = commands.add_parser("check", help="what is there, in which form, how much of each class, bad files by name")
    check.add_argument("folder", type=Path)
    check.set_defaults(run=_check)

    show = commands.add_parser("show", help="a grid of a recipe's training samples, after augmentation")
    show.add_argument("--out", type=Path, default=None, help=f"file of the picture (default: {SAMPLES}, a new one)")
    show.set_defaults(run=_show)
    prepare = commands.add_parser("prepare", help="make the frames of recordings now, and say where they are kept")
    prepare.set_defaults(run=_prepare)
    for one, name in ((show, "show"), (prepare, "prepare")):
        if not words or words[0] == name:
            add_recipe(one, words, default=None)

    scenes = commands.add_parser("make-scenes", help="recordings with boxes: digits or pictures on a larger sensor")
    scenes.add_argument(
        "--source", default="n-mnist", help="n-mnist, or pictures that a simulated camera records (default: n-mnist)"
    )
    scenes.add_argument(
        "--root", default=None, help="folder of N-MNIST (Train/DIGIT/*.bin and Test/), or of the pictures"
    )
    scenes.add_argument("--out", type=Path, required=True, help="folder for the scenes, new or empty")
    scenes.add_argument("--train", type=int, default=2000, help="training scenes (default: 2000)")
    scenes.add_argument("--test", type=int, default=500, help="test scenes (default: 500)")
    scenes.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    scenes.set_defaults(run=_make_scenes)

    gestures = commands.add_parser("cut-gestures", help="DVS128 Gesture as published: a file for each gesture")
    gestures.add_argument("--root", type=Path, required=True, help="folder with trials_to_train.txt and *.aedat")
    gestures.add_argument("--out", type=Path, required=True, help="folder for the gestures, new or empty")
    gestures.add_argument("--repair", action="store_true", help="leave out impossible events and sort by time")
    gestures.set_defaults(run=_cut_gestures)

    simulate = commands.add_parser("simulate-dvs", help="recordings of pictures, in the layout of CIFAR10-DVS")
    _add_simulate_dvs(simulate)


def _check(given: argparse.Namespace) -> None:
    from spikedistill.data.check import check

    parts = check(given.folder)
    for part in parts:
        print("\n".join(part.lines()))
    bad = sum(len(part.bad) for part in parts)
    if bad:
        raise DataError(f"{bad} problems; see above")


def _show(given: argparse.Namespace) -> None:
    check_picture("--out", given.out)
    if given.out is None and SAMPLES.exists():  # a name that nobody typed
        raise InvalidArgument(f"{SAMPLES} is there already and is not overwritten; name a file: --out FILE.png")

    import torch

    from spikedistill.data import load
    from spikedistill.data.batches import generator_for
    from spikedistill.report.grid import grid

    _, recipe = recipe_from(given)
    train = load(recipe.data, recipe.timesteps).train
    shown = torch.randperm(len(train), generator=generator_for(recipe.seed, 0))[:SHOWN]
    everything, generator = torch.arange(len(shown)), generator_for(recipe.seed, 0, 0, 1)
    raw = train.read_changed(shown, everything, recipe.data.augmentation, generator)
    batch = train.finish(raw)
    out = given.out or SAMPLES
    count = grid(batch.inputs, train.targets.captions(shown), out, train.targets.marks(batch.targets))
    mixing = " (but for mixing)" if recipe.data.augmentation.mixes else ""
    print(f"{count} training samples of {recipe.data.name}, after augmentation{mixing}: {out}")


def _prepare(given: argparse.Namespace) -> None:
    from spikedistill.data import DATASETS, load
    from spikedistill.data.events.cache import default_folder

    _, recipe = recipe_from(given)
    if DATASETS[recipe.data.name].kind not in ("events", "scenes"):
        raise InvalidArgument(f"{recipe.data.name} holds pictures, which need no preparation; it is for recordings")
    start = time.perf_counter()
    splits = load(recipe.data, recipe.timesteps)
    divided = f" ({splits.division})" if splits.division else ""
    cache = recipe.data.events.cache or recipe.data.scenes.cache or default_folder()
    steps = recipe.timesteps or recipe.data.scenes.frames
    print(
        f"{len(splits.train)} training and {len(splits.test)} test samples{divided}, T = {steps}, ready in "
        f"{time.perf_counter() - start:.1f} s in {cache}"
    )


def _make_scenes(given: argparse.Namespace) -> None:
    from spikedistill.data.scenes.make import make_scenes

    if min(given.train, given.test) < 1:
        raise InvalidArgument(f"--train is {given.train}, --test {given.test}; expected at least one scene of each")
    things = {part: _things(given.source, given.root, part, given.seed) for part in ("train", "test")}
    boxes = make_scenes(things, given.out, {"train": given.train, "test": given.test}, given.seed)
    print(f"{given.train} training and {given.test} test scenes, {boxes} boxes, in {given.out}")


def _things(source: str, root: str | None, part: str, seed: int) -> Things:
    from spikedistill.data import DataSettings, ImageSet, load_split
    from spikedistill.data.scenes.things import N_MNIST, Digits, Shown

    choose("source", source, [N_MNIST, *ON_DARK])
    _check_root(source, root)
    if source == N_MNIST:
        return Digits(Path(root or ""), part)
    pictures = load_split(DataSettings(source, root), part == "train")
    assert isinstance(pictures, ImageSet)
    return Shown(pictures, source, seed)


def _check_root(source: str, root: str | None) -> None:
    """These commands have no recipe, whose fields the readers would name."""
    from spikedistill.data import DATASETS

    if "root" not in DATASETS[source].settings:
        return
    if root is None:
        raise DataError(f"where is {source}? Give its folder: --root FOLDER")
    if not Path(root).expanduser().is_dir():
        raise DataError(f"--root {root} is not a folder; give the one that holds {source}")


def _cut_gestures(given: argparse.Namespace) -> None:
    from spikedistill.data.events.gestures import cut_gestures

    found = cut_gestures(given.root, given.out, given.repair)
    print(f"{found['train']} training and {found['test']} test gestures in {given.out}")


def _add_simulate_dvs(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show each picture to a modelled event camera; write AEDAT 2.0 recordings."
    parser.add_argument("--source", default="cifar10", help="a data set of pictures in memory (default: cifar10)")
    parser.add_argument("--root", default=None, help="folder of the pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings, new or empty")
    parser.add_argument("--train-rows", type=int, default=None, help="only the first pictures of the training set")
    parser.add_argument("--test-rows", type=int, default=None, help="only the first pictures of the test set")
    parser.add_argument("--seed", type=int, default=0, help="of the camera's noise")
    parser.set_defaults(run=_simulate_dvs)


def _simulate_dvs(given: argparse.Namespace) -> None:
    from spikedistill.data import DATASETS, DataSettings, ImageSet, load
    from spikedistill.data.datasets import GIVEN
    from spikedistill.data.events.make import make_recordings

    in_memory = [name for name, spec in DATASETS.items() if spec.kind == "memory" and name != GIVEN]
    choose("source", given.source, in_memory)
    _check_root(given.source, given.root)
    settings = DataSettings(given.source, given.root, train_rows=given.train_rows, test_rows=given.test_rows)
    splits = load(settings)
    parts = {"train": splits.train, "test": splits.test}
    images = {name: part for name, part in parts.items() if isinstance(part, ImageSet)}
    events = make_recordings(images, given.out, given.source, given.seed)
    count = len(splits.train) + len(splits.test)
    print(f"{count} simulated recordings, {events / count:,.0f} events each, in {given.out} (split: folders)")
