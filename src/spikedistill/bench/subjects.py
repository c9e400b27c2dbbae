"""What is benchmarked: a training step of the same network by each way of taking it, as a table."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikedistill.bench.peers import SnnTorch, SpikingJelly
from spikedistill.bench.point import Point
from spikedistill.bench.two_pass import TwoPass
from spikedistill.core.kernels import EAGER, Kernels, compiled, in_eight_bits, in_parts, missing_eight_bit
from spikedistill.core.learning import ANN, BPTT, LearningRule, Rate
from spikedistill.core.network import Network
from spikedistill.errors import InvalidArgument
from spikedistill.machine.compiler import automatic, missing_compiler
from spikedistill.training.learner import SelfDistillation


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A network that can be trained, by whatever library.

    Attributes:
        module: has the parameters.
        loss: (images [N, C, H, W], labels [N]) -> the loss of a forward pass, a scalar with gradient.
        channels_last: the memory format it is fastest in; False is PyTorch's default.
        learner: where it is one of ours, what `choose_precision` takes.
        setting: how it computes, in words.
        one_batch_size: whether it is compiled for the batch that it sees first, and would be anew for another.
    """

    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    channels_last: bool = False
    learner: SelfDistillation | None = None
    setting: str = ""
    one_batch_size: bool = False


def no_gpu(device: torch.device) -> str | None:
    """What a subject says that needs a GPU where there is none."""
    return None if device.type == "cuda" else f"it needs a GPU, and the device is {device}"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A way to take a training step.

    Attributes:
        summary: what it is, in the table and the figure.
        build: makes it from a bare network.
        tuned: whether it computes at its best (precision measured, fused optimizer, memory kept between steps), or as
            its authors' examples do: fp32 and PyTorch's defaults.
        package: what has to be installed for it (None: nothing).
        missing: why it cannot run on a device (None: it can).
        graphs: whether its step is recorded as a CUDA graph and replayed.
        compiled: whether its step is compiled as a whole: for minutes at each T, so it has to be named.
    """

    summary: str
    build: Callable[[Network, Point, torch.device], Trainee]
    tuned: bool = True
    package: str | None = None
    missing: Callable[[torch.device], str | None] = lambda device: None
    graphs: bool = False
    compiled: bool = False

    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def check_device(self, device: torch.device) -> None:
        """
        Raises:
            InvalidArgument: it cannot run there.
        """
        missing = self.missing(device)
        if missing is not None:
            raise InvalidArgument(f"{self.summary}: {missing}; name other --subjects")

    def check_installed(self) -> None:
        """
        Raises:
            InvalidArgument: its package is missing.
        """
        # Found, not imported: importing takes seconds, and this is asked for every subject before the work.
        if not self.is_installed():
            raise InvalidArgument(
                f"{self.summary} needs {self.package}, which is not installed (pip install 'spikedistill[bench]'); or "
                "name other --subjects"
            )


def _ours(rule: Callable[[int], LearningRule], branches: tuple[str, ...] | None = ()) -> Callable[..., Trainee]:
    """Our own learner: `rule(T)` says how it learns; branches None are those of the paper, () none."""

    def build(network: Network, point: Point, device: torch.device) -> Trainee:
        # The rule is all that our subjects differ in, beside the branches.
        learning_rule = rule(point.timesteps)
        kernels, setting = _kernels(learning_rule, device)
        learner = SelfDistillation(network, learning_rule, branches=branches, kernels=kernels)

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return learner.loss(learner(images), labels).total

        # `encode` lays images out as channels_last anyway; weights in the same format save a copy at each convolution.
        return Trainee(learner, loss, channels_last=True, learner=learner, setting=setting)

    return build


def _other_kernels(
    change: Callable[[Kernels], Kernels], how: str, branches: tuple[str, ...] | None = ()
) -> Callable[..., Trainee]:
    """Rate-based backpropagation with its kernels changed; `how` says so."""

    def build(network: Network, point: Point, device: torch.device) -> Trainee:
        made = _ours(Rate, branches)(network, point, device)
        assert made.learner is not None
        made.learner.kernels = change(made.learner.kernels)
        return dataclasses.replace(made, setting=f"{made.setting}, {how}")

    return build


def _whole(rule: Callable[[int], LearningRule], branches: tuple[str, ...] | None = ()) -> Callable[..., Trainee]:
    def build(network: Network, point: Point, device: torch.device) -> Trainee:
        made = _ours(rule, branches)(network, point, device)
        return dataclasses.replace(made, setting="the step compiled as a whole", one_batch_size=True)

    return build


def _in_8_bits(branches: tuple[str, ...] | None = ()) -> Callable[..., Trainee]:
    return _other_kernels(in_eight_bits, "8-bit convolutions", branches)


PARTS = 8
"""Of the batch, for the subjects in parts."""


def _in_parts(branches: tuple[str, ...] | None = ()) -> Callable[..., Trainee]:
    return _other_kernels(lambda kernels: in_parts(kernels, PARTS), f"in {PARTS} parts of the batch", branches)


def _kernels(rule: LearningRule, device: torch.device) -> tuple[Kernels, str]:
    """The fastest kernels here, and which they are in words."""
    if rule.timesteps is None:
        return EAGER, "no spiking neurons"
    reason = _why_not_compiled(device)
    return (EAGER, f"eager kernels: {reason}") if reason else (compiled(), "compiled kernels")


def _why_not_compiled(device: torch.device) -> str | None:
    if automatic("compile", ("on", "off")) == "off":
        return "as SPIKEDISTILL_COMPILE says"
    return missing_compiler(device)


def _two_pass(network: Network, point: Point, device: torch.device) -> Trainee:
    # The twin holds a copy of the network; of the learner itself only the loss is used.
    learner = SelfDistillation(network, Rate(point.timesteps))
    twin = TwoPass(learner)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return learner.loss(twin(images), labels).total

    return Trainee(twin, loss, setting="eager")


def _classifier(module: nn.Module, channels_last: bool, setting: str) -> Trainee:
    """A peer: a module that gives logits, trained by cross entropy."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(module(images), labels)

    return Trainee(module, loss, channels_last, setting=setting)


