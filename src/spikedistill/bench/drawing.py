"""The figure of a benchmark: time and memory of a step against T."""

from __future__ import annotations

from pathlib import Path

from spikedistill.bench.results import Result, measured_rows
from spikedistill.bench.subjects import SUBJECTS
from spikedistill.report.figure import new_figure, save_figure


def draw(result: Result, path: Path) -> None:
    """Write the figure to `path`, in the format that its name ends with."""
    figure = new_figure(12, 4)
    time_axes, memory_axes = figure.subplots(1, 2)
    for name, subject in SUBJECTS.items():
        rows = [row for row in measured_rows(result) if row["subject"] == name]
        # Nothing was measured where a subject was left out, or failed at every T.
        if not rows:
            continue
        timesteps = [row["timesteps"] for row in rows]
        # Dashed: subjects that compute as their authors' examples do, not at their best.
        line = "-" if subject.tuned else "--"
        seconds = [row["seconds"] for row in rows]
        megabytes = [row["peak_bytes"] / 1e6 for row in rows]
        time_axes.plot(timesteps, seconds, marker="o", linestyle=line, label=subject.summary)
        memory_axes.plot(timesteps, megabytes, marker="o", linestyle=line, label=subject.summary)
    point, machine = result["point"], result["environment"]
    # From 0, so that the eye can compare heights.
    time_axes.set(xlabel="time steps T", ylabel="seconds per training step", ylim=(0, None))
    memory_axes.set(xlabel="time steps T", ylabel="peak memory of a step (MB)", ylim=(0, None))
    width = "" if point["width"] is None else f", width {point['width']}"
    time_axes.set_title(f"{point['model']}{width}, batch {point['batch']}", fontsize=10)
    memory_axes.set_title(str(machine["cuda"] or machine["processor"]), fontsize=10)
    measured = sorted({row["timesteps"] for row in measured_rows(result)})
    time_axes.set_xticks(measured)  # there are no half time steps
    memory_axes.set_xticks(measured)
    # Beside the axes, where it hides no point; matplotlib warns of a legend without lines.
    if measured:
        figure.legend(*time_axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    save_figure(figure, path, dpi=130)
