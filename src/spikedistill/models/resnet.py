"""Residual networks with the spike after the residual sum (method.md §5): ResNet-18, -34 and -19."""

from __future__ import annotations

from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.core.signal import Flow
from spikedistill.models.layers import Head, Stem, add_stages, conv, stem_layers


class Block(nn.Module):
    """conv-BN-LIF-conv-BN, plus the shortcut, then LIF."""

    def __init__(self, c_in: int, c_out: int, stride: int, neuron: Neuron) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out)
        self.neuron1 = LIF(neuron)
        self.conv2, self.bn2 = conv(c_out, c_out, 3), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()  # empty: the identity
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))
        self.neuron2 = LIF(neuron)

    def forward(self, x: Flow) -> Flow:
        y = self.neuron1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))  # one name: at T steps a signal is worth dropping as soon as it is used
        # The sum stays pending: the neuron adds both summands up in its own sweep (core/rules/sums.py).
        return self.neuron2(y + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages `layer1`, `layer2`, ... of `blocks` each, and a head.

    Args:
        blocks: number of blocks of each stage; stage k has width·2^k channels.
        hidden: neurons of the head's hidden layer, 0 for none.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        outputs: int,
        width: int,
        in_channels: int,
        stem: Stem,
        neuron: Neuron,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.stem = stem_layers(stem, in_channels, width, bias=False)
        self.neuron = LIF(neuron)
        channels, self.stages = add_stages(self, Block, blocks, width, neuron)
        self.head = Head(channels, outputs, neuron, hidden)

    def forward(self, x: Flow) -> Flow:
        # Static images are [N, ...] up to here; this neuron makes T steps of them.
        x = self.neuron(self.stem(x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(x)


def _network(body: ResNet) -> Network:
    return Network(body, body.stages)


def resnet18(
    outputs: int, in_channels: int, *, width: int = 64, stem: Stem = "cifar", neuron: Neuron = Neuron()
) -> Network:
    """ResNet-18.

    Args:
        width: channels of the first stage; the others follow in proportion.
        stem: "cifar" (3×3, stride 1) or "imagenet" (7×7, stride 2, max pooling).
        neuron: constants of the LIF neurons.
    """
    return _network(ResNet((2, 2, 2, 2), outputs, width, in_channels, stem, neuron))


def resnet34(
    outputs: int, in_channels: int, *, width: int = 64, stem: Stem = "cifar", neuron: Neuron = Neuron()
) -> Network:
    """ResNet-34; arguments as `resnet18`."""
    return _network(ResNet((3, 4, 6, 3), outputs, width, in_channels, stem, neuron))


def resnet19(
    outputs: int, in_channels: int, *, width: int = 128, stem: Stem = "cifar", neuron: Neuron = Neuron()
) -> Network:
    """ResNet-19: three stages and a head with a hidden layer of twice the width; arguments as `resnet18`."""
    return _network(ResNet((3, 3, 2), outputs, width, in_channels, stem, neuron, hidden=2 * width))
