"""A network of the user's own through the trainer: trained, stopped, resumed, evaluated, predicted and loaded again."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.utils.checkpoint
from PIL import Image
from tiny_runs import stopping_after
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.errors import Interrupted, InvalidArgument
from spikedistill.training.networks import build_network
from spikedistill.training.recipe_files import load_recipe, saved_recipe

WORDS = [
    "--data.train_rows=240",
    "--data.test_rows=50",
    "--data.validation_rows=40",
    "--optimizer.epochs=2",
    "--timesteps=2",
    "--precision=fp32",
    "--compile=off",
]

MY_NETS = '''
from torch import nn
import spikedistill as sd


class Mine(nn.Module):
    """A user's own, with neurons.

    Args:
        depth: number of layers.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, depth: int = 2, width: int = 4):
        super().__init__()
        layers, channels = [], in_channels
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), sd.LIF()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def with_relu(num_classes):
    """A user's ordinary ResNet."""
    import torchvision

    block = torchvision.models.resnet.BasicBlock
    net = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=num_classes)
    net.conv1 = nn.Conv2d(1, 64, 3, bias=False)
    return net


def wrong(num_classes):
    return Mine(num_classes + 1)


def late(num_classes):
    from my_late import head
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), head(2704, num_classes))


def later(num_classes):
    import my_late_that_is_not_there


