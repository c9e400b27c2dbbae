"""spikedistill bench"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import add_recipe, recipe_from
from spikedistill.errors import InvalidArgument, choose

TIMESTEPS = [1, 2, 4, 6, 8]

if TYPE_CHECKING:
    from spikedistill.bench import Point


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    from spikedistill.bench import SUBJECTS, Point

    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=False, parser_class=type(parser))
    data = commands.add_parser("data", help="samples a second that a recipe's batches bring, without training")
    if not words or "data" in words:
        add_recipe(data, words, default="cifar10-resnet18")
    data.set_defaults(run=_bench_data, is_first=words[:1] == ["data"])
    parser.add_argument("--layers", action="store_true", help="where the time of one step goes, instead")
    parser.add_argument(
        "--subjects",
        nargs="+",
        default=None,
        metavar="|".join(SUBJECTS),
        help="default: all that are installed, but for -compiled; with --layers self-distillation",
    )
    parser.add_argument(
        "--timesteps", nargs="+", type=int, default=None, help=f"default: {TIMESTEPS}; with --layers {Point.timesteps}"
    )
    parser.add_argument("--repeats", type=int, default=7, help="steps timed of each subject")
    for name in ("batch", "size", "classes"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Point, name))
    parser.add_argument("--width", type=int, default=None, help="default: the model's own")
    for name in ("model", "stem", "device"):
        parser.add_argument(f"--{name}", default=getattr(Point, name))
    parser.add_argument("--out", type=Path, default=None, help="folder for bench.json and bench.png")
    parser.set_defaults(run=_bench)


def _bench(given: argparse.Namespace) -> None:
    from spikedistill.bench import SUBJECTS, Point, run_benchmark
    from spikedistill.bench.results import measured_rows
    from spikedistill.machine.device import find_device
    from spikedistill.models import MODELS

    for subject in given.subjects or []:
        choose("subject", subject, SUBJECTS)
    choose("model", given.model, MODELS)
    find_device(given.device)
    timesteps = given.timesteps or ([Point.timesteps] if given.layers else TIMESTEPS)
    counts = (*timesteps, given.repeats, given.batch, given.size, given.classes, given.width or 1)
    if min(counts) < 1 or given.width == 0:
        raise InvalidArgument("bench: timesteps, repeats, batch, width, size and classes are whole numbers above 0")
    sizes = (timesteps[-1], given.batch, given.width, given.size, given.classes)
    point = Point(*sizes, given.model, given.stem, given.device)
    if not given.layers:
        if not measured_rows(run_benchmark(given.subjects, point, timesteps, given.repeats, given.out)):
            raise InvalidArgument("nothing could be measured: every subject failed, as its line says")
        return
    if given.out is not None or len(timesteps) > 1:
        raise InvalidArgument("bench --layers prints what it finds, of one T; leave out --out and give one --timesteps")
    _bench_layers(given.subjects or ["self-distillation"], point, given.repeats)


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

    if not given.is_first:  # what stands before it is for `bench` itself, and would have no effect
        raise InvalidArgument("bench data takes a recipe and its fields; leave out what is for bench itself")
    bench_data(recipe_from(given)[1])
