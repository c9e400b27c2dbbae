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
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
        # Functions of the module may import others when they are called; at the end nothing installed is hidden.
        if here not in sys.path:
            sys.path.append(here)
