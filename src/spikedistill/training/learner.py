"""A network, its branches and its objective: what a training loop needs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from spikedistill.models.branches import Branch
from spikedistill.objectives.self_distillation import Objective, SelfDistillationLoss, Terms
from spikedistill.errors import InvalidArgument, choose
from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.network import PROPAGATIONS, Network, Output, encode, rate


class SelfDistillation(nn.Module):
    """Train a network by rate-based self-distillation [ESD]; by its arguments also each of the ablations.

    Args:
        network: a `Network` (from `create_model` or `to_spiking`), or any module of standard layers and `LIF` neurons.
        timesteps: T ≥ 1 (None for propagation="ann").
        branches: stages to attach branches to; None: every stage of the network but the last, (): no branches.
        propagation: "rate" (rate-based backpropagation), "bptt", or "ann" (ReLU instead of LIF).
        objective: any `Objective`; None: the paper's loss, divided by T as the authors do for "rate".
        branch_block: "light", or "light+residual" as the paper uses on ImageNet.
        example: [N, C, H, W], images to infer the branches' shapes from; None: black ones of 32×32.
        kernels: `kernels.EAGER` or `kernels.compiled()`.

    Raises:
        InvalidArgument: an unknown stage, propagation or block, T below 1, or branches on a network without stages.
    """

    def __init__(
        self,
        network: nn.Module,
        timesteps: int | None,
        *,
        branches: Iterable[str] | None = None,
        propagation: str = "rate",
        objective: Objective | None = None,
        branch_block: str = "light",
        example: Tensor | None = None,
        kernels: Kernels = EAGER,
    ) -> None:
        super().__init__()
        self.network = network if isinstance(network, Network) else Network(network)
        self.timesteps, self.propagation, self.kernels = timesteps, propagation, kernels
        choose("propagation", propagation, PROPAGATIONS)
        taps = self._taps(branches)
        self.branches = nn.ModuleDict()
        if taps:
            self.branches = _make_branches(self.network, taps, branch_block, example)
        if objective is None:
            objective = SelfDistillationLoss(scale=1 / timesteps if propagation == "rate" and timesteps else 1.0)
        self.objective = objective

    def _taps(self, branches: Iterable[str] | None) -> list[str]:
        stages = self.network.stages
        if branches is None:
            if not stages:
                names = [name for name, _ in self.network.body.named_children()]
                raise InvalidArgument(
                    "this network does not say where its stages end; pass Network(body, stages=[...]) with names from "
                    f"{names}, or branches=() to train without branches"
                )
            return list(stages[:-1])
        taps = list(branches)
        for tap in taps:
            choose("stage for a branch", tap, stages[:-1])
        return taps

    def forward(self, images: Tensor) -> Output:
        """
        Args:
            images: [N, C, H, W], or event frames [T, N, C, H, W].
        """
        signal = encode(images, self.timesteps, self.propagation, self.kernels)
        logits, features = self.network.propagate(signal)
        branches = {name: self.branches[_key(name)](features[name]) for name in features if _key(name) in self.branches}
        return Output(rate(logits), branches, features)

    def loss(self, output: Output, labels: Tensor) -> Terms:
        """The named terms of the objective; labels [N]."""
        return self.objective(output, labels)

    def strip(self) -> Network:
        """The bare network, without the branches."""
        return self.network


def _key(stage: str) -> str:
    return stage.replace(".", "-")


def _make_branches(network: Network, taps: list[str], block: str, example: Tensor | None) -> nn.ModuleDict:
    """Branches with the shapes that a dry run of the ANN twin shows."""
    parameter = next(network.parameters())
    if example is None:
        conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        if conv is None:
            raise InvalidArgument("branches need a network with 2-d convolutions; pass branches=() to train without")
        example = torch.zeros(1, conv.in_channels, 32, 32)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with torch.no_grad():
        out = network(example[:1].to(parameter), timesteps=None)
    for module, mode in modes.items():
        module.training = mode
    channels = [out.features[stage].shape[1] for stage in network.stages]
    branches = nn.ModuleDict()
    for tap in taps:
        later = channels[network.stages.index(tap) :]
        branches[_key(tap)] = Branch(later, out.logits.shape[1], block)
    return branches.to(parameter)
