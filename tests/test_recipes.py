"""Recipes: what they claim, how fields are replaced, and mistakes explained."""

from __future__ import annotations

import pytest
import yaml

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.training.recipe_files import list_recipes, load_recipe, saved_recipe

# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_load_state_their_claim_and_survive_saving(name, tmp_path):
    from spikedistill.training.recipe_files import save_recipe

    recipe = load_recipe(name)
    assert recipe.claim.source
    assert f"spikedistill train {name}" in f"{recipe.claim.command} {name}"
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert saved_recipe(tmp_path) == recipe


def test_a_claim_is_not_carried_over_to_a_changed_recipe():
    claim = load_recipe("cifar10-foundation").claim
    assert claim.accuracy.startswith("56.67 ± 1.23 %")
    assert load_recipe("cifar10-foundation", ["--seed", "3", "--data.root=/x", "--device", "cpu"]).claim == claim
    changed = load_recipe("cifar10-foundation", ["--seed", "3", "--propagation", "bptt", "--loss.scale=1"]).claim
    assert (changed.accuracy, changed.hours, changed.hardware) == ("not measured", None, "not measured")
    assert changed.source == "docs/results.md, table 1; changed: propagation, loss.scale"


def test_overrides():
    recipe = load_recipe("cifar100-resnet18", ["--timesteps", "4", "--data.root=/x", "--loss.teacher", "null"])
    assert (recipe.timesteps, recipe.data.root, recipe.loss.teacher) == (4, "/x", None)
    assert recipe.model == load_recipe("cifar100-resnet18").model
    neuron = load_recipe("fashion-small", ["--model.neuron.reset=hard", "--model.neuron.surrogate.name=atan"])
    assert neuron.model.neuron == sd.Neuron(reset="hard", surrogate=sd.Surrogate("atan"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "cifar10-resnet81"], "unknown recipe 'cifar10-resnet81'; did you mean cifar10-resnet"),
        (["train", "--timestep", "4"], "no field 'timestep'; did you mean timesteps"),
        (["train", "--lr", "4"], "did you mean optimizer.lr"),
        (["train", "--timesteps", "0"], "timesteps is 0"),
        (["train", "--timesteps", "two"], "timesteps"),
        (["train", "--model.name", "resnet81"], "unknown model 'resnet81'"),
        (["train", "--data.name", "cifar11"], "unknown dataset 'cifar11'; did you mean cifar1"),
        (["train", "--propagation", "ann"], "--timesteps null"),
        (["train", "--optimizer.lr", "-1"], "optimizer.lr is -1"),
        (["train", "--model.neuron.decay", "3"], "expected 0 ≤ decay ≤ 1"),
        (["train", "--resume", "/nowhere"], "/nowhere is not the folder of a run.*does not exist"),
        (["train", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["list", "recipe"], "did you mean recipes"),
        (["evaluate"], "needs the folder of a run"),
        (["evaluate", "/nowhere"], "/nowhere is not the folder of a run"),
        (["predict", "/nowhere", "x.png"], "there is no /nowhere/model.safetensors"),
        (["predict", "/nowhere"], "needs a picture"),
        (["train", "--data.name", "cifar10", "--data.root", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(words, message, capsys, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())  # no empty run folder is left behind


def test_a_recipe_file_with_an_unknown_key(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"optimizer": {"epoch": 3}}))
    assert main(["train", str(path)]) == 1
    assert "no field 'optimizer.epoch'; did you mean optimizer.epochs" in capsys.readouterr().err
    path.write_text("[1, 2")
    assert main(["train", str(path)]) == 1
    assert "is not valid YAML" in capsys.readouterr().err
