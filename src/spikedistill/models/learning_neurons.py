"""Make constants of the neurons of a finished network parameters, whoever built it."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import torch
from torch import Tensor, nn

from spikedistill.core.lif import LIF
from spikedistill.core.modules import evaluating, watching
from spikedistill.core.network import Network, as_network
from spikedistill.errors import InvalidArgument

Per = Literal["layer", "channel"]


def learn_neurons(
    network: nn.Module, decay: Per | None = None, threshold: Per | None = None, example: Tensor | None = None
) -> int:
    """Let the neurons of a network (or module) learn, in place; each constant begins where it is (method.md §2.7).

    What a layer learns already stays as it is.

    Args:
        decay, threshold: one number for each "layer", or for each "channel"; None: a constant.
        example: one sample at one step as a batch, [1, ...], from which channels are counted.

    Returns:
        How many layers learn now.

    Raises:
        InvalidArgument: no layer of LIF neurons, another word, or channels that cannot be counted.
    """
    wanted = {name: per for name, per in (("decay", decay), ("threshold", threshold)) if per is not None}
    network = as_network(network)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LIF)}
    if wanted and not layers:
        raise InvalidArgument("this network has no LIF neurons that could learn")
    for name, per in wanted.items():
        if per not in ("layer", "channel"):
            raise InvalidArgument(f'{name} is learned per "layer" or per "channel"; given {per!r}')
    device = next((p.device for p in network.parameters()), None)
    channels = _channels(network, layers, example) if "channel" in wanted.values() else {}
    for place, layer in layers.items():
        for name, per in wanted.items():
            if getattr(layer, name) is None:
                layer.learn(name, channels=channels[place] if per == "channel" else None, device=device)
    return len(layers) if wanted else 0


def _channels(network: Network, layers: dict[str, LIF], example: Tensor | None) -> dict[str, int]:
    if example is None:
        raise InvalidArgument("to learn per channel, give example=, one sample as a batch [1, ...]")
    seen: dict[str, set[int]] = defaultdict(set)

    def look(name: str, _module: nn.Module, output: Tensor) -> None:
        seen[name].add(output.shape[1])

    with torch.no_grad(), evaluating(network), watching(layers, look):
        network(example.to(next(network.parameters())), timesteps=None)
    for name in layers:
        if len(seen[name]) != 1:
            found = f"has {sorted(seen[name])} channels at its uses" if seen[name] else "is not used"
            raise InvalidArgument(f"the neurons {name} cannot learn per channel: that layer {found}; learn per layer")
    return {name: next(iter(numbers)) for name, numbers in seen.items()}


def neurons_learn(network: nn.Module) -> bool:
    """Whether a neuron of the network has a parameter."""
    return any(isinstance(module, LIF) and list(module.parameters()) for module in network.modules())
