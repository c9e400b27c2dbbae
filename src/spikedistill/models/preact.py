"""Pre-activation residual networks (method.md §5): the residual path carries membrane inputs, not spikes."""

from __future__ import annotations

from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron, Surrogate
from spikedistill.core.signal import Flow
from spikedistill.models.layers import Head, Stem, add_stages, conv, stem_layers


class Block(nn.Module):
    """LIF-conv-BN twice, added to the membrane input."""

    def __init__(self, c_in: int, c_out: int, stride: int, neuron: Neuron) -> None:
        super().__init__()
        # Biases have no effect before batch norm, which subtracts them; the authors' network has them (method.md §5).
        self.neuron1 = LIF(neuron)
        self.conv1, self.bn1 = conv(c_in, c_out, 3, stride, bias=True), nn.BatchNorm2d(c_out)
        self.neuron2 = LIF(neuron)
        self.conv2, self.bn2 = conv(c_out, c_out, 3, bias=True), nn.BatchNorm2d(c_out)
        self.downsample = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride, bias=True), nn.BatchNorm2d(c_out))

    def forward(self, x: Flow) -> Flow:
        y = self.neuron1(x)  # one name: at T steps a signal is worth dropping as soon as it is used
        y = self.bn1(self.conv1(y))
        y = self.neuron2(y)
        # The shortcut takes x before its neuron: membrane inputs are added to membrane inputs.
        return self.bn2(self.conv2(y)) + self.downsample(x)


class PreActResNet(nn.Module):
    """Stem, stages `layer1`, `layer2`, ... of `blocks` each, and a head.

    Args:
        spiking_head: whether neurons stand before the classifier; in the authors' network there are none.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        outputs: int,
        width: int,
        in_channels: int,
        stem: Stem,
        neuron: Neuron,
        spiking_head: bool = False,
    ) -> None:
        super().__init__()
        self.stem = stem_layers(stem, in_channels, width, bias=True)
        channels, self.stages = add_stages(self, Block, blocks, width, neuron)
        self.neuron = LIF(neuron) if spiking_head else nn.Sequential()  # empty: the identity
        self.head = Head(channels, outputs, neuron)
        self.apply(_initialise)

    def forward(self, x: Flow) -> Flow:
        x = self.stem(x)
        # Stages are attributes with the names that `Network` and the weight files use.
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.head(self.neuron(x))


def _initialise(module: nn.Module) -> None:
    """Kaiming-normal fan-out for convolutions (method.md §5); batch norm starts at 1 and 0 by itself."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def preact_resnet18(
    outputs: int, in_channels: int, *, width: int = 64, stem: Stem = "cifar", neuron: Neuron = Neuron()
) -> Network:
    """PreAct-ResNet-18.

    Args:
        width: channels of the first stage; the others follow in proportion.
        stem: "cifar" (3×3, stride 1) or "imagenet" (7×7, stride 2, max pooling).
        neuron: constants of the LIF neurons.
    """
    body = PreActResNet((2, 2, 2, 2), outputs, width, in_channels, stem, neuron)
    return Network(body, body.stages)


def preact_resnet34(
    outputs: int, in_channels: int, *, width: int = 64, stem: Stem = "cifar", neuron: Neuron = Neuron()
) -> Network:
    """PreAct-ResNet-34; arguments as `preact_resnet18`."""
    body = PreActResNet((3, 4, 6, 3), outputs, width, in_channels, stem, neuron)
    return Network(body, body.stages)


MEMBRANE = Neuron(decay=0.25, threshold=0.5, reset="hard", surrogate=Surrogate("rectangle", 1.0))
"""The neuron that TT-SNN uses in these networks."""


def ms_resnet18(
    outputs: int, in_channels: int, *, width: int = 64, stem: Stem = "cifar", neuron: Neuron = MEMBRANE
) -> Network:
    """MS-ResNet-18 (membrane shortcuts): PreAct-ResNet-18 with neurons before the classifier; arguments as there."""
    body = PreActResNet((2, 2, 2, 2), outputs, width, in_channels, stem, neuron, spiking_head=True)
    return Network(body, body.stages)


def ms_resnet34(
    outputs: int, in_channels: int, *, width: int = 64, stem: Stem = "cifar", neuron: Neuron = MEMBRANE
) -> Network:
    """MS-ResNet-34; arguments as `ms_resnet18`."""
    body = PreActResNet((3, 4, 6, 3), outputs, width, in_channels, stem, neuron, spiking_head=True)
    return Network(body, body.stages)
