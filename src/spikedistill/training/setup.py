"""From a recipe to the objects of a run: device, precision, kernels, learner, optimizer."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from spikedistill.data import Samples
from spikedistill.errors import InvalidArgument
from spikedistill.core.kernels import EAGER, Kernels, compiled
from spikedistill.training.learner import SelfDistillation
from spikedistill.models import create_model
from spikedistill.core.neuron import LIF
from spikedistill.training.recipe import OptimizerSettings, Recipe

COMPILE_SECONDS = 60.0
"""What compiling costs at most, cold, on two CPU cores."""
SECONDS_SAVED_PER_UPDATE = 12e-9
"""What the fused kernels save per neuron and time step trained (docs/LOG.md)."""


def find_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one.

    Raises:
        InvalidArgument: not a device of this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidArgument(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device auto"
        ) from error
    return device


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast: CUDA from compute capability 8, or a CPU with AMX or AVX-512 BF16 (else it is emulated)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(cpu.get("amx_bf16") or cpu.get("avx512_bf16"))
    return False


def find_precision(name: str, device: torch.device) -> str:
    if name == "auto":
        return "bf16" if computes_in_bf16(device) else "fp32"
    return name


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def missing_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, or None."""
    if device.type == "cuda":
        try:
            import triton  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            return "triton is not installed"
        return None
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) or shutil.which("clang++") else f"no C++ compiler ({compiler}) on the PATH"


def neuron_updates(learner: SelfDistillation, example: torch.Tensor) -> int:
    """Neurons of the network times T: the number of membrane updates for one sample."""
    counted = []

    def count(_module: nn.Module, _args: object, out: torch.Tensor) -> None:
        counted.append(out.numel())

    hooks = [m.register_forward_hook(count) for m in learner.network.modules() if isinstance(m, LIF)]
    was_training = learner.training
    learner.eval()
    with torch.no_grad():
        learner.network(example, timesteps=None)
    learner.train(was_training)
    for hook in hooks:
        hook.remove()
    return sum(counted) * (learner.timesteps or 0)


def choose_kernels(wish: str, learner: SelfDistillation, example: torch.Tensor, samples: int) -> tuple[Kernels, str]:
    """The kernels for a run over `samples` samples, and the reason in words.

    Raises:
        InvalidArgument: compiling was asked for and cannot work here.
    """
    if learner.propagation == "ann":
        return EAGER, "eager: the ANN twin has no spiking neurons"
    missing = missing_compiler(example.device)
    if wish == "off" or (wish == "auto" and missing):
        return EAGER, f"eager: {missing}" if missing else "eager, as asked"
    if wish == "on":
        if missing:
            raise InvalidArgument(f"--compile on is not possible: {missing}")
        return compiled(), "compiled, as asked"
    saved = neuron_updates(learner, example) * samples * SECONDS_SAVED_PER_UPDATE
    if saved < 2 * COMPILE_SECONDS:
        return EAGER, f"eager: compiling takes up to {COMPILE_SECONDS:.0f} s and would save about {saved:.0f} s"
    return compiled(), f"compiled: saves about {saved:.0f} s"


def example_of(data: Samples) -> torch.Tensor:
    """One picture or frame as a batch, [1, C, H, W]: what shapes are inferred from."""
    sample = data.batch(torch.zeros(1, dtype=torch.long))
    return sample if sample.dim() == 4 else sample[0]


def make_learner(recipe: Recipe, data: Samples) -> SelfDistillation:
    """The learner of a recipe, on the CPU, channels_last."""
    example = example_of(data)
    network = create_model(
        recipe.model.name,
        len(data.classes),
        width=recipe.model.width,
        in_channels=example.shape[-3],
        stem=recipe.model.stem,
        neuron=recipe.model.neuron,
    )
    learner = SelfDistillation(
        network,
        recipe.timesteps,
        branches=None if recipe.branches.enabled else (),
        propagation=recipe.propagation,
        objective=recipe.loss.objective(recipe.timesteps),
        branch_block=recipe.branches.block,
        example=example,
    )
    return learner.to(memory_format=torch.channels_last)


def decay_groups(
    modules: Iterable[nn.Module], weight_decay: float, decayed: str = "weights"
) -> list[dict[str, object]]:
    """Parameter groups: weight decay on convolution and linear weights, none on batch norm and biases.

    Args:
        decayed: "all" for decay on every parameter.
    """
    weights, rest = [], []
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            decays = decayed == "all" or (name == "weight" and parameter.dim() > 1)
            (weights if decays else rest).append(parameter)
    return [{"params": weights, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def make_optimizer(learner: nn.Module, settings: OptimizerSettings) -> torch.optim.SGD:
    groups = decay_groups(learner.modules(), settings.weight_decay, settings.decayed)
    return torch.optim.SGD(groups, settings.lr, settings.momentum, fused=True)


def learning_rate(settings: OptimizerSettings, epoch: int, step: int, steps: int) -> float:
    """Cosine from lr to 0 over the run, per epoch or per step."""
    progress = epoch if settings.cosine == "epoch" else epoch + step / steps
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress / settings.epochs))


def keep_memory() -> None:
    """Let the C allocator keep freed memory for the next step instead of returning it to the system (glibc only).

    Without this every large tensor of every step is paid for in page faults.
    """
    import ctypes

    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # not glibc: its allocator decides
        return
