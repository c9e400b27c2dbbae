"""What is benchmarked: a training step of the same ResNet-18 by each way of doing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedistill.bench import peers
from spikedistill.bench.two_pass import TwoPass
from spikedistill.errors import SpikedistillError
from spikedistill.core.kernels import EAGER, compiled
from spikedistill.training.learner import SelfDistillation
from spikedistill.models import create_model
from spikedistill.training import setup


@dataclasses.dataclass(frozen=True)
class Point:
    """One place of the benchmark: network, input and T."""

    timesteps: int = 6
    batch: int = 32
    width: int = 64
    size: int = 32
    classes: int = 100
    model: str = "resnet18"
    stem: str = "cifar"
    device: str = "auto"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A way to take a training step.

    Args:
        summary: what it is, in the table.
        build: (bare network, point, device) → (module, loss of its output and labels).
        fast: bf16 where the processor computes in it, channels_last, memory kept; else fp32 and torch's defaults.
    """

    summary: str
    build: Callable[[Any, Point, torch.device], tuple[nn.Module, Callable[[Any, Tensor], Tensor]]]
    fast: bool = True


def _learner(**options: Any) -> Any:
    def build(network: Any, point: Point, device: torch.device) -> Any:
        timesteps = None if options.get("propagation") == "ann" else point.timesteps
        kernels = EAGER if timesteps is None or setup.missing_compiler(device) else compiled()
        learner = SelfDistillation(network, timesteps, kernels=kernels, **options)
        return learner, lambda output, labels: learner.loss(output, labels).total

    return build


def _two_pass(network: Any, point: Point, device: torch.device) -> Any:
    learner = SelfDistillation(network, point.timesteps)
    return TwoPass(learner), lambda output, labels: learner.loss(output, labels).total


def _peer(kind: type[nn.Module]) -> Any:
    def build(network: Any, point: Point, device: torch.device) -> Any:
        return kind(network.body, point.timesteps), F.cross_entropy

    return build


SUBJECTS = {
    "self-distillation": Subject("self-distillation, three branches", _learner()),
    "rate": Subject("rate-based backpropagation alone", _learner(branches=())),
    "bptt": Subject("our BPTT", _learner(branches=(), propagation="bptt")),
    "ann": Subject("ANN twin", _learner(branches=(), propagation="ann")),
    "two-pass": Subject("self-distillation in two passes, eager fp32", _two_pass, fast=False),
    "spikingjelly-best": Subject("SpikingJelly BPTT, best setting", _peer(peers.SpikingJelly)),
    "spikingjelly": Subject("SpikingJelly BPTT, default", _peer(peers.SpikingJelly), fast=False),
    "snntorch": Subject("snnTorch BPTT", _peer(peers.SnnTorch), fast=False),
}


class Step:
    """A training step that can be taken again and again, on random pictures."""

    def __init__(self, subject: str, point: Point) -> None:
        how = SUBJECTS[subject]
        device = setup.find_device(point.device)
        torch.manual_seed(0)
        network = create_model(point.model, point.classes, width=point.width, stem=point.stem)
        try:
            module, self.loss = how.build(network, point, device)
        except ImportError as error:
            raise SpikedistillError(f"{error.name} is not installed (pip install 'spikedistill[bench]')") from error
        if how.fast:
            setup.keep_memory()
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = module.to(device).train()
        self.precision = setup.find_precision("auto", device) if how.fast else "fp32"
        self.device, self.point = device, point
        self.optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9, fused=True if how.fast else None)
        self.images, self.labels = self._input(point.batch, how.fast)
        self.few = self._input(2, how.fast)

    def _input(self, count: int, channels_last: bool) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, self.point.size, self.point.size, device=self.device)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.randint(0, self.point.classes, (count,), device=self.device)

    def warm(self) -> None:
        """A step on two pictures: compiles and allocates what is not the step's own memory."""
        self._take(*self.few)
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        self._take(self.images, self.labels)

    def _take(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with setup.autocast(self.precision, self.device):
            output = self.module(images)
            loss = self.loss(output, labels)
        loss.backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
