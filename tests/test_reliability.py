"""Nothing silent, nothing lost: what goes wrong around a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from tiny_runs import TINY, same_weights, start, stopping_after

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import CheckpointError, InvalidArgument, NonFiniteLoss
from spikedistill.machine.processes import Process
from spikedistill.training import loop
from spikedistill.training import run as run_module
from spikedistill.training.checkpoints import load_weights, save_checkpoint, save_weights
from spikedistill.training.recipe_files import load_recipe

# ---------------------------------------------------------------- nobody listens, and broken companions


@pytest.mark.whole
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("where", ["| head -1", "2>&-", "> /dev/full 2>&1"])
def test_a_training_does_not_end_because_nobody_listens(tmp_path, finished, where):
    words = f"{sys.executable} -m spikedistill train {' '.join(TINY)} --out {tmp_path / 'run'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = f"set -o pipefail; {words} {where}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    assert same_weights(tmp_path / "run", finished)


def test_a_broken_matplotlib_costs_the_picture_only(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr(run_module, "draw_curves", broken)
    assert main(["train", *TINY, "--optimizer.epochs=1", "--out", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert "curves.png could not be drawn (ImportError: numpy.core" in err
    assert "metrics.csv, result.json\n" in out
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_broken_tensorboard_costs_its_events_only(tmp_path, monkeypatch, capsys):
    import torch.utils.tensorboard as tensorboard

    class Broken:
        def __init__(self, folder):
            pass

        def add_scalar(self, *_):
            raise OSError("No space left on device")

        def close(self):
            raise OSError("No space left on device")

    monkeypatch.setattr(tensorboard, "SummaryWriter", Broken)
    assert main(["train", *TINY, "--optimizer.epochs=2", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.count("TensorBoard gets no more events (No space left") == 1


def test_ctrl_c_ends_the_preparation_and_the_final_evaluation(tmp_path, monkeypatch, capsys, finished):
    def pressed(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    # a shell starts what it puts into the background with Ctrl-C switched off
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load", pressed)
        assert main(["train", *TINY, "--out", str(folder)]) == 130
        assert not folder.exists()  # nothing was lost, and nothing is left
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_finish", pressed)
        assert main(["train", *TINY, "--out", str(folder)]) == 130
    signal.signal(signal.SIGINT, before)
    assert "the training is done and saved" in capsys.readouterr().err
    assert main(["train", "--resume", str(folder)]) == 0
    assert same_weights(folder, finished)


# ---------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "a", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"RANK": "5", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    ],
)
def test_half_an_environment_of_several_processes_is_refused(environment, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Process.find() == Process()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument, match="Start with torchrun, or unset them"):
        Process.find()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell script as a compiler")
def test_a_compiler_that_fails_is_left_alone_and_named(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'no room here' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.delenv("SPIKEDISTILL_COMPILE", raising=False)
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), timesteps=2)
    tuning = sd.tune(learner, torch.zeros(2, 3, 8, 8), samples=10**12, precision="fp32")
    assert learner.kernels is sd.EAGER
    assert "fails (no room here)" in str(tuning)


@pytest.mark.skipif(os.name != "posix", reason="files have no such rights")
def test_files_have_the_rights_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "checkpoint.pt", {"learner": {}})
        save_weights(tmp_path, {"w": torch.zeros(1)}, {})
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o640"}


@pytest.mark.parametrize("words", [["list", "recipes"], ["train", "--help"], ["trian"]])
def test_an_ascii_locale_is_no_reason_to_fail(words):
    """Help and errors hold ×, ≥ and θ, recipes ±."""
    process = start(*words, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == (1 if words == ["trian"] else 0)


def test_too_little_memory_is_said_in_words(monkeypatch, capsys):
    def large(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(run_module, "train", large)
    assert main(["train"]) == 1
    assert "not enough memory" in capsys.readouterr().err
    monkeypatch.setattr(run_module, "train", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a defect of ours is not hidden
        main(["train"])


def test_memory_that_is_not_there_at_the_first_step_leaves_no_folder(tmp_path, monkeypatch):
    def large(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "fit", large)
        assert main(["train", *TINY, "--out", str(tmp_path / "run")]) == 1
    assert not (tmp_path / "run").exists()  # so the remedy can be tried with the same --out


def test_what_nobody_can_hear_does_not_silence_the_users_own_program():
    code = "from spikedistill.machine.output import say\nimport sys\nsay('T ≥ 1')\nprint('result 42')\n"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.stdout.split() == ["T", "?", "1", "result", "42"]


def test_evaluating_a_run_whose_data_lie_on_the_hub_has_to_be_asked_for(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "theirs")
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values["data"] |= {"name": "cifar10", "root": "hub:stranger/payload"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["evaluate", str(folder)]) == 1
    assert "lie on the hub, and would be fetched; say so: --data.root hub:stranger/payload" in capsys.readouterr().err


def test_a_network_of_nan_gives_no_answer(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "nan")
    tensors, config = load_weights(folder)
    tensors["body.stem.0.weight"][0] = float("nan")
    save_weights(folder, tensors, config)
    with pytest.raises(CheckpointError, match="1 weights are NaN or infinite, first body.stem.0.weight"):
        sd.load(folder)


def test_weights_that_are_not_finite_do_not_become_the_best(tmp_path, monkeypatch):
    def poisoned(session, *rest):
        with torch.no_grad():
            session.learner.network.body.stem[1].running_var[0] = float("inf")

    monkeypatch.setattr(loop, "_epoch", poisoned)
    with pytest.raises(NonFiniteLoss):
        sd.train(load_recipe("fashion-small", TINY), tmp_path / "run")
    assert not (tmp_path / "run" / "best").exists()


def test_a_module_at_two_places_is_saved_under_both_names(tmp_path):
    shared = torch.nn.Linear(2, 2)
    net = torch.nn.ModuleDict({"a": shared, "b": shared})
    save_weights(tmp_path, net.state_dict(), {})
    assert set(load_weights(tmp_path)[0]) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_a_run_goes_on_without_the_weights_that_it_started_from(finished, tmp_path):
    start_from, folder = shutil.copytree(finished, tmp_path / "first"), tmp_path / "run"
    with stopping_after(2):
        assert main(["train", *TINY, "--init", str(start_from), "--out", str(folder)]) == 130
    shutil.rmtree(start_from)
    assert main(["train", "--resume", str(folder)]) == 0


def test_seeds_go_on_after_a_start_that_was_killed(tmp_path):
    folder = tmp_path / "s-0"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / "recipe.yaml").write_text("half")
    words = [*TINY, "--optimizer.epochs=1", "--data.validation_rows=0"]
    assert main(["train", *words, "--seeds", "0", "--out", str(tmp_path / "s")]) == 0
    assert main(["train", *words, "--seeds", "²", "--out", str(tmp_path / "t")]) == 1


def test_compare_reads_no_pipe_and_no_odd_numbers(finished, tmp_path, capsys):
    for name, file, text in (
        ("pipe", "metrics.csv", None),
        ("seed", "recipe.yaml", "seed: null"),
        ("commit", "environment.json", '{"commit": 5}'),
    ):
        folder = shutil.copytree(finished, tmp_path / name)
        (folder / file).unlink()
        os.mkfifo(folder / file) if text is None else (folder / file).write_text(text)
        code = main(["compare", str(folder)])
        assert code == (0 if name == "commit" else 1)
    assert "Traceback" not in capsys.readouterr().err


def test_evaluating_a_strangers_run_fetches_nothing_and_writes_where_nobody_else_says(finished, tmp_path, monkeypatch):
    import spikedistill.data as data

    folder = shutil.copytree(finished, tmp_path / "theirs")
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    values["data"] |= {"name": "cifar10", "root": str(tmp_path / "made"), "download": True}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    asked = []

    def noted(settings, *rest):
        asked.append(settings)
        raise sd.SpikedistillError("that is enough")

    monkeypatch.setattr(data, "load_split", noted)
    assert main(["evaluate", str(folder)]) == 1
    assert (asked[0].download, asked[0].events.cache) == (False, None)
    assert not (tmp_path / "made").exists()


# ---------------------------------------------------------------- a disk that fails, a process that is killed, anywhere

FAULT = """
import os, sys
from pathlib import Path

