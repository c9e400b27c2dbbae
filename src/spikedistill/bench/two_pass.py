"""The procedure of the research code, as a baseline: two passes, eager, with neurons and norms that keep state.

First T spiking steps without gradient, on inputs repeated T times, in which every neuron and batch norm notes what it
saw; then the whole network once more on rates, with the gradients of method.md §2 imposed. Written from the method, for
networks of convolutions, batch norm, max pooling and the preset neuron. It shares nothing with the single pass, which
the tests compare with it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.core.lif import LIF
from spikedistill.core.modules import replace_modules
from spikedistill.core.network import observed
from spikedistill.core.neuron import Neuron
from spikedistill.core.output import Output
from spikedistill.errors import InvalidArgument
from spikedistill.training.learner import SelfDistillation

DECAY, THRESHOLD, ALPHA = 0.2, 1.0, 4.0
"""The preset neuron (method.md §1), with soft, detached reset."""
SPACE = (0, 2, 3)
"""Dimensions of [N, C, H, W] that batch norm takes its statistics over."""


def surrogate(v: Tensor) -> Tensor:
    """h(v) = α·σ(α(v−θ))·(1 − σ(α(v−θ))), method.md §1."""
    s = torch.sigmoid(ALPHA * (v - THRESHOLD))
    return ALPHA * s * (1 - s)


class TwoPassLIF(nn.Module):
    """The preset neuron: currents [T·N, ...] to spikes, then a mean current [N, ...] to the rate."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps, self.spiking = timesteps, True

    def forward(self, x: Tensor) -> Tensor:
        if not self.spiking:
            # The value of the rate, with the slope of the eligibility: x − x.detach() is 0 and has slope 1.
            return self.rate + self.eligibility * (x - x.detach())
        current = x.unflatten(0, (self.timesteps, -1))
        u, kappa, weighted = torch.zeros_like(current[0]), 1.0, torch.zeros_like(current[0])
        spikes = []
        for t in range(self.timesteps):
            v = DECAY * u + current[t]
            spikes.append((v >= THRESHOLD).to(v.dtype))
            u = v - THRESHOLD * spikes[-1]
            weighted = weighted + kappa * surrogate(v)
            # κ is a number here: with a detached soft reset it does not depend on the spikes.
            kappa = 1 + DECAY * kappa
        self.rate, self.eligibility = torch.stack(spikes).mean(0), weighted / self.timesteps
        return torch.cat(spikes)


class _NormOnRate(torch.autograd.Function):
    """Batch norm of rates with the statistics of spikes; its backward is that of method.md §2, formula by formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        x_hat = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + eps)
        ctx.save_for_backward(x_hat, gamma, var)
        ctx.eps = eps
        return gamma.view(1, -1, 1, 1) * x_hat + beta.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x_hat, gamma, var = ctx.saved_tensors
        g = grads[0]
        factor = (gamma / torch.sqrt(var + ctx.eps)).view(1, -1, 1, 1)
        # x̂ has no unit variance: var is of the spikes, x̂ is of the rates.
        dx = factor * (g - g.mean(SPACE, keepdim=True) - x_hat * (g * x_hat).mean(SPACE, keepdim=True))
        return dx, (g * x_hat).sum(SPACE), g.sum(SPACE), None, None, None


class TwoPassNorm(nn.Module):
    """Batch norm whose second pass takes mean and variance from the first."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm, self.spiking = norm, True

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if self.spiking:
            self.var, self.mean = torch.var_mean(x, SPACE, correction=0)
            return norm(x)  # updates the running statistics, once
        rates = _NormOnRate.apply(x, norm.weight, norm.bias, self.mean, self.var, norm.eps)
        assert isinstance(rates, Tensor)
        return rates


class TwoPassMax(nn.Module):
    """Max pooling: the value is the time mean of the maxima, the gradient goes where the rate is largest."""

    def __init__(self, pool: nn.MaxPool2d, timesteps: int) -> None:
        super().__init__()
        self.pool, self.timesteps, self.spiking = pool, timesteps, True

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        if self.spiking:
            self.mean = y.unflatten(0, (self.timesteps, -1)).mean(0)
            return y
        # The value of the first pass, and the gradient of max pooling on the rates.
        return self.mean + y - y.detach()


def two_pass_layer(module: nn.Module, timesteps: int) -> nn.Module | None:
    """What stands for a layer whose rate is not that of a linear operation; None for all others.

    Raises:
        InvalidArgument: neurons that are not the preset, or that learn.
    """
    if isinstance(module, LIF):
        if module.neuron != Neuron() or list(module.parameters()):
            raise InvalidArgument(f"the two-pass baseline has the preset neuron only; this network has {module}")
        return TwoPassLIF(timesteps)
    if isinstance(module, nn.BatchNorm2d):
        return TwoPassNorm(module)
    if isinstance(module, nn.MaxPool2d):
        return TwoPassMax(module, timesteps)
    return None


class TwoPass(nn.Module):
    """A copy of a learner that computes the same step in two passes; its parameters keep their order."""

    def __init__(self, learner: SelfDistillation) -> None:
        super().__init__()
        self.learner = copy.deepcopy(learner).train()
        self.timesteps = learner.timesteps or 1
        replace_modules(self.learner.network.body, lambda module: two_pass_layer(module, self.timesteps))

    def forward(self, images: Tensor) -> Output:
        """
        Args:
            images: [N, C, H, W], or event frames [T, N, C, H, W].
        """
        body, stages = self.learner.network.body, self.learner.network.stages
        frames = images if images.dim() == 5 else images.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
        # The first pass is run for what neurons and norms note on the way; its output is thrown away.
        self._switch(spiking=True)
        with torch.no_grad():
            body(frames.flatten(0, 1))
        # The second runs the same modules on N rates. Every value is replaced by the mean of the first pass.
        self._switch(spiking=False)
        with observed(body, stages) as features:
            logits = body(frames.mean(0))
        branches = {name: branch(features[name]) for name, branch in self.learner.branches.items()}
        return Output(logits, branches, features)

    def _switch(self, spiking: bool) -> None:
        for module in self.learner.network.body.modules():
            if isinstance(module, (TwoPassLIF, TwoPassNorm, TwoPassMax)):
                module.spiking = spiking
