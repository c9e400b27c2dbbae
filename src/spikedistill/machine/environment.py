"""The machine, the versions and the commit that a number was measured with."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def environment() -> dict[str, str | int | None]:
    """What a number depends on beside its recipe. Every key is always there; what is not known is None."""
    return {
        "commit": _commit(),
        "spikedistill": _version("spikedistill"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def _commit() -> str | None:
    """The commit of this package's own checkout; None where it is installed, or git is missing.

    An installed package may lie in a repository of somebody else's, whose commit says nothing about it.
    """
    package = Path(__file__).parents[1]
    # Of the folders above, only the one that has this package in its `src` is ours.
    checkout = package.parents[1]
    if package != checkout / "src" / "spikedistill" or not (checkout / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A checkout may set programs that git would run: none is needed to describe it.
        command = ["git", "-c", "core.fsmonitor=false", "-C", str(checkout), "describe", "--always", "--dirty"]
        described = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return described.stdout.strip() or None
    return None


def _processor() -> str:
    # Linux has the name of the model; Python itself has at most the architecture there.
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return platform.processor()
