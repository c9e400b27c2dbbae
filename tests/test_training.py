"""Runs as users run them: the command line, resuming, stopping, damaged files, full disks."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data import Framing, Splits
from spikedistill.data.events import FrameSet
from spikedistill.errors import Interrupted, NonFiniteLoss
from spikedistill.training import loop
from spikedistill.training.checkpoints import load_checkpoint
from spikedistill.training.recipe_files import load_recipe, saved_recipe
from spikedistill.training.recipe_parsing import known_fields
from spikedistill.training.run import resume, train

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
        ".lock",
        "checkpoint-before.pt",
        "best",
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


def as_in(finished):
    """The words of the finished run, with what it had chosen by itself: another start may choose otherwise."""
    chosen = saved_recipe(finished)
    return [*TINY, f"--precision={chosen.precision}", f"--compile={chosen.compile}"]


def same_weights(a, b):
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.whole
def test_resume_after_kill_9_ends_with_the_same_bits(finished, tmp_path):
    folder = tmp_path / "killed"
    process = spikedistill("train", *as_in(finished), "--out", folder)
    wait_for((folder / "checkpoint.pt").exists, process)
    process.kill()
    process.communicate()
    assert not (folder / "model.safetensors").exists()
    assert main(["train", "--resume", str(folder)]) == 0
    assert same_weights(folder, finished)
    with (folder / "metrics.csv").open() as ours, (finished / "metrics.csv").open() as theirs:
        for a, b in zip(csv.DictReader(ours), csv.DictReader(theirs), strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.whole
def test_ctrl_c_saves_in_the_middle_of_an_epoch_and_says_how_to_go_on(finished, tmp_path):
    folder = tmp_path / "stopped"
    process = spikedistill("train", *as_in(finished), "--out", folder)
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


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    recipe = tiny("--optimizer.epochs=2")
    train(recipe, tmp_path)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    more = tiny("--optimizer.epochs=4")
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 1e30)
    with pytest.raises(NonFiniteLoss, match=r"not finite in epoch 3, step \d+: loss .*hard .*Usual causes"):
        train(more, tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


class Poisoned:
    """Frames of a recording with one NaN, slipped past the readers."""

    @staticmethod
    def splits():
        frames = np.ones((12, 2, 2, 16, 16), np.float16)
        frames[5, 1, 0, 3, 4] = np.nan
        targets = sd.Labels(torch.arange(12) % 2, ("a", "b"))
        samples = FrameSet(frames, torch.arange(12), targets, Framing(2, size=16))
        return Splits(samples, None, samples)


def test_one_nan_in_the_input_is_noticed_before_the_weights_are_touched(tmp_path):
    """A NaN membrane never fires, so the loss stays finite: the gradient shows it."""
    words = ["--timesteps=2", "--model.width=2", "--optimizer.epochs=2", "--optimizer.batch_size=4", "--precision=fp32"]
    recipe = load_recipe("cifar10dvs-resnet18", words)
    with pytest.raises(NonFiniteLoss, match=r"not finite in epoch 1, step \d: .*gradient norm nan.*input that is NaN"):
        train(recipe, tmp_path / "run", data=Poisoned.splits())
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["learner"]
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_diverged_first_step_is_diagnosed(tmp_path):
    """Nothing of the epoch is known yet: the diagnosis says so, and does not fail itself."""
    progress = loop.Progress()
    losses = loop._Losses(progress)
    losses.add({"loss": torch.tensor(float("nan"))}, 4)
    losses.watch(torch.tensor(1.0))
    with pytest.raises(
        NonFiniteLoss, match=r"the loss is not finite in epoch 1, step 1: loss nan.*no step of it before"
    ):
        losses.check()


def test_training_in_python_takes_words_and_threads_and_overwrites_nothing(tmp_path, finished):
    recipe, found = tiny("--optimizer.epochs=1"), []
    thread = threading.Thread(target=lambda: found.append(train(recipe, str(tmp_path / "threaded"))))
    thread.start()
    thread.join()
    assert found[0].samples == 50
    assert resume(str(tmp_path / "threaded")).score == found[0].score
    before = (finished / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        train(recipe, str(finished))
    assert (finished / "model.safetensors").read_bytes() == before


def test_a_failed_start_leaves_nothing_and_can_be_repeated(tmp_path, capsys):
    out = tmp_path / "deep" / "run"
    words = ["train", "--data.name", "cifar10", "--data.root", str(tmp_path / "nothing"), "--out", str(out)]
    assert main(words) == 1
    assert not (tmp_path / "deep").exists()
    assert main(words) == 1
    assert "is not a folder" in capsys.readouterr().err
    mine = tmp_path / "mine"
    mine.mkdir()
    assert main([*words[:-1], str(mine)]) == 1
    assert mine.is_dir()  # a folder that was there is not taken away


def test_the_precision_of_a_number_is_said_and_can_be_chosen(finished, tmp_path, capsys):
    for chosen in ("fp32", "bf16"):
        assert main(["evaluate", str(finished), "--precision", chosen]) == 0
        assert f"computed in {chosen}" in capsys.readouterr().out
    Image.new("RGB", (28, 28), "grey").save(tmp_path / "picture.png")
    assert main(["predict", str(finished), str(tmp_path / "picture.png"), "--precision=bf16"]) == 0
    assert "computed in bf16" in capsys.readouterr().out


def picture_folder(root, classes):
    for split in ("train", "val"):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for n in range(4):
                Image.new("RGB", (20, 20), (60 * k, 80 * n % 255, 90)).save(root / split / name / f"{n}.png")
    return str(root)


def test_evaluation_on_other_data_matches_classes_by_name(tmp_path, capsys):
    """A network of cats and dogs, shown folders a_dogs and b_cats, would once have scored as if they were its own."""
    run = tmp_path / "run"
    words = ["--data.name=picture-folder", "--data.size=16", "--model.width=2", "--optimizer.epochs=1", "--timesteps=2"]
    words += ["--optimizer.batch_size=4", "--data.validation_rows=0"]
    own = picture_folder(tmp_path / "own", ["cat", "dog", "emu"])
    assert main(["train", *words, "--data.root", own, "--out", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 0
    whole = capsys.readouterr().out
    other = picture_folder(tmp_path / "other", ["dog", "emu"])  # dog is 0 here, and 1 to the network
    assert main(["evaluate", str(run), "--data.root", other]) == 0
    out = capsys.readouterr().out
    assert "on 8 samples" in out
    assert "on 12 samples" in whole
    odd = picture_folder(tmp_path / "odd", ["a_dog", "cat"])
    assert main(["evaluate", str(run), "--data.root", odd]) == 1
    assert "classes that the network does not know: a_dog; it knows cat, dog, emu" in capsys.readouterr().err
