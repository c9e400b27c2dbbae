"""spikedistill train"""

from __future__ import annotations

import textwrap
from pathlib import Path

from spikedistill.cli.parser import recipe_from, take_option, wants_help
from spikedistill.errors import InvalidArgument

USAGE = """\
usage: spikedistill train [RECIPE] [--out FOLDER] [--FIELD VALUE ...]
       spikedistill train --resume FOLDER [--trust]

Train by a recipe: a name (spikedistill list recipes; default: fashion-small) or a YAML file. Any field can be replaced:

  spikedistill train cifar100-resnet18 --timesteps 4 --data.root ~/data
  spikedistill train cifar10-foundation --rule bptt --model.width 32 --branches.enabled false
  spikedistill train my_recipe.yaml --objectives.distillation.teacher runs/ann

  spikedistill train cifar10-resnet18 --model.import my_nets:small --model.depth 3      # a function in my_nets.py

--timesteps is short for --rule.timesteps. The run is written to runs/RECIPE, or to --out.
"""


def run(words: list[str]) -> None:
    if wants_help(words):
        print(USAGE)
        print("Fields of a recipe, with their defaults:\n")
        print("\n".join(_fields()))
        return
    from spikedistill.training import run as training
    from spikedistill.training.recipe_files import DEFAULT

    resumed, out = take_option(words, "resume"), take_option(words, "out")
    if resumed is not None:
        trust = "--trust" in words
        words = [word for word in words if word != "--trust"]
        if words or out:
            raise InvalidArgument(
                f"--resume takes the recipe of the run as it is; leave out {' '.join(words) or '--out'}"
            )
        training.resume(resumed, trust=trust)
        return
    name, recipe = recipe_from(words, DEFAULT)
    training.train(recipe, out, name=Path(name).stem)


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
