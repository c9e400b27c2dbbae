"""The rate twin: a network on rates only, in which every neuron answers its mean current.

What it replaces. A spiking forward pass computes every layer T times. The rate twin computes it once, on rates, so it
is trained for less, and for the neurons that it will have (method.md §2.8):

1.  Behind static input the current Ī is constant, and a neuron answers with the rate and the eligibility of T steps of
    it, by its own equations.                                                                              exact
2.  Deeper the current fluctuates around Ī from step to step. The answer is the mean over such currents, with normal
    fluctuations of one deviation: a smooth curve of Ī, which is made once for a neuron and read off a table.  a model
3.  T steps have one of T + 1 rates. The answer is rounded to one of them at random, so that its mean stays.

Batch norm sees no variance over time here. A few epochs on spikes make up for that, and for what the model misses.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from spikedistill.core.dual import Static
from spikedistill.core.first_order import FirstOrder
from spikedistill.core.kernels import Curve
from spikedistill.core.lif import learned_lif, lif
from spikedistill.core.neuron import Neuron, rate_response
from spikedistill.core.signal import Rule, TorchFunction
from spikedistill.errors import UnsupportedOperation

CPU = torch.device("cpu")
KNOTS, DRAWS = 256, 4096
"""Currents at which a curve is known, and fluctuating currents that it is the mean of."""


@functools.cache
def mean_response(neuron: Neuron, timesteps: int, noise: float, device: torch.device = CPU) -> Curve:
    """The curve of a neuron whose current is Ī + noise·ξ_t, ξ_t standard normal and independent over time."""
    # from where nothing fires to where everything does, whatever the fluctuations and wherever the membrane was
    lowest = min(neuron.start, neuron.reset_value, 0.0)
    below = 4 * noise + neuron.threshold
    above = neuron.threshold + below - neuron.decay * lowest
    means = torch.linspace(-below, above, KNOTS)
    # the same draws for every mean, so that the curve rises as smoothly as they are many
    draws = torch.randn(timesteps, 1, DRAWS, generator=torch.Generator().manual_seed(0))
    found = rate_response(means.view(1, -1, 1) + noise * draws, neuron)
    rate, eligibility = found.rate.mean(1).to(device), found.eligibility.mean(1).to(device)
    return Curve(rate, eligibility, -below, (above + below) / (KNOTS - 1))


class _Answer(FirstOrder):
    @staticmethod
    def forward(ctx: Any, current: Tensor, rate: Tensor, eligibility: Tensor) -> Tensor:
        ctx.save_for_backward(eligibility)
        return rate

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None


def _twin_lif(function: TorchFunction, x: Static, neuron: Neuron, *, noise: float) -> Static:
    current = x.rate.detach()
    if x.context.fluctuating:
        curve = mean_response(neuron, x.timesteps, noise, current.device)
        rate, eligibility = x.kernels.curve_response(current, curve, x.timesteps)
    else:
        rate, eligibility = x.kernels.constant_response(current, x.timesteps, neuron)
    # what comes of spikes changes over time
    context = dataclasses.replace(x.context, fluctuating=True)
    return Static(_Answer.apply(x.rate, rate, eligibility), x.kind, context)


NO_LEARNED = (
    "the rate twin has no rule for neurons whose decay or threshold learns; begin with the ANN twin (--phases.ann), or "
    "with constant neurons"
)


def _refuse_learned(function: TorchFunction, *args: object) -> None:
    raise UnsupportedOperation(NO_LEARNED)


def twin_rules(noise: float) -> dict[TorchFunction, Rule]:
    """The rules of neurons in a rate twin.

    Args:
        noise: standard deviation of currents over time, in their units.
    """
    return {lif: functools.partial(_twin_lif, noise=noise), learned_lif: _refuse_learned}
