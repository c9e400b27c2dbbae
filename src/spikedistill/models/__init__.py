"""Networks by name. Each is ordinary torch layers with LIF neurons; a new one is one function and one row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from spikedistill.core.network import Network
from spikedistill.errors import choose, whole_number
from spikedistill.models.preact import ms_resnet18, ms_resnet34, preact_resnet18, preact_resnet34
from spikedistill.models.qkformer import qkformer
from spikedistill.models.resnet import resnet18, resnet19, resnet34
from spikedistill.models.speednet import speednet
from spikedistill.models.spike_driven import spike_driven_transformer
from spikedistill.models.spikformer import spikformer
from spikedistill.models.spiking_centernet import spiking_centernet
from spikedistill.models.vgg import vgg11

Builder = Callable[..., Network]
"""builder(outputs, in_channels, *, OPTIONS) -> Network. Its typed options are the model's recipe fields."""

# A model is called as its builder is, so that there is one name only.
MODELS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        *(resnet18, resnet19, resnet34, preact_resnet18, preact_resnet34, ms_resnet18, ms_resnet34),
        *(speednet, vgg11, spikformer, qkformer, spike_driven_transformer, spiking_centernet),
    )
}
NOT_OPTIONS = ("outputs", "in_channels")
"""Arguments of a builder that the data decide."""


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return sorted(MODELS)


def options_of(name: str) -> list[str]:
    """The options of a model, that is its recipe fields."""
    return [option for option in inspect.signature(MODELS[name]).parameters if option not in NOT_OPTIONS]


def create_model(name: str, num_classes: int = 10, *, in_channels: int = 3, **options: object) -> Network:
    """Build a spiking network.

    Args:
        name: one of `list_models()`.
        num_classes: size of the output.
        in_channels: 3 for RGB, 1 for grey, 2 for event frames.
        options: of the model: `width` (channels of the first stage), `neuron` (constants of the LIF neurons; default:
            the paper's preset), of the residual networks `stem` ("cifar" or "imagenet").

    Raises:
        InvalidArgument: an unknown name, option or stem, or a size below 1.
    """
    choose("model", name, MODELS)
    # Checked before building: what torch says of a width of −1 does not name the option.
    for option, value in options.items():
        choose(f"option of {name}", option, options_of(name))
        _check_option(name, option, value)
    return MODELS[name](whole_number("num_classes", num_classes), whole_number("in_channels", in_channels), **options)


def _check_option(name: str, option: str, value: Any) -> None:
    """Sizes are at least 1, and a word is one of the words that the model knows."""
    # A builder says by its annotations what it takes; annotations are text until they are evaluated.
    annotation = inspect.signature(MODELS[name], eval_str=True).parameters[option].annotation
    words = getattr(annotation, "__args__", ())  # of a Literal
    if words and all(isinstance(word, str) for word in words):
        choose(f"{option} of {name}", value, words)
    if annotation is int:
        whole_number(option, value)


__all__ = ["MODELS", "NOT_OPTIONS", "Builder", "create_model", "list_models", "options_of"]
