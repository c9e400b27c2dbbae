"""A first convolution of the principal directions of its patches, all equally strong (method.md §5).

Neighbouring pixels say nearly the same, so what a random filter answers is mostly brightness. Jordan (arXiv 2404.00498)
starts the first layer of a network from the eigenvectors of its patches, divided by the roots of their eigenvalues, and
from their negatives: without spending an epoch on it, all directions are there from the first step. A spiking neuron
answers only what is above 0 as a ReLU does, so it wants the negatives as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedistill.core.modules import evaluating
from spikedistill.core.network import as_network
from spikedistill.errors import InvalidArgument

FLOOR = 5e-4
"""Added to the variances, as a share of their mean: directions in which patches hardly differ are noise."""
PATCHES = 2**21
"""How many numbers of patches are made at once, about."""


@torch.no_grad()
def whiten(network: nn.Module, batches: Sequence[Tensor]) -> int:
    """Start the first convolution from the principal directions of its input's patches, and their negatives, in place.

    A layer of C channels gets the C/2 directions of the largest variance, or all; channels that are left stay as they
    are.

    Args:
        batches: training inputs [N, C, H, W], or [T, N, C, H, W]; some hundred samples are enough.

    Returns:
        How many directions there are.

    Raises:
        InvalidArgument: no batch, no convolution of images, or one of groups or of a single channel.
    """
    network = as_network(network)
    if isinstance(batches, Tensor) or not batches:
        raise InvalidArgument("whitening needs training samples, as a list of batches")
    layer: nn.Conv2d | None = None
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for inputs in batches:
        layer, seen = _first_convolution(network, inputs)
        for patches in _patches(layer, seen):
            total, squares = total + patches.sum(0), squares + patches.T @ patches
            count += len(patches)
    assert layer is not None
    mean = total / count
    variances, directions = torch.linalg.eigh(squares / count - mean.outer(mean))  # in rising order
    kept = min(layer.out_channels // 2, len(variances))
    floor = FLOOR * variances.mean()
    if floor <= 0:
        raise InvalidArgument("whitening needs samples that differ: every patch of these is the same")
    filters = (directions / (variances.clamp(min=0) + floor).sqrt()).T.flip(0)[:kept]
    # an eigenvector may have either sign: its largest entry is made positive
    filters = filters * filters.gather(1, filters.abs().argmax(1, keepdim=True)).sign()
    layer.weight[: 2 * kept] = torch.cat([filters, -filters]).view_as(layer.weight[: 2 * kept]).to(layer.weight)
    return kept


class _Found(Exception):
    """Leaves the forward pass at the first convolution: the rest would only take time and memory."""

    def __init__(self, layer: nn.Conv2d, seen: Tensor) -> None:
        self.layer, self.seen = layer, seen


def _first_convolution(network: nn.Module, inputs: Tensor) -> tuple[nn.Conv2d, Tensor]:
    """The convolution that is called first, and its input [N, C, H, W]."""

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        raise _Found(module, args[0])

    handles = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        with evaluating(network):
            network(inputs, timesteps=None)  # the ANN twin: every layer sees one tensor
    except _Found as found:
        layer, seen = found.layer, found.seen
    else:
        raise InvalidArgument("whitening is for a network whose first layer is a Conv2d, and this one has none")
    finally:
        for handle in handles:
            handle.remove()
    if layer.groups > 1 or layer.out_channels < 2:
        raise InvalidArgument(
            f"whitening needs a first convolution of all input channels with at least 2 output channels; given {layer}"
        )
    return layer, seen


def _patches(layer: nn.Conv2d, seen: Tensor) -> Iterator[Tensor]:
    """What the layer's kernel lies on, without padding, [patches, C·k·k] in float64; some samples at a time."""
    kernel, dilation = layer.kernel_size, layer.dilation
    size = seen[0].numel() * kernel[0] * kernel[1]
    for part in seen.split(max(1, PATCHES // size)):
        yield F.unfold(part.double(), kernel, dilation).transpose(1, 2).flatten(0, 1)
