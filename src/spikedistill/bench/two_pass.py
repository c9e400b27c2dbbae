"""The procedure of the research code, as a baseline: two passes, eager, with neurons and norms that keep state.

First T spiking steps without gradient, on inputs repeated T times, in which every neuron and batch norm notes what it
saw; then the whole network once more on rates, with the gradients of method.md §2 imposed. Written from the method, for
networks of convolutions, batch norm, max pooling and the preset neuron. The tests compare the single pass with it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.training.learner import SelfDistillation
from spikedistill.core.network import Output, observed
from spikedistill.core.neuron import LIF


def _surrogate(v: Tensor) -> Tensor:
    """h(v) = α·σ(α(v−θ))·(1 − σ(α(v−θ))) with α = 4, θ = 1."""
    s = torch.sigmoid(4 * (v - 1))
    return 4 * s * (1 - s)


class TwoPassLIF(nn.Module):
    """The preset: decay 0.2, threshold 1, soft reset, detached."""

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps, self.spiking = timesteps, True

    def forward(self, x: Tensor) -> Tensor:
        if not self.spiking:
            return self.rate + self.eligibility * (x - x.detach())
        current = x.unflatten(0, (self.timesteps, -1))
        u, kappa, weighted = torch.zeros_like(current[0]), 1.0, torch.zeros_like(current[0])
        spikes = []
        for t in range(self.timesteps):
            v = 0.2 * u + current[t]
            spikes.append((v >= 1).to(v.dtype))
            u = v - spikes[-1]
            weighted = weighted + kappa * _surrogate(v)
            kappa = 1 + 0.2 * kappa
        self.rate, self.eligibility = torch.stack(spikes).mean(0), weighted / self.timesteps
        return torch.cat(spikes)


class _NormOnRate(torch.autograd.Function):
    """The backward of method.md §2, formula by formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        x_hat = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + eps)
        ctx.save_for_backward(x_hat, gamma, var)
        ctx.eps = eps
        return gamma.view(1, -1, 1, 1) * x_hat + beta.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x_hat, gamma, var = ctx.saved_tensors
        g, over = grads[0], (0, 2, 3)
        factor = (gamma / torch.sqrt(var + ctx.eps)).view(1, -1, 1, 1)
        dx = factor * (g - g.mean(over, keepdim=True) - x_hat * (g * x_hat).mean(over, keepdim=True))
        return dx, (g * x_hat).sum(over), g.sum(over), None, None, None


class TwoPassNorm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm, self.spiking = norm, True

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if self.spiking:
            self.var, self.mean = torch.var_mean(x, (0, 2, 3), correction=0)
            return norm(x)  # updates the running statistics, once
        return _NormOnRate.apply(x, norm.weight, norm.bias, self.mean, self.var, norm.eps)  # type: ignore[no-any-return]


class TwoPassMax(nn.Module):
    def __init__(self, pool: nn.MaxPool2d, timesteps: int) -> None:
        super().__init__()
        self.pool, self.timesteps, self.spiking = pool, timesteps, True

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        if self.spiking:
            self.mean = y.unflatten(0, (self.timesteps, -1)).mean(0)
            return y
        return self.mean + y - y.detach()


def _replace(module: nn.Module, timesteps: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, LIF):
            setattr(module, name, TwoPassLIF(timesteps))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, TwoPassNorm(child))
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, TwoPassMax(child, timesteps))
        else:
            _replace(child, timesteps)


class TwoPass(nn.Module):
    """A copy of a learner that computes the same step in two passes; its parameters keep their order."""

    def __init__(self, learner: SelfDistillation) -> None:
        super().__init__()
        self.learner = copy.deepcopy(learner).train()
        self.timesteps = learner.timesteps or 1
        _replace(self.learner.network.body, self.timesteps)

    def forward(self, images: Tensor) -> Output:
        body, stages = self.learner.network.body, self.learner.network.stages
        frames = images if images.dim() == 5 else images.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
        self._switch(spiking=True)
        with torch.no_grad():
            body(frames.flatten(0, 1))
        self._switch(spiking=False)
        with observed(body, stages) as features:
            logits = body(frames.mean(0))
        branches = {name: branch(features[name]) for name, branch in self.learner.branches.items()}
        return Output(logits, branches, features)

    def _switch(self, spiking: bool) -> None:
        for module in self.learner.network.body.modules():
            if isinstance(module, (TwoPassLIF, TwoPassNorm, TwoPassMax)):
                module.spiking = spiking
