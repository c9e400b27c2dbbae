"""The picture of a finished run: loss, score by epoch, score by timesteps, firing rate by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikedistill.measure.evaluation import Evaluation
from spikedistill.report.figure import new_figure, save_figure
from spikedistill.report.metrics import Row

NOT_LOSSES = ("epoch", "lr", "seconds")


def draw_curves(rows: list[Row], found: Evaluation, path: Path) -> None:
    """Draw a run from its metrics and its final evaluation."""
    figure = new_figure(11, 6.5)
    losses, scores, by_time, fired = figure.subplots(2, 2).flat
    names = list(rows[0]) if rows else []
    shares = [name for name in names if name.startswith(("train_", "validation_"))]
    terms = [name for name in names if name not in (*NOT_LOSSES, *shares)]
    _lines(losses, rows, {name: name for name in terms}, 1.0)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    shown = [name for name in shares if name.endswith(found.score_name)]
    _lines(scores, rows, {name: name.partition("_")[0] for name in shown}, 100.0)
    scores.set(xlabel="epoch", ylabel=f"{found.score_name} (%)", title=f"{found.score_name.capitalize()} by epoch")
    _bars_by_time(by_time, found)
    _firing_rates(fired, found.firing_rates)
    save_figure(figure, path)


def _lines(axes: Any, rows: list[Row], labels: dict[str, str], factor: float) -> None:
    """A line for each column, over whole epochs."""
    epochs = [row["epoch"] for row in rows]
    for name, label in labels.items():
        axes.plot(epochs, [factor * row[name] for row in rows], label=label, marker=".")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if labels:
        axes.legend()


def _bars_by_time(axes: Any, found: Evaluation) -> None:
    labels = ["ANN" if t is None else str(t) for t in found.score]
    bars = axes.bar(labels, [100 * value for value in found.score.values()], color="tab:green")
    axes.bar_label(bars, fmt="%.1f")
    axes.margins(y=0.15)
    title = f"Test {found.score_name} by timesteps"
    axes.set(xlabel="timesteps T", ylabel=f"test {found.score_name} (%)", title=title)


def _firing_rates(axes: Any, rates: dict[str, float]) -> None:
    axes.barh(range(len(rates)), [100 * rate for rate in rates.values()], color="tab:orange")
    axes.set_yticks(range(len(rates)), list(rates), fontsize=6)
    axes.invert_yaxis()
    axes.set(xlabel="firing rate (% of neurons per step)", title="Firing rate by layer")
    if not rates:
        axes.text(0.5, 0.5, "no spiking layers", ha="center", transform=axes.transAxes)
