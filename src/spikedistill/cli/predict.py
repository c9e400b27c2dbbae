"""spikedistill predict"""

from __future__ import annotations

import argparse
from pathlib import Path

from spikedistill.cli.parser import add_trust
from spikedistill.errors import DataError
from spikedistill.machine.device import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "What a finished run's network says about pictures, recordings or .npy files."
    parser.add_argument("folder", type=Path, help="folder of the run")
    files = "pictures; recordings or .npy files for a network that learned such"
    parser.add_argument("files", nargs="+", type=Path, help=files)
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="default: what the run was trained in")
    add_trust(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.training.trained import Trained

    trained = Trained.load(given.folder, trust=given.trust)
    precision = given.precision or trained.config["precision"]
    bad: list[str] = []
    for file in given.files:
        try:
            print(f"{file}: {trained.answer(file, precision)}")
        except DataError as error:  # the others have an answer all the same
            bad.append(str(error))
    print(f"computed in {precision}, T = {trained.timesteps}" if trained.timesteps else f"computed in {precision}, ANN")
    if bad:
        raise DataError("\n".join(bad))
