"""The command line: train, evaluate, predict, bench, data, list."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spikedistill.cli.data import Parser, data
from spikedistill.errors import Interrupted, InvalidArgument, SpikedistillError, choose

USAGE = """\
usage: spikedistill COMMAND ...

  train [RECIPE] [--out FOLDER] [--FIELD VALUE ...]   train by a recipe (default: fashion-small), any field replaced
  train --resume FOLDER                               go on with a run
  train --help                                        the fields of a recipe
  evaluate FOLDER [--timesteps 1 2 4 8] [--data.root FOLDER]
                                                      accuracy by timesteps and firing rates, on the test rows
  predict FOLDER FILE [...]                           the classes of pictures or recordings
  bench [--subjects A B ...] [--timesteps 1 2 4 6 8] [--repeats N] [--model NAME] [--width N] [--batch N]
        [--size N] [--classes N] [--stem cifar|imagenet] [--device NAME] [--out FOLDER]
                                                      time and memory of a training step, ours and the peers'
  bench data [RECIPE] [--FIELD VALUE ...]             samples a second that a recipe's batches bring, without training
  bench --layers [--subjects A]                       where the time of one step goes
  data check|show|prepare|simulate-dvs ...            look at data, prepare recordings, simulate some (data --help)
  list recipes|models|datasets
