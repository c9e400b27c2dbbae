"""What a run shows while it goes on: progress, a table row per epoch, TensorBoard events."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from spikedistill.report.metrics import MetricsFile, Row


class Going(Protocol):
    """What is shown of a run's progress."""

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    def mean(self, name: str) -> float: ...


class Display:
    """Tells the terminal, the metrics file and TensorBoard. Quiet between epochs if the output is no terminal."""

    def __init__(self, folder: Path, epochs: int, done: int, score_name: str) -> None:
        self.metrics = MetricsFile(folder / "metrics.csv", done)
        self.shares = (f"train_{score_name}", f"validation_{score_name}")  # shown in per cent
        self.epochs = epochs
        self.events = _tensorboard(folder)
        self.live = sys.stderr.isatty()
        self.started, self.trained = time.perf_counter(), 0
        self._header_shown = False

    def on_step(self, progress: Going, steps: int) -> None:
        self.trained += 1
        if not self.live:
            return
        per_step = (time.perf_counter() - self.started) / self.trained
        left = per_step * (steps * (self.epochs - progress.epoch) - progress.step)
        filled = round(20 * progress.step / steps)
        line = (
            f"epoch {progress.epoch + 1}/{self.epochs} [{'#' * filled}{'.' * (20 - filled)}] "
            f"{progress.samples / max(progress.seconds, 1e-9):.0f} samples/s  loss {progress.mean('loss'):.3f}  "
            f"{_clock(left)} left"
        )
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def on_epoch(self, row: Row) -> None:
        self.metrics.add(row)
        if self.live:
            sys.stderr.write("\r\x1b[K")
        if not self._header_shown:
            self._header_shown = True
            print("  ".join(f"{name:>{_width(name)}}" for name in row))
        print("  ".join(f"{self._cell(name, value):>{_width(name)}}" for name, value in row.items()), flush=True)
        if self.events is not None:
            for name, value in row.items():
                self.events.add_scalar(name, value, int(row["epoch"]))
            self.events.flush()

    def _cell(self, name: str, value: float) -> str:
        if name == "epoch":
            return f"{value:.0f}"
        if name in self.shares:
            return f"{value:.2%}"
        return f"{value:.1f}" if name == "seconds" else f"{value:.4f}"

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
        if self.events is not None:
            self.events.close()


@dataclasses.dataclass
class Silence:
    """The watcher of processes other than the first."""

    def on_step(self, progress: Going, steps: int) -> None:
        pass

    def on_epoch(self, row: Row) -> None:
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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
