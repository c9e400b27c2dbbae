"""Batch norm's running statistics taken anew, for spikes of another number of steps than those that were trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from spikedistill.core.learning import Rate
from spikedistill.core.modules import evaluating
from spikedistill.core.network import Network
from spikedistill.errors import InvalidArgument

Norm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def retake_statistics(network: Network, batches: Sequence[Tensor], timesteps: int) -> None:
    """Running mean and variance of all batch norms anew, as the mean over batches on spikes of T steps; in place.

    A network that was trained with several T has statistics of their mixture, which fit the smallest T least.

    Args:
        batches: training inputs [N, ...], or [T, N, ...]; some thousand samples in all are enough.

    Raises:
        InvalidArgument: no batch.
    """
    if not batches:
        raise InvalidArgument("statistics are taken on training samples; given none")
    norms = [m for m in network.modules() if isinstance(m, Norm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    try:
        with only_norms_train(network):
            for inputs in batches:
                network.propagate(Rate(timesteps).encode(inputs, over_time=network.is_over_time(inputs)))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextlib.contextmanager
def only_norms_train(network: nn.Module) -> Iterator[None]:
    """Batch norms in training mode during the `with` block, and dropout off."""
    with evaluating(network):
        for module in network.modules():
            if isinstance(module, Norm):
                module.training = True
        yield
