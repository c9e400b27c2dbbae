"""spikedistill predict"""

from __future__ import annotations

from pathlib import Path

from spikedistill.cli.parser import Parser, add_trust
from spikedistill.machine.device import PRECISIONS


def run(words: list[str]) -> None:
    parser = Parser("predict", "What a finished run's network says about pictures or recordings.")
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("files", nargs="+", help="pictures, or recordings for a network that was trained on events")
    parser.add_argument("--precision", choices=PRECISIONS, default=None, help="default: what the run was trained in")
    add_trust(parser)
    given = parser.parse_args(words)

    from spikedistill.training.trained import Trained

    trained = Trained.load(given.folder, trust=given.trust)
    precision = given.precision or trained.config["precision"]
    for file in given.files:
        print(f"{file}: {trained.answer(file, precision)}")
    print(f"computed in {precision}, T = {trained.timesteps}" if trained.timesteps else f"computed in {precision}, ANN")
