"""The spike-driven transformer (Yao et al., NeurIPS 2023): every product is of spikes, and sums are of currents.

Its residual connections join membranes: what is added are currents, and each layer begins with a neuron. So every
convolution sees 0 and 1 alone. The definition has no T in it.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.models.attention import ChannelAttention, SelfAttention, current_layer
from spikedistill.models.layers import Stem, conv
from spikedistill.models.spikformer import POOLED, patch_widths

Attention = Literal["channels", "linear"]


class CurrentPatches(nn.Module):
    """Three of conv-BN-LIF(-pool), conv-BN(-pool), and LIF-conv-BN as encoding of the positions, added: currents."""

    def __init__(self, in_channels: int, dim: int, stem: Stem, neuron: Neuron) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        c_in = in_channels
        for c_out, halved in zip(patch_widths(dim), POOLED[stem], strict=True):
            last = c_out == dim
            self.layers.extend([conv(c_in, c_out, 3), nn.BatchNorm2d(c_out)])
            if not last:
                self.layers.append(LIF(neuron))
            if halved:
                self.layers.append(nn.MaxPool2d(3, 2, 1))
            c_in = c_out
        self.positions = nn.Sequential(LIF(neuron), *current_layer(dim, dim, 3))

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → [N, dim, H/4, W/4] (H/16 for "imagenet")."""
        x = self.layers(x)
        return x + self.positions(x)


class CurrentBlock(nn.Module):
    """LIF-attention, then LIF-conv-BN-LIF-conv-BN, each added to the currents that went in."""

    def __init__(self, dim: int, heads: int, ratio: int, attention: Attention, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = LIF(neuron)
        if attention == "channels":
            self.attention: nn.Module = ChannelAttention(dim, heads, neuron)
        else:
            self.attention = SelfAttention(dim, heads, neuron, currents=True)
        hidden = ratio * dim
        self.perceptron = nn.Sequential(
            *(LIF(neuron), *current_layer(dim, hidden)), *(LIF(neuron), *current_layer(hidden, dim))
        )

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → the same shape."""
        x = x + self.attention(self.neuron(x))
        return x + self.perceptron(x)


class SpikeDrivenTransformer(nn.Module):
    """Patches, `depth` blocks, and a head: the mean over tokens, a neuron, a linear classifier."""

    def __init__(
        self,
        outputs: int,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        ratio: int,
        attention: Attention,
        stem: Stem,
        neuron: Neuron,
    ) -> None:
        super().__init__()
        self.patches = CurrentPatches(in_channels, dim, stem, neuron)
        self.blocks = nn.Sequential(*(CurrentBlock(dim, heads, ratio, attention, neuron) for _ in range(depth)))
        self.neuron = LIF(neuron)
        self.classifier = nn.Linear(dim, outputs)
        self.stages = ("patches", *(f"blocks.{k}" for k in range(depth)))

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → logits [N, outputs]."""
        x = self.blocks(self.patches(x))
        return self.classifier(self.neuron(x.flatten(2).mean(2)))


def spike_driven_transformer(
    outputs: int,
    in_channels: int,
    *,
    dim: int = 128,
    depth: int = 2,
    heads: int = 4,
    ratio: int = 4,
    attention: Attention = "channels",
    stem: Stem = "cifar",
    neuron: Neuron = Neuron(),
) -> Network:
    """The spike-driven transformer; the default has 0.6 million parameters. Published: dim 384, depth 8, heads 8.

    Args:
        dim: channels of a token, a multiple of 8.
        depth: number of blocks.
        heads: of attention, a divisor of `dim`; attention over channels is the same for any number of them.
        ratio: hidden channels of the perceptrons, as a multiple of `dim`.
        attention: "channels", of the first version; or "linear", q(kᵀv) of the second.
        stem: "cifar" (the size is divided by 4) or "imagenet" (by 16).
        neuron: constants of the LIF neurons; those behind a product have half of the threshold.

    Raises:
        InvalidArgument: channels that cannot be shared.
    """
    body = SpikeDrivenTransformer(outputs, in_channels, dim, depth, heads, ratio, attention, stem, neuron)
    return Network(body, body.stages)
