"""Fewer easy samples: who is shown, what they count, and that a run goes on with the same."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from test_data import pictures
from test_step import Again, session_of, steps
from tiny_runs import TINY, same_weights, stopping_after
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.core.modules import evaluating
from spikedistill.core.output import Batch
from spikedistill.data import Augmentation, Batches
from spikedistill.errors import CheckpointError
from spikedistill.report.metrics import read_metrics
from spikedistill.tasks import Classification, Detection
from spikedistill.training import pruning as module
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.optimizers import SGD
from spikedistill.training.pruning import Pruner, Pruning
from spikedistill.training.recipe_files import load_recipe

IMAGES = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
WEIGHTS = torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0, 0.5])


# ---------------------------------------------------------------- what a sample counts


@dataclasses.dataclass(frozen=True)
class Hint(sd.Objective):
    """Looks at everything that an objective may look at beside logits and branches."""

    def needs(self):
        return sd.Needs(features=("0.0",), neurons=True)

    def adapter(self, output, teachers):
        return Mapped()

    def __call__(self, output, batch):
        looked_at = [output.adapted["hint"], output.features["0.0"], *output.neurons.values()]
        loss = torch.stack([each.flatten(1).square().mean() for each in looked_at]).sum()
        return sd.Terms(loss, {})


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, output):
        return self.linear(output.features["0.0"].mean((2, 3)))


def learner_of(rule):
    """Two stages without batch norm, in which samples know of each other."""
    block = [nn.Sequential(nn.Conv2d(i, 4, 3, padding=1), sd.LIF(threshold=0.3)) for i in (3, 4)]
    body = nn.Sequential(*block, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    # each head is taught by the deepest alone: so every sample has a teacher, and all count the same
    objectives = {"self_distillation": sd.SelfDistillationLoss(teacher="deepest"), "hint": Hint()}
    return sd.SelfDistillation(sd.Network(body, ["0", "1"]), rule, objectives=objectives).double()


def gradients(learner, images, labels, weights=None):
    learner.zero_grad()
    with evaluating(learner):  # batch norm of the branches
        learner.loss(learner(images), labels, images, weights).total.backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3)], ids=lambda rule: type(rule).__name__)
def test_the_gradient_of_a_batch_is_the_weighted_mean_of_those_of_its_samples(rule):
    torch.manual_seed(0)
    learner = learner_of(rule)
    found = gradients(learner, IMAGES, LABELS, WEIGHTS)
    alone = [gradients(learner, IMAGES[k : k + 1], LABELS[k : k + 1]) for k in range(6)]
    assert len(found) > 8
    for name, gradient in found.items():
        expected = sum(float(WEIGHTS[k]) * alone[k][name] for k in range(6)) / 6
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_weights_leave_the_loss_as_it_is():
    learner = learner_of(sd.Rate(2))
    with evaluating(learner):
        plain, weighted = (learner.loss(learner(IMAGES), LABELS, IMAGES, each) for each in (None, WEIGHTS))
    assert torch.equal(plain.total, weighted.total)
    assert plain.named().keys() == weighted.named().keys()


def test_weights_are_one_a_sample():
    learner = learner_of(sd.Rate(2))
    for wrong in (WEIGHTS[:5], WEIGHTS[:, None], torch.tensor(2.0)):
        with pytest.raises(ValueError, match=r"weights are \(.*expected one a sample, \[6\]"):
            learner.loss(learner(IMAGES), LABELS, IMAGES, wrong)


@pytest.mark.parametrize("how", ["in parts", "recorded", "compiled"])
def test_every_way_to_take_a_step_knows_the_weights(how, monkeypatch):
    monkeypatch.setattr("spikedistill.training.compiled_step.torch.compile", lambda graph, **_: graph)
    settings = SGD(lr=0.1, accumulate=3) if how == "in parts" else SGD(lr=0.1, batch_size=6)
    plain = session_of(SGD(lr=0.1))
    expected = steps(plain, SGD(lr=0.1), 6, weights=WEIGHTS)  # which are others in each step
    session = session_of(settings)
    more = {"recorded": {"recorder": Again()}, "compiled": {"compiled": CompiledStep(session.learner, "fp32")}}
    found = steps(session, settings, 6, weights=WEIGHTS, **more.get(how, {}))
    without = steps(session_of(SGD(lr=0.1)), SGD(lr=0.1), 6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-8)  # a recorded learning rate is float32
        assert not torch.allclose(without[name], tensor, rtol=1e-3)


def test_weighted_and_plain_batches_are_two_compiled_steps(monkeypatch):
    monkeypatch.setattr("spikedistill.training.compiled_step.torch.compile", lambda graph, **_: graph)
    learner = learner_of(sd.Rate(2))
    plain, step = copy.deepcopy(learner), CompiledStep(learner, "fp32")
    for weights in (None, WEIGHTS, 3 * WEIGHTS):
        step(Batch(IMAGES, LABELS, weights=weights))
        plain.loss(plain(IMAGES), LABELS, IMAGES, weights).total.backward()
    assert len(step._compiled) == 2
    for (name, p), q in zip(learner.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12, msg=name)


# ---------------------------------------------------------------- who is shown


def batches_of(count, batch_size=4, **more):
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    data = sd.ImageSet(images, sd.Labels(torch.zeros(count).long(), ("a",)), (0.5,), (0.25,))
    return Batches(data, batch_size, NONE, 0, **more)


NONE = Augmentation(crop=0, flip=False)


def pruner_of(losses, share=0.5, until=10):
    pruner = Pruner(Pruning(share, until), len(losses), seed=0)
    pruner.note(torch.arange(len(losses)), losses)
    pruner.next_epoch()
    return pruner


def test_a_share_of_the_easy_is_left_out_and_the_rest_of_them_counts_for_it():
    losses = torch.rand(4000, generator=torch.Generator().manual_seed(0)) ** 2
    easy = losses < losses.mean()
    for share in (0.25, 0.5):
        pruner, batches = pruner_of(losses, share), batches_of(4000)
        shown = pruner.shown(batches, 3)
        rows = shown.order
        assert len(set(rows.tolist())) == len(rows)
        assert int((~easy[rows]).sum()) == int((~easy).sum())  # every hard one
        kept = int(easy[rows].sum()) / int(easy.sum())
        assert kept == pytest.approx(1 - share, abs=0.04)  # four standard deviations
        weights = shown.weights[rows]
        assert weights[easy[rows]].unique().tolist() == pytest.approx([1 / (1 - share)])
        assert weights[~easy[rows]].unique().tolist() == [1.0]
        assert float(weights.sum()) == pytest.approx(4000, rel=0.05)  # the gradients of an epoch, all in all
        assert torch.equal(rows, pruner.shown(batches, 3).order)
        assert set(rows.tolist()) != set(pruner.shown(batches, 4).order.tolist())


def test_the_first_epoch_and_the_last_ones_show_all_samples():
    batches, losses = batches_of(40), torch.arange(40.0)
    new = Pruner(Pruning(0.5, until=7), 40, seed=0).shown(batches, 0)
    assert new.weights is None
    assert torch.equal(new.order, batches.order(0))
    pruner = pruner_of(losses, until=7)
    assert [pruner.shown(batches, epoch).weights is None for epoch in (6, 7, 8)] == [False, True, True]
    assert torch.equal(pruner.shown(batches, 7).order, batches.order(7))


def test_a_sample_that_was_not_shown_keeps_its_loss_and_without_one_it_is_shown():
    pruner = Pruner(Pruning(0.5, until=9), 8, seed=0)
    pruner.note(torch.tensor([0, 1, 2]), torch.tensor([0.1, 0.2, 9.0]))
    pruner.next_epoch()
    for epoch in range(1, 9):
        rows = set(pruner.shown(batches_of(8, 2), epoch).order.tolist())
        assert {2, 3, 4, 5, 6, 7} <= rows  # a dropped last batch in the first epoch
    pruner.note(torch.tensor([2, 5]), torch.tensor([0.3, 4.0]))
    pruner.next_epoch()
    assert pruner.before[:3].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert pruner.before[5] == 4.0
    assert pruner.before[[3, 4, 6, 7]].isnan().all()


def test_where_hardly_a_sample_is_hard_all_are_shown_rather_than_no_batch():
    losses = torch.zeros(5)
    losses[0] = 100.0
    for epoch in range(1, 9):
        shown = pruner_of(losses, 0.9).shown(batches_of(5, 5, drop_last=True), epoch)
        assert len(shown.batches) == 1
        assert pruner_of(losses, 0.9).shown(batches_of(5, 5, processes=2), epoch).batches.samples >= 2
    fewer = pruner_of(torch.arange(40.0)).shown(batches_of(40, 40), 1)  # less than a batch is a batch
    assert (len(fewer.batches), fewer.weights is None) == (1, False)
    assert pruner_of(torch.ones(8)).shown(batches_of(8), 1).weights is None  # all the same: nobody is easy


def test_batches_of_some_rows_are_shared_by_processes_as_others_are():
    data, rows = pictures(), torch.tensor([3, 4, 7, 8, 11, 15, 16, 19])
    one = Batches(data, 3, Augmentation(crop=2), 1, rows=rows)
    assert sorted(one.order(2).tolist()) == rows.tolist()
    assert len(one) == 3
    two = [Batches(data, 3, Augmentation(crop=2), 1, rank=rank, processes=2, rows=rows) for rank in range(2)]
    for k, (whole, *shares) in enumerate(zip(one.epoch(2), *(each.epoch(2) for each in two), strict=True)):
        assert torch.equal(whole.inputs, torch.cat([share.inputs for share in shares]))
        of_each = [module.Shown(each, 2).index(k) for each in two]
        assert torch.equal(torch.cat(of_each), one.order(2)[one.span(k)])
        assert torch.equal(data.targets.batch(torch.cat(of_each)), whole.targets)


def test_the_loss_of_a_sample_is_its_cross_entropy_also_where_labels_are_mixed():
    logits = torch.randn(6, 5, dtype=torch.bfloat16)
    shares = F.one_hot(LABELS, 5).float() * 0.7 + F.one_hot(LABELS.flip(0), 5).float() * 0.3
    of_one = Classification().sample_losses(logits, LABELS)
    assert of_one.dtype == torch.float32
    expected = -logits.float().log_softmax(1)
    torch.testing.assert_close(of_one, expected[torch.arange(6), LABELS])
    torch.testing.assert_close(Classification().sample_losses(logits, shares), (expected * shares).sum(1))


# ---------------------------------------------------------------- runs

WORDS = [*TINY, "--optimizer.epochs=4", "--optimizer.batch_size=20", "--pruning.share=0.5"]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned") / "run"
    torch.set_num_threads(1)
    assert main(["train", *WORDS, "--out", str(folder)]) == 0
    return folder


def test_a_run_says_how_many_samples_it_has_shown(pruned):
    shown = [row["shown"] for row in read_metrics(pruned / "metrics.csv")]
    assert shown[0] == shown[3] == 240 / 256  # the last batch is left out; three epochs are pruned, but for the first
    assert all(0.5 < share < 0.9 for share in shown[1:3])


@pytest.mark.parametrize("count", [5, 17, 30])
def test_a_pruned_run_that_was_stopped_goes_on_to_the_same_bits(pruned, count, tmp_path):
    with stopping_after(count):
        assert main(["train", *WORDS, "--out", str(tmp_path / "run")]) == 130
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert same_weights(pruned, tmp_path / "run")


def test_losses_of_other_samples_are_refused():
    state = pruner_of(torch.rand(8)).state()
    for damage in ({}, {"before": state["before"]}, {**state, "now": state["now"][:5]}, {**state, "now": 3.0}, None):
        with pytest.raises(CheckpointError, match="the losses of the samples are .*expected 8 float32"):
            pruner_of(torch.rand(8)).restore(damage)
    other = Pruner(Pruning(0.5), 8, seed=0)
    other.restore(state)
    assert torch.equal(other.before, state["before"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pruning.share=1"], "pruning.share is 1.* to below 1"),
        (["--pruning.share=-0.5"], "pruning.share is -0.5"),
        (["--pruning.until=0.5"], "--pruning.until 0.5 has no effect without samples that are left out"),
        (["--pruning.share=0.5", "--pruning.until=2.5"], "a number of epochs from 2 on.* or a share"),
        (["--pruning.share=0.5", "--pruning.until=1"], "a number of epochs from 2 on, for the first shows all"),
        (["--pruning.share=0.5", "--pruning.until=0"], "pruning.until is 0"),
        (["--pruning.share=0.5", "--pruning.until=-1"], "pruning.until is -1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("fashion-small", words)


def test_until_is_kept_as_a_number(pruned):
    assert "until: 3" in (pruned / "recipe.yaml").read_text()
    assert Pruning(0.5, 0.5).counted(9).until == 4
    assert Pruning(0.5, 6).counted(9).until == 6
    assert Pruning().counted(9) == Pruning()
    assert Pruning(0.5).counted(2) == Pruning()  # the first epoch is no one to leave samples out in
    off = load_recipe(str(pruned / "recipe.yaml"), ["--pruning.share=0"])
    assert off.pruning.share == 0


def test_samples_that_are_mixed_have_no_weight_of_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"mixup and cutmix make one sample of two; leave out --pruning.share, or"):
        sd.train(load_recipe("fashion-small", [*WORDS, "--data.augmentation.mixup=0.2"]), tmp_path / "run")


def test_a_whole_last_batch_and_samples_of_ones_own_are_pruned_too(tmp_path):
    images = torch.randint(0, 256, (90, 1, 8, 8), dtype=torch.uint8)
    samples = sd.ImageSet(images, sd.Labels(torch.arange(90) % 3, tuple("abc")), (0.5,), (0.25,))
    words = [*WORDS, "--optimizer.drop_last=false", "--data.validation_rows=0"]
    data = sd.Splits(samples.rows(slice(75)), None, samples.rows(slice(75, None)))
    recipe = load_recipe("fashion-small", [word for word in words if "rows" not in word])
    weights = []
    for name, stop in (("a", None), ("b", 8)):
        if stop is None:
            sd.train(recipe, tmp_path / name, data=data)
        else:
            with stopping_after(stop), pytest.raises(sd.Interrupted):
                sd.train(recipe, tmp_path / name, data=data)
            sd.resume(tmp_path / name, data=data)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
        shown = [row["shown"] for row in read_metrics(tmp_path / name / "metrics.csv")]
        assert shown[0] == shown[3] == 1.0
        assert max(shown[1:3]) < 0.95
    assert weights[0] == weights[1]


def test_a_task_whose_samples_have_no_loss_of_their_own_is_refused(tmp_path):
    assert Detection().sample_losses(torch.zeros(1, 5, 2, 2), torch.zeros(1, 1, 5)) is None

    @dataclasses.dataclass(frozen=True)
    class Unknown(Classification):
        def sample_losses(self, logits, targets):
            return None

    recipe = dataclasses.replace(load_recipe("fashion-small", WORDS), task=Unknown())
    with pytest.raises(ValueError, match=r"Unknown has no loss of a single sample .*leave out --pruning.share"):
        sd.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run/checkpoint.pt").exists()
