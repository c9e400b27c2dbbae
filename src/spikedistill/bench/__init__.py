"""`spikedistill bench`: time and memory of a training step against T, ours and the peers'.

Every subject runs in a process of its own; they take a step in turn, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from spikedistill.bench.subjects import SUBJECTS, Point
from spikedistill.errors import InvalidArgument
from spikedistill.machine.files import write_json


class Worker:
    """A running subject; `failure` says why it is not."""

    def __init__(self, subject: str, point: Point) -> None:
        command = [sys.executable, "-m", "spikedistill.bench.worker", subject, json.dumps(dataclasses.asdict(point))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.subject, self.point, self.failure = subject, point, None
        self.times: list[float] = []
        self.started = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.failure = self._reason()
        return {}

    def _reason(self) -> str:
        assert self.process.stderr is not None
        if self.process.returncode == -9:
            return "killed: too little memory for this point"
        lines = [line for line in self.process.stderr.read().splitlines() if line.strip()]
        return lines[-1].removeprefix("spikedistill.errors.SpikedistillError: ") if lines else "ended without a word"

    def ask(self, what: str) -> dict[str, Any]:
        if self.failure:
            return {}
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def step(self) -> None:
        seconds = self.ask("step").get("seconds")
        if seconds is not None:
            self.times.append(seconds)

    def close(self) -> dict[str, Any]:
        """End the process; its row of the result."""
        memory = self.ask("memory").get("bytes")
        self.process.kill()
        self.process.communicate()
        row: dict[str, Any] = {"subject": self.subject, "timesteps": self.point.timesteps}
        if self.failure or not self.times:
            return row | {"failure": self.failure}
        times = sorted(self.times)
        return row | {
            "seconds": statistics.median(times),
            "fastest": times[0],
            "slowest": times[-1],
            "images_per_second": self.point.batch / statistics.median(times),
            "peak_bytes": memory,
            "first_step": self.started["ready"],
            "precision": self.started["precision"],
            "times": self.times,
        }


def run(subjects: list[str], point: Point, timesteps: list[int], repeats: int, out: Path | None) -> dict[str, Any]:
    """Benchmark every subject at every T, and print and write what was found.

    Args:
        out: a folder for bench.json and bench.png (None: print only).

    Raises:
        InvalidArgument: `out` holds a benchmark already.
    """
    from spikedistill.machine.environment import environment

    if out is not None:  # before the work, not after it
        if (out / "bench.json").exists():
            raise InvalidArgument(f"{out} holds a benchmark already, which is not overwritten; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
    result = {"environment": environment(), "point": dataclasses.asdict(point), "repeats": repeats, "rows": []}
    for steps in timesteps:
        workers = [Worker(subject, dataclasses.replace(point, timesteps=steps)) for subject in subjects]
        for _ in range(repeats):
            for worker in workers:
                worker.step()
        rows = [worker.close() for worker in workers]
        result["rows"] += rows
        for row in rows:
            print(_line(row), flush=True)
        if out is not None:  # after every T, so that a stopped benchmark keeps what it has
            write_json(out / "bench.json", result)
            draw(result, out / "bench.png")
    if out is not None:
        print(f"written to {out}: bench.json, bench.png")
    return result


def _line(row: dict[str, Any]) -> str:
    head = f"T = {row['timesteps']:<2} {SUBJECTS[row['subject']].summary:<46}"
    if "seconds" not in row:
        return f"{head} {row['failure']}"
    spread = f"({row['fastest']:.3f} to {row['slowest']:.3f})"
    return (
        f"{head} {row['seconds']:.3f} s {spread:<18} {row['images_per_second']:7.1f} images/s  "
        f"{row['peak_bytes'] / 1e6:7.0f} MB  {row['precision']}  first step after {row['first_step']:.0f} s"
    )


def ratio(result: dict[str, Any], subject: str, other: str, timesteps: int, what: str = "seconds") -> float | None:
    """subject ÷ other at one T, the median of the ratios of steps taken next to each other (or of the peaks)."""
    found = {row["subject"]: row for row in result["rows"] if row["timesteps"] == timesteps and what in row}
    if subject not in found or other not in found:
        return None
    if what != "seconds":
        return found[subject][what] / found[other][what]
    pairs = zip(found[subject]["times"], found[other]["times"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def draw(result: dict[str, Any], path: Path) -> None:
    """Time and memory against T."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    time_axes, memory_axes = figure.subplots(1, 2)
    for subject, how in SUBJECTS.items():
        rows = [row for row in result["rows"] if row["subject"] == subject and "seconds" in row]
        steps = [row["timesteps"] for row in rows]
        style = {"marker": "o", "linestyle": "-" if how.fast else "--", "label": how.summary}
        if rows:
            time_axes.plot(steps, [row["seconds"] for row in rows], **style)
            memory_axes.plot(steps, [row["peak_bytes"] / 1e6 for row in rows], **style)
    point = result["point"]
    time_axes.set(xlabel="timesteps T", ylabel="seconds per training step", ylim=(0, None))
    memory_axes.set(xlabel="timesteps T", ylabel="peak memory of a step (MB)", ylim=(0, None))
    time_axes.set_title(f"{point['model']}, width {point['width']}, batch {point['batch']}", fontsize=10)
    memory_axes.set_title(str(result["environment"].get("cuda") or result["environment"]["processor"]), fontsize=10)
    memory_axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)
