"""Objectives: what they need, teachers that stay frozen, adapters that are trained, saved and stripped."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.data import load
from spikedistill.machine.device import autocast
from spikedistill.training.checkpoints import load_checkpoint
from spikedistill.training.prepared import Run
from spikedistill.training.recipe_files import parse_recipe, saved_recipe
from spikedistill.training.recipe_parsing import recipe_of

IMAGES, LABELS = torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 3, 4])


class Teacher(nn.Module):
    """An ANN with what goes wrong when a teacher is left in training mode: batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)
        self(torch.randn(8, 3, 16, 16))  # batch norm has seen a batch: it counts as trained

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3)))


def student(**options):
    return sd.SelfDistillation(sd.create_model("resnet18", 5, width=4), sd.Rate(2), branches=(), **options)


def test_distillation_is_its_formula():
    torch.manual_seed(0)
    z, target = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    batch = sd.Batch(torch.empty(0), LABELS, {"ann": sd.Output(target, {}, {})})
    terms = sd.Distillation("ann", temperature=2.0, weight=0.7)(sd.Output(z, {}, {}), batch)
    p, q = torch.softmax(target / 2, 1), torch.softmax(z / 2, 1)
    by_hand = 4 * sum(p[i, c] * (p[i, c].log() - q[i, c].log()) for i in range(4) for c in range(5)) / 4
    torch.testing.assert_close(terms["distillation"], by_hand)
    torch.testing.assert_close(terms.total, 0.7 * by_hand)


def test_a_teacher_is_frozen_in_evaluation_mode_and_no_part_of_the_learner():
    teacher = Teacher().train()
    learner = student(objectives=sd.Distillation("ann"), teachers={"ann": teacher}).train()
    before = copy.deepcopy(teacher.state_dict())
    assert not any("conv.weight" in name and "network" not in name for name, _ in learner.named_parameters())
    assert len(learner.state_dict()) == len(learner.network.state_dict())
    expected = copy.deepcopy(teacher).eval()(IMAGES)
    with torch.no_grad():
        teacher.head.weight.zero_()  # the learner has its own copy
    output = learner(IMAGES)
    terms = learner.loss(output, LABELS, IMAGES)
    terms.total.backward()
    by_hand = 16 * F.kl_div(
        F.log_softmax(output.logits / 4, 1), F.log_softmax(expected / 4, 1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(terms["distillation"], by_hand.detach())
    again = learner.loss(learner(IMAGES), LABELS, IMAGES)
    assert again["distillation"] == terms["distillation"]  # dropout is off, batch norm does not move
    for name, tensor in before.items():
        if name != "head.weight":
            assert torch.equal(teacher.state_dict()[name], tensor)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_that_is_missing_or_idle_is_refused():
    with pytest.raises(ValueError, match=r"missing: \['ann'\].*teachers="):
        student(objectives=sd.Distillation("ann"))
    with pytest.raises(ValueError, match=r"not asked for: \['ann'\]"):
        student(teachers={"ann": Teacher()})
    learner = student(objectives=sd.Distillation("ann"), teachers={"ann": Teacher()})
    with pytest.raises(ValueError, match=r"needs the images too: loss\(output, targets, images\)"):
        learner.loss(learner(IMAGES), LABELS)
    with pytest.raises(ValueError, match="needs a teacher: the folder"):
        sd.Distillation()


def small(outputs=5, size=32):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, outputs))


