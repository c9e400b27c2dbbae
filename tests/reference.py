"""The slow, obvious versions, written from method.md: the two-pass procedure and backpropagation through time.

`two_pass` runs a network as the authors do: first T spiking steps without gradient, in which neurons and batch norms
note what they saw, then the whole network once more on rates, with the gradients of method.md §2 imposed.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

import spikedistill as sd


def surrogate(v: Tensor, threshold: float, alpha: float = 4.0) -> Tensor:
    """h(v) = α·σ(α(v−θ))·(1 − σ(α(v−θ)))"""
    s = 1 / (1 + torch.exp(-alpha * (v - threshold)))
    return alpha * s * (1 - s)


class Spike(torch.autograd.Function):
    """H with the sigmoid surrogate as its derivative."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.threshold = threshold
        return (v >= threshold).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * surrogate(ctx.saved_tensors[0], ctx.threshold), None


def lif_autograd(current: Tensor, neuron: sd.Neuron) -> Tensor:
    """Spikes [T, ...] by an explicit loop that autograd can differentiate (BPTT)."""
    u, spikes = torch.zeros_like(current[0]), []
    for step in current:
        v = neuron.decay * u + step
        s = Spike.apply(v, neuron.threshold)
        spikes.append(s)
        reset = s.detach() if neuron.detach_reset else s
        u = v - neuron.threshold * reset if neuron.reset == "soft" else (1 - reset) * v + reset * neuron.reset_value
    return torch.stack(spikes)


class TwoPassLIF(nn.Module):
    """Soft reset, detached, sigmoid α = 4: the paper's preset."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.spiking = steps, True

    def forward(self, x: Tensor) -> Tensor:
        if not self.spiking:
            return self.rate + self.eligibility * (x - x.detach())
        current = x.unflatten(0, (self.steps, -1))
        u = torch.zeros_like(current[0])
        spikes, kappas, slopes = [], [], []
        for t in range(self.steps):
            v = 0.2 * u + current[t]
            spikes.append((v >= 1).to(v.dtype))
            u = v - spikes[-1]
            kappas.append(1.0 if t == 0 else 1 + 0.2 * kappas[-1])
            slopes.append(surrogate(v, 1.0))
        self.rate = torch.stack(spikes).mean(0)
        self.eligibility = sum(k * h for k, h in zip(kappas, slopes)) / self.steps
        return torch.cat(spikes)


class NormOnRate(torch.autograd.Function):
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
            self.mean, self.var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            return norm(x)  # updates the running statistics, once
        return NormOnRate.apply(x, norm.weight, norm.bias, self.mean, self.var, norm.eps)


class TwoPassMax(nn.Module):
    def __init__(self, pool: nn.MaxPool2d, steps: int) -> None:
        super().__init__()
        self.pool, self.steps, self.spiking = pool, steps, True

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        if self.spiking:
            self.mean = y.unflatten(0, (self.steps, -1)).mean(0)
            return y
        return self.mean + y - y.detach()


def _replaced(module: nn.Module, steps: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, sd.LIF):
            setattr(module, name, TwoPassLIF(steps))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, TwoPassNorm(child))
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, TwoPassMax(child, steps))
        else:
            _replaced(child, steps)


def two_pass(learner: sd.SelfDistillation, images: Tensor, labels: Tensor) -> tuple[Tensor, dict, dict]:
    """Loss, gradients and buffers of one training step by the two-pass procedure; the learner itself is not changed."""
    learner = copy.deepcopy(learner).train()
    body, steps = learner.network.body, learner.timesteps
    parameters = dict(learner.named_parameters())
    buffers = dict(learner.named_buffers())
    stages = learner.network.stages
    _replaced(body, steps)
    frames = images if images.dim() == 5 else images.unsqueeze(0).expand(steps, *images.shape)
    with torch.no_grad():
        body(frames.flatten(0, 1))
    for module in body.modules():
        if hasattr(module, "spiking"):
            module.spiking = False
    features: dict[str, Tensor] = {}
    hooks = [
        body.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: features.update({name: out}))
        for name in stages
    ]
    logits = body(frames.mean(0))
    for hook in hooks:
        hook.remove()
    heads = [learner.branches[name](features[name]) for name in stages if name in learner.branches] + [logits]
    loss = reference_loss(heads, labels, steps)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in parameters.items()}, buffers


def reference_loss(heads: list[Tensor], labels: Tensor, steps: int, beta: float = 0.3, tau: float = 3.0) -> Tensor:
    """method.md §4, sample by sample."""
    classes = range(heads[0].shape[1])
    hard = sum(-torch.log_softmax(z, 1)[i, y] for z in heads for i, y in enumerate(labels)) / len(labels)
    soft, taught = torch.zeros((), dtype=heads[0].dtype), 0
    for i, y in enumerate(labels):
        right = [z[i].detach() for z in heads if z[i].argmax() == y]
        if not right:
            continue
        taught += 1
        teacher = torch.softmax(sum(right) / len(right) / tau, 0)
        for z in heads:
            student = torch.log_softmax(z[i] / tau, 0)
            soft = soft + tau**2 * sum(teacher[c] * (math.log(teacher[c]) - student[c]) for c in classes)
    return (hard + beta * soft / max(taught, 1)) / steps
