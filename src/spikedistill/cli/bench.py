"""spikedistill bench"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import add_recipe, recipe_from
from spikedistill.errors import InvalidArgument, choose

if TYPE_CHECKING:
    from spikedistill.bench import Point


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    from spikedistill.bench import SUBJECTS, Point

    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=False, parser_class=type(parser))
    data = commands.add_parser("data", help="samples a second that a recipe's batches bring, without training")
    if not words or words[0] == "data":
        add_recipe(data, words, default="cifar10-resnet18")
    data.set_defaults(run=_bench_data)
    parser.add_argument("--layers", action="store_true", help="where the time of one step goes, instead")
    parser.add_argument("--subjects", nargs="+", default=None, metavar="|".join(SUBJECTS), help="default: all of them")
    parser.add_argument("--timesteps", nargs="+", type=int, default=[1, 2, 4, 6, 8])
    parser.add_argument("--repeats", type=int, default=7, help="steps timed of each subject")
    for name in ("batch", "width", "size", "classes"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Point, name))
    for name in ("model", "stem", "device"):
        parser.add_argument(f"--{name}", default=getattr(Point, name))
    parser.add_argument("--out", type=Path, default=None, help="folder for bench.json and bench.png")
    parser.set_defaults(run=_bench)


def _bench(given: argparse.Namespace) -> None:
    from spikedistill.bench import SUBJECTS, Point, run_benchmark
    from spikedistill.machine.device import find_device
    from spikedistill.models import MODELS

    for subject in given.subjects or []:
        choose("subject", subject, SUBJECTS)
    choose("model", given.model, MODELS)
    find_device(given.device)
    counts = (*given.timesteps, given.repeats, given.batch, given.width, given.size, given.classes)
    if min(counts) < 1:
        raise InvalidArgument("bench: timesteps, repeats, batch, width, size and classes are whole numbers above 0")
    sizes = (given.timesteps[-1], given.batch, given.width, given.size, given.classes)
    point = Point(*sizes, given.model, given.stem, given.device)
    if given.layers:
        _bench_layers(given.subjects or ["self-distillation"], point, given.repeats)
    else:
        run_benchmark(given.subjects, point, given.timesteps, given.repeats, given.out)


def _bench_layers(subjects: list[str], point: Point, repeats: int) -> None:
    from spikedistill.bench.layers import profile

    for subject in subjects:
        found = profile(subject, point, repeats)
        whole, bare = found["step"], found["bare"]
        print(f"{subject}, T = {point.timesteps}: {whole:.3f} s a step, {bare:.3f} s its bare convolutions and matrix")
        print(f"products; ratio {found['ratio']:.2f} (median of {repeats}). The largest kernels:")
        for name, seconds in found["kernels"].items():
            print(f"  {seconds:8.4f} s  {name}")


def _bench_data(given: argparse.Namespace) -> None:
    from spikedistill.bench.data import bench_data

    bench_data(recipe_from(given)[1])
