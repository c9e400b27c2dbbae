"""Which precision a run computes in, by a short measurement of its own network."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from spikedistill.core.learning import ANN, BPTT
from spikedistill.core.modules import evaluating
from spikedistill.core.network import Network
from spikedistill.machine.compiler import automatic
from spikedistill.machine.device import PRECISIONS, autocast, computes_in_bf16, wait_for
from spikedistill.training.learner import SelfDistillation

REPEATS = 3
WORTH = 0.85
"""bf16 is taken where it needs less than this share of the time of fp32; a smaller gain is within the noise of a shared
machine, and would let one recipe choose differently from one start to the next."""


def choose_precision(wish: str, learner: SelfDistillation, images: Tensor) -> tuple[str, str]:
    """The precision for a run, and the reason in words.

    bf16 is not the faster one wherever the processor has units for it: in narrow networks its backward convolutions
    can take twice the time of fp32. So both are measured.

    Args:
        wish: "fp32", "bf16" or "auto".
        images: a training batch, [N, C, H, W] or [T, N, C, H, W], on the learner's device.
    """
    if wish != "auto":
        return wish, f"{wish}, as the recipe says"
    wish = automatic("precision", PRECISIONS) or "auto"
    if wish != "auto":
        return wish, f"{wish}, as SPIKEDISTILL_PRECISION says"
    if not computes_in_bf16(images.device):
        return "fp32", "fp32: this processor has no units for bf16"
    seconds = measured_seconds(learner, images)
    best, other = ("bf16", "fp32") if seconds["bf16"] < WORTH * seconds["fp32"] else ("fp32", "bf16")
    return best, f"{best}: {seconds[best]:.3f} s against {seconds[other]:.3f} s in {other} for a step's convolutions"


def measured_seconds(learner: SelfDistillation, images: Tensor) -> dict[str, float]:
    """Least seconds of the convolutions of a step, by precision.

    The ANN twin stands for the network: the same convolutions, and nothing that would have to be compiled. Of
    rate-based backpropagation it is T forward passes without gradient and one with; of BPTT, T with gradient.
    """
    timesteps = learner.timesteps or 1
    images = images[0] if learner.network.is_over_time(images) else images
    many = images.repeat(timesteps, *[1] * (images.dim() - 1))

    def step() -> None:
        if isinstance(learner.rule, (ANN, BPTT)):
            _forward_and_back(learner.network, many)
            return
        with torch.no_grad():
            learner.network(many, timesteps=None)
        _forward_and_back(learner.network, images)

    found: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    with evaluating(learner.network):  # the running statistics stay as they are
        for repeat in range(REPEATS + 1):
            for name in PRECISIONS:
                seconds = _timed(step, name, images.device)
                if repeat:  # the first warms up
                    found[name].append(seconds)
    learner.zero_grad(set_to_none=True)
    # other jobs only ever add time, so the least is nearest to what the processor can do
    return {name: min(times) for name, times in found.items()}


def _forward_and_back(network: Network, images: Tensor) -> None:
    network(images, timesteps=None).logits.float().sum().backward()


def _timed(step: Callable[[], None], precision: str, device: torch.device) -> float:
    start = time.perf_counter()
    with autocast(precision, device):
        step()
    wait_for(device)
    return time.perf_counter() - start
