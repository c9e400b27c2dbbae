"""`spikedistill bench`: every subject in a process of its own, taking steps in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spikedistill.bench.drawing import draw
from spikedistill.bench.point import Point
from spikedistill.bench.results import Failed, Measured, Result, Row
from spikedistill.bench.subjects import SUBJECTS, installed_subjects
from spikedistill.errors import InvalidArgument, choose, whole_number
from spikedistill.machine.device import find_device
from spikedistill.machine.environment import environment
from spikedistill.machine.files import write_json
from spikedistill.machine.output import say

KILLED = -9
"""Exit code of a process that the system killed, as it does when memory runs out."""


class Worker:
    """A subject in a process of its own; see `worker.py` for what it can be asked.

    Attributes:
        times: seconds of the steps taken so far.
        failure: why the subject cannot go on; None while it can.
    """

    def __init__(self, subject: str, point: Point) -> None:
        self.subject, self.point = subject, point
        self.times: list[float] = []
        self.failure: str | None = None
        # A file, for nobody reads what the process says while it works: a pipe would fill up and block it.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the worker)
        command = [sys.executable, "-m", "spikedistill.bench.worker", subject, json.dumps(dataclasses.asdict(point))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        self.started: dict[str, Any] = {}

    def wait(self) -> None:
        """Wait until the first step is done; what the process says of it is kept for the row."""
        self.started = self._answer()

    def _answer(self) -> dict[str, Any]:
        """The next line that the process wrote; nothing if it has ended."""
        assert self.process.stdout is not None
        # Blocks until there is a line. An empty one means that the other end is closed: the process is gone.
        line = self.process.stdout.readline()
        try:
            answer = json.loads(line) if line else {"failure": self._last_words()}
        except ValueError:
            answer = {"failure": f"wrote something else than an answer: {line.strip()[:60]}"}
        self.failure = answer.get("failure")
        return answer

    def _last_words(self) -> str:
        """Why the process ended without an answer."""
        if self.process.wait() == KILLED:
            return "killed: too little memory for this point"
        # Python writes the error itself below its traceback, so the last line says most.
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return lines[-1] if lines else "ended without a word"

    def _ask(self, request: str) -> dict[str, Any]:
        if self.failure is not None:
            return {}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died; the missing answer says so
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        return self._answer()

    def step(self) -> None:
        """Take a step and keep its time; does nothing after a failure."""
        answer = self._ask("step")
        if self.failure is None and "seconds" in answer:
            self.times.append(answer["seconds"])

    def row(self) -> Row:
        """What was found."""
        # Asked after the last step: the peak is of all steps since the first.
        memory = self._ask("memory")
        if self.failure is not None:
            return Failed(subject=self.subject, timesteps=self.point.timesteps, failure=self.failure)
        seconds = statistics.median(self.times)
        return Measured(
            subject=self.subject,
            timesteps=self.point.timesteps,
            seconds=seconds,
            fastest=min(self.times),
            slowest=max(self.times),
            images_per_second=self.point.batch / seconds,
            peak_bytes=memory["bytes"],
            first_step=self.started["ready"],
            precision=self.started["precision"],
            setting=self.started["setting"],
            times=self.times,
        )

    def close(self) -> None:
        """End the process, whatever it is doing."""
        # It may be in the middle of a step, or of compiling, and would not hear a polite request.
        self.process.kill()
        self.process.communicate()  # closes the pipes, and leaves no zombie behind
        self.errors.close()


@contextlib.contextmanager
def workers_for(subjects: list[str], point: Point) -> Iterator[list[Worker]]:
    """A worker for each subject, started one after the other; they end with the block, also by Ctrl-C."""
    with contextlib.ExitStack() as stack:
        workers = []
        for subject in subjects:
            worker = Worker(subject, point)
            stack.callback(worker.close)
            # One after the other: no subject compiles, or measures its precision, while another one works.
            worker.wait()
            workers.append(worker)
        yield workers


def run_benchmark(
    subjects: list[str] | None, point: Point, timesteps: list[int], repeats: int, out: Path | None
) -> Result:
    """Benchmark every subject at every T, and print and write what was found.

    A subject that fails at its work (too little memory, say) gets a row that says so, and the others go on.

    Args:
        subjects: keys of `SUBJECTS`; None: all whose packages are installed.
        timesteps: the values of T, measured from the least on; `point.timesteps` is not looked at.
        repeats: steps timed of each subject, which take them in turn, so that drift of the machine hits all alike.
        out: a folder for bench.json and bench.png (None: print only).

    Raises:
        InvalidArgument: before any work, for a subject, network, image size or device that cannot be used here, and
            for a folder that holds a benchmark already.
    """
    names = installed_subjects(find_device(point.device)) if subjects is None else list(dict.fromkeys(subjects))
    whole_number("repeats", repeats)
    # A benchmark takes minutes to hours: what can be known to fail is said before it.
    check(names, point)
    settings = {name: value for name, value in dataclasses.asdict(point).items() if name != "timesteps"}
    result = Result(environment=_environment(), point=settings, repeats=repeats, rows=[])
    with contextlib.nullcontext() if out is None else _taken(Path(out)):
        for steps in sorted(set(timesteps)):
            rows = _rows_at(names, dataclasses.replace(point, timesteps=steps), repeats)
            result["rows"] += rows
            # Written before it is shown, and after every T: a stopped benchmark keeps what it has.
            if out is not None:
                write_json(Path(out) / "bench.json", result)
                draw(result, Path(out) / "bench.png")
            for row in rows:
                say(line_of(row))
    if out is not None:
        say(f"written to {out}: bench.json, bench.png")
    return result


def check(subjects: list[str], point: Point) -> None:
    """Refuse what can be known to fail before the work.

    Raises:
        InvalidArgument: see `run_benchmark`.
    """
    for name in subjects:
        subject = SUBJECTS[choose("subject", name, SUBJECTS)]
        subject.check_installed()
        subject.check_device(find_device(point.device))
    point.check()


@contextlib.contextmanager
def _taken(out: Path) -> Iterator[None]:
    """The folder `out` is this benchmark's from the start: another one that begins now gets an error, and no mixture.

    Raises:
        InvalidArgument: it holds one already, or is no folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"--out {out} is no folder and cannot become one ({error.strerror})") from error
    found = [name for name in ("bench.json", "bench.png") if (out / name).exists()]
    if found:
        raise InvalidArgument(
            f"{out} holds a benchmark already ({found[0]}), which is not overwritten; choose another --out"
        )
    target = out / "bench.json"
    with target.open("x"):
        pass
    try:
        yield
    finally:
        if target.stat().st_size == 0:  # nothing was measured: the folder can be used again
            target.unlink()


def _environment() -> dict[str, Any]:
    """The machine and the versions, those of the peers included."""
    # A peer's number means nothing without its version; None says that it was not there.
    found: dict[str, Any] = dict(environment())
    for package in sorted({subject.package for subject in SUBJECTS.values() if subject.package is not None}):
        found[package] = None
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _rows_at(subjects: list[str], point: Point, repeats: int) -> list[Row]:
    """The rows of one T."""
    with workers_for(subjects, point) as workers:
        # Steps in turn, not one subject after the other: what slows the machine down then slows all of them.
        for _ in range(repeats):
            for worker in workers:
                worker.step()
        return [worker.row() for worker in workers]


def line_of(row: Row) -> str:
    """A row in words, for the terminal."""
    head = f"T = {row['timesteps']:<2} {SUBJECTS[row['subject']].summary:<46}"
    if "failure" in row:
        return f"{head} {row['failure']}"
    spread = f"({row['fastest']:.3f} to {row['slowest']:.3f})"
    return (
        f"{head} {row['seconds']:.3f} s {spread:<18} {row['images_per_second']:7.1f} images/s  "
        f"{row['peak_bytes'] / 1e6:7.0f} MB  {row['precision']}  first step after {row['first_step']:.0f} s"
    )
