"""The slow, obvious versions, written from method.md: the two-pass procedure, BPTT by autograd, the loss by samples.

The two-pass modules live in `spikedistill.bench.two_pass`, for the benchmark measures them too; they share nothing with
the single pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import spikedistill as sd
from spikedistill.bench.two_pass import TwoPass


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
    u, spikes = torch.full_like(current[0], neuron.start), []
    for step in current:
        v = neuron.decay * u + step
        s = Spike.apply(v, neuron.threshold)
        spikes.append(s)
        reset = s.detach() if neuron.detach_reset else s
        u = v - neuron.threshold * reset if neuron.reset == "soft" else (1 - reset) * v + reset * neuron.reset_value
    return torch.stack(spikes)


def two_pass(learner: sd.SelfDistillation, images: Tensor, labels: Tensor) -> tuple[Tensor, dict, dict]:
    """Loss, gradients and buffers of one training step by the two-pass procedure; the learner itself is not changed."""
    twin = TwoPass(learner)
    parameters, buffers = dict(twin.learner.named_parameters()), dict(twin.learner.named_buffers())
    output = twin(images)
    loss = reference_loss([*output.branches.values(), output.logits], labels, learner.rule.scale)
    loss.backward()
    plain = {name.replace(".norm.", "."): p.grad for name, p in parameters.items()}
    return loss.detach(), plain, {name.replace(".norm.", "."): buffer for name, buffer in buffers.items()}


def reference_loss(heads: list[Tensor], labels: Tensor, scale: float, beta: float = 0.3, tau: float = 3.0) -> Tensor:
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
    return scale * (hard + beta * soft / max(taught, 1))
