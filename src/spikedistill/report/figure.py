"""The one way to make a figure: no window, no global state, saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.machine.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Commands check the name of a figure's file by these before they begin the work that comes before it.
FORMATS = (".png", ".jpg", ".pdf", ".svg")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches whose parts arrange themselves."""
    # Imported here, because it takes long and most commands draw nothing. Agg draws into memory and needs no display;
    # pyplot would keep every figure until somebody closes it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write the figure in the format that the file's name ends with; the old file stays until the new one is whole.

    Raises:
        WriteError: it could not be written.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    # Names of folders, classes and files are no mathematics: `a$_$b` would be an error, and `a$b$` lose its signs.
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
    form = path.suffix[1:].lower()
    with rc_context({"text.parse_math": False}):  # of ticks that are made while it draws
        write_atomically(path.resolve(), lambda file: figure.savefig(file, dpi=dpi, format=form))
