"""Parts of a training run: averages, the best epoch, starts from other weights, several seeds."""

from __future__ import annotations

import csv
import re

import pytest
import torch
from test_training import TINY, picture_folder, same_weights, tiny
from tiny_runs import stopping_after

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data import Splits
from spikedistill.errors import Interrupted
from spikedistill.machine.device import find_device
from spikedistill.training import prepared as prepared_module
from spikedistill.training.recipe_files import saved_recipe
from spikedistill.training.run import resume, train


@pytest.mark.whole
def test_average_optimizer_and_parts_resume_to_the_same_bits(tmp_path):
    words = ["--optimizer", "adamw", "--optimizer.lr=0.01", "--optimizer.ema=0.9", "--optimizer.accumulate=2"]
    recipe = tiny(*words, "--optimizer.warmup_epochs=1", "--precision=fp32", "--compile=off")
    train(recipe, tmp_path / "whole")
    with stopping_after(6), pytest.raises(Interrupted):
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


@pytest.mark.whole
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
