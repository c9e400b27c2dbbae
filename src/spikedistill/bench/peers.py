"""The same network in other libraries, trained by BPTT: convolutions and norms are ours, the neurons are theirs."""

# the peers are optional
# pyright: reportMissingImports=false

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.core.neuron import LIF


def with_neurons(body: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A copy of `body` with every LIF layer replaced by `make()`."""
    body = copy.deepcopy(body)
    for module in list(body.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LIF):
                setattr(module, name, make())
    return body


class _OverTime(nn.Module):
    """A multi-step neuron [T, N, ...] in a network of folded tensors [T·N, ...], as SpikingJelly's own layers do it."""

    def __init__(self, neuron: nn.Module, timesteps: int) -> None:
        super().__init__()
        self.neuron, self.timesteps = neuron, timesteps

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x.unflatten(0, (self.timesteps, -1))).flatten(0, 1)


class SpikingJelly(nn.Module):
    """SpikingJelly 2.x, multi-step LIF with the paper's constants; the stem sees the static image once."""

    def __init__(self, body: Any, timesteps: int) -> None:
        super().__init__()
        from spikingjelly.activation_based import neuron, surrogate

        def make() -> nn.Module:
            constants = {"tau": 1.25, "decay_input": False, "v_reset": None, "detach_reset": True, "step_mode": "m"}
            return _OverTime(neuron.LIFNode(surrogate_function=surrogate.Sigmoid(4.0), **constants), timesteps)

        self.body, self.timesteps = with_neurons(body, make), timesteps
        self.stem: nn.Module = self.body.get_submodule("stem")
        self.body.stem = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        from spikingjelly.activation_based import functional

        functional.reset_net(self)
        current = self.stem(images)
        repeated = current.unsqueeze(0).expand(self.timesteps, *current.shape).flatten(0, 1)
        return self.body(repeated).unflatten(0, (self.timesteps, -1)).mean(0)


class SnnTorch(nn.Module):
    """snnTorch, step by step as its tutorials do, with hidden states in the neurons."""

    def __init__(self, body: Any, timesteps: int) -> None:
        super().__init__()
        import snntorch
        from snntorch import surrogate

        def make() -> nn.Module:
            gradient = surrogate.sigmoid(slope=4)
            return snntorch.Leaky(beta=0.2, spike_grad=gradient, init_hidden=True, reset_delay=False)

        self.body, self.timesteps = with_neurons(body, make), timesteps
        self.stem: nn.Module = self.body.get_submodule("stem")
        self.body.stem = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        from snntorch import utils

        utils.reset(self.body)
        current = self.stem(images)
        return torch.stack([self.body(current) for _ in range(self.timesteps)]).mean(0)
