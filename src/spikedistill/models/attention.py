"""Attention of spikes, without softmax: what the spiking transformers share.

Tokens are the pixels of a map [N, C, H, W], so that convolutions, branches and batch norm are those of any other
network; a linear layer on tokens is a 1×1 convolution. A head has d = C/heads of the channels, and L = H·W tokens.

Products of spikes are products of signals (method.md §7): their value is exact, their gradient that of the rates. In
the ANN twin every neuron is a ReLU, so that queries, keys and values are not negative there, and attention is the same
product of them.
"""

from __future__ import annotations

import dataclasses

from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument
from spikedistill.models.layers import Unit, conv

SCALE = 0.125
"""Of q(kᵀv), whatever the size of a head is (as published)."""


def half_threshold(neuron: Neuron) -> Neuron:
    """The neuron behind a product: half of the threshold, as published (0.5 for 1), of start and of reset."""
    halves = {name: getattr(neuron, name) / 2 for name in ("threshold", "start", "reset_value")}
    return dataclasses.replace(neuron, **halves)


def check_heads(dim: int, heads: int) -> None:
    """Raise InvalidArgument unless the channels can be shared by the heads."""
    if heads < 1 or dim % heads:
        raise InvalidArgument(f"{dim} channels cannot be shared by {heads} heads; take a divisor of {dim}")


def by_head(x: Flow, heads: int) -> Flow:
    """[N, C, H, W] → [N, heads, d, L]."""
    return x.flatten(2).unflatten(1, (heads, -1))


def joined(x: Flow, like: Flow) -> Flow:
    """[N, heads, d, L] → [N, C, H, W]."""
    return x.flatten(1, 2).unflatten(2, tuple(like.shape[2:]))


def current_layer(c_in: int, c_out: int, kernel: int = 1) -> nn.Sequential:
    """conv-BN without a neuron: its currents are added to others."""
    return nn.Sequential(conv(c_in, c_out, kernel), nn.BatchNorm2d(c_out))


class SelfAttention(nn.Module):
    """Spiking self-attention: q(kᵀv)·0.125 → LIF → 1×1 conv-BN-LIF (Spikformer, Zhou et al., ICLR 2023).

    Without a softmax the product can be formed as q(kᵀv) and as (qkᵀ)v. The first is linear in the number of tokens. Of
    the gradient for q it loses less, and of that for v more (method.md §7.5).

    Args:
        currents: whether there is no neuron at the end, as in the second version of the spike-driven transformer
            (ICLR 2024).
    """

    def __init__(self, dim: int, heads: int, neuron: Neuron, currents: bool = False) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.q, self.k, self.v = (Unit(dim, dim, 1, neuron) for _ in range(3))
        self.neuron = LIF(half_threshold(neuron))
        self.out = current_layer(dim, dim) if currents else Unit(dim, dim, 1, neuron)

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → the same shape."""
        q, k, v = (by_head(part(x), self.heads) for part in (self.q, self.k, self.v))
        # channels stand before tokens here, so what is q(kᵀv) with tokens in rows is (v kᵀ)q
        product = (v @ k.transpose(-2, -1)) @ q  # type: ignore[operator]
        return self.out(joined(self.neuron(product * SCALE), x))


class TokenAttention(nn.Module):
    """Q-K token attention: the channels of a head of q are added up → LIF → times k → 1×1 conv-BN-LIF (QKFormer, 2024).

    It says of each token whether it counts. There are no values, and the cost is linear in tokens and in channels.
    """

    def __init__(self, dim: int, heads: int, neuron: Neuron) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.q, self.k = (Unit(dim, dim, 1, neuron) for _ in range(2))
        self.neuron = LIF(half_threshold(neuron))
        self.out = Unit(dim, dim, 1, neuron)

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → the same shape."""
        q, k = (by_head(part(x), self.heads) for part in (self.q, self.k))
        counts = self.neuron(q.sum(2, keepdim=True))  # [N, heads, 1, L]
        return self.out(joined(counts * k, x))  # type: ignore[operator]


class ChannelAttention(nn.Module):
    """Spike-driven self-attention: k∘v is added up over tokens → LIF → times q (Yao et al., NeurIPS 2023).

    It says of each channel whether it counts. What enters are spikes, and what leaves are currents: 1×1 conv-BN without
    a neuron.
    """

    def __init__(self, dim: int, heads: int, neuron: Neuron) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.q, self.k, self.v = (Unit(dim, dim, 1, neuron) for _ in range(3))
        self.neuron = LIF(half_threshold(neuron))
        self.out = current_layer(dim, dim)

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → the same shape."""
        q, k, v = (part(x).flatten(2) for part in (self.q, self.k, self.v))
        counts = self.neuron((k * v).sum(2, keepdim=True))  # [N, C, 1]
        return self.out((q * counts).unflatten(2, tuple(x.shape[2:])))


class TokenBlock(nn.Module):
    """Attention and a perceptron of one hidden layer, each added to what went in: sums of spikes, 0 to 3.

    Args:
        attention: of the shape of its input, which ends with a neuron.
        ratio: hidden channels of the perceptron, as a multiple of `dim`.
    """

    def __init__(self, dim: int, ratio: int, attention: nn.Module, neuron: Neuron) -> None:
        super().__init__()
        self.attention = attention
        self.perceptron = nn.Sequential(Unit(dim, ratio * dim, 1, neuron), Unit(ratio * dim, dim, 1, neuron))

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → the same shape."""
        x = x + self.attention(x)
        return x + self.perceptron(x)


class Halved(nn.Sequential):
    """conv-BN-pool-LIF: half the size."""

    # pooled before the neuron, as published; the rate gradient of max pooling is not exact (method.md §2.4)

    def __init__(self, c_in: int, c_out: int, neuron: Neuron) -> None:
        super().__init__(conv(c_in, c_out, 3), nn.BatchNorm2d(c_out), nn.MaxPool2d(3, 2, 1), LIF(neuron))
