"""Whether torch.compile can work here."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

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
        # its launcher is made by a C compiler, with the headers of Python
        named = os.environ.get("CC", "gcc").split()[0]
        if not (shutil.which(named) or shutil.which("clang")):
            return f"no C compiler ({named}) on the PATH, which triton needs"
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
            return "Python's headers, which triton needs, are not installed (python3-dev)"
        return None
    # torch calls what CXX names, or g++ (on a Mac clang++).
    compiler = os.environ.get("CXX", "g++")
    found = shutil.which(compiler) or shutil.which("clang++")
    return _failure(found) if found else f"no C++ compiler ({compiler}) on the PATH"


@functools.cache
def _failure(compiler: str) -> str | None:
    """Why a compiler cannot make a library of what torch.compile writes: threads, and the headers of C++."""
    source = "#include <cmath>\n#include <vector>\n#include <omp.h>\nint f() { return omp_get_num_threads(); }\n"
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, "-x", "c++", "-", "-shared", "-fPIC", "-fopenmp", "-o", str(Path(folder) / "f.so")]
        try:
            made = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            return f"the C++ compiler {compiler} cannot be run ({error})"
    if made.returncode == 0:
        return None
    words = (made.stderr.strip().splitlines() or [f"exit code {made.returncode}"])[0]
    return f"the C++ compiler {compiler} fails ({words})"


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
