"""Networks by name. Each is ordinary torch layers with LIF neurons; a table gives its stages."""

from __future__ import annotations

from spikedistill.errors import InvalidArgument, choose
from spikedistill.models import preact, resnet, vgg
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron

_FAMILIES = {name: family for family in (resnet, preact, vgg) for name in family.PLANS}


def list_models() -> list[str]:
    """The names that `create_model` knows."""
    return sorted(_FAMILIES)


def create_model(
    name: str,
    num_classes: int = 10,
    *,
    width: int | None = None,
    in_channels: int = 3,
    stem: str = "cifar",
    neuron: Neuron | None = None,
) -> Network:
    """Build a spiking network.

    Args:
        name: one of `list_models()`.
        num_classes: size of the output.
        width: channels of the first stage; the others follow in proportion (None: the standard width).
        in_channels: 3 for RGB, 1 for grey, 2 for event frames.
        stem: "cifar" (3×3, stride 1) or "imagenet" (7×7, stride 2, max pooling).
        neuron: constants of the LIF neurons (None: the paper's preset).

    Raises:
        InvalidArgument: an unknown name, a size below 1, or a stem the model does not have.
    """
    choose("model", name, _FAMILIES)
    for what, value in {"num_classes": num_classes, "width": width, "in_channels": in_channels}.items():
        if value is not None and value < 1:
            raise InvalidArgument(f"{what} is {value}; expected at least 1")
    family = _FAMILIES[name]
    choose(f"stem of {name}", stem, family.STEMS)
    plan = family.PLANS[name]
    body = family.build(plan, num_classes, width or plan.width, in_channels, stem, neuron or Neuron())
    return Network(body, body.stages)


__all__ = ["create_model", "list_models"]
