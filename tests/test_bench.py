"""The benchmark: steps that train, peers that compute the same, processes that answer, ratios by hand."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import types
from pathlib import Path

import pytest
import torch

import spikedistill as sd
from spikedistill.bench import (
    SUBJECTS,
    Point,
    Result,
    Step,
    draw,
    profile,
    ratio,
    run_benchmark,
    runner,
    step,
    subjects,
    worker,
)
from spikedistill.bench.runner import Worker
from spikedistill.bench.subjects import installed_subjects
from spikedistill.bench.two_pass import TwoPass
from spikedistill.cli import main
from spikedistill.errors import InvalidArgument

COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
POINT = Point(timesteps=2, batch=4, width=2, size=8, classes=3)
TINY = ["--width", "2", "--batch", "4", "--size", "8", "--classes", "3"]
PEERS = ("spikingjelly", "snntorch")


@pytest.fixture
def eager(monkeypatch):
    """No compiler: what compiling does to a step is tested where the kernels are."""
    monkeypatch.setattr(subjects, "missing_compiler", lambda device: "there is none here")


# ---------------------------------------------------------------- steps


LONG = ("self-distillation-compiled", "bptt-compiled")
"""Subjects whose compiling takes longest; others of their kind are among the quick tests."""


def marked(name):
    marks = {"slow": name in LONG, "whole": name.endswith("-compiled")}
    return pytest.param(name, marks=[getattr(pytest.mark, mark) for mark, holds in marks.items() if holds])


@pytest.mark.parametrize("name", [marked(name) for name in SUBJECTS])
def test_steps_train(name, eager):
    if SUBJECTS[name].package:
        pytest.importorskip(SUBJECTS[name].package)
    if SUBJECTS[name].missing(torch.device("cpu")):
        with pytest.raises(InvalidArgument, match="needs a GPU, and the device is cpu; name other --subjects"):
            Step(name, POINT)
        return
    step = Step(name, POINT)
    step.warm()
    before = [p.clone() for p in step.module.parameters()]
    step()
    moved = [not torch.equal(a, b) for a, b in zip(before, step.module.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(torch.isfinite(p).all() for p in step.module.parameters())


def test_all_subjects_see_the_same_images_and_start_from_the_same_weights(eager):
    names = installed_subjects(torch.device("cpu"))
    steps = {name: Step(name, POINT) for name in names}
    first = steps["ann"]
    stem = next(p for p in first.module.parameters() if p.dim() == 4)
    for name, other in steps.items():
        assert torch.equal(other.images, first.images), name
        assert torch.equal(other.labels, first.labels), name
        assert any(p.shape == stem.shape and torch.equal(p, stem) for p in other.module.parameters()), name


def test_rules_are_those_of_the_table(eager):
    learners = {name: Step(name, POINT).trainee.learner for name in ("self-distillation", "rate", "bptt", "ann")}
    shown = {name: (type(m.rule).__name__, m.rule.timesteps, len(m.branches)) for name, m in learners.items()}
    assert shown == {
        "self-distillation": ("Rate", 2, 3),
        "rate": ("Rate", 2, 0),
        "bptt": ("BPTT", 2, 0),
        "ann": ("ANN", None, 0),
    }


@pytest.fixture
def peer_step(monkeypatch, eager):
    """A peer that is no package: a linear layer."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    peer = subjects.Subject("a peer", lambda *_: subjects._classifier(net, channels_last=False, setting="linear"))
    monkeypatch.setitem(SUBJECTS, "peer", peer)
    return lambda: Step("peer", POINT)


def test_a_peer_computes_in_its_faster_precision(peer_step, monkeypatch):
    monkeypatch.delenv("SPIKEDISTILL_PRECISION", raising=False)
    monkeypatch.setattr(step, "computes_in_bf16", lambda device: True)
    for seconds, best in (({"fp32": 2.0, "bf16": 1.0}, "bf16"), ({"fp32": 1.0, "bf16": 1.5}, "fp32")):
        monkeypatch.setattr(Step, "_seconds_by_precision", lambda self, found=seconds: found)
        made = peer_step()
        assert made.precision == best
        assert f"linear; {best}: 1.000 s against" in made.setting


def test_a_peers_precisions_are_timed_by_its_own_steps(peer_step, monkeypatch):
    seen = []
    gradients = Step._gradients

    def noted(self, images, labels, precision):
        seen.append((len(images), precision))
        gradients(self, images, labels, precision)

    monkeypatch.delenv("SPIKEDISTILL_PRECISION", raising=False)
    monkeypatch.setattr(step, "computes_in_bf16", lambda device: True)
    monkeypatch.setattr(Step, "_gradients", noted)
    made = peer_step()
    assert seen == [(4, "fp32"), (4, "bf16")] * (step.REPEATS + 1)
    assert all(p.grad is None for p in made.module.parameters())


