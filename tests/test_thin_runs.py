"""Runs of networks with tensor-train convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import stopping_after

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import CheckpointError
from spikedistill.models.tensor_train import ranks_of
from spikedistill.training.recipe_files import load_recipe

WORDS = ["--data.train_rows", "200", "--data.test_rows", "50", "--data.validation_rows", "0", "--model.width", "4"]
WORDS += ["--timesteps", "2", "--optimizer.epochs", "2", "--compile", "off", "--precision", "fp32"]


def same(folder, other):
    a, b = (sd.load(each).network.state_dict() for each in (folder, other))
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.whole
def test_a_run_keeps_its_ranks_and_can_go_on(tmp_path, capsys):
    words = [*WORDS, "--tensor_train.form", "stt", "--tensor_train.rank", "0.5"]
    recipe = load_recipe("fashion-small", words)
    sd.train(recipe, tmp_path / "whole")
    assert sd.load(tmp_path / "whole").config["tensor_train"]["rank"] == 0.5
    other = [*words[:-1], "0.25", "--seeds", "0", "--out", str(tmp_path / "whole")]
    (tmp_path / "whole").rename(tmp_path / "whole-0")
    assert main(["train", "fashion-small", *other]) == 1
    assert "made by another recipe (other tensor_train.rank)" in capsys.readouterr().err
    (tmp_path / "whole-0").rename(tmp_path / "whole")
    with stopping_after(3), pytest.raises(sd.Interrupted):
        sd.train(recipe, tmp_path / "stopped")
    sd.resume(tmp_path / "stopped")
    assert same(tmp_path / "whole", tmp_path / "stopped")


class NamedAsThin(torch.nn.Module):
    """A dense network of the user's, with a layer that is called as one of a tensor train's."""

    def __init__(self, num_classes, in_channels=1):
        super().__init__()
        self.stem, self.c1, self.lif = (
            torch.nn.Conv2d(in_channels, 4, 3, 2, 1),
            torch.nn.Conv2d(4, 4, 3, 1, 1),
            sd.LIF(),
        )
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.lif(self.c1(self.lif(self.stem(x)))).mean((2, 3)))


def test_whether_weights_are_thin_is_asked_of_their_run(tmp_path, capsys):
    words = [*WORDS[:6], *WORDS[8:], "--branches.enabled", "false", "--objectives.self_distillation.teacher", "null"]
    thin = ["--tensor_train.form", "stt", "--tensor_train.rank", "2", "--init"]
    for name, more in (("dense", []), ("thin", [*thin, "dense"]), ("again", [*thin, "thin"])):
        chosen = [*words, *more[:-1], *(str(tmp_path / start) for start in more[-1:])]
        sd.train(load_recipe("fashion-small", chosen), tmp_path / name, network=NamedAsThin(10))
    assert capsys.readouterr().err.count("tensor-train convolutions, ranks 2\n") == 2


@pytest.mark.whole
def test_a_trained_network_is_decomposed_and_trained_on(tmp_path):
    sd.train(load_recipe("fashion-small", WORDS), tmp_path / "dense")
    words = [*WORDS, "--init", str(tmp_path / "dense"), "--optimizer.lr", "1e-9"]
    thin_words = ["--tensor_train.form", "stt", "--tensor_train.rank", "1.0"]
    sd.train(load_recipe("fashion-small", [*words, *thin_words]), tmp_path / "thin")
    dense, thin = sd.load(tmp_path / "dense").network, sd.load(tmp_path / "thin").network
    assert torch.allclose(thin.body.head.classifier.weight, dense.body.head.classifier.weight, atol=1e-5)
    layers = [(a, b) for (_, a), (_, b) in zip(dense.named_modules(), sd.merge(thin).named_modules(), strict=True)]
    for a, b in layers:
        if isinstance(a, torch.nn.Conv2d) and a.kernel_size == (3, 3):
            assert F.cosine_similarity(a.weight.flatten(), b.weight.flatten(), 0) > 0.6
    again = [*WORDS, "--init", str(tmp_path / "thin"), "--tensor_train.form", "stt", "--optimizer.lr", "1e-9"]
    ranks = ranks_of(thin)
    found = " ".join(("evbmf", *map(str, ranks)))
    for name, rank in (("again", str(ranks)), ("found", found)):
        sd.train(load_recipe("fashion-small", [*again, "--tensor_train.rank", rank]), tmp_path / name)
    assert sd.load(tmp_path / "found").config["tensor_train"]["rank"] == found
    assert same(tmp_path / "again", tmp_path / "found")
    sd.train(load_recipe("fashion-small", again), tmp_path / "default")
    assert sd.load(tmp_path / "default").config["tensor_train"]["rank"] == found  # those of the run, not of its weights
    with pytest.raises(CheckpointError, match="of form stt, whose weights mean another function in form htt"):
        sd.train(load_recipe("fashion-small", [*again, "--tensor_train.form", "htt"]), tmp_path / "htt")


class Thin(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.thin = torch.nn.Conv2d(1, 4, 3, 2, 1), sd.TensorTrain(4, 4, 2, "stt")
        self.conv, self.lif, self.head = torch.nn.Conv2d(4, 4, 3, 1, 1), sd.LIF(), torch.nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.lif(self.conv(self.lif(self.thin(self.lif(self.stem(x)))))).mean((2, 3)))


def test_a_network_that_is_thin_already_is_trained_as_it_is(tmp_path):
    words = [*WORDS[:6], *WORDS[8:], "--branches.enabled", "false", "--objectives.self_distillation.teacher", "null"]
    refused = load_recipe("fashion-small", [*words, "--tensor_train.form", "stt", "--tensor_train.rank", "2"])
    with pytest.raises(ValueError, match="has tensor-train convolutions already; leave out"):
        sd.train(refused, tmp_path / "refused", network=Thin())
    sd.train(load_recipe("fashion-small", words), tmp_path / "run", network=Thin())
    assert sd.load(tmp_path / "run", network=Thin()).network.body.thin.form == "stt"


def test_settings_without_an_effect():
    with pytest.raises(ValueError, match="no effect without a form"):
        load_recipe("fashion-small", ["--tensor_train.rank", "3"])
    with pytest.raises(ValueError, match="rank is 0; expected"):
        load_recipe("fashion-small", ["--tensor_train.form", "ptt", "--tensor_train.rank", "0"])
