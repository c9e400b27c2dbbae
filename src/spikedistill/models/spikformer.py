"""Spikformer (Zhou et al., ICLR 2023): patches by convolutions, then blocks of spiking self-attention.

Its residual sums add spikes, so what travels are the whole numbers 0, 1, 2, ... The published definition has T in it;
this one has not, so it trains by any learning rule.
"""

from __future__ import annotations

from torch import nn

from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument
from spikedistill.models.attention import Halved, SelfAttention, TokenBlock
from spikedistill.models.layers import Head, Stem, Unit

POOLED = {"cifar": (False, False, True, True), "imagenet": (True, True, True, True)}
"""After which of the four convolutions of the patches the size is halved."""


def patch_widths(dim: int) -> list[int]:
    """Channels of the four convolutions of the patches.

    Raises:
        InvalidArgument: they cannot be halved three times.
    """
    if dim < 8 or dim % 8:
        raise InvalidArgument(f"dim is {dim}; expected a multiple of 8, for the patches begin with an eighth of it")
    return [dim // 8, dim // 4, dim // 2, dim]


class Patches(nn.Module):
    """Four of conv-BN(-pool)-LIF, then conv-BN-LIF as encoding of the positions, added."""

    def __init__(self, in_channels: int, dim: int, stem: Stem, neuron: Neuron) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        c_in = in_channels
        for c_out, halved in zip(patch_widths(dim), POOLED[stem], strict=True):
            self.layers.append(Halved(c_in, c_out, neuron) if halved else Unit(c_in, c_out, 3, neuron))
            c_in = c_out
        self.positions = Unit(dim, dim, 3, neuron)

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → [N, dim, H/4, W/4] (H/16 for "imagenet")."""
        x = self.layers(x)
        return x + self.positions(x)


class Spikformer(nn.Module):
    """Patches, `depth` blocks, and a head."""

    def __init__(
        self, outputs: int, in_channels: int, dim: int, depth: int, heads: int, ratio: int, stem: Stem, neuron: Neuron
    ) -> None:
        super().__init__()
        self.patches = Patches(in_channels, dim, stem, neuron)
        self.blocks = nn.Sequential(
            *(TokenBlock(dim, ratio, SelfAttention(dim, heads, neuron), neuron) for _ in range(depth))
        )
        self.head = Head(dim, outputs, neuron)
        self.stages = ("patches", *(f"blocks.{k}" for k in range(depth)))

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → logits [N, outputs]."""
        return self.head(self.blocks(self.patches(x)))


def spikformer(
    outputs: int,
    in_channels: int,
    *,
    dim: int = 128,
    depth: int = 2,
    heads: int = 4,
    ratio: int = 4,
    stem: Stem = "cifar",
    neuron: Neuron = Neuron(),
) -> Network:
    """Spikformer; the default has 0.6 million parameters. Published for CIFAR: dim 384, depth 4, heads 12.

    Args:
        dim: channels of a token, a multiple of 8.
        depth: number of blocks.
        heads: of attention, a divisor of `dim`.
        ratio: hidden channels of the perceptrons, as a multiple of `dim`.
        stem: "cifar" (the size is divided by 4) or "imagenet" (by 16).
        neuron: constants of the LIF neurons; those behind a product have half of the threshold.

    Raises:
        InvalidArgument: channels that cannot be shared.
    """
    body = Spikformer(outputs, in_channels, dim, depth, heads, ratio, stem, neuron)
    return Network(body, body.stages)
