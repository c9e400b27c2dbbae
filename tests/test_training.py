"""Runs as users run them: the command line, resuming, stopping, damaged files, full disks."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import CheckpointError, Interrupted, NonFiniteLoss, WriteError
from spikedistill.machine.files import write_atomically
from spikedistill.training.recipe_files import known_fields, load_recipe, saved_recipe
from spikedistill.machine.compiler import missing_compiler
from spikedistill.machine.device import find_device
from spikedistill.training import optimizers
from spikedistill.training.build import choose_kernels
from spikedistill.training.checkpoints import load_checkpoint, save_checkpoint, save_weights
from spikedistill.training.run import resume, train
from spikedistill.training.optimizers import OptimizerSettings

TINY = [
    "--model.width=2",
    "--data.train_rows=300",
    "--data.test_rows=50",
    "--data.validation_rows=44",
    "--optimizer.epochs=3",
    "--timesteps=2",
]


def tiny(*more):
    return load_recipe("fashion-small", [*TINY, *more])


def spikedistill(*words, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "spikedistill", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        **kwargs,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, made once."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    torch.set_num_threads(1)  # as in the processes of the tests below: the bits must be the same
    assert main(["train", *TINY, "--out", str(folder)]) == 0
    return folder


def test_the_command_line_end_to_end(finished, tmp_path, capsys):
    assert {p.name for p in finished.iterdir()} == {
        "recipe.yaml",
        "environment.json",
        "checkpoint.pt",
        "metrics.csv",
        "tensorboard",
        "model.safetensors",
        "config.json",
        "result.json",
        "curves.png",
    }
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"lr", "loss", "hard", "soft", "train_accuracy", "validation_accuracy", "seconds"} < set(rows[0])
    result = json.loads((finished / "result.json").read_text())
    assert list(result["test_accuracy"]) == ["1", "2"]
    with Image.open(finished / "curves.png") as picture:
        assert picture.size[0] > 1000
    assert json.loads((finished / "environment.json").read_text())["torch"] == torch.__version__

    assert main(["evaluate", str(finished), "--timesteps", "1", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"{result['test_accuracy']['2']:.2%}" in shown
    assert "layer1.0.neuron1" in shown

    Image.new("RGB", (40, 60), "grey").save(tmp_path / "picture.png")
    assert main(["predict", str(finished), str(tmp_path / "picture.png")]) == 0
    assert "%" in capsys.readouterr().out


def test_a_trained_network_in_python(finished):
    trained = sd.Trained.load(finished)
    images = torch.randn(2, 1, 28, 28)
    assert trained.network(images, timesteps=trained.timesteps).logits.shape == (2, 10)
    assert not trained.network.training


def test_lists(capsys):
    for what, expected in {"recipes": "cifar100-resnet18", "models": "preact_resnet34", "datasets": "cifar100"}.items():
        assert main(["list", what]) == 0
        assert expected in capsys.readouterr().out


def test_help_names_every_field(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in known_fields())
    assert main([]) == 0


def same_weights(a, b):
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_resume_after_kill_9_ends_with_the_same_bits(finished, tmp_path):
    folder = tmp_path / "killed"
    process = spikedistill("train", *TINY, "--out", folder)
    wait_for((folder / "checkpoint.pt").exists, process)
    process.kill()
    process.communicate()
    assert not (folder / "model.safetensors").exists()
    assert main(["train", "--resume", str(folder)]) == 0
    assert same_weights(folder, finished)
    with (folder / "metrics.csv").open() as ours, (finished / "metrics.csv").open() as theirs:
        for a, b in zip(csv.DictReader(ours), csv.DictReader(theirs), strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_ctrl_c_saves_in_the_middle_of_an_epoch_and_says_how_to_go_on(finished, tmp_path):
    folder = tmp_path / "stopped"
    process = spikedistill("train", *TINY, "--out", folder)
    wait_for((folder / "metrics.csv").exists, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130
    assert f"spikedistill train --resume {folder}" in out
    progress = load_checkpoint(folder / "checkpoint.pt")["progress"]
    assert (progress["epoch"], progress["step"]) > (0, 0)
    assert main(["train", "--resume", str(folder)]) == 0
    assert same_weights(folder, finished)


def test_a_stop_at_any_step_resumes_to_the_same_bits(finished, tmp_path, monkeypatch):
    """Stopped after each step in turn, in one process, where the place can be chosen."""
    from spikedistill.training import run

    recipe, folder = saved_recipe(finished), tmp_path / "often"
    calls = []

    def every_third(self, progress, steps):
        calls.append(progress.step)
        if len(calls) % 3 == 0:
            raise Interrupted("now")

    monkeypatch.setattr(run.Stoppable, "on_step", every_third)
    for attempt in range(20):
        try:
            train(recipe, folder, resume=attempt > 0)
            break
        except Interrupted:
            assert (folder / "checkpoint.pt").is_file()
    assert attempt > 2
    assert same_weights(folder, finished)


def test_a_run_folder_is_never_overwritten(finished, capsys):
    before = (finished / "model.safetensors").stat().st_mtime_ns
    assert main(["train", *TINY, "--out", str(finished)]) == 1
    assert f"{finished} exists already and is not overwritten" in capsys.readouterr().err
    assert (finished / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("words", [["train", "--out"], ["bench", "--subjects", "ann", "--out"]])
def test_a_folder_that_cannot_be_made_is_an_error_in_words(words, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*words, str(tmp_path / "file" / "run")]) == 1
    out, err = capsys.readouterr()
    assert "file/run" in err
    assert out == ""  # said before the work


def test_names_of_runs_count_up(tmp_path, monkeypatch):
    from spikedistill.training.folders import new_folder

    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(new_folder(None, "a")) for _ in range(3)]
        assert all(name.is_dir() for name in names)  # made at once: two runs never get the same
    assert not Path("runs").exists()  # nothing was written into them
    assert [str(name) for name in names] == ["runs/a", "runs/a-2", "runs/a-3"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    recipe = tiny("--optimizer.epochs=2")
    train(recipe, tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    more = tiny("--optimizer.epochs=4", "--optimizer.lr=1e30")
    with pytest.raises(NonFiniteLoss, match=r"not finite in epoch 3, step \d+: loss .*hard .*Usual causes"):
        train(more, tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


# ---------------------------------------------------------------- the parts


def test_weight_decay_is_on_convolution_and_linear_weights_only():
    learner = sd.SelfDistillation(sd.create_model("preact_resnet18", 10, width=2), sd.Rate(2))
    decayed, rest = optimizers.decay_groups(learner.modules(), 5e-4)
    ids = {id(p): name for name, p in learner.named_parameters()}
    names = [{ids[id(p)] for p in group["params"]} for group in (decayed, rest)]
    assert (decayed["weight_decay"], rest["weight_decay"]) == (5e-4, 0.0)
    assert len(names[0]) + len(names[1]) == len(ids)
    assert all(name.endswith("weight") for name in names[0])
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    assert all(isinstance(learner.get_submodule(name.rpartition(".")[0]), layers) for name in names[0])
    assert not any(
        isinstance(learner.get_submodule(n.rpartition(".")[0]), torch.nn.Conv2d) and n.endswith("weight")
        for n in names[1]
    )


def test_cosine():
    per_epoch = OptimizerSettings(epochs=10, lr=0.1, cosine="epoch")
    torch_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], 0.1), 10)
    for epoch in range(10):
        assert optimizers.learning_rate(per_epoch, epoch, 5, 7) == pytest.approx(torch_schedule.get_last_lr()[0])
        torch_schedule.optimizer.step()
        torch_schedule.step()
    per_step = OptimizerSettings(epochs=10, lr=0.1, cosine="step")
    assert optimizers.learning_rate(per_step, 9, 7, 7) == pytest.approx(0, abs=1e-12)


def test_compiling_is_left_out_where_it_does_not_pay():
    recipe = tiny()
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2, in_channels=1), sd.Rate(2))
    example = torch.zeros(1, 1, 28, 28)
    few = choose_kernels("auto", learner, example, samples=1000)
    many = choose_kernels("auto", learner, example, samples=10**9)
    assert few[1].startswith("eager: compiling takes")
    assert recipe.compile == "auto"
    if missing_compiler(example.device) is None:
        assert many[1].startswith("compiled: saves")
        assert not learner.network.training or many[0] is not few[0]


def test_without_a_compiler_the_eager_form_runs_and_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), sd.Rate(2))
    example = torch.zeros(1, 3, 16, 16)
    assert "no C++ compiler" in choose_kernels("auto", learner, example, 10**9)[1]
    with pytest.raises(ValueError, match="--compile on is not possible: no C"):
        choose_kernels("on", learner, example, 1)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "xpu"])
def test_devices_that_are_not_there_are_refused(device):
    with pytest.raises(ValueError, match="try --device auto"):
        find_device(device)


# ---------------------------------------------------------------- files that are damaged, foreign or too large


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["HARM"]),))


def test_a_pickle_disguised_as_weights_is_refused_and_not_run(tmp_path, monkeypatch, finished):
    harm = tmp_path / "harm"
    monkeypatch.setenv("HARM", str(harm))
    torch.save({"learner": Harmful()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="would execute code on loading are refused"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be read"):
        sd.Trained.load(tmp_path)
    assert not harm.exists()
    pickle.loads(pickle.dumps(Harmful()))  # it would have done harm
    assert harm.exists()


def test_truncated_and_foreign_checkpoints_are_refused(finished, tmp_path):
    good = (finished / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of spikedistill; it holds \['state_dict'\]"):
        load_checkpoint(path)
    weights = (finished / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        sd.Trained.load(tmp_path)
    save_weights(tmp_path, {"a": torch.zeros(1)}, json.loads((finished / "config.json").read_text()))
    with pytest.raises(CheckpointError, match=r"does not fit the network: missing .* unexpected \['a'\]"):
        sd.Trained.load(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"learner": 1})

    def fails(file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(WriteError, match="No space left on device.*unchanged"):
        write_atomically(path, fails)
    assert load_checkpoint(path) == {"learner": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_while_saving(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        path = disk / "checkpoint.pt"
        save_checkpoint(path, {"learner": torch.zeros(1000)})
        with pytest.raises(CheckpointError, match=r"could not write .*unchanged; free some space.*--resume"):
            save_checkpoint(path, {"learner": torch.zeros(10**6)})
        assert load_checkpoint(path)["learner"].shape == (1000,)
        assert [p.name for p in disk.iterdir()] == ["checkpoint.pt"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_corrupt_picture_is_refused(finished, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert main(["predict", str(finished), str(tmp_path / "bad.png")]) == 1
    assert "bad.png is not a readable picture" in capsys.readouterr().err
