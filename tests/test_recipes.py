"""Recipes: what they claim, how fields are replaced, and mistakes explained."""

from __future__ import annotations

import re

import pytest
import yaml

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data.scenes.settings import SceneSettings
from spikedistill.errors import InvalidArgument
from spikedistill.training.recipe_files import list_recipes, load_recipe, parse_recipe, saved_recipe

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
    assert claim.accuracy.startswith("57.61 ± 1.46 %")
    same = ["--seed", "3", "--data.root=/x", "--device", "cpu", "--timesteps", "4", "--model.width=16"]
    assert load_recipe("cifar10-foundation", same).claim == claim  # restating a field changes nothing
    with pytest.raises(ValueError, match="a claim is measured, not set"):
        load_recipe("cifar10-foundation", ["--claim.accuracy", "99 %"])
    changed = load_recipe("cifar10-foundation", ["--seed", "3", "--rule", "bptt", "--rule.loss_scale=2"]).claim
    assert (changed.accuracy, changed.hours, changed.hardware) == ("not measured", None, "not measured")
    assert changed.source == "docs/results.md, section 5; changed: rule.name, rule.loss_scale"


def test_a_recipe_leaves_nothing_to_the_next():
    """Though both are read by one parser."""
    words = ["--tensor_train.form=ptt", "--tensor_train.rank=[4, 2]", "--learned.decay=layer", "--phases.rate_twin=2"]
    plain = load_recipe("fashion-small")
    first = load_recipe("fashion-small", words)
    assert isinstance(first.tensor_train.rank, list)
    first.tensor_train.rank.append(1)
    assert load_recipe("fashion-small", words).tensor_train.rank == [4, 2]
    assert load_recipe("fashion-small") == plain
    assert load_recipe("fashion-small", words[3:]).learned == plain.learned
    with pytest.raises(ValueError, match="lr is x; expected a number"):
        load_recipe("fashion-small", ["--optimizer.lr=x"])
    assert load_recipe("fashion-small") == plain


def test_overrides():
    recipe = load_recipe(
        "cifar100-resnet18", ["--timesteps", "4", "--data.root=/x", "--objectives.self_distillation.teacher", "null"]
    )
    assert (recipe.timesteps, recipe.data.root) == (4, "/x")
    assert recipe.objectives["self_distillation"].teacher is None
    assert recipe.model == load_recipe("cifar100-resnet18").model
    neuron = load_recipe("fashion-small", ["--model.neuron.reset=hard", "--model.neuron.surrogate.name=atan"])
    assert neuron.model.options["neuron"] == sd.Neuron(reset="hard", surrogate=sd.Surrogate("atan"))


OURS = "objectives.self_distillation"


@pytest.mark.parametrize(
    ("switch", "idle"),
    [
        ("branches.enabled=false", "branches.block=light+residual"),
        ("branches.enabled=false", "branches.stages=[stage1]"),
        ("branches.enabled=false", f"{OURS}.teacher=reliable"),
        ("branches.enabled=false", f"{OURS}.soft_weight=0.1"),
        ("branches.enabled=false", f"{OURS}.temperature=4"),
        ("branches.enabled=false", f"{OURS}.branch_weight=0.7"),
        (f"{OURS}.teacher=null", f"{OURS}.soft_weight=0.1"),
        (f"{OURS}.teacher=null", f"{OURS}.temperature=4"),
    ],
)
def test_what_is_typed_has_an_effect(switch, idle):
    key, _, value = idle.partition("=")
    with pytest.raises(InvalidArgument, match=re.escape(f"--{key} {value} has no effect without")):
        load_recipe("fashion-small", [f"--{switch}", f"--{idle}"])
    load_recipe("fashion-small", [f"--{idle}"])
    load_recipe("fashion-small", [f"--{switch}"])  # the recipe's own values of what is switched off stay


def test_another_objective_has_a_weight_for_its_branches_too():
    word = "--objectives.center_points.branch_weight=0.5"
    with pytest.raises(InvalidArgument, match="branch_weight 0.5 has no effect without branches"):
        load_recipe("event-boxes", ["--branches.enabled=false", word])
    load_recipe("event-boxes", ["--branches.enabled=true", word])


