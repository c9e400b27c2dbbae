"""The rate twin: a network on rates only, in which every neuron answers its mean current.

What it replaces. A spiking forward pass computes every layer T times. The rate twin computes it once, on rates, so it
is trained for the cost of an ordinary network, and for the neurons that it will have (method.md §2.8):

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
from collections import ChainMap
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from spikedistill.core.dual import Static
from spikedistill.core.kernels import Curve
from spikedistill.core.lif import learned_lif, lif
from spikedistill.core.neuron import Neuron, first_membrane, rate_response
from spikedistill.core.signal import Rule, TorchFunction
from spikedistill.errors import UnsupportedOperation

KNOTS, DRAWS = 256, 4096
"""Currents at which a curve is known, and fluctuating currents that it is the mean of."""


@functools.cache
def mean_response(neuron: Neuron, timesteps: int, noise: float) -> Curve:
    """The curve of a neuron whose current is Ī + noise·ξ_t, ξ_t standard normal and independent over time."""
    # from where nothing fires to where everything does, whatever the fluctuations
    reach = 4 * noise + neuron.threshold
    means = torch.linspace(-reach, neuron.threshold + reach, KNOTS)
    # the same draws for every mean, so that the curve rises as smoothly as they are many
    draws = torch.randn(timesteps, 1, DRAWS, generator=torch.Generator().manual_seed(0))
    found = rate_response(means.view(1, -1, 1) + noise * draws, neuron)
    return Curve(found.rate.mean(1), found.eligibility.mean(1), float(means[0]), float(means[1] - means[0]))


class _Answer(Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, rate: Tensor, eligibility: Tensor) -> Tensor:
        ctx.save_for_backward(eligibility)
        return rate

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None


def _first_lif(function: TorchFunction, x: Static, neuron: Neuron, *, noise: float) -> Static:
    """A neuron behind static input: its current is constant, and known."""
    current = x.rate.detach()
    start = first_membrane(current.unsqueeze(0), neuron)
    rate, eligibility = x.kernels.constant_response(current, start, x.timesteps, neuron)
    out = x.with_rate(_Answer.apply(x.rate, rate, eligibility))
    # what comes of it changes over time: the neurons behind it answer by the curve
    deeper: dict[TorchFunction, Rule] = {lif: functools.partial(_deeper_lif, noise=noise)}
    rules = ChainMap(deeper, dict(x.context.rules))
    return dataclasses.replace(out, context=dataclasses.replace(x.context, rules=rules))


def _deeper_lif(function: TorchFunction, x: Static, neuron: Neuron, *, noise: float) -> Static:
    """A neuron behind others."""
    curve = mean_response(neuron, x.timesteps, noise)
    rate, eligibility = x.kernels.curve_response(x.rate.detach(), curve.to(x.device), x.timesteps)
    return x.with_rate(_Answer.apply(x.rate, rate, eligibility))


def _refuse_learned(function: TorchFunction, *args: object) -> None:
    raise UnsupportedOperation(
        "the rate twin has no rule for neurons whose decay or threshold learns; begin with the ANN twin "
        "(--phases.ann), or with constant neurons"
    )


def twin_rules(noise: float) -> dict[TorchFunction, Rule]:
    """The rules of neurons in a rate twin.

    Args:
        noise: standard deviation of currents over time, in their units.
    """
    return {lif: functools.partial(_first_lif, noise=noise), learned_lif: _refuse_learned}
