"""The rate twin: a network on rates only, in which every neuron answers its mean current.

What it replaces. A spiking forward pass computes every layer T times. The rate twin computes it once, on rates: a
neuron takes its mean current Ī for constant, and answers with the rate r of T steps of it and with its eligibility e,
both from the neuron's own equations (neuron.py, method.md §2.8). So the network is trained for the cost of an ordinary
one, and for the neurons that it will have.

What it misses is how currents change over time. A random membrane to start from and noise on the current stand in for
that: without them a constant current gives one of very few rates.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from spikedistill.core.dual import Static, _NeuronOfRate
from spikedistill.core.lif import learned_lif, lif
from spikedistill.core.neuron import Neuron, compute_dtype
from spikedistill.core.signal import Rule, TorchFunction
from spikedistill.errors import UnsupportedOperation


def _noisy(current: Tensor, noise: float) -> Tensor:
    if not noise:
        return current
    # uniform with this deviation: normal numbers take twenty times as long, on a CPU more than the rest of the layer
    return current + noise * math.sqrt(12) * (torch.rand_like(current) - 0.5)


def _twin_lif(function: TorchFunction, x: Static, neuron: Neuron, *, noise: float) -> Static:
    current = _noisy(x.rate.detach(), noise)
    # anywhere from empty to the threshold: where a neuron that has been running for a while may be
    start = torch.rand_like(current, dtype=compute_dtype(current.dtype)) * neuron.threshold
    rate, eligibility = x.kernels.constant_response(current, start, x.timesteps, neuron)
    return x.with_rate(_NeuronOfRate.apply(rate, eligibility, x.kernels, 0, x.rate))


def _refuse_learned(function: TorchFunction, *args: object) -> None:
    raise UnsupportedOperation(
        "the rate twin has no rule for neurons whose decay or threshold learns; begin with the ANN twin "
        "(--phases.first ann), or with constant neurons"
    )


def twin_rules(noise: float) -> dict[TorchFunction, Rule]:
    """The rules of neurons in a rate twin; noise is a standard deviation, in the units of the current."""
    return {lif: functools.partial(_twin_lif, noise=noise), learned_lif: _refuse_learned}