"""


def _option(words: list[str], name: str) -> str | None:
    """Take `--name VALUE` or `--name=VALUE` out of `words`."""
    for k, word in enumerate(words):
        if word == f"--{name}":
            if k + 1 == len(words):
                raise InvalidArgument(f"--{name} needs a value")
            value = words[k + 1]
            del words[k : k + 2]
            return value
        if word.startswith(f"--{name}="):
            del words[k]
            return word.split("=", 1)[1]
    return None


def train(words: list[str]) -> None:
    from spikedistill.training.recipe_files import DEFAULT, fields_of, load_recipe, saved_recipe
    from spikedistill.training import run

    if "--help" in words or "-h" in words:
        print(USAGE + "\nfields of a recipe, with their defaults:\n")
        print("\n".join(f"  --{name} {_shown(value)}" for name, value in fields_of().items()))
        return
    resume, out = _option(words, "resume"), _option(words, "out")
    if resume is not None:
        if words or out:
            raise InvalidArgument(
                f"--resume takes the recipe of the run as it is; leave out {' '.join(words) or '--out'}"
            )
        run.train(saved_recipe(Path(resume)), Path(resume), resume=True)
        return
    name = words.pop(0) if words and not words[0].startswith("-") else DEFAULT
    recipe = load_recipe(name, words)
    folder = run.shared_folder(out, Path(name).stem)
    run.train(recipe, folder)


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def evaluate(words: list[str]) -> None:
    import dataclasses

    from spikedistill.data.load import division, load_split
    from spikedistill.core.kernels import EAGER
    from spikedistill.training.recipe_files import saved_recipe
    from spikedistill.training.trained import Trained
    from spikedistill.training import run, setup

    root = _option(words, "data.root")
    folder, rest = _folder("evaluate", words)
    timesteps = _numbers(rest)
    recipe, trained = saved_recipe(folder), Trained.load(folder)
    if timesteps and recipe.timesteps is None:
        raise InvalidArgument("this run is an ANN twin: it has no timesteps")
    data = recipe.data if root is None else dataclasses.replace(recipe.data, root=root)
    test = load_split(data, False, recipe.timesteps).rows(slice(data.test_rows))
    device = setup.find_device(recipe.device)
    network = trained.network.to(device)
    found = run.measure(network, test.to(device), recipe, EAGER, timesteps or None)
    run.report(found, division(data))


def _folder(command: str, words: list[str]) -> tuple[Path, list[str]]:
    if not words or words[0].startswith("-"):
        raise InvalidArgument(f"{command} needs the folder of a run: spikedistill {command} runs/NAME")
    return Path(words[0]), words[1:]


def _numbers(words: list[str]) -> list[int]:
    if not words:
        return []
    if words[0] != "--timesteps" or len(words) == 1:
        raise InvalidArgument(f"evaluate takes --timesteps 1 2 4 ... and --data.root FOLDER; given {' '.join(words)}")
    try:
        return sorted({int(word) for word in words[1:]})
    except ValueError as error:
        raise InvalidArgument(f"--timesteps takes whole numbers; given {' '.join(words[1:])}") from error


def predict(words: list[str]) -> None:
    import torch

    from spikedistill.training.trained import Trained

    folder, files = _folder("predict", words)
    if not files:
        raise InvalidArgument("predict needs a picture or a recording: spikedistill predict runs/NAME picture.png")
    trained = Trained.load(folder)
    for file in files:
        with torch.no_grad():
            logits = trained.network(trained.prepared(file), timesteps=trained.timesteps).logits[0]
        best = logits.softmax(0).topk(min(3, len(logits)))
        shares = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        print(f"{file}: " + ", ".join(f"{trained.config['classes'][k]} {share:.1%}" for share, k in shares))


def bench(words: list[str]) -> None:
    from spikedistill.bench import run
    from spikedistill.bench.subjects import SUBJECTS, Point

    parser = Parser(prog="bench", allow_abbrev=False)
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--subjects", nargs="+", default=None, metavar="|".join(SUBJECTS))
    parser.add_argument("--timesteps", nargs="+", type=int, default=[1, 2, 4, 6, 8])
    parser.add_argument("--repeats", type=int, default=7)
    for name in ("batch", "width", "size", "classes"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Point, name))
    for name in ("model", "stem", "device"):
        parser.add_argument(f"--{name}", default=getattr(Point, name))
    parser.add_argument("--out", type=Path, default=None)
    if words[:1] == ["data"]:
        _bench_data(words[1:])
        return
    given = parser.parse_args(words)
    for subject in given.subjects or []:
        choose("subject", subject, SUBJECTS)
    counts = (*given.timesteps, given.repeats, given.batch, given.width, given.size, given.classes)
    if min(counts) < 1:
        raise InvalidArgument("bench: timesteps, repeats, batch, width, size and classes are whole numbers above 0")
    sizes = (given.timesteps[-1], given.batch, given.width, given.size, given.classes)
    point = Point(*sizes, given.model, given.stem, given.device)
    if given.layers:
        _bench_layers(given.subjects or ["self-distillation"], point, given.repeats)
    else:
        run(given.subjects or list(SUBJECTS), point, given.timesteps, given.repeats, given.out)


def _bench_layers(subjects: list[str], point: Any, repeats: int) -> None:
    from spikedistill.bench.layers import profile

    for subject in subjects:
        found = profile(subject, point, repeats)
        whole, bare = found["step"], found["bare"]
        print(f"{subject}, T = {point.timesteps}: {whole:.3f} s a step, {bare:.3f} s its bare convolutions and matrix")
        print(f"products; ratio {found['ratio']:.2f} (median of {repeats}). The largest kernels:")
        for name, seconds in found["kernels"].items():
            print(f"  {seconds:8.4f} s  {name}")


def _bench_data(words: list[str]) -> None:
    from spikedistill.bench.data import bench_data
    from spikedistill.training.recipe_files import load_recipe

    name = words.pop(0) if words and not words[0].startswith("-") else "cifar10-resnet18"
    bench_data(load_recipe(name, words))


def list_names(words: list[str]) -> None:
    choose("list", words[0] if len(words) == 1 else " ".join(words), _LISTS)
    print("\n".join(_LISTS[words[0]]()))


def _recipes() -> list[str]:
    from spikedistill.training.recipe_files import list_recipes, load_recipe

    claims = {name: load_recipe(name).claim for name in list_recipes()}
    return [f"{name:<24} {claim.source}; accuracy: {claim.accuracy}" for name, claim in claims.items()]


def _models() -> list[str]:
    from spikedistill.models import list_models

    return list_models()


def _datasets() -> list[str]:
    from spikedistill.data import DATASETS

    return [f"{name:<16} {spec.summary}" for name, spec in DATASETS.items()]


_LISTS: dict[str, Callable[[], list[str]]] = {"recipes": _recipes, "models": _models, "datasets": _datasets}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "bench": bench,
    "data": data,
    "list": list_names,
}


def main(words: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for an error of the user's, 130 for an interrupted run."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("spikedistill"))
        return 0
    try:
        COMMANDS[choose("command", words[0], COMMANDS)](words[1:])
    except SpikedistillError as error:
        print(f"spikedistill: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except OSError as error:  # a folder that cannot be written, a file that went away: the reason says it
        print(f"spikedistill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spikedistill: stopped", file=sys.stderr)
        return 130
    return 0
