"""spikedistill evaluate"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import add_trust, check_picture
from spikedistill.errors import InvalidArgument
from spikedistill.machine.device import PRECISIONS

if TYPE_CHECKING:
    from spikedistill.core.network import Network
    from spikedistill.data import Samples
    from spikedistill.measure.operations import Operations
    from spikedistill.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "Score by timesteps and firing rates of a finished run, on the test samples."
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--timesteps", nargs="+", type=int, default=None, help="numbers of steps, each at least 1")
    parser.add_argument("--data.root", dest="root", default=None, help="another folder of data with the same classes")
    cache = "folder for the frames of recordings (default: that of the user)"
    parser.add_argument("--data.events.cache", dest="cache", default=None, help=cache)
    frames = "the same for the frames of recordings with boxes"
    parser.add_argument("--data.scenes.cache", dest="scenes_cache", default=None, metavar="CACHE", help=frames)
    parser.add_argument("--device", default=None, help="auto, cpu, cuda or cuda:N (default: what the run says)")
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="default: what the run was trained in")
    retake = "take batch norm's statistics anew for each T, on so many training samples: for one network with several T"
    parser.add_argument("--retake", type=int, default=None, metavar="SAMPLES", help=retake)
    counted = "count operations, and the energy that literature gives them, on so many test samples"
    parser.add_argument("--operations", type=int, default=None, metavar="SAMPLES", help=counted)
    parser.add_argument("--figure", type=Path, default=None, help="draw what was taken for what into this file, too")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.data import division, load_split
    from spikedistill.data.dataset import HUB
    from spikedistill.machine.device import find_device
    from spikedistill.report.counts import draw_counts
    from spikedistill.report.text import print_evaluation, print_operations
    from spikedistill.training.recipe_files import saved_recipe
    from spikedistill.training.scoring import score
    from spikedistill.training.trained import Trained

    check_picture("--figure", given.figure)
    if given.operations is not None and given.operations < 1:
        raise InvalidArgument(f"--operations is {given.operations}; expected a number of test samples, at least 1")
    # the best epoch's weights lie in a folder of their own, below their run
    place = given.folder.resolve()  # "." has no name
    best = place.name == "best" and (place.parent / "recipe.yaml").is_file()
    run_folder = place.parent if best else given.folder
    recipe = saved_recipe(run_folder, given.trust, teachers=False)
    trained = Trained.load(given.folder, trust=given.trust)
    if given.timesteps and recipe.timesteps is None:
        raise InvalidArgument("this run is an ANN twin: it has no timesteps")
    # The folder may come from anybody: it neither fetches anything nor says where frames are written.
    events = dataclasses.replace(recipe.data.events, cache=given.cache)
    root = recipe.data.root if given.root is None else given.root
    if given.root is None and str(root).startswith(HUB):
        raise InvalidArgument(f"the data of this run lie on the hub, and would be fetched; say so: --data.root {root}")
    scenes = dataclasses.replace(recipe.data.scenes, cache=given.scenes_cache)
    data = dataclasses.replace(recipe.data, root=root, download=False, events=events, scenes=scenes)
    test = load_split(data, False, recipe.timesteps)
    # a folder of other classes, or of the same in another order, is no longer what the network was trained for
    test = test.with_targets(test.targets.matched(trained.config["targets"]))
    recipe = dataclasses.replace(recipe, precision=given.precision or recipe.precision)
    device = find_device(given.device or recipe.device)
    timesteps = sorted(set(given.timesteps)) if given.timesteps else None
    if given.retake is not None:
        _check_retake(given, recipe.timesteps)
        train = load_split(data, True, recipe.timesteps).to(device)
        for number in timesteps or [recipe.timesteps]:
            print(_retaken(recipe, trained.network.to(device), train, test.to(device), number, given.retake))
        return
    found = score(
        recipe,
        trained.network.to(device),
        test.to(device),
        timesteps,
        inspect=lambda: recipe.task.inspector(trained.config["targets"]),
    )
    print_evaluation(found, division(data), recipe.precision)
    if given.operations is not None:
        print_operations(
            operations_of(recipe, trained.network, test, given.operations, given.timesteps),
            twin=recipe.timesteps is None,
        )
    if found.inspector is not None:
        print("\n".join(found.inspector.lines()))
        if given.figure is not None:
            draw_counts(found.inspector.grid(), given.figure)
            print(f"drawn: {given.figure}")
    elif given.figure is not None:
        raise InvalidArgument("this task has no picture of its answers; leave out --figure")


def operations_of(
    recipe: Recipe, network: Network, test: Samples, count: int, timesteps: list[int] | None = None
) -> Operations:
    """Of so many test samples, spread evenly over all, at the largest T (None: that of the recipe)."""
    import torch

    from spikedistill.machine.device import autocast
    from spikedistill.measure.evaluation import EVALUATION_BATCH
    from spikedistill.measure.operations import operations

    index = torch.linspace(0, len(test) - 1, min(count, len(test))).round().long()
    batches = (test.batch(some).inputs for some in index.split(EVALUATION_BATCH))
    # of an ANN twin what is counted are its layers, which are the same at one step
    with autocast(recipe.precision, next(network.parameters()).device):  # the spikes are those of the score
        return operations(network, batches, max(timesteps or [recipe.timesteps or 1]))


def _check_retake(given: argparse.Namespace, timesteps: int | None) -> None:
    if timesteps is None:
        raise InvalidArgument("--retake is for spikes, and this run is an ANN twin")
    if given.retake < 2:
        raise InvalidArgument(f"--retake is {given.retake}; expected a number of training samples, at least 2")
    if given.operations is not None:
        raise InvalidArgument("--operations counts with the statistics of training; leave out --retake")
    if given.figure is not None:
        raise InvalidArgument("--figure is of one evaluation, and --retake makes one for each T; leave one of them out")


def _retaken(recipe: Recipe, network: Network, train: Samples, test: Samples, timesteps: int, count: int) -> str:
    """The score at T with statistics of T steps, as a line; the network is left as it is."""
    import copy

    import torch

    from spikedistill.data.batches import generator_for
    from spikedistill.machine.device import autocast
    from spikedistill.training.scoring import score
    from spikedistill.training.statistics import retake_statistics

    changed = copy.deepcopy(network)
    order = torch.randperm(len(train), generator=generator_for(recipe.seed))[:count]
    batches = [train.batch(index).inputs for index in order.split(recipe.optimizer.batch_size) if len(index) > 1]
    with autocast(recipe.precision, test.device):  # as it was trained
        retake_statistics(changed, batches, timesteps)
    found = score(recipe, changed, test, [timesteps])
    return (
        f"  T = {timesteps:<3} {found.score[timesteps]:7.2%} {found.score_name} with statistics of T = {timesteps}, "
        f"of {len(order)} training samples, {found.samples} samples"
    )
