"""Whether torch.compile can work here."""

from __future__ import annotations

import os
import shutil

import torch

from spikedistill.errors import InvalidArgument


def missing_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot work for `device`, or None if it can."""
    # For a GPU torch.compile writes Triton, for a CPU it writes C++.
    if device.type == "cuda":
        try:
            import triton  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            return "triton is not installed"
        return None
    # torch calls what CXX names, or g++ (on a Mac clang++).
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) or shutil.which("clang++") else f"no C++ compiler ({compiler}) on the PATH"


def automatic(what: str, allowed: tuple[str, ...]) -> str | None:
    """What "auto" means for `what` where the user has said so, by SPIKEDISTILL_WHAT in the environment.

    Raises:
        InvalidArgument: the variable holds something else than `allowed`.
    """
    # A cluster or a test can decide for all its runs, and a recipe stays the same everywhere.
    variable = f"SPIKEDISTILL_{what.upper()}"
    wish = os.environ.get(variable)
    if wish is not None and wish not in allowed:
        raise InvalidArgument(f"the environment has {variable}={wish}; expected {' or '.join(allowed)}")
    return wish
