"""Runs as users run them: the command line, resuming, stopping, damaged files, full disks."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pickle
import re
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
from spikedistill.errors import CheckpointError, Interrupted, NonFiniteLoss, WriteError
from spikedistill.machine.device import find_device
from spikedistill.machine.files import write_atomically
from spikedistill.training import loop
from spikedistill.training import prepared as prepared_module
from spikedistill.training import run as run_module
from spikedistill.training.checkpoints import before, load_checkpoint, save_checkpoint, save_weights
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


# ---------------------------------------------------------------- the parts


def test_average_optimizer_and_parts_resume_to_the_same_bits(tmp_path, monkeypatch):
    words = ["--optimizer", "adamw", "--optimizer.lr=0.01", "--optimizer.ema=0.9", "--optimizer.accumulate=2"]
    recipe = tiny(*words, "--optimizer.warmup_epochs=1", "--precision=fp32", "--compile=off")
    train(recipe, tmp_path / "whole")
    taken = []

    def stops(self, progress, steps):
        taken.append(progress.step)
        if len(taken) == 6:
            raise Interrupted("now")

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Stoppable, "on_step", stops)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "stopped")
    resume(tmp_path / "stopped")
    assert same_weights(tmp_path / "stopped", tmp_path / "whole")
    assert (tmp_path / "stopped/best/model.safetensors").read_bytes() == (
        tmp_path / "whole/best/model.safetensors"
    ).read_bytes()


def test_the_best_epoch_on_validation_rows_is_kept_beside_the_last(finished):
    with (finished / "metrics.csv").open() as file:
        scores = [float(row["validation_accuracy"]) for row in csv.DictReader(file)]
    best = sd.Trained.load(finished / "best")
    assert best.config["epoch"] == scores.index(max(scores)) + 1
    assert best.config["validation"] == pytest.approx(max(scores))


def test_a_run_starts_from_the_weights_of_another(finished, tmp_path, capsys):
    words = ["train", *TINY, "--optimizer.epochs=1", "--optimizer.lr=1e-12", "--init", str(finished)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    ours, theirs = (sd.Trained.load(folder).network.state_dict() for folder in (tmp_path / "run", finished))
    for name, tensor in ours.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-7)
    capsys.readouterr()
    assert main([*words, "--model.width=3", "--out", str(tmp_path / "other")]) == 1
    assert "does not fit the network" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "nowhere"), "--out", str(tmp_path / "other")]) == 1
    assert "there is no" in capsys.readouterr().err


def test_a_finished_run_goes_on_for_more_epochs_and_with_moved_data(tmp_path, capsys):
    run = tmp_path / "run"
    own = picture_folder(tmp_path / "own", ["cat", "dog"])
    words = ["--data.name=picture-folder", "--data.size=16", "--model.width=2", "--optimizer.epochs=1", "--timesteps=2"]
    words += ["--optimizer.batch_size=4", "--data.validation_rows=0", "--data.root", own]
    assert main(["train", *words, "--out", str(run)]) == 0
    (tmp_path / "own").rename(tmp_path / "moved")
    assert main(["train", "--resume", str(run)]) == 1
    assert "is not a folder" in capsys.readouterr().err
    more = ["--data.root", str(tmp_path / "moved"), "--optimizer.epochs", "3"]
    assert main(["train", "--resume", str(run), *more]) == 0
    with (run / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert saved_recipe(run).optimizer.epochs == 3
    for words, message in {
        ("--optimizer.lr=1",): "keeps its recipe; --optimizer.lr",
        ("--out", "x"): "leave out --out",
    }.items():
        assert main(["train", "--resume", str(run), *words]) == 1
        assert message in capsys.readouterr().err


def test_what_the_first_seed_chose_holds_for_all(tmp_path, monkeypatch):
    """A measurement on a busy machine must not make seeds differ in more than their seed."""
    answers = iter(["bf16", "fp32"])
    chosen = lambda wish, learner, images: (next(answers) if wish == "auto" else wish, "by chance")  # noqa: E731
    monkeypatch.setattr(prepared_module, "choose_precision", chosen)
    words = [word for word in TINY if "precision" not in word]
    assert main(["train", *words, "--optimizer.epochs=1", "--out", str(tmp_path / "run"), "--seeds", "0", "1"]) == 0
    assert [saved_recipe(tmp_path / f"run-{seed}").precision for seed in (0, 1)] == ["bf16", "bf16"]


def test_a_run_that_could_not_take_a_step_can_be_started_again(tmp_path):
    """Here the first batch asks for a change that pictures do not know."""
    recipe = tiny("--data.augmentation.roll=3")
    for _ in range(2):
        with pytest.raises(ValueError, match="roll"):
            train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_samples_handed_over_are_matched_by_the_names_of_their_classes(tmp_path):
    images = torch.randint(0, 256, (30, 1, 12, 12), dtype=torch.uint8)
    numbers = torch.arange(30) % 3
    samples = sd.ImageSet(images, sd.Labels(numbers, ("r", "g", "b")), (0.5,), (0.25,))
    turned = sd.ImageSet(
        images, sd.Labels(2 - numbers, ("b", "g", "r")), (0.5,), (0.25,)
    )  # the same, numbered otherwise
    recipe = tiny("--optimizer.epochs=1", "--optimizer.batch_size=10", "--data.augmentation.crop=0", "--precision=fp32")
    scores = [
        train(recipe, tmp_path / name, data=Splits(samples, None, test)).score
        for name, test in {"same": samples, "turned": turned}.items()
    ]
    assert scores[0] == scores[1]
    foreign = sd.ImageSet(images, sd.Labels(numbers, ("x", "y", "z")), (0.5,), (0.25,))
    with pytest.raises(ValueError, match="classes that the network does not know: x, y, z"):
        train(recipe, tmp_path / "foreign", data=Splits(samples, None, foreign))


def test_several_seeds_are_several_runs_and_a_table(tmp_path, capsys):
    words = ["train", *TINY, "--optimizer.epochs=1", "--precision=fp32", "--out", str(tmp_path / "run")]
    assert main([*words, "--seeds", "3", "5"]) == 0
    shown = capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"run-3", "run-5"}
    assert [saved_recipe(tmp_path / f"run-{seed}").seed for seed in (3, 5)] == [3, 5]
    assert re.search(r"\| run \| 2 \| \d+\.\d\d, \d+\.\d\d \| \*\*", shown)
    before = (tmp_path / "run-3/model.safetensors").stat().st_mtime_ns
    assert main([*words, "--seeds", "3", "5"]) == 0  # said again: nothing is done twice
    assert "left alone" in capsys.readouterr().err
    assert (tmp_path / "run-3/model.safetensors").stat().st_mtime_ns == before
    assert main([*words, "--optimizer.lr=0.05", "--seeds", "3", "4"]) == 1
    assert "was made by another recipe (other optimizer.lr)" in capsys.readouterr().err
    assert main([*words, "--seeds", "3", "3"]) == 1
    assert "takes different whole numbers" in capsys.readouterr().err


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
    save_checkpoint(tmp_path / "checkpoint.pt", {"learner": Harmful()})
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
    torch.save({"learner": {}}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this version of spikedistill, or it is truncated"):
        load_checkpoint(path)
    save_checkpoint(path, {"state_dict": {}})
    before(path).unlink()
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