def test_a_peer_heeds_the_processor_and_the_environment(peer_step, monkeypatch):
    monkeypatch.delenv("SPIKEDISTILL_PRECISION", raising=False)
    monkeypatch.setattr(step, "computes_in_bf16", lambda device: False)
    assert peer_step().precision == "fp32"
    monkeypatch.setenv("SPIKEDISTILL_PRECISION", "bf16")
    assert peer_step().precision == "bf16"


# ---------------------------------------------------------------- refused before the work


@pytest.fixture
def no_work(monkeypatch):
    """Starting a subject's process is an error."""

    def refuse(*_):
        raise AssertionError("work was begun")

    monkeypatch.setattr(runner, "Worker", refuse)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subjects", "rates"], "unknown subject 'rates'; did you mean rate"),
        (["--timesteps", "0"], "whole numbers above 0"),
        (["--timesteps", "two"], "invalid int value"),
        (["--layer"], "unrecognized arguments: --layer"),
        (["--subjects", "ann", "--model", "resnet20"], "unknown model 'resnet20'; did you mean"),
        (["--subjects", "ann", "--stem", "large"], "unknown stem of resnet18 'large'"),
        (["--subjects", "ann", "--model", "vgg11", "--stem", "imagenet"], "--stem imagenet has no effect on vgg11"),
        (["--subjects", "ann", "--model", "vgg11", "--size", "8"], "vgg11 cannot take 32 images of 8×8"),
        (["--subjects", "ann", "--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
        (["--subjects", "ann", "--batch", "1", "--size", "8"], "Expected more than 1 value per channel"),
        (["--layers"], "bench --layers prints what it finds, of one T; leave out --out"),
        (["data", "fashion-small"], "bench data takes a recipe and its fields; leave out what is for bench itself"),
        (["--repeats", "3", "data"], "bench data takes a recipe and its fields; leave out what is for bench itself"),
    ],
)
def test_mistakes_are_refused_before_the_work(words, message, capsys, no_work, tmp_path):
    assert main(["bench", "--out", str(tmp_path / "out"), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def without(monkeypatch, package: str) -> None:
    """As if the package were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find_spec(name, *a))


@pytest.mark.parametrize("package", PEERS)
def test_a_peer_that_is_not_installed_is_refused_before_the_work(package, monkeypatch, capsys, no_work):
    without(monkeypatch, package)
    assert main(["bench", "--subjects", "ann", package]) == 1
    assert f"{package}, which is not installed (pip install 'spikedistill[bench]')" in capsys.readouterr().err
    with pytest.raises(InvalidArgument, match="not installed"):
        Step(package, POINT)


def test_without_a_choice_every_installed_subject_runs(monkeypatch):
    begun = []
    without(monkeypatch, "snntorch")
    monkeypatch.setattr(runner, "_rows_at", lambda subjects, point, repeats: begun.append(subjects) or [])
    run_benchmark(None, POINT, [1], 1, None)
    assert begun == [installed_subjects(torch.device("cpu"))]
    assert "snntorch" not in begun[0]
    assert "ann-graph" not in begun[0]
    assert "rate-8bit" in begun[0]
    assert "rate-8bit" not in installed_subjects(torch.device("cuda"))
    assert "ann-graph" in installed_subjects(torch.device("cuda"))
    assert "ann" in begun[0]


# ---------------------------------------------------------------- runs


@pytest.mark.whole
def test_a_subject_that_fails_at_its_work_says_so_and_the_rest_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(runner, "check", lambda subjects, point: None)
    point = Point(2, 4, 2, 8, 3, device="cuda:77")
    result = run_benchmark(["two-pass", "ann"], point, [1], 1, None)
    assert capsys.readouterr().out.count("device 'cuda:77' cannot be used here") == 2
    assert [row["subject"] for row in result["rows"]] == ["two-pass", "ann"]
    assert all("seconds" not in row for row in result["rows"])


@pytest.mark.whole
def test_a_killed_process_is_reported_as_out_of_memory():
    killed = Worker("ann", POINT)
    killed.wait()
    killed.step()
    killed.process.kill()
    killed.process.wait()
    killed.step()
    row = killed.row()
    killed.close()
    assert row == {"subject": "ann", "timesteps": 2, "failure": "killed: too little memory for this point"}


@pytest.mark.whole
def test_processes_end_with_the_block():
    block = runner.workers_for(["ann"], POINT)
    process = block.__enter__()[0].process
    assert process.poll() is None
    block.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert process.poll() is not None


class FakeStep:
    """A step that talks, as libraries do."""

    device, precision, setting = torch.device("cpu"), "fp32", "fake"

    def __init__(self, subject, point):
        print("a library says hello")
        self.calls = 0

    def warm(self):
        pass

    def record(self):
        pass

    def __call__(self):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("out of luck\nand more")


def test_a_worker_answers_in_json_only(monkeypatch, capsys):
    monkeypatch.setattr(worker, "Step", FakeStep)
    monkeypatch.setattr(sys, "argv", ["worker", "ann", "{}"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\nmemory\nstep\nstep\n"))
    out = io.StringIO()
    with pytest.raises(RuntimeError, match="out of luck"):
        worker.main(out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(line) for line in lines] == [["ready", "precision", "setting"], ["seconds"], ["bytes"], ["failure"]]
    assert lines[-1] == {"failure": "out of luck"}
    assert "hello" in capsys.readouterr().err


def test_memory_is_the_peak_above_the_start():
    memory = worker.Memory(torch.device("cpu"))
    torch.ones(2**24).sum()  # 64 MiB, freed at once
    assert 60e6 < memory.peak() < 140e6


# ---------------------------------------------------------------- what is computed from a result


def measured(subject: str, timesteps: int, times: list[float], peak: int) -> dict:
    seconds = sorted(times)[len(times) // 2]
    return {
        "subject": subject,
        "timesteps": timesteps,
        "seconds": seconds,
        "fastest": min(times),
        "slowest": max(times),
        "images_per_second": 4 / seconds,
        "peak_bytes": peak,
        "precision": "fp32",
        "times": times,
    }


def made_result() -> Result:
    rows = [
        measured("rate", 2, [1.0, 2.0, 30.0], 10_000_000),
        measured("bptt", 2, [2.0, 4.0, 40.0], 40_000_000),
        measured("rate", 8, [2.0, 4.0, 6.0], 15_000_000),
        {"subject": "bptt", "timesteps": 8, "failure": "killed: too little memory for this point"},
    ]
    machine = {"processor": "made up", "cuda": None}
    return {"environment": machine, "point": vars(POINT), "repeats": 3, "rows": rows}


def test_ratios_are_of_steps_taken_next_to_each_other():
    result = made_result()
    assert ratio(result, "rate", "bptt", 2) == 0.5
    assert ratio(result, "rate", "bptt", 2, "peak_bytes") == 0.25
    assert ratio(result, "rate", "ann", 2) is None
    assert ratio(result, "rate", "bptt", 8) is None


def test_the_figure_shows_what_was_measured(tmp_path, monkeypatch):
    from spikedistill.bench import drawing

    figures = []
    monkeypatch.setattr(drawing, "save_figure", lambda figure, path, dpi: figures.append(figure))
    draw(made_result(), tmp_path / "bench.png")
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert lines["rate-based backpropagation alone"].get_xydata().tolist() == [[2, 2], [8, 4]]
    assert lines["our BPTT"].get_xydata().tolist() == [[2, 4]]
    assert figures[0].axes[1].lines[0].get_ydata().tolist() == [10, 15]


@pytest.mark.filterwarnings("error")
def test_a_figure_of_failures_only_is_empty(tmp_path):
    result = made_result()
    result["rows"] = result["rows"][3:]
    draw(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 1000


def performance() -> types.ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "performance.py"
    spec = importlib.util.spec_from_file_location("performance", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_performance_page():
    script, result = performance(), made_result()
    assert script.growth(result, "rate") == 1.5
    assert script.growth(result, "bptt") is None
    result["rows"].append(measured("self-distillation", 2, [1.0, 1.0, 10.0], 8_000_000))
    table = script.ratio_table(result, timesteps=2)
    assert "| self-distillation ÷ our BPTT, time | 0.25 |" in table
    assert "| rate: peak memory at T = 8 ÷ at T = 2 | 1.50 |" in table
    rows = script.row_table(result)
    assert "| 2 | rate | fp32 | 2.00 (1.00 to 30.00) | 2.0 | 10 |" in rows
    assert "| 8 | bptt | | killed: too little memory for this point | | |" in rows


@pytest.mark.parametrize("subject", ["two-pass", pytest.param("rate", marks=COMPILED)])
def test_the_bare_operations_are_part_of_the_step(subject):
    found = profile(subject, POINT, repeats=3)
    assert found["ratio"] > 1
    assert found["step"] > found["bare"] > 0
    assert any("convolution" in name for name in found["kernels"])
    assert list(found["kernels"].values()) == sorted(found["kernels"].values(), reverse=True)


def test_the_two_pass_baseline_is_of_the_neuron_that_it_has():
    network = sd.create_model("ms_resnet18", 3, width=2)
    learner = sd.SelfDistillation(network, sd.Rate(2), branches=())
    with pytest.raises(InvalidArgument, match="the two-pass baseline has the preset neuron only"):
        TwoPass(learner)


def test_a_point_is_of_networks_that_classify():
    Point(2, 4, size=32, classes=3, model="spikformer").check()
    with pytest.raises(InvalidArgument, match="--width 8 has no effect on spikformer"):
        Point(2, 4, width=8, size=32, classes=3, model="spikformer").check()
    with pytest.raises(InvalidArgument, match="spiking_centernet gives .*the step that is measured is one of classifi"):
        Point(2, 4, 2, 32, 100, model="spiking_centernet").check()
