"""From the weights of an ANN twin to those of a spiking network: currents brought to where the neurons answer.

A ReLU answers from 0 on and without bound, a spiking neuron around its threshold and with at most one spike a step
(method.md §2.8). Between the two stands an affine map of the current, which batch norm can take in.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spikedistill.core.dual import Dual
from spikedistill.core.learning import Rate, RateTwin
from spikedistill.core.lif import LIF
from spikedistill.core.modules import evaluating
from spikedistill.core.network import Network, firing
from spikedistill.core.rate_twin import mean_response
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument
from spikedistill.training.statistics import only_norms_train, retake_statistics

SHARE = 0.95
"""The share of a layer's activations that shall lie within the range of its rates."""
SEEN = 200_000
"""Activations of a layer that are looked at."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """What was done to a network.

    Attributes:
        scale, offset: a current I became scale·I + offset.
        fitted, left: layers of neurons whose current was brought there; those without a batch norm right before them.
            Where rates would follow the activations no better, nothing is fitted.
        before, after: correlation of the rates with the ANN twin's activations, the mean over the layers.
    """

    scale: float
    offset: float
    fitted: tuple[str, ...]
    left: tuple[str, ...]
    before: float
    after: float

    def __str__(self) -> str:
        if not self.fitted:
            return (
                f"not fitted: rates and activations correlate by {self.before:.2f}, and no more with fitted currents; "
                "batch norm's statistics are those of spikes"
            )
        left = f"; without batch norm and left as they are: {', '.join(self.left)}" if self.left else ""
        return (
            f"{len(self.fitted)} layers fitted: currents times {self.scale:.3f} plus {self.offset:.3f}; rates and "
            f"activations correlate by {self.after:.2f} (before {self.before:.2f}){left}"
        )


@torch.no_grad()
def fit_to_spikes(network: Network, batches: Sequence[Tensor], timesteps: int) -> Fit:
    """Fit a network with an ANN twin's weights to spikes, in place.

    γ and β of every batch norm whose result goes into a neuron are scaled, β is shifted, and the statistics of all
    batch norms are taken anew on spikes. Currents that come from elsewhere (a shortcut's rates) are left as they are.

    Args:
        batches: training inputs [N, ...], or [T, N, ...]; some hundred samples are enough.

    Raises:
        InvalidArgument: no batch, or no neuron behind a batch norm.
    """
    if not batches:
        raise InvalidArgument("fitting needs training samples")
    with evaluating(network):
        activations = _activations(network, batches[0])
        # one scale for all layers: what a shortcut carries past a layer is in the units of another
        if not activations:
            raise InvalidArgument("this network has no LIF neurons, so there is nothing to fit")
        top = torch.stack([_some(values).quantile(SHARE) for values in activations.values()]).mean()
    retake_statistics(network, batches, timesteps)
    before = _correlation(network, batches[0], timesteps, activations)
    as_it_was = {name: value.clone() for name, value in network.state_dict().items()}
    offset, scale = _middle(network, timesteps) - 0.5, 1 / max(float(top), 1e-6)
    fitted = _rescale(network, batches[0], timesteps, scale, offset)
    if not fitted:
        raise InvalidArgument(
            "no neuron of this network stands behind a batch norm, which could take in the scale; start from the "
            "weights as they are, without init_fit"
        )
    retake_statistics(network, batches, timesteps)
    after = _correlation(network, batches[0], timesteps, activations)
    if after <= before:  # such a map does not suit this network
        network.load_state_dict(as_it_was)
        return Fit(1.0, 0.0, (), tuple(activations), before, before)
    left = tuple(name for name in activations if name.partition(" (use")[0] not in fitted)
    return Fit(scale, offset, tuple(fitted), left, before, after)


def _activations(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """What the neurons' ReLUs give in the ANN twin, flat, by name; each use of a layer apart, as in `firing`."""
    with firing(network.body, take=torch.flatten, twin=True) as found:
        network(inputs, timesteps=None)
    return dict(found)


def _some(values: Tensor) -> Tensor:
    """Of all samples alike."""
    return values.float()[:: max(1, len(values) // SEEN)]


def _correlation(network: Network, inputs: Tensor, timesteps: int, activations: dict[str, Tensor]) -> float:
    """Of the rates with the activations, the mean over the layers."""
    with evaluating(network), firing(network.body) as fired:
        network(inputs, timesteps=timesteps)
    found = []
    for name, values in activations.items():
        pair = torch.stack([values.float(), fired[name].flatten().float()])
        found.append(torch.corrcoef(pair)[0, 1].nan_to_num())  # a layer that is silent follows nothing
    return float(torch.stack(found).mean())


def _middle(network: Network, timesteps: int) -> float:
    """The mean current at which a neuron fires at half of its steps."""
    neuron = next(m.neuron for m in network.modules() if isinstance(m, LIF))
    curve = mean_response(neuron, timesteps, RateTwin().noise)
    return curve.first + int((curve.rate >= 0.5).float().argmax()) * curve.step


def _rescale(network: Network, inputs: Tensor, timesteps: int, scale: float, offset: float) -> list[str]:
    """Bring the currents of all neurons behind a batch norm to scale·I + offset, in the order in which they come."""
    done: list[str] = []
    scaled: set[int] = set()  # a residual stream carries one norm to many neurons

    def before(name: str) -> Callable[[nn.Module, tuple[Flow, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Flow, ...]) -> None:
            signal = args[0]
            assert isinstance(signal, Dual)
            # the norm is still pending, and is read after this: what is behind the neuron sees the new current
            norms = [term.norm for term in signal.terms if term.norm is not None]
            new = [norm for norm in norms if id(norm.gamma) not in scaled]
            for norm in new:
                norm.gamma.mul_(scale)
                norm.beta.mul_(scale)
            if new and len(new) == len(norms):  # else the offset has come along the stream
                new[0].beta.add_(offset)
            scaled.update(id(norm.gamma) for norm in new)
            done.extend([name] if norms and name not in done else [])

        return hook

    steps = inputs if network.is_over_time(inputs) else inputs.unsqueeze(0).expand(timesteps, *inputs.shape)
    with only_norms_train(network), contextlib.ExitStack() as stack:
        for name, module in network.body.named_modules():
            if isinstance(module, LIF):
                stack.callback(module.register_forward_pre_hook(before(name)).remove)
        network.propagate(Rate(timesteps).encode(steps, over_time=True))
    return done