kind, at, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = 0


def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            if how == "kill":
                os._exit(137)
            raise OSError(28, "No space left on device")
        return function(*args, **kwargs)

    return call


if kind == "fsync":
    os.fsync = counted(os.fsync)
elif kind == "rename":
    Path.replace = counted(Path.replace)
else:
    from spikedistill.training import checkpoints
    import torch
    import safetensors.torch

    torch.save = counted(torch.save)
    safetensors.torch.save_file = counted(safetensors.torch.save_file)
    Path.write_text = counted(Path.write_text)
from spikedistill.cli import main

torch_threads = __import__("torch").set_num_threads(1)
code = main(sys.argv[4:])
print("CALLS", calls)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["fail", "kill"])
@pytest.mark.parametrize("kind", ["write", "rename", "fsync"])
def test_after_a_fault_at_any_write_the_run_goes_on_to_the_same_bits(tmp_path, finished, kind, how):
    """A failing disk, or a kill, at the k-th call, k = 1, 2, 3, ... until there are no more calls."""
    script = tmp_path / "fault.py"
    script.write_text(FAULT)
    words = ["train", *TINY, "--out"]
    for k in range(1, 60):
        folder = tmp_path / f"{k}"
        call = [sys.executable, script, kind, str(k), how, *words, str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        found = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120)
        if found.returncode == 0 and f"CALLS {k - 1}" in found.stdout:
            assert k > 5
            return
        assert "Traceback" not in found.stderr, found.stderr
        if found.returncode != 0:  # at once again: as a new run where nothing was saved, or as one that goes on
            again = (
                main(["train", "--resume", str(folder)])
                if list(folder.glob("checkpoint*"))
                else main([*words, str(folder)])
            )
            assert again == 0, (k, found.stderr)
        assert same_weights(folder, finished), (k, found.stderr)
        json.loads((folder / "config.json").read_text())
    raise AssertionError("the calls do not end")
