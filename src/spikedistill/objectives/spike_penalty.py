"""A price on spikes: the usual other way to a network that fires less (method.md §4.5)."""

from __future__ import annotations

import dataclasses

import torch

from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument
from spikedistill.machine.processes import mean_over_processes
from spikedistill.objectives.objective import Needs, Objective, Terms


@dataclasses.dataclass(frozen=True)
class SpikePenalty(Objective):
    """weight·max(0, r̄ − target): r̄ is the mean over all neurons of the network, so it counts spikes.

    Args:
        target: the mean rate, in spikes per neuron and step, below which spikes are free.
        weight: factor of this loss.

    Raises:
        InvalidArgument: a target outside 0 to 1 or a weight below 0; when it is computed, a network without spikes.
    """

    target: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.target < 1:
            raise InvalidArgument(f"target is {self.target}; expected a mean firing rate, from 0 to less than 1")
        if not self.weight >= 0:
            raise InvalidArgument(f"weight is {self.weight}; expected a number, 0 or more")

    def needs(self) -> Needs:
        return Needs(neurons=True)

    def __call__(self, output: Output, batch: Batch) -> Terms:
        if output.timesteps is None:  # a first phase without spikes, which are what costs
            nothing = 0.0 * output.logits.float().sum()
            return Terms(nothing, {"spike_penalty": nothing.detach(), "mean_rate": nothing.detach()})
        if not output.neurons:
            raise InvalidArgument("spike_penalty counts spikes, and this network has no LIF neurons")
        rates = list(output.neurons.values())
        fired = torch.stack([rate.float().sum() for rate in rates]).sum()
        mean = fired / sum(rate.numel() for rate in rates)
        # above or below is a matter of all processes, or their gradients would not be those of one
        above = mean_over_processes(mean.detach()) > self.target
        loss = above * (mean - self.target)
        return Terms(self.weight * loss, {"spike_penalty": loss.detach(), "mean_rate": mean.detach()})