def _spikingjelly_best(network: Network, point: Point, device: torch.device) -> Trainee:
    """The fastest of the settings that docs/performance.md compares on a CPU; on a GPU one of two candidates."""
    missing = _why_not_compiled(device)
    # On CUDA it chooses fused kernels of its own. On a CPU its neuron is a loop in PyTorch, which torch.compile fuses.
    if device.type != "cpu" or missing is not None:
        module = SpikingJelly(network.body, point.timesteps)
        return _classifier(module, channels_last=True, setting=f"not compiled: {missing or 'its own CUDA kernels'}")
    return _spikingjelly_compiled(network, point, device)


def _spikingjelly_compiled(network: Network, point: Point, device: torch.device) -> Trainee:
    # Compiled together with the layers, the neurons stay in channels_last, which convolutions want. Compiled one by one
    # they are at their best in PyTorch's default format, and the step takes a few percent longer.
    module = SpikingJelly(network.body, point.timesteps, functional_neurons=True)
    module.compile(fullgraph=True)  # an error rather than parts that silently run uncompiled
    return dataclasses.replace(
        _classifier(module, channels_last=True, setting="compiled as a whole"), one_batch_size=True
    )


def _spikingjelly(network: Network, point: Point, device: torch.device) -> Trainee:
    return _classifier(SpikingJelly(network.body, point.timesteps), channels_last=False, setting="its own neurons")


def _snntorch(network: Network, point: Point, device: torch.device) -> Trainee:
    return _classifier(SnnTorch(network.body, point.timesteps), channels_last=False, setting="its own neurons")


def _ann(timesteps: int) -> ANN:
    """The twin has no time: its step is the same at every T."""
    return ANN()


# Another subject is one more row, and a function that builds it.
SUBJECTS: dict[str, Subject] = {
    "self-distillation": Subject("self-distillation, three branches", _ours(Rate, branches=None)),
    "rate": Subject("rate-based backpropagation alone", _ours(Rate)),
    "bptt": Subject("our BPTT", _ours(BPTT)),
    "ann": Subject("ANN twin", _ours(_ann)),
    "self-distillation-8bit": Subject(
        "self-distillation, 8-bit convolutions", _in_8_bits(branches=None), missing=missing_eight_bit
    ),
    "rate-8bit": Subject("rate-based alone, 8-bit convolutions", _in_8_bits(), missing=missing_eight_bit),
    "self-distillation-parts": Subject("self-distillation, in parts of the batch", _in_parts(branches=None)),
    "rate-parts": Subject("rate-based alone, in parts of the batch", _in_parts()),
    "self-distillation-graph": Subject(
        "self-distillation as a CUDA graph", _ours(Rate, branches=None), missing=no_gpu, graphs=True
    ),
    "rate-graph": Subject("rate-based alone as a CUDA graph", _ours(Rate), missing=no_gpu, graphs=True),
    "ann-graph": Subject("ANN twin as a CUDA graph", _ours(_ann), missing=no_gpu, graphs=True),
    "self-distillation-compiled": Subject(
        "self-distillation, compiled step", _whole(Rate, branches=None), compiled=True
    ),
    "rate-compiled": Subject("rate-based alone, compiled step", _whole(Rate), compiled=True),
    "bptt-compiled": Subject("our BPTT, compiled step", _whole(BPTT), compiled=True),
    "ann-compiled": Subject("ANN twin, compiled step", _whole(_ann), compiled=True),
    "two-pass": Subject("self-distillation in two passes, eager fp32", _two_pass, tuned=False),
    "spikingjelly-best": Subject("SpikingJelly BPTT, best setting", _spikingjelly_best, package="spikingjelly"),
    "spikingjelly-compiled": Subject(
        "SpikingJelly BPTT, compiled as a whole", _spikingjelly_compiled, package="spikingjelly", missing=no_gpu
    ),
    "spikingjelly": Subject("SpikingJelly BPTT, default", _spikingjelly, tuned=False, package="spikingjelly"),
    "snntorch": Subject("snnTorch BPTT, default", _snntorch, tuned=False, package="snntorch"),
}


def installed_subjects(device: torch.device) -> list[str]:
    """The subjects that can run there and start soon: all but those whose package or device is missing."""
    return [
        name
        for name, subject in SUBJECTS.items()
        if subject.is_installed() and subject.missing(device) is None and not subject.compiled
    ]
