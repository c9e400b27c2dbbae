"""QKFormer (Zhou et al., NeurIPS 2024): three stages, of which the first two have attention that only chooses tokens.

As in Spikformer sums of spikes travel. The definition has no T in it.
"""

from __future__ import annotations

from torch import nn

from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument
from spikedistill.models.attention import Halved, SelfAttention, TokenAttention, TokenBlock
from spikedistill.models.layers import Head, Stem, Unit


class Embedding(nn.Module):
    """Two convolutions, the first of which halves, beside a strided 1×1 with a neuron of its own; their sum."""

    def __init__(self, c_in: int, c_out: int, neuron: Neuron) -> None:
        super().__init__()
        self.main = nn.Sequential(Halved(c_in, c_out, neuron), Unit(c_out, c_out, 3, neuron))
        self.shortcut = Unit(c_in, c_out, 1, neuron, stride=2)

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → [N, C', H/2, W/2]."""
        return self.main(x) + self.shortcut(x)


class QKFormer(nn.Module):
    """Stages `stage1` to `stage3`, each with twice the channels at half the size, and a head."""

    def __init__(
        self,
        outputs: int,
        in_channels: int,
        dim: int,
        depths: tuple[int, int, int],
        heads: int,
        ratio: int,
        stem: Stem,
        neuron: Neuron,
    ) -> None:
        super().__init__()
        widths = (dim // 4, dim // 2, dim)
        c_in = widths[0] // 2
        self.first = Halved(in_channels, c_in, neuron) if stem == "imagenet" else Unit(in_channels, c_in, 3, neuron)
        for k, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            kind = SelfAttention if k == 2 else TokenAttention
            blocks = [TokenBlock(width, ratio, kind(width, heads, neuron), neuron) for _ in range(depth)]
            self.add_module(f"stage{k + 1}", nn.Sequential(Embedding(c_in, width, neuron), *blocks))
            c_in = width
        self.head = Head(dim, outputs, neuron)
        self.stages = ("stage1", "stage2", "stage3")

    def forward(self, x: Flow) -> Flow:
        """[N, C, H, W] → logits [N, outputs]."""
        x = self.first(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


def qkformer(
    outputs: int,
    in_channels: int,
    *,
    dim: int = 128,
    depths: list[int] | None = None,
    heads: int = 4,
    ratio: int = 4,
    stem: Stem = "cifar",
    neuron: Neuron = Neuron(),
) -> Network:
    """QKFormer; the default has 0.76 million parameters. Published for ImageNet: dim 384, depths 1, 2, 7, heads 6.

    Args:
        dim: channels of the last stage; the others have a quarter and a half.
        depths: blocks of the three stages (null: 1, 1, 2).
        heads: of attention in every stage, a divisor of a quarter of `dim`.
        ratio: hidden channels of the perceptrons, as a multiple of a stage's channels.
        stem: "cifar" (the size is divided by 8) or "imagenet" (by 16).
        neuron: constants of the LIF neurons; those behind a product have half of the threshold.

    Raises:
        InvalidArgument: channels that cannot be shared, or other than three depths.
    """
    wanted = [1, 1, 2] if depths is None else depths
    if len(wanted) != 3 or min(wanted) < 1:
        raise InvalidArgument(f"depths are {wanted}; expected three numbers of blocks, each at least 1")
    if dim % 8:
        raise InvalidArgument(
            f"dim is {dim}; expected a multiple of 8, for the first stage begins with an eighth of it"
        )
    body = QKFormer(outputs, in_channels, dim, (wanted[0], wanted[1], wanted[2]), heads, ratio, stem, neuron)
    return Network(body, body.stages)
