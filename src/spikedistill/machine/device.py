"""Devices, and the precision in which they compute fast."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from spikedistill.errors import InvalidArgument

PRECISIONS = ("fp32", "bf16")


def find_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one.

    Raises:
        InvalidArgument: not a device of this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise NotImplementedError("tensors have no values there")
        torch.empty(1, device=device)  # "cuda:7" is a valid name; only memory on it shows whether it is there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidArgument(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device auto"
        ) from error
    return device


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has units for bf16: CUDA from compute capability 8, or a CPU with AMX or AVX-512 BF16.

    Elsewhere bf16 is emulated, and slow (docs/LOG.md). Where it has them, it may still lose on small networks.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        # The one hasattr of the package: an old torch does not say what the processor can do.
        cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(cpu.get("amx_bf16") or cpu.get("avx512_bf16"))
    return False


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was told; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host on a device, without waiting for what that is doing (it is copied at the call)."""
    return tensor.to(device, non_blocking=device.type == "cuda")


Module = TypeVar("Module", bound=nn.Module)


def to_channels_last(module: Module) -> Module:
    """Weights of 2-d convolutions in channels_last memory, in place; torch's own `to` refuses 3-d ones beside them."""
    return module._apply(lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network computes in `precision`, "fp32" or "bf16"."""
    # A context also for fp32, where it does nothing: callers need no second form of their loop.
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
