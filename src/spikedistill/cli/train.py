"""spikedistill train"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import recipe_from, take_option, wants_help
from spikedistill.errors import InvalidArgument

if TYPE_CHECKING:
    from spikedistill.training.recipe import Recipe

USAGE = """\
usage: spikedistill train [RECIPE] [--out FOLDER] [--FIELD VALUE ...]
       spikedistill train [RECIPE] --seeds 0 1 2 [--out FOLDER] [--FIELD VALUE ...]
       spikedistill train --resume FOLDER [--FIELD VALUE ...] [--trust]

Train by a recipe: a name (spikedistill list recipes; default: fashion-small) or a YAML file. Any field can be replaced:

  spikedistill train cifar100-resnet18 --timesteps 4 --data.root ~/data
  spikedistill train cifar10-foundation --rule bptt --model.width 32 --branches.enabled false
  spikedistill train my_recipe.yaml --objectives.distillation.teacher runs/ann
  spikedistill train cifar10-resnet18 --model.import my_nets:small --model.depth 3      # a function in my_nets.py

--timesteps is short for --rule.timesteps. The run is written to runs/RECIPE, or to --out.
--seeds trains once for each seed, in FOLDER-0, FOLDER-1, ... It leaves alone what is finished, goes on with the rest,
and ends with the table of `spikedistill compare`.
--resume goes on with a run by its own recipe; replaced can be what changes no step that was taken: {resumable}.
"""


def run(words: list[str]) -> None:
    from spikedistill.training.recipe_files import DEFAULT, RESUMABLE

    if wants_help(words):
        print(USAGE.format(resumable=", ".join(f"--{name}" for name in RESUMABLE)))
        print("Fields of a recipe, with their defaults:\n")
        print("\n".join(_fields()))
        return
    from spikedistill.training import run as training

    words = list(words)
    resumed, out, seeds = take_option(words, "resume"), take_option(words, "out"), _take_seeds(words)
    if resumed is not None:
        if out or seeds:
            raise InvalidArgument(
                f"--resume goes on in the folder of the run; leave out {'--out' if out else '--seeds'}"
            )
        trust = "--trust" in words
        training.resume(resumed, [word for word in words if word != "--trust"], trust=trust)
        return
    name, recipe = recipe_from(words, DEFAULT)
    stem = Path(name).stem
    if seeds:
        _train_seeds(recipe, Path(out or f"runs/{stem}"), seeds)
        return
    training.train(recipe, out, name=stem)


def _take_seeds(words: list[str]) -> list[int]:
    """Take `--seeds 0 1 2` out of the words."""
    if "--seeds" not in words:
        return []
    start = words.index("--seeds")
    end = next((k for k in range(start + 1, len(words)) if words[k].startswith("--")), len(words))
    given = words[start + 1 : end]
    if not given or not all(word.isdigit() for word in given) or len(set(given)) < len(given):
        raise InvalidArgument(f"--seeds takes different whole numbers, as --seeds 0 1 2; given {' '.join(given)!r}")
    del words[start:end]
    return [int(word) for word in given]


def _train_seeds(recipe: Recipe, folder: Path, seeds: list[int]) -> None:
    """One run for each seed; what an earlier call has finished is not done again."""
    from spikedistill.report.compare import find_runs, rows_of, table
    from spikedistill.training import run as training
    from spikedistill.training.recipe_files import saved_recipe

    folders = [folder.with_name(f"{folder.name}-{seed}") for seed in seeds]
    for seed, place in zip(seeds, folders, strict=True):
        if (place / "recipe.yaml").is_file():
            saved = saved_recipe(place, trust=recipe.model.name)  # what was named just now, and nothing else
            _refuse_another(recipe, saved, place)
            # what the first run chose by itself holds for all, or seeds would differ in more than their seed
            recipe = dataclasses.replace(recipe, precision=saved.precision, compile=saved.compile)
        if (place / "result.json").is_file():
            print(f"{place} is finished already, and left alone", file=sys.stderr)
        elif (place / "recipe.yaml").is_file():
            training.resume(place, trust=recipe.model.name)
        else:
            training.train(dataclasses.replace(recipe, seed=seed), place)
            saved = saved_recipe(place, trust=recipe.model.name)
            recipe = dataclasses.replace(recipe, precision=saved.precision, compile=saved.compile)
    print()
    print(table(rows_of(find_runs(folders))))


def _refuse_another(recipe: Recipe, saved: Recipe, folder: Path) -> None:
    """A run of another recipe must not become a seed of this one."""
    from spikedistill.training.recipe_files import CLAIM_HOLDS
    from spikedistill.training.recipe_values import flat_values

    now, then = flat_values(recipe), flat_values(saved)
    chosen = ("precision", "compile")  # "auto" has become one or the other
    differ = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    differ = [name for name in differ if not name.startswith((*CLAIM_HOLDS, *chosen))]
    if differ:
        raise InvalidArgument(
            f"{folder} was made by another recipe (other {', '.join(differ[:5])}); choose another --out"
        )


def _fields() -> list[str]:
    """Every field: its name, default and meaning."""
    from spikedistill.training.recipe_parsing import known_fields

    lines = []
    for field in known_fields().values():
        lines.append(f"  --{field.name} {_shown(field.default)}")
        lines += textwrap.wrap(field.help, 108, initial_indent="        ", subsequent_indent="        ")
    return lines


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
