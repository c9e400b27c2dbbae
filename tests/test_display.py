"""What a run says while it trains: on a terminal, in a notebook, in a log."""

import dataclasses
import io

import pytest

from spikedistill.machine.load import other_work
from spikedistill.report import display as module
from spikedistill.report.display import Display


@dataclasses.dataclass
class Going:
    epoch: int = 0
    step: int = 0
    samples: int = 64
    seconds: float = 2.0

    def mean(self, name):
        return 1.25


class Terminal(io.StringIO):
    def isatty(self):
        return True


Notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})


def shown(monkeypatch, tmp_path, stream, seconds_per_step, steps=8):
    """What is written in an epoch of `steps` steps, on a clock of its own."""
    clock = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module.sys, "stderr", stream)
    display = Display(tmp_path, epochs=2, rows=[], score_name="accuracy")
    for step in range(1, steps + 1):
        clock[0] += seconds_per_step
        display.on_step(Going(step=step), steps)
    return stream.getvalue()


def test_a_log_gets_a_line_each_minute(monkeypatch, tmp_path):
    lines = shown(monkeypatch, tmp_path, io.StringIO(), seconds_per_step=25).splitlines()
    assert [line.split()[3] for line in lines] == ["3/8", "6/8"]
    assert "epoch 1/2 step 3/8 32 samples/s  loss 1.250  5:25 left" in lines[0]  # 13 steps of 25 s


def test_the_time_that_is_left_is_that_of_all_steps_also_where_few_are_told(monkeypatch, tmp_path):
    """On a GPU only every twentieth is."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module.sys, "stderr", io.StringIO())
    display = Display(tmp_path, epochs=2, rows=[], score_name="accuracy", begun=(0, 20))
    clock[0] = 80.0
    display.on_step(Going(step=60), 100)  # 40 steps in 80 s, and 140 are left
    assert "4:40 left" in module.sys.stderr.getvalue()


def test_an_epoch_of_fewer_steps_takes_no_longer_for_each(monkeypatch, tmp_path):
    """Pruning leaves samples out."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module.sys, "stderr", io.StringIO())
    display = Display(tmp_path, epochs=3, rows=[], score_name="accuracy")
    for epoch, steps in ((0, 100), (1, 50)):
        for step in range(1, steps + 1):
            clock[0] += 2.0
            display.on_step(Going(epoch=epoch, step=step), steps)
    # 150 steps in 300 s, and in the last epoch 50 again
    assert module.sys.stderr.getvalue().splitlines()[-1].endswith(" 1:40 left")


def test_a_short_run_leaves_a_log_alone(monkeypatch, tmp_path):
    assert shown(monkeypatch, tmp_path, io.StringIO(), seconds_per_step=1) == ""


def test_a_terminal_has_one_line_that_is_rewritten(monkeypatch, tmp_path):
    written = shown(monkeypatch, tmp_path, Terminal(), seconds_per_step=1)
    assert written.count("\r\x1b[K") == 8
    assert "\n" not in written
    assert "[####################]" in written


@pytest.mark.parametrize(("seconds", "updates"), [(0.1, 1), (1.0, 8)])
def test_a_notebook_too_but_not_too_often(monkeypatch, tmp_path, seconds, updates):
    written = shown(monkeypatch, tmp_path, Notebook(), seconds_per_step=seconds)
    assert written.count("\r\x1b[K") == updates


@pytest.mark.parametrize(
    ("load", "threads", "worked", "told"),
    [
        (2.0, 2, 0.0, "2.0 of 2 cores"),
        (1.5, 2, 30.0, "1.0 of 2 cores"),  # half of it this process's own
        (0.4, 2, 0.0, None),
        (2.0, 2, 120.0, None),
        (9.0, 1, 0.0, None),  # a single thread waits for no other
    ],
)
def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, load, threads, worked, told):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("time.process_time", lambda: worked)
    said = other_work()
    assert said is None if told is None else told in (said or "")


def test_a_small_number_is_not_shown_as_zero():
    display = type("Shares", (), {"shares": ()})()
    assert [Display._cell(display, "lr", value) for value in (1e-5, 0.0, 0.1)] == ["1.00e-05", "0.0000", "0.1000"]
