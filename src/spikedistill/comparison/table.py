"""Finished runs side by side, as a table and figures."""

from __future__ import annotations

import statistics
from pathlib import Path

from spikedistill.comparison.rows import Row
from spikedistill.errors import DataError
from spikedistill.report.figure import new_figure, save_figure


def table(rows: list[Row]) -> str:
    """The rows in Markdown; differences are to the first."""
    first = rows[0]
    score = first.records[0].score_name
    head = ["run", "n", f"test {score}, % (by seed)", "mean", "sd", f"less {first.name}", "s per epoch", "s in all"]
    counted = any(row.spikes is not None for row in rows)
    head += ["spikes per sample", "commit"] if counted else ["commit"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        by_seed = ", ".join(f"{100 * value:.2f}" for value in row.scores)
        spread = "" if row.deviation is None else f"{100 * row.deviation:.2f}"
        commits = ", ".join(sorted({record.commit or "unknown" for record in row.records}))
        seconds = statistics.median(statistics.median(record.seconds) for record in row.records)
        in_all = statistics.median(sum(record.seconds) for record in row.records)
        mean = f"**{100 * row.mean:.2f}**"
        cells = [row.name, str(len(row.records)), by_seed, mean, spread, _difference(row, first)]
        cells += [f"{seconds:.0f}", f"{in_all:.0f}"]
        if counted:
            cells.append("" if row.spikes is None else f"{row.spikes:,.0f}")
        lines.append([*cells, commits])
    # a folder may have the sign that divides the cells in its name
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in lines)


def _difference(row: Row, first: Row) -> str:
    if row is first:
        return ""
    value, error = row.difference(first)
    return f"{100 * value:+.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def draw(rows: list[Row], path: Path) -> None:
    """Every seed as a point, every mean as a bar."""
    figure = new_figure(8, 0.5 * len(rows) + 1.2)
    axes = figure.subplots()
    for k, row in enumerate(rows):
        values = [100 * value for value in row.scores]
        axes.plot(values, [k] * len(values), "o", color="tab:blue", alpha=0.6)
        axes.plot([100 * row.mean] * 2, [k - 0.3, k + 0.3], color="tab:blue", linewidth=3)
        axes.annotate(
            f"{100 * row.mean:.1f} (n = {len(values)})",
            (max(values), k),
            (8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.margins(x=0.25)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axes.set(xlabel=f"test {rows[0].records[0].score_name} (%): seeds and their mean")
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_spikes(rows: list[Row], path: Path) -> None:
    """The mean score over the spikes for one sample, a point for each row, with the spread of the seeds.

    Raises:
        DataError: no run has counted its spikes.
    """
    counted = [(row.spikes, row) for row in rows if row.spikes is not None]
    if not counted:
        raise DataError("none of these runs has counted its spikes (they are of an earlier version, or ANN twins)")
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for spikes, row in counted:
        spread = None if row.deviation is None else 100 * row.deviation
        axes.errorbar(spikes, 100 * row.mean, yerr=spread, fmt="o", color="tab:blue", capsize=3)
        axes.annotate(row.name, (spikes, 100 * row.mean), (7, 4), textcoords="offset points")
    axes.set(xlabel="spikes per sample (all layers and steps)", ylabel=f"test {rows[0].records[0].score_name} (%)")
    axes.margins(x=0.2, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
