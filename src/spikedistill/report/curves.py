"""The picture of a finished run: loss, score by epoch, score by timesteps, firing rate by layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from spikedistill.measure.evaluation import Evaluation
from spikedistill.report.figure import new_figure, save_figure
from spikedistill.report.metrics import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is left of a row's columns are the terms of the loss, whatever the objectives call them.
NOT_LOSSES = ("epoch", "lr", "shown", "seconds")


def draw_curves(title: str, rows: list[Row], found: Evaluation, path: Path) -> None:
    """Draw a run from its metrics and its final evaluation, in the format that the name of `path` ends with.

    Args:
        title: what was trained, in a line.
    """
    figure = new_figure(11, 6.8)
    figure.suptitle(title)
    losses, scores, by_time, fired = figure.subplots(2, 2).flat
    # none, if the run was stopped before its first epoch was over; and phases of a run differ in their terms
    names = list(dict.fromkeys(name for row in rows for name in row))
    shares = [name for name in names if name.startswith(("train_", "validation_"))]
    terms = [name for name in names if name not in (*NOT_LOSSES, *shares)]
    _lines(losses, rows, {name: name for name in terms}, 1.0)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    # A meter may have several columns; of these only the score is a curve (train_..., validation_...).
    shown = [name for name in shares if name.endswith(found.score_name)]
    _lines(scores, rows, {name: name.partition("_")[0] for name in shown}, 100.0)
    scores.set(xlabel="epoch", ylabel=f"{found.score_name} (%)", title=f"{found.score_name.capitalize()} by epoch")
    _bars_by_time(by_time, found)
    _firing_rates(fired, found.firing_rates)
    save_figure(figure, path)


def _lines(axes: Axes, rows: list[Row], labels: dict[str, str], factor: float) -> None:
    """A line for each column, over whole epochs."""
    epochs = [row["epoch"] for row in rows]
    for name, label in labels.items():
        axes.plot(epochs, [factor * row.get(name, math.nan) for row in rows], label=label, marker=".")
    # matplotlib's default locator knows `integer`, though the base class that is declared here does not.
    axes.xaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
    if len(rows) == 1:  # of one epoch it would be asked for parts of it
        axes.set_xticks(epochs)
    if labels:  # beside the lines, never over them
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _bars_by_time(axes: Axes, found: Evaluation) -> None:
    # As words, so that the bars stand side by side: T = 1, 2 and 6 would have gaps between them.
    labels = ["ANN" if t is None else str(t) for t in found.score]
    bars = axes.bar(labels, [100 * value for value in found.score.values()], color="tab:green")
    axes.bar_label(bars, fmt="%.1f")
    axes.margins(y=0.15)  # room for the numbers over the bars
    title = f"Test {found.score_name} by timesteps"
    axes.set(xlabel="timesteps T", ylabel=f"test {found.score_name} (%)", title=title)


def _firing_rates(axes: Axes, rates: dict[str, float]) -> None:
    axes.barh(range(len(rates)), [100 * rate for rate in rates.values()], color="tab:orange")
    axes.set_yticks(range(len(rates)), list(rates), fontsize=6)
    axes.invert_yaxis()  # the first layer on top
    axes.set(xlabel="firing rate (% of neurons per step)", title="Firing rate by layer")
    if not rates:
        axes.text(0.5, 0.5, "no spiking layers", ha="center", transform=axes.transAxes)
