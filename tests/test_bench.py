"""The benchmark: steps that can be taken, processes that answer or say why not, ratios by hand."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from spikedistill import bench
from spikedistill.bench.layers import profile
from spikedistill.bench.subjects import SUBJECTS, Point, Step
from spikedistill.cli import main
from spikedistill.errors import SpikedistillError

COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TINY = ["--width", "2", "--batch", "4", "--size", "8", "--classes", "3"]


def test_steps_train():
    for subject in ("two-pass", "ann"):
        step = Step(subject, Point(2, 4, 2, 8, 3))
        step.warm()
        before = [p.clone() for p in step.module.parameters()]
        step()
        assert any(not torch.equal(a, b) for a, b in zip(before, step.module.parameters(), strict=True))


def test_bench_writes_what_it_found(tmp_path, capsys):
    words = ["bench", "--subjects", "two-pass", "ann", "--timesteps", "1", "2", "--repeats", "2", *TINY]
    assert main([*words, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["timesteps"], row["subject"]) for row in result["rows"]] == [
        (1, "two-pass"),
        (1, "ann"),
        (2, "two-pass"),
        (2, "ann"),
    ]
    assert all(row["seconds"] > 0 and len(row["times"]) == 2 and row["peak_bytes"] >= 0 for row in result["rows"])
    assert result["environment"]["torch"] == torch.__version__
    assert (tmp_path / "bench.png").is_file()
    assert capsys.readouterr().out.count("images/s") == 4
    assert main([*words, "--out", str(tmp_path)]) == 1
    assert "holds a benchmark already" in capsys.readouterr().err


def test_a_subject_that_fails_says_so_and_the_rest_goes_on(capsys):
    words = ["bench", "--subjects", "two-pass", "ann", "--timesteps", "1", "--repeats", "1", *TINY]
    assert main([*words, "--device", "cuda:77"]) == 0
    assert capsys.readouterr().out.count("device 'cuda:77' cannot be used here") == 2


@pytest.mark.parametrize(("subject", "package"), [("spikingjelly", "spikingjelly"), ("snntorch", "snntorch")])
def test_a_peer_that_is_not_installed_is_named(subject, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        SpikedistillError, match=rf"{package}.* is not installed \(pip install 'spikedistill\[bench\]'\)"
    ):
        Step(subject, Point(2, 4, 2, 8, 3))


def test_ratios_are_of_steps_taken_next_to_each_other():
    rows = [
        {"subject": "rate", "timesteps": 2, "seconds": 2.0, "times": [1.0, 2.0, 30.0], "peak_bytes": 10},
        {"subject": "bptt", "timesteps": 2, "seconds": 4.0, "times": [2.0, 4.0, 40.0], "peak_bytes": 40},
    ]
    assert bench.ratio({"rows": rows}, "rate", "bptt", 2) == 0.5
    assert bench.ratio({"rows": rows}, "rate", "bptt", 2, "peak_bytes") == 0.25
    assert bench.ratio({"rows": rows}, "rate", "ann", 2) is None


@pytest.mark.parametrize("subject", ["two-pass", pytest.param("rate", marks=COMPILED)])
def test_the_bare_operations_are_part_of_the_step(subject):
    found = profile(subject, Point(2, 4, 2, 8, 3), repeats=3)
    assert found["ratio"] > 1
    assert any("convolution" in name for name in found["kernels"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subjects", "rates"], "unknown subject 'rates'; did you mean rate"),
        (["--timesteps", "0"], "whole numbers above 0"),
        (["--timesteps", "two"], "invalid int value"),
        (["--layer"], "unrecognized arguments: --layer"),
    ],
)
def test_mistakes_are_explained(words, message, capsys):
    assert main(["bench", *words]) == 1
    assert message in capsys.readouterr().err
    assert set(SUBJECTS) >= {"self-distillation", "two-pass", "spikingjelly-best"}
