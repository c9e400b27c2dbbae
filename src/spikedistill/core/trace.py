"""Where in the user's code something happened."""

from __future__ import annotations

import traceback
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Model definitions read like a user's own, so an error in one of ours points into it.
_MODELS = str(_PACKAGE / "models")


def user_frame() -> str:
    """`file:line in function: source line` of the innermost caller outside torch and this package."""
    # From the innermost call outwards: between it and the user lie the rules, and torch's modules and functions.
    for frame in reversed(traceback.extract_stack()):
        name = frame.filename
        ours = name.startswith(str(_PACKAGE)) and not name.startswith(_MODELS)
        if "/torch/" not in name and not ours:
            return f"{name}:{frame.lineno} in {frame.name}: {frame.line}"
    return "an unknown place"
