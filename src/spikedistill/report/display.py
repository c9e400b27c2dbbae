"""What a run shows while it goes on: progress, a table row per epoch, TensorBoard events."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spikedistill.machine.output import say
from spikedistill.report.metrics import MetricsFile, Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Going(Protocol):
    """What is shown of a run's progress: `seconds` of training, and `mean(name)` of a loss, both of this epoch."""

    # A protocol, because the loop stands above this room and cannot be imported here.

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    def mean(self, name: str) -> float: ...


LOG_SECONDS = 60.0
"""Where there is no terminal, a line so often within an epoch: a log keeps all of them."""
NOTEBOOK_SECONDS = 0.5
"""A notebook draws each line anew, and is slow at it."""


class Display:
    """Tells the terminal, the metrics file and TensorBoard.

    Within an epoch it rewrites one line on a terminal and in a notebook; elsewhere it prints one each minute.

    Args:
        begun: epoch and step at which the run stands at this start.
    """

    def __init__(
        self, folder: Path, epochs: int, rows: list[Row], score_name: str, begun: tuple[int, int] = (0, 0)
    ) -> None:
        self.metrics = MetricsFile(folder / "metrics.csv", rows)
        self.shares = (f"train_{score_name}", f"validation_{score_name}")  # shown in per cent
        self.epochs = epochs
        self.events = _tensorboard(folder)
        notebook = _in_notebook()
        self.live = notebook or (sys.stderr is not None and sys.stderr.isatty())
        self.every = (NOTEBOOK_SECONDS if notebook else 0.0) if self.live else LOG_SECONDS
        self.shown = time.perf_counter()
        self.started = time.perf_counter()
        # since this start: a resumed run does not count steps that it has not made itself
        self._epoch, self._trained = begun[0], -begun[1]  # the epoch, and the steps before it
        self._of_epoch = 0
        self._header: list[str] = []

    def on_step(self, progress: Going, steps: int) -> None:
        """After some of the `steps` steps of an epoch: say how far it is, where it is time for that."""
        now = time.perf_counter()
        if progress.epoch != self._epoch:  # one may have fewer steps than another
            self._epoch, self._trained = progress.epoch, self._trained + self._of_epoch
        self._of_epoch = steps
        if now - self.shown < self.every:
            return
        self.shown = now
        per_step = (now - self.started) / max(1, self._trained + progress.step)
        # Includes what lies between epochs, which is part of waiting, too; as if all were as long as this one.
        left = per_step * (steps * (self.epochs - progress.epoch) - progress.step)
        filled = round(20 * progress.step / steps)
        far = f"[{'#' * filled}{'.' * (20 - filled)}]" if self.live else f"step {progress.step}/{steps}"
        line = (
            f"epoch {progress.epoch + 1}/{self.epochs} {far} "
            f"{progress.samples / max(progress.seconds, 1e-9):.0f} samples/s  loss {progress.mean('loss'):.3f}  "
            f"{_clock(left)} left"
        )
        # Back to the start of the line, and clear it, for the new text may be shorter.
        say(f"\r\x1b[K{line}" if self.live else line, "stderr", end="" if self.live else "\n")

    def on_epoch(self, row: Row) -> None:
        """After each epoch: its numbers by name, to all that show or keep them."""
        self.metrics.add(row)
        if self.live:
            say("\r\x1b[K", "stderr", end="")
        # A row has the names: nobody knows before what the objectives call their terms, and phases differ in theirs.
        if self._header != list(row):
            self._header = list(row)
            say("  ".join(f"{name:>{_width(name)}}" for name in row))
        say("  ".join(f"{self._cell(name, value):>{_width(name)}}" for name, value in row.items()))
        self._add_events(row)

    def _add_events(self, row: Row) -> None:
        """Tell TensorBoard; a full disk ends that, and not the run."""
        if self.events is None:
            return
        try:
            for name, value in row.items():
                self.events.add_scalar(name, value, int(row["epoch"]))
            self.events.flush()
        except Exception as error:  # it writes in a thread of its own, and has many ways to fail
            say(f"warning: TensorBoard gets no more events ({error})", "stderr")
            self.events = None

    def _cell(self, name: str, value: float) -> str:
        if name == "epoch":
            return f"{value:.0f}"
        if name in self.shares:
            return f"{value:.2%}"
        if name == "seconds":
            return f"{value:.1f}"
        # a learning rate of 1e-5 is not 0
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"

    def close(self) -> None:
        """Leave the terminal as it was, and write TensorBoard's last events."""
        if self.live:
            say("\r\x1b[K", "stderr", end="")
        if self.events is not None:
            with contextlib.suppress(Exception):
                self.events.close()


@dataclasses.dataclass
class Silence:
    """The watcher of processes other than the first: each would show and write the same."""

    def on_step(self, progress: Going, steps: int) -> None:
        pass

    def on_epoch(self, row: Row) -> None:
        pass

    def close(self) -> None:
        pass


def _in_notebook() -> bool:
    """Whether what is written to stderr appears below a cell of a notebook."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def _tensorboard(folder: Path) -> SummaryWriter | None:
    # It is an extra of the package; without it there are no events, and nothing else is missing.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    except Exception as error:  # it is there and broken, often beside another version of numpy or protobuf
        say(f"warning: TensorBoard cannot be used ({type(error).__name__}: {error})", "stderr")
        return None
    try:
        return SummaryWriter(str(folder / "tensorboard"))
    except Exception as error:
        say(f"warning: TensorBoard cannot be used ({type(error).__name__}: {error})", "stderr")
        return None


def _width(name: str) -> int:
    return max(len(name), 8)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