NUMBER = 3
'''


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(MY_NETS)
    monkeypatch.chdir(tmp_path)
    yield "my_nets"
    sys.modules.pop("my_nets", None)


def test_a_function_of_the_users_is_a_model_with_its_own_fields(my_nets, capsys):
    recipe = load_recipe("fashion-small", ["--model.import", "my_nets:Mine", "--model.depth", "3", "--model.width=8"])
    assert recipe.model.name == "my_nets:Mine"
    assert (recipe.model.options["depth"], recipe.model.options["width"]) == (3, 8)
    assert "num_classes" not in recipe.model.options
    for word, message in {
        "my_nets:Mien": "'Mien' that could build a network; it has Mine, with_relu, wrong, late, later",
        "my_nets:NUMBER": "no function or class 'NUMBER'",
        "my_nest:Mine": "cannot be imported: No module named 'my_nest'. It is looked for in",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_recipe("fashion-small", ["--model.import", word])
    with pytest.raises(ValueError, match="has no field 'dept'; it has depth, width"):
        load_recipe("fashion-small", ["--model.import", "my_nets:Mine", "--model.dept", "3"])


def test_a_builder_may_import_what_lies_beside_it_when_it_is_called(my_nets, tmp_path):
    (tmp_path / "my_late.py").write_text("from torch.nn import Linear as head\n")
    with pytest.warns(UserWarning, match="no stages were found"):
        assert build_network("my_nets:late", {}, 5, 1).body[-1].out_features == 5
    with pytest.raises(InvalidArgument, match="could not be built: No module named 'my_late_that_is_not_there'"):
        build_network("my_nets:later", {}, 5, 1)


def test_an_imported_network_is_trained_stopped_resumed_evaluated_and_predicted(my_nets, tmp_path, capsys):
    words = ["--model.import", "my_nets:Mine", "--model.depth=3", "--branches.enabled", "false", *WORDS]
    assert main(["train", *words, "--out", "whole"]) == 0
    with stopping_after(4):
        assert main(["train", *words, "--out", "stopped"]) == 130
    assert "spikedistill train --resume stopped" in capsys.readouterr().err
    assert main(["train", "--resume", "stopped"]) == 1
    assert "which would be imported, and so run. If you know that code, say so: --trust" in capsys.readouterr().err
    assert main(["train", "--resume", "stopped", "--trust"]) == 0
    assert (tmp_path / "stopped/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    Image.new("L", (28, 28), 90).save("picture.png")
    for command in (["evaluate", "whole"], ["predict", "whole", "picture.png"]):
        assert main(command) == 1
        assert "--trust" in capsys.readouterr().err
        assert main([*command, "--trust"]) == 0
    assert "%" in capsys.readouterr().out
    assert sd.Trained.load("whole", trust=True).network(torch.zeros(1, 1, 28, 28), timesteps=2).logits.shape == (1, 10)


def test_a_strangers_folder_imports_nothing(my_nets, tmp_path):
    words = ["--model.import", "my_nets:Mine", "--branches.enabled", "false", *WORDS]
    assert main(["train", *words, "--out", "theirs"]) == 0
    sys.modules.pop("my_nets")
    (tmp_path / "my_nets.py").write_text("import pathlib; pathlib.Path('harm').touch()\n" + MY_NETS)
    for command in (["evaluate", "theirs"], ["predict", "theirs", "x.png"], ["train", "--resume", "theirs"]):
        assert main(command) == 1
    assert not (tmp_path / "harm").exists()
    sd.Trained.load("theirs", trust=True)
    assert (tmp_path / "harm").exists()  # it would have


def test_a_run_with_an_imported_network_can_teach(my_nets, tmp_path, capsys):
    words = ["--branches.enabled", "false", *WORDS, "--optimizer.epochs=1"]
    assert main(["train", "--model.import", "my_nets:Mine", *words, "--out", "teacher"]) == 0
    taught = ["train", "--objectives.distillation.teacher", "teacher", "--model.width=2", *words, "--out", "pupil"]
    assert main(taught) == 1
    assert "which would be imported, and so run" in capsys.readouterr().err
    assert main([*taught, "--trust"]) == 0
    # of the same function nothing more has to be said
    assert main(["train", "--model.import", "my_nets:Mine", *taught[1:3], *words, "--out", "same"]) == 0


class Checkpointed(nn.Sequential):
    """Layers whose activations are computed again in the backward pass."""

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.ANN()], ids=lambda rule: type(rule).__name__)
def test_checkpointing_in_a_network_leaves_the_gradients_as_they_are(rule):
    images, labels, found = torch.randn(4, 1, 16, 16), torch.arange(4), []
    for kind in (nn.Sequential, Checkpointed):
        net = body()
        middle = kind(*net[1])
        middle.load_state_dict(net[1].state_dict())
        net[1] = middle
        learner = sd.SelfDistillation(net, rule, branches=())
        learner.loss(learner(images), labels).total.backward()
        found.append([p.grad for p in net.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


@pytest.mark.parametrize(
    "text",
    ["model: {name: 'm:x'}", "model: {import: 'm:x'}", "model: 'm:x'", "model.import: 'm:x'", "model.name: 'm:x'"],
)
def test_no_way_of_writing_an_import_goes_around_trust(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text("import pathlib; pathlib.Path('harm').touch()\ndef x(num_classes): pass\n")
    (tmp_path / "recipe.yaml").write_text(text)
    for trust in (False, "other:x"):
        with pytest.raises(ValueError, match="which would be imported, and so run"):
            saved_recipe(tmp_path, trust=trust)
    assert not (tmp_path / "harm").exists()
    try:
        assert saved_recipe(tmp_path, trust="m:x").model.name == "m:x"
        assert (tmp_path / "harm").exists()
    finally:
        sys.modules.pop("m", None)


@pytest.mark.filterwarnings("ignore:.*no stages")
def test_relus_become_neurons_and_stages_get_branches(my_nets, tmp_path):
    words = ["--model.import", "my_nets:with_relu", *WORDS[:3], "--optimizer.epochs=1", *WORDS[4:]]
    assert main(["train", *words, "--data.train_rows=80", "--data.validation_rows=0", "--out", "run"]) == 0
    loss = (tmp_path / "run/metrics.csv").read_text()
    assert "soft" in loss.splitlines()[0]  # torchvision's layer1..4 are its stages, so there are branches


def test_a_head_that_does_not_fit_is_refused_before_training(my_nets, capsys):
    words = ["--model.import", "my_nets:wrong", "--branches.enabled", "false", *WORDS]
    assert main(["train", *words, "--out", "run"]) == 1
    assert "gives (1, 11) for one sample, the data have 10 classes" in capsys.readouterr().err


def body():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), sd.LIF()),
        nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), sd.LIF()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def own_data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (90, 1, 16, 16), dtype=torch.uint8, generator=generator)
    samples = sd.ImageSet(images, sd.Labels(torch.arange(90) % 10, tuple("abcdefghij")), (0.5,), (0.25,))
    return sd.Splits(samples.rows(slice(60)), samples.rows(slice(60, 75)), samples.rows(slice(75, 90)))


def test_a_module_handed_over_in_python(tmp_path):
    words = [*WORDS[3:], "--data.validation_rows=0", "--optimizer.batch_size=20", '--branches.stages=["0", "1"]']
    recipe = load_recipe("fashion-small", words)
    mine = body()
    found = sd.train(recipe, tmp_path / "whole", network=mine, data=own_data())
    assert found.samples == 15
    assert int(mine[0][1].num_batches_tracked) == 6  # it is trained itself, not a copy
    folder = str(tmp_path / "stopped")
    said = r"spikedistill.resume\('.*stopped', network=\.\.\., data=\.\.\.\) in Python"  # what it says is what works
    with stopping_after(2), pytest.raises(Interrupted, match=said):
        sd.train(recipe, folder, network=body(), data=own_data())
    with pytest.raises(ValueError, match="was handed over in Python.*hand it over again"):
        sd.resume(folder, data=own_data())
    again = sd.resume(folder, network=body(), data=own_data())
    assert again.score == found.score
    whole, stopped = (tmp_path / name / "model.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    with pytest.raises(ValueError, match="hand it over again"):
        sd.Trained.load(folder)
    loaded = sd.Trained.load(folder, network=body())
    test = own_data().test
    assert sd.evaluate(loaded.network, [test.batch(torch.arange(15))], [2]).score == {2: found.score[2]}
    assert saved_recipe(tmp_path / "stopped").model.name == "given"
