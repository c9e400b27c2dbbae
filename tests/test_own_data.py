"""Samples of the user's own through the trainer: nothing else is taken for them, and each slip has its words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.training.recipe_files import load_recipe, saved_recipe

WORDS = ["--model.width=2", "--optimizer.epochs=1", "--optimizer.batch_size=10", "--timesteps=2", "--precision=fp32"]
WORDS += ["--compile=off"]


def pictures(count=30, bright=0, mean=(0.5,), classes=10):
    """28×28 pictures, as those that ship, of other classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(bright, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    names = tuple(f"digit{k}" for k in range(classes))
    return sd.ImageSet(images, sd.Labels(torch.arange(count) % classes, names), mean, (0.25,))


@pytest.fixture
def run(tmp_path):
    sd.train(load_recipe("fashion-small", WORDS), tmp_path / "run", data=sd.Splits(pictures(), None, pictures(20)))
    return tmp_path / "run"


def test_a_run_on_own_samples_never_goes_on_with_others(run, capsys):
    """The recipe was made for Fashion-MNIST, whose pictures have the same shape and number of classes."""
    assert saved_recipe(run).data.name == "given"
    before = (run / "model.safetensors").read_bytes()
    for words in (["train", "--resume", str(run), "--optimizer.epochs=2"], ["evaluate", str(run)]):
        assert main(words) == 1
        assert "were handed over in Python; hand them over again" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before
    with pytest.raises(sd.SpikedistillError, match="was trained on 30 samples, and there are 20 now"):
        sd.resume(run, data=sd.Splits(pictures(20), None, pictures(20)))
    sd.resume(run, ["--optimizer.epochs=2"], data=sd.Splits(pictures(), None, pictures(20)))


def test_pictures_are_normalised_as_in_training_wherever_they_come_from(run):
    trained, test = sd.load(run), pictures(20)
    other = pictures(20, mean=(0.1,))  # as `samples_of` makes it of these pictures alone
    assert trained.evaluate(other).score == trained.evaluate(test).score
    with pytest.raises(sd.SpikedistillError, match=r"have mean \(0.1,\), those of the training \(0.5,\).*like=train"):
        sd.train(load_recipe("fashion-small", WORDS), run.parent / "other", data=sd.Splits(pictures(), None, other))
    assert not (run.parent / "other").exists()


def test_the_best_epoch_can_be_evaluated(tmp_path, capsys, monkeypatch):
    words = ["--data.train_rows=200", "--data.validation_rows=50", "--data.test_rows=40"]
    assert main(["train", *WORDS, *words, "--out", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run" / "best")]) == 0
    assert "test accuracy on 40 samples" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "run" / "best")
    assert main(["evaluate", "."]) == 0
    assert "test accuracy on 40 samples" in capsys.readouterr().out


def test_the_width_of_a_recipes_model_is_not_that_of_ones_own_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_width.py").write_text("def net(num_classes, width=16, depth=2): ...\n")
    assert load_recipe("fashion-small", ["--model.import", "my_width:net"]).model.options["width"] == 16
    words = ["--model.import", "my_width:net", "--model.width", "3"]
    assert load_recipe("fashion-small", words).model.options["width"] == 3


def test_neurons_of_a_finished_run_can_begin_to_learn(tmp_path):
    words = [*WORDS, "--data.train_rows=60", "--data.validation_rows=0", "--data.test_rows=20"]
    sd.train(load_recipe("fashion-small", words), tmp_path / "plain")
    learned = [*words, "--init", str(tmp_path / "plain"), "--learned.decay", "channel"]
    sd.train(load_recipe("fashion-small", learned), tmp_path / "learned")
    again = [*words, "--init", str(tmp_path / "learned"), "--learned.decay", "channel"]
    sd.train(load_recipe("fashion-small", again), tmp_path / "again")
    with pytest.raises(sd.SpikedistillError, match="does not fit the network"):
        sd.train(load_recipe("fashion-small", [*words, "--init", str(tmp_path / "learned")]), tmp_path / "less")


def test_branches_stand_on_features():
    torch.manual_seed(0)

    def layer(c_in, c_out):
        return nn.Sequential(nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), sd.LIF())

    net = sd.Network(nn.Sequential(layer(6, 16), layer(16, 12), nn.Linear(12, 5)), stages=["0", "1"])
    learner = sd.SelfDistillation(net, timesteps=4)
    output = learner(torch.randn(8, 6))
    assert output.branches["0"].shape == (8, 5)
    learner.loss(output, torch.arange(8) % 5).total.backward()
    assert all(p.grad is not None for p in learner.branches.parameters())


class Nothing:
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r, f: sd.train(r, f, data=pictures()), r"data is ImageSet; expected Splits\(train, validation, test\)"),
        (lambda r, f: sd.train(r, f, data=sd.Splits(pictures(), None, None)), "only validation may be None"),
        (
            lambda r, f: sd.train(r, f, data=sd.Splits(pictures(), None, pictures(20).rows(slice(0)))),
            "test samples are none",
        ),
        (lambda r, f: sd.samples_of([1], 2), "expected their names"),
        (lambda r, f: sd.samples_of((x for x in [1]), ("a",)), "has no len"),
        (
            lambda r, f: sd.samples_of(torch.utils.data.DataLoader([1]), ("a",)),
            r"has no \[k\]; give the dataset itself",
        ),
        (lambda r, f: sd.samples_of([(torch.zeros(3), 0)], ("a",), like=pictures()), "`like` has no effect"),
        (
            lambda r, f: sd.samples_of([(torch.zeros(3, 28, 28, dtype=torch.uint8), 0)], ("a",), like=pictures()),
            "have 3 channels, those of `like` 1",
        ),
        (lambda r, f: sd.evaluate(nn.Linear(2, 2), [{"x": 1}], 1), "a batch is a dict"),
        (lambda r, f: sd.evaluate(nn.Linear(2, 2), (torch.zeros(2, 2), torch.zeros(2)), 1), "a batch is a Tensor"),
        (lambda r, f: sd.tune(nn.Linear(2, 2), torch.zeros(2, 2), 1), "tune takes a learner"),
        (lambda r, f: sd.LIF(2.0), "neuron is 2.0; expected a Neuron"),
        (lambda r, f: sd.Network(nn.Linear(2, 2))(torch.zeros(2, 2)), "say how many time steps"),
        (lambda r, f: load_recipe("fashion-small", ["--objectives", "foo"]), "--objectives is by name"),
        (lambda r, f: load_recipe("fashion-small", ["--model.import", "./my_nets:small"]), "without ./ and .py"),
    ],
)
def test_slips_are_explained(make, message, tmp_path):
    with pytest.raises(sd.SpikedistillError, match=message):
        make(load_recipe("fashion-small", WORDS), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("shares", "message"), [([[1.0, 1.0]], "sums from 2 to 2"), ([[1.5, -0.5]], "given from -0.5")]
)
def test_shares_of_classes_add_up(shares, message):
    with pytest.raises(sd.SpikedistillError, match=message):
        sd.Classification().check(torch.zeros(1, 2), torch.tensor(shares))


def test_a_network_of_nan_has_no_score():
    net = sd.create_model("resnet18", 10, width=2)
    with torch.no_grad():
        net.body.stem[0].weight[0] = float("nan")
    with pytest.raises(sd.SpikedistillError, match="1 weights of the network are NaN or infinite, first body.stem.0"):
        sd.evaluate(net, [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))], 2)


@pytest.mark.parametrize(
    ("precision", "compile", "samples", "message"),
    [
        ("fp17", "off", 1, "unknown precision"),
        ("fp32", "maybe", 1, "wish to compile"),
        ("fp32", "off", 0, "samples is 0"),
    ],
)
def test_tune_refuses_what_it_does_not_know(precision, compile, samples, message):
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), timesteps=2)
    with pytest.raises(sd.SpikedistillError, match=message):
        sd.tune(learner, torch.zeros(2, 3, 8, 8), samples, precision=precision, compile=compile)


def test_every_field_of_the_optimizer_is_explained():
    from spikedistill.training.recipe_parsing import known_fields

    missing = [name for name, field in known_fields().items() if not field.help and not name.endswith("import")]
    assert missing == []
