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
import torch.nn.functional as F

from spikedistill.bench import (
    SUBJECTS,
    Point,
    Result,
    Step,
    draw,
    peers,
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
from spikedistill.cli import main
from spikedistill.core.neuron import Neuron, spike_response
from spikedistill.errors import InvalidArgument
from spikedistill.models import create_model

COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
POINT = Point(timesteps=2, batch=4, width=2, size=8, classes=3)
TINY = ["--width", "2", "--batch", "4", "--size", "8", "--classes", "3"]
PEERS = ("spikingjelly", "snntorch")


@pytest.fixture
def eager(monkeypatch):
    """No compiler: what compiling does to a step is tested where the kernels are."""
    monkeypatch.setattr(subjects, "missing_compiler", lambda device: "there is none here")


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("name", SUBJECTS)
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


# ---------------------------------------------------------------- peers


def active_network(name: str, timesteps: int):
    """A network whose neurons fire in evaluation: its running statistics are those of a batch."""
    network = create_model(name, 7, width=8)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(16, 3, 32, 32), timesteps=timesteps)
    for norm in norms:
        norm.momentum = 0.1
    return network


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet19", "preact_resnet18", "speednet", "vgg11"])
def test_spikingjelly_computes_the_same_logits_and_gradients(name, functional):
    pytest.importorskip("spikingjelly")
    network = active_network(name, timesteps=3)
    peer = peers.SpikingJelly(network.body, 3, functional_neurons=functional).double().eval()
    network = network.double().eval()
    images, labels = torch.randn(4, 3, 32, 32).double(), torch.arange(4)
    ours = network(images, timesteps=3).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(peer(images), ours, rtol=0, atol=1e-13)

    network.train(), peer.train()
    gradients = []
    for logits, module in ((network(images, timesteps=3).logits, network), (peer(images), peer)):
        F.cross_entropy(logits, labels).backward()
        gradients.append({tuple(p.shape): torch.zeros(()) for p in module.parameters()})
        for p in module.parameters():
            gradients[-1][tuple(p.shape)] = gradients[-1][tuple(p.shape)] + p.grad.square().sum()
    assert gradients[0].keys() == gradients[1].keys()
    for shape, size in gradients[0].items():
        torch.testing.assert_close(gradients[1][shape], size, rtol=1e-10, atol=1e-18)


def test_peers_have_the_neurons_of_the_network():
    pytest.importorskip("spikingjelly")
    torch.manual_seed(0)
    neuron = Neuron(decay=1.0, start=0.5, detach_reset=False, threshold=0.7)
    network = create_model("speednet", 7, width=8, neuron=neuron).double()
    peer = peers.SpikingJelly(network.body, 4, functional_neurons=True).double()
    images = torch.randn(4, 3, 32, 32).double()
    found = []
    for logits, module in ((network(images, timesteps=4).logits, network), (peer(images), peer)):
        F.cross_entropy(logits, torch.arange(4)).backward()
        found.append([logits.detach(), next(m for m in module.modules() if isinstance(m, torch.nn.Linear)).weight.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="starts at 0 and leaks"):
        peers.SpikingJelly(network.body, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spikingjelly_compiled_computes_the_same():
    pytest.importorskip("spikingjelly")
    network = active_network("resnet18", timesteps=3)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    results = []
    for functional in (False, True):
        peer = peers.SpikingJelly(network.body, 3, functional_neurons=functional).eval()
        if functional:
            peer.compile(fullgraph=True)
        logits = peer(images)
        F.cross_entropy(logits, labels).backward()
        results.append((logits, [p.grad for p in peer.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_spikingjelly_is_built_of_its_own_layers():
    pytest.importorskip("spikingjelly")
    body = create_model("resnet18", 7, width=16).body
    peer = peers.SpikingJelly(body, 2)
    leaves = {type(m) for m in peer.body.modules() if not list(m.children())}
    torchs = {kind.__name__ for kind in leaves if kind.__module__.startswith("torch.")}
    assert torchs <= {"Identity", "Sequential"}  # the empty stem and empty shortcuts
    assert not any(kind.__module__.startswith("spikedistill") for kind in leaves)
    strided = peers.SpikingJelly(create_model("resnet18", 7, width=8).body, 2)
    assert any(type(m).__name__ == "StridedPointwise" for m in strided.modules())  # unsafe in oneDNN otherwise


def test_peers_leave_the_network_as_it_was():
    pytest.importorskip("spikingjelly")
    network = create_model("resnet18", 7, width=8)
    before = [type(m) for m in network.modules()]
    peers.SpikingJelly(network.body, 2)
    assert [type(m) for m in network.modules()] == before


def test_the_stem_sees_a_static_image_once():
    pytest.importorskip("spikingjelly")
    peer = peers.SpikingJelly(create_model("resnet18", 7, width=8).body, 5)
    shapes = []
    peer.stem.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    peer(torch.randn(2, 3, 8, 8))
    assert shapes == [(2, 8, 8, 8)]


def test_the_neuron_of_snntorch_is_the_preset_below_twice_the_threshold():
    pytest.importorskip("snntorch")
    current = 1.2 * torch.rand(6, 1000)  # v < 0.2 · 1 + 1.2
    expected = spike_response(current, Neuron())
    neuron = peers.snntorch_neuron(Neuron())
    assert torch.equal(torch.stack([neuron(step) for step in current]), expected)
    assert (expected.sum(0) > 1).any()


def test_snntorch_forgets_the_membrane_between_images():
    pytest.importorskip("snntorch")
    peer = peers.SnnTorch(active_network("resnet18", timesteps=3).body, 3).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(peer(images), peer(images))
        assert peer(images).std() > 0.1


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
        (["--subjects", "ann", "--model", "vgg11", "--size", "8"], "vgg11 cannot take images of 8×8"),
        (["--subjects", "ann", "--device", "cuda:77"], "device 'cuda:77' cannot be used here"),
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


def test_bench_writes_what_it_found(tmp_path, capsys):
    words = ["bench", "--subjects", "two-pass", "ann", "--timesteps", "1", "2", "--repeats", "2", *TINY]
    assert main([*words, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    order = [(row["timesteps"], row["subject"]) for row in result["rows"]]
    assert order == [(1, "two-pass"), (1, "ann"), (2, "two-pass"), (2, "ann")]
    for row in result["rows"]:
        assert len(row["times"]) == 2
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["peak_bytes"] >= 0
        assert row["precision"] in ("fp32", "bf16")
        assert row["precision"] in row["setting"]
    assert result["environment"]["torch"] == torch.__version__
    assert set(result["environment"]) >= set(PEERS)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("images/s") == 4
    assert main([*words, "--out", str(tmp_path)]) == 1
    assert "holds a benchmark already" in capsys.readouterr().err


def test_a_subject_that_fails_at_its_work_says_so_and_the_rest_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(runner, "check", lambda subjects, point: None)
    point = Point(2, 4, 2, 8, 3, device="cuda:77")
    result = run_benchmark(["two-pass", "ann"], point, [1], 1, None)
    assert capsys.readouterr().out.count("device 'cuda:77' cannot be used here") == 2
    assert [row["subject"] for row in result["rows"]] == ["two-pass", "ann"]
    assert all("seconds" not in row for row in result["rows"])


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
