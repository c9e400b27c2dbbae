"""Networks of finished runs: what is written beside the weights, and building them again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from spikedistill.data import Samples
from spikedistill.data.events.frames import Framing
from spikedistill.data.events.recordings import frames_of_file
from spikedistill.data.pictures.folder import FolderSet, as_names
from spikedistill.data.pictures.memory import normalised
from spikedistill.errors import CheckpointError, DataError
from spikedistill.models import create_model
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron, Surrogate
from spikedistill.training.checkpoints import apply_state, load_weights
from spikedistill.training.recipe import Recipe

FORMAT = "spikedistill network 1"


def describe_network(recipe: Recipe, data: Samples) -> dict[str, Any]:
    """`config.json`: what is needed to build the network again and to feed it."""
    return {
        "format": FORMAT,
        "model": dataclasses.asdict(recipe.model),
        "timesteps": recipe.timesteps,
        "input": data.description(),
        "classes": data.classes,
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: the network in evaluation mode, and how to feed it."""

    network: Network
    config: dict[str, Any]

    @property
    def timesteps(self) -> int | None:
        return self.config["timesteps"]

    @classmethod
    def load(cls, folder: str | Path) -> Trained:
        """Build the network of a finished run.

        Raises:
            CheckpointError: files are missing, damaged or foreign.
        """
        folder = Path(folder)
        tensors, config = load_weights(folder)
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise CheckpointError(f"{folder / 'config.json'} was not written by spikedistill")
        model = dict(config["model"])
        neuron = dict(model.pop("neuron"))
        neuron["surrogate"] = Surrogate(**neuron["surrogate"])
        network = create_model(
            model.pop("name"),
            len(config["classes"]),
            in_channels=config["input"]["shape"][0],
            neuron=Neuron(**neuron),
            **model,
        )
        apply_state(network, tensors, str(folder / "model.safetensors"))
        return cls(network.eval(), config)

    def prepared(self, file: str | Path) -> torch.Tensor:
        """A file as input, as in training.

        Returns:
            A picture [1, C, H, W], grey or colour; or a recording's frames [T, 1, 2, H, W].

        Raises:
            DataError: not a readable picture or recording.
        """
        if self.config["input"]["kind"] == "events":
            framing = Framing(**self.config["input"]["framing"])
            return torch.from_numpy(frames_of_file(file, framing)).float().unsqueeze(1)
        if "enlarged" in self.config["input"]:
            return self._centre_of_picture(Path(file))
        return self._picture(Path(file))

    def _centre_of_picture(self, picture: Path) -> torch.Tensor:
        config = self.config["input"]
        how = (config["mean"], config["std"], config["shape"][1], config["enlarged"])
        first = torch.zeros(1).long()
        return FolderSet(picture.parent, as_names([picture.name]), first, ("",), *how).batch(first)

    def _picture(self, picture: Path) -> torch.Tensor:
        import numpy as np
        from PIL import Image

        channels, height, width = self.config["input"]["shape"]
        try:
            with Image.open(picture) as image:
                small = image.convert("L" if channels == 1 else "RGB").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except Exception as error:
            raise DataError(f"{picture} is not a readable picture: {error}") from error
        pixels = torch.from_numpy(np.array(small)).reshape(height, width, channels).permute(2, 0, 1)
        config = self.config["input"]
        return normalised(pixels.unsqueeze(0), config["mean"], config["std"])