def filled(module, value):
    with torch.no_grad():
        next(module.parameters()).fill_(value)
    return module


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (small(3), r"the teacher ann gives \[3\] logits for a sample, the network \[5\]; both must.*new head"),
        (small(size=64), r"cannot be fed with samples \[3, 32, 32\].*wrap it in a module that resizes"),
        (filled(small(), math.nan), r"the teacher ann: 1 weights are NaN, first 1.weight"),
        (filled(small(), math.inf), r"the teacher ann answers with NaN or infinite logits"),
        (nn.Identity(), r"the teacher ann gives \[3, 32, 32\] logits for a sample"),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), "was never trained: its batch norm.*Load its weights"),
        (sd.Rate(4), "the teacher ann is a Rate; expected a trained network"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named_when_the_learner_is_made(teacher, message):
    with pytest.raises(ValueError, match=message):
        student(objectives=sd.Distillation("ann"), teachers={"ann": teacher})


def test_a_trained_teacher_of_an_older_file_counts_no_batches():
    teacher = Teacher()
    teacher.norm.num_batches_tracked.zero_()
    student(objectives=sd.Distillation("ann"), teachers={"ann": teacher})


@dataclasses.dataclass(frozen=True)
class Hint(sd.Objective):
    """The rates of one stage, mapped by a 1×1 convolution of its own, shall equal a feature map of the teacher."""

    stage: str = "layer2"
    weight: float = 1.0

    def needs(self):
        return sd.Needs(features=("neuron",), teachers=("ann",), teacher_features=("norm",))

    def adapter(self, output, teachers):
        channels = output.features[self.stage].shape[1], teachers["ann"].features["norm"].shape[1]
        return Mapped(self.stage, *channels)

    def __call__(self, output, batch):
        target = batch.teachers["ann"].features["norm"].mean((2, 3))
        loss = F.mse_loss(output.adapted["hint"], target)
        assert output.features["neuron"].shape == (len(target), 4, 16, 16)  # what `needs` asked for
        return sd.Terms(self.weight * loss, {"hint": loss.detach()})


class Mapped(nn.Module):
    def __init__(self, stage, c_in, c_out):
        super().__init__()
        self.stage, self.linear = stage, nn.Linear(c_in, c_out)

    def forward(self, output):
        return self.linear(output.features[self.stage].mean((2, 3)))


def test_an_objective_may_have_parameters_of_its_own():
    learner = student(
        objectives={"self_distillation": sd.SelfDistillationLoss(), "hint": Hint()}, teachers={"ann": Teacher()}
    )
    names = [name for name in learner.state_dict() if name.startswith("adapters")]
    assert names == ["adapters.hint.linear.weight", "adapters.hint.linear.bias"]
    terms = learner.loss(learner(IMAGES), LABELS, IMAGES)
    assert set(terms.parts) == {"hard", "hint"}
    terms.total.backward()
    assert learner.adapters["hint"].linear.weight.grad.abs().sum() > 0
    assert not any("adapters" in name or "hint" in name for name in learner.strip().state_dict())


def test_objectives_add_up_and_keep_their_words_apart():
    one = student()
    two = sd.SelfDistillation(
        one.network,
        sd.Rate(2),
        branches=(),
        objectives={"a": sd.SelfDistillationLoss(), "b": sd.SelfDistillationLoss()},
    )
    output = one(IMAGES)
    alone, both = one.loss(output, LABELS), two.loss(output, LABELS)
    torch.testing.assert_close(both.total, 2 * alone.total)
    assert set(both.parts) == {"hard", "b.hard"}
    torch.testing.assert_close(both.total.detach(), 2 * both["hard"])


def test_the_scale_is_the_rules():
    network = sd.create_model("vgg11", 5, width=2)
    output = sd.SelfDistillation(network, sd.Rate(4), branches=())(IMAGES)
    totals = {
        rule: float(sd.SelfDistillation(network, rule, branches=()).loss(output, LABELS).total.detach())
        for rule in (sd.Rate(4), sd.Rate(4, loss_scale="1/T"), sd.BPTT(4), sd.BPTT(4, loss_scale="1/T"), sd.ANN())
    }
    whole = totals[sd.ANN()]
    assert totals[sd.Rate(4)] == pytest.approx(whole)
    assert totals[sd.Rate(4, loss_scale="1/T")] == pytest.approx(whole / 4)
    assert totals[sd.BPTT(4)] == pytest.approx(whole)
    assert totals[sd.BPTT(4, loss_scale="1/T")] == pytest.approx(whole / 4)
    for bad in (lambda: sd.Rate(4, loss_scale=0), lambda: sd.ANN(loss_scale="1/T"), lambda: sd.BPTT(0)):
        with pytest.raises(ValueError, match="loss_scale|timesteps is 0"):
            bad()


def test_a_learner_needs_one_learning_rule():
    network = sd.create_model("vgg11", 5, width=2)
    assert sd.SelfDistillation(network, timesteps=3).rule == sd.Rate(3)
    with pytest.raises(ValueError, match="given neither"):
        sd.SelfDistillation(network)
    with pytest.raises(ValueError, match="given both"):
        sd.SelfDistillation(network, sd.BPTT(3), timesteps=3)
    with pytest.raises(ValueError, match="the learning rule is 3; expected Rate"):
        sd.SelfDistillation(network, 3)


WORDS = [
    "--data.train_rows=200",
    "--data.test_rows=50",
    "--data.validation_rows=0",
    "--optimizer.epochs=1",
    "--model.width=2",
]


def test_a_run_learns_from_another_run(tmp_path, capsys):
    """`train RECIPE --teacher FOLDER`, with the ANN twin as the teacher."""
    ann, snn = tmp_path / "ann", tmp_path / "snn"
    assert main(["train", "--rule", "ann", *WORDS, "--out", str(ann)]) == 0
    teaching = ["--teacher", str(ann)]
    assert main(["train", "--timesteps", "2", *WORDS, *teaching, "--out", str(snn)]) == 0
    assert "distillation" in (snn / "metrics.csv").read_text().splitlines()[0]
    assert not any("teacher" in name for name in load_checkpoint(snn / "checkpoint.pt")["learner"])
    assert main(["train", "--resume", str(snn)]) == 0  # finished: nothing left to train, scored again
    config = json.loads((ann / "config.json").read_text())
    config["targets"]["classes"][0] = "Hat"
    (ann / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert main(["train", *WORDS, *teaching, "--out", str(tmp_path / "other")]) == 1
    assert "was trained for" in capsys.readouterr().err


def test_the_teacher_option_is_for_every_objective_that_has_one():
    def teachers(*words):
        recipe = sd.load_recipe("fashion-small", [*words, "--teacher", "runs/ann"])
        return {name: getattr(each, "teacher", None) for name, each in recipe.objectives.items()}

    assert teachers() == {"self_distillation": "reliable", "distillation": "runs/ann"}
    words = ["--objectives.noise_smoothed.share", "0.2", "--objectives.activation_maps.stage", "first"]
    assert teachers(*words) == {
        "self_distillation": "reliable",
        "noise_smoothed": "runs/ann",
        "activation_maps": "runs/ann",
    }
    recipe = sd.load_recipe("cifar100-ckdsnn", ["--teacher", "runs/mine"])
    assert {each.teacher for name, each in recipe.objectives.items() if name != "self_distillation"} == {"runs/mine"}
    with pytest.raises(ValueError, match="has no field 'teacher'"):
        parse_recipe("teacher: runs/ann", [], "a file")


MODULE = """
from torch import nn
import torch

def trained():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 10))
    net(torch.randn(8, 1, 28, 28))
    return net
"""


def test_a_teacher_may_be_a_function_and_is_imported_with_trust_only(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_teachers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    words = ["train", *WORDS, "--teacher", "their_teachers:trained", "--out", "runs/taught"]
    assert main(words) == 0
    assert "distillation" in (tmp_path / "runs/taught/metrics.csv").read_text()
    capsys.readouterr()
    assert main(["train", "--resume", "runs/taught"]) == 1
    assert "'their_teachers:trained', which would be imported, and so run" in capsys.readouterr().err
    assert main(["train", "--resume", "runs/taught", "--trust"]) == 0
    assert main(["train", *WORDS, "--teacher", "their_teachers:nothing", "--out", "runs/no"]) == 1
    assert "has no function or class 'nothing'" in capsys.readouterr().err


def test_seeds_go_on_with_a_teacher_that_was_named_just_now(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_teachers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    words = ["train", *WORDS, "--teacher", "their_teachers:trained", "--seeds", "0", "1", "--out", "runs/taught"]
    assert main(words) == 0
    assert main(words) == 0
    assert "taught-1 is finished already" in capsys.readouterr().err
    # nothing of the teacher is needed to evaluate
    assert main(["evaluate", "runs/taught-0"]) == 0
    assert Run(
        saved_recipe(Path("runs/taught-0"), True), Path("runs/x"), *[None] * 2, False, *[None] * 2
    ).resume_by == ("spikedistill train --resume runs/x --trust")


@dataclasses.dataclass(frozen=True)
class Guided(sd.SelfDistillationLoss):
    """An objective with a teacher in a field of another name."""

    guide: str = "none"

    def needs(self):
        return sd.Needs(teachers=(self.guide,))


def test_whatever_an_objective_asks_for_is_imported_with_trust_only(monkeypatch):
    monkeypatch.setitem(sd.OBJECTIVES, "guided", Guided)
    values = {"objectives": {"guided": {"guide": "evil:net"}}}
    with pytest.raises(ValueError, match="'evil:net', which would be imported, and so run"):
        recipe_of(values, "a folder", trust=False)
    assert recipe_of(values, "a file", trust=True).objectives["guided"].guide == "evil:net"


def test_teachers_are_handed_over_in_python(tmp_path):
    spiking = tmp_path / "spiking"
    sd.train(sd.load_recipe("fashion-small", WORDS), spiking)
    teacher = sd.load(spiking)
    recipe = sd.load_recipe("fashion-small", [*WORDS, "--objectives.distillation.teacher", "mine"])
    sd.train(recipe, tmp_path / "taught", teachers={"mine": teacher})
    with pytest.raises(sd.SpikedistillError, match="mine"):  # nobody hands it over, and it is no folder
        sd.resume(tmp_path / "taught")
    sd.resume(tmp_path / "taught", teachers={"mine": teacher})
    with pytest.raises(ValueError, match="no objective asks for the teacher other; they ask for mine"):
        sd.train(recipe, tmp_path / "extra", teachers={"mine": teacher, "other": teacher})
    # it spikes with its own T, also where the run has another
    from spikedistill.training.build import _frozen

    splits = load(recipe.data, 4)
    images = splits.train.batch(torch.arange(3)).inputs
    with torch.no_grad(), autocast(teacher.config["precision"], images.device):
        expected = teacher.network(images, timesteps=4).logits
    torch.testing.assert_close(_frozen("mine", teacher, splits.train)(images).logits, expected)


def test_a_teacher_that_saw_other_pictures_is_refused(tmp_path, capsys):
    ann = tmp_path / "ann"
    assert main(["train", "--rule", "ann", *WORDS, "--out", str(ann)]) == 0
    config = json.loads((ann / "config.json").read_text())
    for name, value in (("mean", [0.9]), ("shape", [1, 14, 14])):
        changed = json.loads(json.dumps(config))
        changed["input"][name] = value
        (ann / "config.json").write_text(json.dumps(changed))
        capsys.readouterr()
        assert main(["train", *WORDS, "--teacher", str(ann), "--out", str(tmp_path / "no")]) == 1
        said = capsys.readouterr().err
        assert f"was fed otherwise: these samples have {name}" in said
        assert "Train a teacher on samples prepared as these are" in said
