"""spikedistill predict"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.cli.parser import add_trust
from spikedistill.errors import DataError, InvalidArgument
from spikedistill.machine.device import PRECISIONS

if TYPE_CHECKING:
    from torch import Tensor

    from spikedistill.tasks import Mark


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "What a finished run's network says about pictures, recordings or .npy files."
    parser.add_argument("folder", type=Path, help="folder of the run")
    files = "pictures; recordings or .npy files for a network that learned such"
    parser.add_argument("files", nargs="+", type=Path, help=files)
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="default: what the run was trained in")
    drawn = "folder for a picture of each file with what was found on it, for tasks that find something somewhere"
    parser.add_argument("--out", type=Path, default=None, help=drawn)
    mended = "of recordings, leave out impossible events and mend the order of times"
    for name in ("events", "scenes"):  # as it is said in training, and in the error about such a file
        parser.add_argument(f"--data.{name}.repair", dest="repair", type=_truth, default=False, help=mended)
    add_trust(parser)
    parser.set_defaults(run=run)


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() == "true"


def run(given: argparse.Namespace) -> None:
    from spikedistill.training.trained import Trained

    trained = Trained.load(given.folder, trust=given.trust)
    precision = given.precision or trained.precision
    if given.out is not None:
        _make_folder(given.out, given.files)
    bad: list[str] = []
    for file in given.files:
        try:
            inputs = trained.prepared(file, given.repair)
            words, marks = trained.said(inputs, precision)
            print(f"{file}: {words}")
            if given.out is not None:
                _draw(inputs, file, marks, given.out)
        except DataError as error:  # the others have an answer all the same
            bad.append(str(error))
    print(f"computed in {precision}, T = {trained.timesteps}" if trained.timesteps else f"computed in {precision}, ANN")
    if bad:
        raise DataError("\n".join(bad))


def _make_folder(out: Path, files: Sequence[Path]) -> None:
    """The folder of the pictures, which are named as their files are.

    Raises:
        InvalidArgument: it is a file, or two files have one name.
    """
    twice = [name for name, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise InvalidArgument(f"several files are called {', '.join(twice[:5])}; their pictures in --out would be, too")
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"--out {out} is a file; name a folder for the pictures")
    out.mkdir(parents=True, exist_ok=True)


def _draw(inputs: Tensor, file: Path, marks: Sequence[Mark], out: Path) -> None:
    """A picture of the file, named as it is; one that is there is not overwritten.

    Raises:
        DataError: it is there.
    """
    from spikedistill.report.grid import marked_picture

    target = out / f"{file.stem}.png"
    if target.exists():
        raise DataError(f"{target} exists already; choose another --out")
    marked_picture(inputs, marks, file.name, target)