def test_nothing_is_left_out_for_having_no_branches():
    load_recipe("fashion-small", ["--branches.enabled=false", f"--{OURS}.teacher=null", "--branches.stages=null"])
    load_recipe("fashion-small", [f"--{OURS}.teacher=null", f"--{OURS}.branch_weight=0.7"])


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
        (["train", "--rule", "ann", "--timesteps", "4"], "rule 'ann' has no field 'timesteps'; it has loss_scale"),
        (["train", "--optimizer.lr", "-1"], "optimizer.lr is -1"),
        (["train", "--model.neuron.decay", "3"], "expected 0 ≤ decay ≤ 1"),
        (["train", "--resume", "/nowhere"], "/nowhere is not the folder of a run.*does not exist"),
        (["train", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["list", "recipe"], "did you mean recipes"),
        (["evaluate"], "the following arguments are required: folder"),
        (["evaluate", "/nowhere"], "/nowhere is not the folder of a run"),
        (["predict", "/nowhere", "x.png"], "there is no /nowhere/model.safetensors"),
        (["predict", "/nowhere"], "the following arguments are required: files"),
        (["train", "--data.name", "cifar10", "--data.root", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(words, message, capsys, tmp_path, monkeypatch):
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


def test_a_learning_rule_is_one_word():
    """The rule, its T and the scale of the loss never have to agree with one another: they are one value."""
    assert load_recipe("cifar10-foundation", ["--rule", "ann"]).rule == sd.ANN()
    bptt = load_recipe("cifar10dvs-resnet18", ["--rule", "bptt"]).rule
    assert bptt == sd.BPTT(10)  # T stays as the recipe says
    assert bptt.scale == 1.0
    assert load_recipe("cifar10dvs-resnet18").rule.scale == 0.1
    assert load_recipe("cifar10dvs-resnet18", ["--rule.loss_scale", "1"]).rule.scale == 1.0


def test_objectives_are_added_and_left_out_by_name():
    words = ["--objectives.distillation.teacher", "runs/ann", "--objectives.distillation.weight=0.5"]
    both = load_recipe("cifar10-foundation", words)
    assert list(both.objectives) == ["self_distillation", "distillation"]
    assert both.objectives["distillation"] == sd.Distillation("runs/ann", weight=0.5)
    alone = load_recipe("cifar10-foundation", ["--objectives.self_distillation", "null", *words])
    assert list(alone.objectives) == ["distillation"]


def test_other_data_leave_out_what_a_recipe_says_of_its_own():
    pictures = sd.load_recipe("event-boxes", ["--data.name", "picture-boxes", "--data.size", "320"]).data
    assert (pictures.scenes, pictures.size, pictures.augmentation.crop) == (SceneSettings(), 320, 8)
    # data of the same kind keep it, wherever the name stands
    assert sd.load_recipe("event-boxes", ["--data.scenes.frames", "3", "--data.name", "gen1"]).data.scenes.frames == 3
    assert sd.load_recipe("event-boxes", ["--data.name", "gen1"]).data.scenes.shown == "mean"
    with pytest.raises(ValueError, match="data.scenes has no effect on 'picture-boxes'"):  # what was typed is meant
        sd.load_recipe("event-boxes", ["--data.name", "picture-boxes", "--data.scenes.frames", "3"])


def test_options_are_those_of_the_model():
    small = load_recipe("cifar10-foundation", ["--model", "vgg11", "--model.width", "8"])
    assert (small.model.name, small.model.options["width"]) == ("vgg11", 8)
    assert "stem" not in small.model.options
    with pytest.raises(ValueError, match=r"model 'vgg11' has no field 'stem'; it has width, neuron"):
        load_recipe("cifar10-foundation", ["--model", "vgg11", "--model.stem", "cifar"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: []", r"data must be a mapping of fields; it is \[\]"),
        ("model: 3", "model must be a mapping of fields; it is 3"),
        ("rule: {name: ann, timesteps: 3}", "rule 'ann' has no field 'timesteps'"),
        ("objectives: {self_destillation: {}}", "did you mean self_distillation"),
        ("rule: {name: rate, loss_scale: 2/T}", "loss_scale"),
        ("- 1", "must be a mapping of fields; it is a list"),
        ("data: {augmentation: os.path}", "data.augmentation must be a mapping of fields; it is 'os.path'"),
        ("model: {neuron: /etc/hostname}", "model.neuron must be a mapping of fields"),
        ("model: {neuron: {surrogate: 3}}", "model.neuron.surrogate must be a mapping of fields"),
        ("objectives: {self_distillation: reliable}", "objectives.self_distillation must be a mapping of fields"),
    ],
)
def test_recipes_of_the_wrong_form_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(text, [], "mine.yaml")


def test_a_new_row_brings_its_fields_to_recipes_and_help(monkeypatch, capsys):
    import dataclasses

    from spikedistill.objectives import OBJECTIVES

    @dataclasses.dataclass(frozen=True)
    class Margin(sd.Objective):
        """Hinge loss.

        Args:
            width: of the margin.
        """

        width: float = 1.0

    monkeypatch.setitem(OBJECTIVES, "margin", Margin)
    recipe = load_recipe("fashion-small", ["--objectives.margin.width", "0.5"])
    assert recipe.objectives["margin"] == Margin(0.5)
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--objectives.margin.width VALUE" in shown
    assert "of the margin. (default: 1.0)" in " ".join(shown.split())
    assert "of the margin." in shown


def test_a_word_in_the_place_of_a_group_is_neither_imported_nor_read(tmp_path, monkeypatch):
    (tmp_path / "harmful.py").write_text("import pathlib; pathlib.Path('harm').touch()\nclass X: pass\n")
    (tmp_path / "other.yaml").write_text("crop: 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for word in ("harmful.X", "other.yaml"):
        for group in (
            "data: {augmentation: %s}",
            "model: {neuron: %s}",
            "data: {events: %s}",
            "branches: %s",
            "claim: %s",
        ):
            with pytest.raises(ValueError, match="must be a mapping of fields"):
                parse_recipe(group % word, [], "mine.yaml")
        with pytest.raises(ValueError, match="--data.augmentation is a group of fields"):
            load_recipe("fashion-small", ["--data.augmentation", word])
    assert not (tmp_path / "harm").exists()
    with pytest.raises(ValueError, match=r"--branches is a group of fields; replace one of them, as --branches.FIELD"):
        load_recipe("fashion-small", ["--branches", "false"])
