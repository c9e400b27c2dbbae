"""The machine, the versions and the commit that a number was measured with."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """The machine, the versions and the commit that a number was measured with."""
    from importlib.metadata import PackageNotFoundError, version

    def package(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        root = Path(__file__).parent
        git = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
        commit = git.stdout.strip() or None
        return {
            "commit": commit,
            "spikedistill": package("spikedistill"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": package("torchvision"),
            "machine": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        }
    return {}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return platform.processor()
