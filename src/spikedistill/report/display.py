"""What a run shows: progress, a table row per epoch, metrics.csv, TensorBoard events, a picture of the curves."""

from __future__ import annotations

import csv
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from spikedistill.measure.evaluation import Evaluation
from spikedistill.training.loop import Progress

_PERCENT = {"train_accuracy", "validation_accuracy"}


class MetricsFile:
    """`metrics.csv`, one row per epoch; rows after the checkpoint that a run is resumed from are dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["epoch"] <= done] if path.exists() else []
        self._write()

    def add(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


class Display:
    """Tells the terminal, the metrics file and TensorBoard. Quiet between epochs if the output is no terminal."""

    def __init__(self, folder: Path, epochs: int, done: int) -> None:
        self.metrics = MetricsFile(folder / "metrics.csv", done)
        self.epochs = epochs
        self.events = _tensorboard(folder)
        self.live = sys.stderr.isatty()
        self.started, self.trained = time.perf_counter(), 0
        self._header_shown = False

    def on_step(self, progress: Progress, steps: int) -> None:
        self.trained += 1
        if not self.live:
            return
        sums = progress.sums
        per_step = (time.perf_counter() - self.started) / self.trained
        left = per_step * (steps * (self.epochs - progress.epoch) - progress.step)
        filled = round(20 * progress.step / steps)
        line = (
            f"epoch {progress.epoch + 1}/{self.epochs} [{'#' * filled}{'.' * (20 - filled)}] "
            f"{sums['samples'] / max(progress.seconds, 1e-9):.0f} images/s  loss {sums['loss'] / sums['samples']:.3f}  "
            f"accuracy {sums['correct'] / sums['samples']:.1%}  {_clock(left)} left"
        )
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def on_epoch(self, row: dict[str, float]) -> None:
        self.metrics.add(row)
        if self.live:
            sys.stderr.write("\r\x1b[K")
        if not self._header_shown:
            self._header_shown = True
            print("  ".join(f"{name:>{_width(name)}}" for name in row))
        print("  ".join(f"{_cell(name, value):>{_width(name)}}" for name, value in row.items()), flush=True)
        if self.events is not None:
            for name, value in row.items():
                self.events.add_scalar(name, value, int(row["epoch"]))
            self.events.flush()

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
        if self.events is not None:
            self.events.close()


@dataclasses.dataclass
class Silence:
    """The watcher of processes other than the first."""

    def on_step(self, progress: Progress, steps: int) -> None:
        pass

    def on_epoch(self, row: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _width(name: str) -> int:
    return max(len(name), 8)


def _cell(name: str, value: float) -> str:
    if name == "epoch":
        return f"{value:.0f}"
    if name in _PERCENT:
        return f"{value:.2%}"
    return f"{value:.1f}" if name == "seconds" else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def draw_curves(rows: list[dict[str, float]], found: Evaluation, path: Path) -> None:
    """A picture of a finished run: loss, accuracy, accuracy by timesteps, firing rate by layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    loss, answers, by_time, fired = figure.subplots(2, 2).flat
    epochs = [row["epoch"] for row in rows]
    for name in ("loss", "hard", "soft"):
        if rows and name in rows[0]:
            loss.plot(epochs, [row[name] for row in rows], label=name, marker=".")
    loss.set(xlabel="epoch", ylabel="loss", title="Loss")
    loss.legend()
    for axes in (loss, answers):
        axes.xaxis.get_major_locator().set_params(integer=True)
    for name in ("train_accuracy", "validation_accuracy"):
        if rows and name in rows[0]:
            label = name.removesuffix("_accuracy")
            answers.plot(epochs, [100 * row[name] for row in rows], label=label, marker=".")
    answers.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy by epoch")
    answers.legend()
    labels = ["ANN" if t is None else str(t) for t in found.accuracy]
    bars = by_time.bar(labels, [100 * value for value in found.accuracy.values()], color="tab:green")
    by_time.bar_label(bars, fmt="%.1f")
    by_time.margins(y=0.15)
    by_time.set(xlabel="timesteps T", ylabel="test accuracy (%)", title="Test accuracy by timesteps")
    names = list(found.firing_rates)
    fired.barh(range(len(names)), [100 * rate for rate in found.firing_rates.values()], color="tab:orange")
    fired.set_yticks(range(len(names)), names, fontsize=6)
    fired.invert_yaxis()
    fired.set(xlabel="firing rate (% of neurons per step)", title="Firing rate by layer")
    if not names:
        fired.text(0.5, 0.5, "no spiking layers", ha="center", transform=fired.transAxes)
    figure.savefig(path, dpi=120)
