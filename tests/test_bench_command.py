"""The command `bench`: what it overwrites, what it measures twice, what it heeds and refuses."""

from __future__ import annotations

import json

import pytest
import torch
from test_bench import PEERS, POINT, TINY, no_work

import spikedistill as sd
from spikedistill.bench import SUBJECTS, Point, layers, runner, step
from spikedistill.bench.subjects import installed_subjects
from spikedistill.cli import main

__all__ = ["no_work"]  # a fixture


TAKEN = ["--subjects", "ann", "--timesteps", "1", "--batch", "2", "--width", "2", "--size", "8", "--repeats", "1"]


def test_nothing_of_the_users_is_overwritten(tmp_path, capsys, no_work):
    figures, file = tmp_path / "figures", tmp_path / "file"
    figures.mkdir()
    for own in (figures / "bench.png", file):
        own.write_text("mine")
    for out, message in (
        (figures, "holds a benchmark already (bench.png)"),
        (file, "is no folder and cannot become one"),
    ):
        assert main(["bench", *TAKEN, "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
    assert [(figures / "bench.png").read_text(), file.read_text()] == ["mine", "mine"]
    assert not (figures / "bench.json").exists()


def test_a_folder_is_taken_when_the_work_begins_and_free_if_nothing_came_of_it(tmp_path, monkeypatch):
    def another(*_):
        with pytest.raises(ValueError, match="holds a benchmark already"):
            runner.run_benchmark(["ann"], POINT, [1], 1, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_rows_at", another)
    with pytest.raises(KeyboardInterrupt):
        runner.run_benchmark(["ann"], POINT, [1], 1, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_subject_and_a_t_that_were_named_twice_are_measured_once_and_t_rises(monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "_rows_at", lambda names, point, repeats: seen.append((names, point.timesteps)) or [])
    result = runner.run_benchmark(["rate", "ann", "rate"], POINT, [2, 1, 2], 1, None)
    assert seen == [(["rate", "ann"], 1), (["rate", "ann"], 2)]
    assert "timesteps" not in result["point"]


def test_what_libraries_write_is_no_answer(monkeypatch):
    """oneDNN's own log goes to the file that is the standard output."""
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")
    with runner.workers_for(["ann"], Point(1, 2, 8, 8, 3)) as (worker,):
        worker.step()
        assert worker.failure is None
        assert len(worker.times) == 1


def test_the_width_is_the_models_own_unless_it_is_given():
    for model in ("resnet19", "resnet18"):
        network = Point(model=model).network()
        assert sum(p.numel() for p in network.parameters()) == sum(
            p.numel() for p in sd.create_model(model, Point.classes).parameters()
        )


def test_the_environment_says_whether_to_compile(monkeypatch):
    monkeypatch.setenv("SPIKEDISTILL_COMPILE", "off")
    assert step.Step("rate", POINT).setting.startswith("eager kernels: as SPIKEDISTILL_COMPILE says")


@pytest.mark.parametrize("subject", ["rate-parts", "self-distillation-8bit"])
def test_layers_are_not_told_of_work_that_is_another(subject, monkeypatch):
    monkeypatch.setattr("spikedistill.bench.subjects.missing_eight_bit", lambda device: None)
    with pytest.raises(ValueError, match="the bare operations cannot be told"):
        layers.profile(subject, POINT)


def test_noise_has_no_rows_to_choose_and_what_ships_is_measured_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr("spikedistill.bench.data.samples_per_second", lambda batches: [1.0])
    assert main(["bench", "data", "cifar10-resnet18", "--data.train_rows", "50"]) == 1
    assert "measures on noise, which has no rows to choose" in capsys.readouterr().err
    assert main(["bench", "data", "fashion-small", "--data.train_rows", "50", "--data.validation_rows", "0"]) == 0
    assert "50 samples of fashion-small" in capsys.readouterr().out
    assert main(["bench", "data", "fashion-small", "--data.name", "given"]) == 1
    assert "'given' are handed over in Python; name a data set" in capsys.readouterr().err


def test_a_compiled_step_is_measured_where_it_is_named(monkeypatch):
    named = [name for name, subject in SUBJECTS.items() if subject.compiled]
    assert named == [f"{name}-compiled" for name in ("self-distillation", "rate", "bptt", "ann")]
    assert not set(named) & set(installed_subjects(torch.device("cpu")))
    monkeypatch.setattr("spikedistill.training.compiled_step.torch.compile", lambda graph, **_: graph)
    seen = []
    for name in ("ann", "ann-compiled"):
        taken = step.Step(name, POINT)
        seen.append(float(taken._work(None, taken.images, taken.labels)))
    assert taken.setting.startswith("the step compiled as a whole")
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


@pytest.mark.whole
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
