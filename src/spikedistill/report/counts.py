"""A picture of counts by two things: what was taken for what."""

from __future__ import annotations

from pathlib import Path

from spikedistill.report.figure import new_figure, save_figure
from spikedistill.tasks import Grid

NAMED = 40
"""More rows than this get no names: nobody could read them."""
NUMBERED = 15
"""Up to so many rows, each cell has its share in per cent."""


def draw_counts(grid: Grid, path: Path) -> None:
    """Draw counts as shares of their row, in the format that the name of `path` ends with."""
    counts = grid.counts.double()
    whole = counts.sum(1) if grid.whole is None else grid.whole.double()
    shares = (counts / whole[:, None].clamp(min=1)).numpy()
    rows, columns = shares.shape
    side = min(10.0, max(4.0, 0.45 * rows))
    figure = new_figure(side + 2, side + 1)
    axes = figure.subplots()
    picture = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(title=f"{grid.title} ({int(whole.sum())} {grid.counted})", xlabel=grid.columns, ylabel=grid.rows)
    if max(rows, columns) <= NAMED:
        axes.set_xticks(range(columns), grid.column_names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(rows), grid.row_names, fontsize=8)
    if max(rows, columns) <= NUMBERED:
        for row in range(rows):
            for column in range(columns):
                share = 100 * shares[row, column]
                if share >= 0.5:
                    colour = "white" if share > 50 else "black"
                    axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, label=f"share of the {grid.rows} (%)", shrink=0.8)
    save_figure(figure, path)
