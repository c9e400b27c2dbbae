"""Measure a network: accuracy by time steps, and how much its neurons fire. Spikes only, branches play no part."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.errors import InvalidArgument
from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.network import Network, rate
from spikedistill.core.neuron import LIF
from spikedistill.core.signal import Signal

DEAD, SATURATED = 0.001, 0.9
"""A layer that fires less or more than this, in spikes per neuron and step, carries next to no information."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of samples.

    Attributes:
        samples: how many were shown.
        accuracy: share of correct answers by timesteps (None: the ANN twin).
        firing_rates: mean spikes per neuron and step of each LIF layer, at the largest timesteps; empty for the twin.
    """

    samples: int
    accuracy: dict[int | None, float]
    firing_rates: dict[str, float]

    def warnings(self) -> list[str]:
        """Layers that are dead or saturated, in words."""
        dead = [name for name, fired in self.firing_rates.items() if fired < DEAD]
        saturated = [name for name, fired in self.firing_rates.items() if fired > SATURATED]
        remedy = "nothing passes them; lower the threshold, or train longer if batch norm is still settling"
        found = [f"dead layers (under {DEAD:.1%} of neurons fire per step): {', '.join(dead)}: {remedy}"] * bool(dead)
        if saturated:
            found.append(f"saturated layers (over {SATURATED:.0%} of neurons fire per step): {', '.join(saturated)}")
        return found


@contextlib.contextmanager
def watching_neurons(module: nn.Module) -> Iterator[dict[str, list[Any]]]:
    """The outputs of every LIF layer during the `with` block; a layer used more than once gives several."""
    seen: dict[str, list[Any]] = {}
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, LIF):

            def look(_module: nn.Module, _args: Any, out: Any, name: str = name) -> None:
                seen.setdefault(name, []).append(out)

            handles.append(layer.register_forward_hook(look))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def evaluate(
    network: Network,
    batches: Iterable[tuple[Tensor, Tensor]],
    timesteps: Sequence[int] | None,
    kernels: Kernels = EAGER,
    together: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Evaluation:
    """Accuracy at each of `timesteps`, from one run of the longest: the first t steps do not know of the later ones.

    Args:
        batches: (images [N, C, H, W], labels [N]).
        timesteps: one or more numbers of steps; None for the ANN twin.
        together: adds up a vector of sums over the processes that evaluate a share of the batches each.

    Raises:
        InvalidArgument: no batch, or a number of steps below 1.
    """
    if timesteps is not None and (not timesteps or min(timesteps) < 1):
        raise InvalidArgument(f"timesteps are {list(timesteps)}; expected at least one number, each at least 1")
    was_training = network.training
    network.eval()
    samples, correct, fired = 0, dict.fromkeys(timesteps or [None], 0), {}
    try:
        for images, labels in batches:
            with watching_neurons(network.body) as neurons:
                answers = _answers(network, images, timesteps, kernels)
            for t, answer in answers.items():
                correct[t] += int((answer == labels).sum())
            _add_rates(fired, neurons, len(labels))
            samples += len(labels)
    finally:
        network.train(was_training)
    if samples == 0:
        raise InvalidArgument("there are no samples to evaluate on")
    sums = torch.tensor([samples, *correct.values(), *fired.values()], dtype=torch.float64)
    whole, *rest = together(sums).tolist()
    shares = [value / whole for value in rest]
    accuracy: dict[int | None, float] = dict(zip(correct, shares, strict=False))
    return Evaluation(round(whole), accuracy, dict(zip(fired, shares[len(correct) :], strict=True)))


def _answers(
    network: Network, images: Tensor, timesteps: Sequence[int] | None, kernels: Kernels
) -> dict[int | None, Tensor]:
    if timesteps is None:
        return {None: network(images, timesteps=None).logits.argmax(1)}
    logits = network.logits_over_time(images, max(timesteps), kernels).float().cumsum(0)
    return {t: logits[t - 1].argmax(1) for t in timesteps}


def _add_rates(fired: dict[str, float], neurons: dict[str, list[Any]], samples: int) -> None:
    for name, outputs in neurons.items():
        for k, out in enumerate(outputs):
            if isinstance(out, Signal):
                key = name if len(outputs) == 1 else f"{name} (use {k + 1})"
                fired[key] = fired.get(key, 0.0) + float(rate(out).float().mean()) * samples
