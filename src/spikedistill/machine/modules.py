"""Python modules of the user's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def import_here(name: str) -> ModuleType:
    """Import a module, from the current folder too, as `python -m` does.

    Raises:
        ImportError: there is none, or it cannot be imported.
    """
    if name.startswith(".") or "/" in name or name.endswith(".py"):
        raise ImportError(f"{name!r} is no module; name it as package.module, without ./ and .py")
    here = str(Path.cwd())
    if here not in sys.path:  # and it stays there: functions of the module may import others when they are called
        sys.path.insert(0, here)
    return importlib.import_module(name)
