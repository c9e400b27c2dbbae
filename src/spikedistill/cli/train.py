"""spikedistill train"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import add_recipe, add_trust, recipe_from
from spikedistill.errors import InvalidArgument

if TYPE_CHECKING:
    from spikedistill.training.recipe import Recipe

USAGE = """\
spikedistill train [RECIPE] [--out FOLDER] [--FIELD VALUE ...]
       spikedistill train [RECIPE] --seeds 0 1 2 [--out FOLDER] [--FIELD VALUE ...]
       spikedistill train --resume FOLDER [--FIELD VALUE ...] [--trust]"""
DESCRIPTION = """\
Train by a recipe: a name (spikedistill list recipes; default: {default}) or a YAML file. Any field can be replaced:

  spikedistill train cifar100-resnet18 --timesteps 4 --data.root ~/data
  spikedistill train cifar10-foundation --rule bptt --model.width 32 --branches.enabled false
  spikedistill train my_recipe.yaml --teacher runs/ann
  spikedistill train cifar10-resnet18 --model.import my_nets:small --model.depth 3      # a function in my_nets.py

The run is written to runs/RECIPE, or to --out.
"""
SEEDS = "one run for each seed, in FOLDER-0, FOLDER-1, ...; what is finished is left alone, and the rest goes on"
RESUME = "go on with a run by its own recipe; replaced can be what changes no step that was taken: {resumable}"


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    from spikedistill.training.recipe_files import DEFAULT, RESUMABLE

    parser.usage, parser.description = USAGE, DESCRIPTION.format(default=DEFAULT)
    parser.add_argument("--out", type=Path, default=None, metavar="FOLDER", help="a new or empty folder for the run")
    parser.add_argument("--seeds", nargs="+", default=[], metavar="SEED", help=SEEDS)
    resumable = ", ".join(f"--{name}" for name in RESUMABLE)
    help = RESUME.format(resumable=resumable)
    parser.add_argument("--resume", type=Path, default=None, metavar="FOLDER", help=help)
    add_trust(parser)
    add_recipe(parser, words, DEFAULT)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.training import run as training

    if given.resume is not None:
        for name in ("recipe", "out", "seeds"):
            if getattr(given, name):
                raise InvalidArgument(
                    f"--resume goes on in the folder of the run, by its recipe; leave out {'--' * (name != 'recipe')}"
                    f"{name if name != 'recipe' else given.recipe}"
                )
        training.resume(given.resume, given.fields, trust=given.trust)
        return
    seeds = _checked_seeds(given.seeds)
    if seeds and any(field.partition("=")[0] == "--seed" for field in given.fields):
        raise InvalidArgument("--seed is of one run and --seeds of several; leave one of them out")
    name, recipe = recipe_from(given)
    stem = Path(name).stem
    if seeds:
        _train_seeds(recipe, given.out or Path(f"runs/{stem}"), seeds, given.trust)
        return
    training.train(recipe, given.out, name=stem, trust=given.trust)


def _checked_seeds(given: list[str]) -> list[int]:
    seeds = [int(word) for word in given if word.isascii() and word.isdigit()]
    if len(set(seeds)) < len(given):
        raise InvalidArgument(f"--seeds takes different whole numbers, as --seeds 0 1 2; given {' '.join(given)!r}")
    return seeds


def _train_seeds(recipe: Recipe, folder: Path, seeds: list[int], trust: bool) -> None:
    """One run for each seed; what an earlier call has finished is not done again."""
    from spikedistill.comparison.records import find_runs
    from spikedistill.comparison.rows import rows_of
    from spikedistill.comparison.table import table
    from spikedistill.training import run as training
    from spikedistill.training.checkpoints import has_begun
    from spikedistill.training.recipe_files import saved_recipe
    from spikedistill.training.trust import imports_of

    # what was named just now, and nothing else
    trusted = trust or imports_of(recipe)
    if folder.name in ("", ".."):  # "." has none
        raise InvalidArgument(f"--out {folder} has no name, to which the seeds could be added; name a folder")
    folders = [folder.with_name(f"{folder.name}-{seed}") for seed in seeds]
    for seed in seeds:
        dataclasses.replace(recipe, seed=seed)  # refused before the first is trained
    for seed, place in zip(seeds, folders, strict=True):
        # a start that was killed before its first checkpoint is begun again
        begun, finished = has_begun(place), (place / "result.json").is_file()
        if begun or (finished and (place / "recipe.yaml").is_file()):  # its checkpoint may have been thrown away
            saved = saved_recipe(place, trust=trusted)
            _refuse_another(dataclasses.replace(recipe, seed=seed), saved, place)
            # what the first run chose by itself holds for all, or seeds would differ in more than their seed
            recipe = dataclasses.replace(recipe, precision=saved.precision, compile=saved.compile)
        if finished:
            print(f"{place} is finished already, and left alone", file=sys.stderr)
        elif begun:
            training.resume(place, trust=trusted)
        else:
            training.train(dataclasses.replace(recipe, seed=seed), place, trust=trust)
            saved = saved_recipe(place, trust=trusted)
            recipe = dataclasses.replace(recipe, precision=saved.precision, compile=saved.compile)
    print()
    print(table(rows_of(find_runs(folders))))


def _refuse_another(recipe: Recipe, saved: Recipe, folder: Path) -> None:
    """A run of another recipe must not become a seed of this one."""
    from spikedistill.data import DATASETS
    from spikedistill.models.tensor_train import asked
    from spikedistill.training.recipe_files import CLAIM_HOLDS
    from spikedistill.training.recipe_values import changed_fields, flat_values

    chosen = ["precision", "compile"]  # "auto" has become one or the other
    if asked(recipe.tensor_train.rank) == asked(saved.tensor_train.rank):  # what it found depends on the weights
        chosen.append("tensor_train.rank")
    # shares of the epochs have become numbers
    recipe = recipe.counted()
    holds = [name for name in CLAIM_HOLDS if name != "seed"]
    if not DATASETS[recipe.data.name].is_one:
        holds.remove("data.root")
    differ = changed_fields(flat_values(recipe), flat_values(saved), (*holds, *chosen))
    if differ:
        raise InvalidArgument(
            f"{folder} was made by another recipe (other {', '.join(differ[:5])}); choose another --out"
        )
