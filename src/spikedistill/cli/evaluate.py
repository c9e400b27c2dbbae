"""spikedistill evaluate"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from spikedistill.cli.parser import add_trust, check_picture
from spikedistill.errors import InvalidArgument
from spikedistill.machine.device import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "Score by timesteps and firing rates of a finished run, on the test samples."
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--timesteps", nargs="+", type=int, default=None, help="numbers of steps, each at least 1")
    parser.add_argument("--data.root", dest="root", default=None, help="another folder of data with the same classes")
    cache = "folder for the frames of recordings (default: that of the user)"
    parser.add_argument("--data.events.cache", dest="cache", default=None, help=cache)
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="default: what the run was trained in")
    parser.add_argument("--figure", type=Path, default=None, help="draw what was taken for what into this file, too")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.data import division, load_split
    from spikedistill.data.dataset import HUB
    from spikedistill.machine.device import find_device
    from spikedistill.report.counts import draw_counts
    from spikedistill.report.text import print_evaluation
    from spikedistill.training.recipe_files import saved_recipe
    from spikedistill.training.scoring import score
    from spikedistill.training.trained import Trained

    check_picture("--figure", given.figure)
    # the best epoch's weights lie in a folder of their own, below their run
    best = given.folder.name == "best" and (given.folder.parent / "recipe.yaml").is_file()
    run_folder = given.folder.parent if best else given.folder
    recipe = saved_recipe(run_folder, given.trust, teachers=False)
    trained = Trained.load(given.folder, trust=given.trust)
    if given.timesteps and recipe.timesteps is None:
        raise InvalidArgument("this run is an ANN twin: it has no timesteps")
    # The folder may come from anybody: it neither fetches anything nor says where frames are written.
    events = dataclasses.replace(recipe.data.events, cache=given.cache)
    root = recipe.data.root if given.root is None else given.root
    if given.root is None and str(root).startswith(HUB):
        raise InvalidArgument(f"the data of this run lie on the hub, and would be fetched; say so: --data.root {root}")
    data = dataclasses.replace(recipe.data, root=root, download=False, events=events)
    test = load_split(data, False, recipe.timesteps)
    # a folder of other classes, or of the same in another order, is no longer what the network was trained for
    test = test.with_targets(test.targets.matched(trained.config["targets"]))
    recipe = dataclasses.replace(recipe, precision=given.precision or recipe.precision)
    device = find_device(recipe.device)
    timesteps = sorted(set(given.timesteps)) if given.timesteps else None
    found = score(
        recipe,
        trained.network.to(device),
        test.to(device),
        timesteps,
        inspect=lambda: recipe.task.inspector(trained.config["targets"]),
    )
    print_evaluation(found, division(data), recipe.precision)
    if found.inspector is not None:
        print("\n".join(found.inspector.lines()))
        if given.figure is not None:
            draw_counts(found.inspector.grid(), given.figure)
            print(f"drawn: {given.figure}")
    elif given.figure is not None:
        raise InvalidArgument("this task has no picture of its answers; leave out --figure")
