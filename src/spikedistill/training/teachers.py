"""Frozen teacher networks: held outside the module tree, never trained, never saved, always in evaluation mode."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from spikedistill.core.network import Network, observed, rate
from spikedistill.core.output import Output


class FrozenTeacher:
    """A private copy of a network that answers without gradient. It is no module, so nothing registers it.

    Args:
        network: a `Network`, run with `timesteps`; or any other module, which is called with the images.
        timesteps: T of a spiking teacher, None for an ANN.
        features: submodules whose outputs are wanted.
    """

    def __init__(self, network: nn.Module, timesteps: int | None = None, features: Iterable[str] = ()) -> None:
        self._network = copy.deepcopy(network).eval().requires_grad_(False)
        self._timesteps, self._features = timesteps, tuple(features)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Output:
        """The teacher's output on inputs [N, ...], in its own precision."""
        network = self._network.to(inputs.device)
        body = network.body if isinstance(network, Network) else network
        with torch.autocast(inputs.device.type, enabled=False), observed(body, self._features) as seen:
            if isinstance(network, Network):
                logits = network(inputs, timesteps=self._timesteps).logits
            else:
                logits = rate(network(inputs))
        return Output(logits, {}, seen)


Teachers = Mapping[str, FrozenTeacher]
