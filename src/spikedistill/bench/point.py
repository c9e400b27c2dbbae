"""One point of the benchmark: which network, which input, which T."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from spikedistill.core.network import Network
from spikedistill.errors import InvalidArgument, choose
from spikedistill.machine.device import find_device
from spikedistill.models import MODELS, create_model, options_of


@dataclasses.dataclass(frozen=True)
class Point:
    """What a training step is taken on.

    Args:
        timesteps: T.
        batch: N, images in a step.
        width: channels of the network's first stage (None: as many as the model has by itself); transformers have none.
        size: height and width of an image in pixels.
        classes: size of the network's output.
        model: a name that `create_model` knows.
        stem: of networks that have two, "cifar" or "imagenet".
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    timesteps: int = 6
    batch: int = 32
    width: int | None = None
    size: int = 32
    classes: int = 100
    model: str = "resnet18"
    stem: str = "cifar"
    device: str = "auto"

    def network(self) -> Network:
        """The bare network, with random weights.

        Raises:
            InvalidArgument: an unknown model or stem, or a stem for a network that has none.
        """
        options: dict[str, Any] = {}
        known = options_of(choose("model", self.model, MODELS))
        if "width" in known and self.width is not None:
            options["width"] = self.width
        elif self.width is not None:
            raise InvalidArgument(f"--width {self.width} has no effect on {self.model}; leave it out")
        if "stem" in known:
            options["stem"] = self.stem
        # The default stands for "nothing said", so it is refused nowhere.
        elif self.stem != Point.stem:
            raise InvalidArgument(f"--stem {self.stem} has no effect on {self.model}, which has no stem; leave it out")
        return create_model(self.model, self.classes, **options)

    def check(self) -> None:
        """Refuse what cannot work, without computing anything.

        Raises:
            InvalidArgument: a device, model or stem that is not there, images that are too small for the network, or a
                network that does not classify.
        """
        find_device(self.device)
        # On the meta device tensors have shapes and no values, so this costs neither time nor memory.
        with torch.device("meta"):
            network = self.network()
            images = torch.empty(self.batch, 3, self.size, self.size)
        try:
            logits = network(images, timesteps=None).logits
        except (RuntimeError, ValueError) as error:
            # torch's words say which layer ran out of pixels, or of samples for its statistics
            reason = str(error).splitlines()[0]
            raise InvalidArgument(
                f"{self.model} cannot take {self.batch} images of {self.size}×{self.size} ({reason}); give a larger "
                "--size or --batch"
            ) from error
        if logits.dim() != 2:
            raise InvalidArgument(
                f"{self.model} gives {list(logits.shape)}, and the step that is measured is one of classification, on "
                "logits [N, classes]; for a recipe of another task there is scripts/recipe_costs.py"
            )
