"""Where in the user's code something happened."""

from __future__ import annotations

import traceback
from pathlib import Path

_OURS = str(Path(__file__).parents[1])


def user_frame() -> str:
    """`file:line in function: source line` of the innermost caller outside torch and this package."""
    frames = traceback.extract_stack()
    for frame in reversed(frames):
        name = frame.filename
        if "/torch/" not in name and (not name.startswith(_OURS) or name.startswith(f"{_OURS}/models")):
            return f"{name}:{frame.lineno} in {frame.name}: {frame.line}"
    return "an unknown place"
