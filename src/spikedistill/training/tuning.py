"""How a learner computes fastest here: its kernels, its memory format and its precision."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikedistill.core.kernels import EAGER, Kernels, compiled
from spikedistill.core.lif import LIF
from spikedistill.core.modules import evaluating, watching
from spikedistill.errors import InvalidArgument, choose
from spikedistill.machine.allocator import keep_memory
from spikedistill.machine.compiler import automatic, missing_compiler
from spikedistill.machine.device import PRECISIONS, autocast, to_channels_last
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.precision import choose_precision

COMPILE_SECONDS = 60.0
"""What compiling costs at most, cold, on two CPU cores."""
SECONDS_SAVED_PER_UPDATE = 12e-9
"""What the fused kernels save per neuron and time step trained (docs/LOG.md)."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What was chosen, and why.

    Attributes:
        precision: "fp32" or "bf16".
        reasons: a line each for precision, kernels and memory.
        device: where the learner computes.
    """

    precision: str
    reasons: tuple[str, ...]
    device: torch.device

    def autocast(self) -> torch.autocast:
        """The context for the forward pass: bf16 where that was chosen, and otherwise without effect."""
        return autocast(self.precision, self.device)

    def __str__(self) -> str:
        return "\n".join(self.reasons)


def tune(
    learner: SelfDistillation, inputs: Tensor, samples: int, *, precision: str = "auto", compile: str = "auto"
) -> Tuning:
    """Let a learner compute as the trainer would, in a training loop of your own: the same choices, by the same rules.

    The learner gets its kernels, and its weights the memory format channels_last. Precision is a matter of the forward
    pass: `with tuning.autocast(): output = learner(inputs)`. Nothing that training draws or measures is touched.

    Args:
        inputs: a batch as it will be trained on, on the learner's device.
        samples: how many will be trained on in all, over all epochs: compiling takes up to a minute, and has to pay.
        precision: "auto", "fp32" or "bf16".
        compile: "auto", "on" or "off".

    Raises:
        InvalidArgument: compiling was wished for and cannot work here.
    """
    if not isinstance(learner, SelfDistillation) or not isinstance(inputs, Tensor):
        raise InvalidArgument(
            f"tune takes a learner and a batch of inputs, as tune(SelfDistillation(net, timesteps=4), images, 10**6); "
            f"given {type(learner).__name__} and {type(inputs).__name__}"
        )
    choose("precision", precision, ("auto", *PRECISIONS))
    choose("wish to compile", compile, ("auto", "on", "off"))
    if not isinstance(samples, int) or samples < 1:
        raise InvalidArgument(f"samples is {samples!r}; expected how many will be trained on in all, at least 1")
    keep_memory()
    to_channels_last(learner)
    random = torch.get_rng_state()
    network = learner.network
    example = (inputs[0] if network.is_over_time(inputs) else inputs)[:1]
    # measuring adds to gradients, and clears them: those that are there are put aside
    gradients = [parameter.grad for parameter in learner.parameters()]
    learner.zero_grad(set_to_none=True)
    chosen, precision_reason = choose_precision(precision, learner, inputs)
    for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
        parameter.grad = gradient
    learner.kernels, _, kernels_reason = choose_kernels(compile, learner, example, samples)
    torch.set_rng_state(random)
    told = [reason.replace("as the recipe says", "as was said") for reason in (precision_reason, kernels_reason)]
    reasons = (told[0], f"kernels {told[1]}", "memory channels_last")
    return Tuning(chosen, reasons, inputs.device)


def neuron_updates(learner: SelfDistillation, example: torch.Tensor) -> int:
    """Neurons of the network times T: the number of membrane updates for one sample."""
    counted: list[int] = []

    def count(_name: str, _module: nn.Module, output: torch.Tensor) -> None:
        counted.append(output.numel())

    neurons = {name: m for name, m in learner.network.named_modules() if isinstance(m, LIF)}
    with torch.no_grad(), evaluating(learner), watching(neurons, count):
        learner.network(example, timesteps=None)
    return sum(counted) * (learner.timesteps or 0)


class Chosen(NamedTuple):
    """Kernels, what "compile" has become ("on", "off" or "step"), and the reason in words."""

    kernels: Kernels
    compile: str
    reason: str


def choose_kernels(wish: str, learner: SelfDistillation, example: torch.Tensor, samples: int) -> Chosen:
    """The kernels for a run over `samples` samples.

    Raises:
        InvalidArgument: compiling was wished for and cannot work here.
    """
    if learner.timesteps is None and wish != "step":
        return Chosen(EAGER, "off", "eager: the ANN twin has no spiking neurons")
    missing = missing_compiler(example.device)
    if missing and wish in ("on", "step"):
        raise InvalidArgument(f"--compile {wish} is not possible: {missing}")
    if wish == "step":
        return Chosen(compiled(), "step", "compiled, the whole step as the recipe says: minutes at its first batch")
    by_user = wish
    if wish == "auto" and missing is None:
        wish = automatic("compile", ("on", "off")) or "auto"
    said_by = "as the recipe says" if by_user == wish else "as SPIKEDISTILL_COMPILE says"
    if wish == "off" or (wish == "auto" and missing):
        return Chosen(EAGER, "off", f"eager: {missing}" if missing else f"eager, {said_by}")
    if wish == "on":
        return Chosen(compiled(), "on", f"compiled, {said_by}")
    saved = neuron_updates(learner, example) * samples * SECONDS_SAVED_PER_UPDATE
    if saved < 2 * COMPILE_SECONDS:
        reason = f"eager: compiling takes up to {COMPILE_SECONDS:.0f} s and would save about {saved:.0f} s"
        return Chosen(EAGER, "off", reason)
    return Chosen(compiled(), "on", f"compiled: saves about {saved:.0f} s")
