"""The loss against its definition, sample by sample; teachers; the samples nobody gets right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_loss

import spikedistill as sd
from spikedistill.objectives.self_teachers import TEACHERS, WEIGHTINGS, targets


def batch(labels):
    return sd.Batch(torch.empty(0), labels)


def output(heads, requires_grad=True):
    heads = [h.clone().requires_grad_(requires_grad) for h in heads]
    branches = {f"layer{k + 1}": h for k, h in enumerate(heads[:-1])}
    return sd.Output(heads[-1], branches, {}), heads


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.integers(0, 9999))
def test_the_loss_is_method_md_section_4(heads, samples, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = [2 * torch.randn(samples, classes, dtype=torch.float64, generator=generator) for _ in range(heads)]
    labels = torch.randint(0, classes, (samples,), generator=generator)
    out, ours = output(logits)
    terms = sd.SelfDistillationLoss()(out, batch(labels))
    terms.total.backward()
    theirs = [h.clone().requires_grad_() for h in logits]
    expected = reference_loss(theirs, labels, 1, beta=0.3 if heads > 1 else 0.0)
    expected.backward()
    torch.testing.assert_close(terms.total, expected)
    torch.testing.assert_close([h.grad for h in ours], [h.grad for h in theirs])


def test_the_teacher_has_no_gradient():
    """With one head right, the teacher is that head, which then learns nothing from the soft loss."""
    labels = torch.tensor([1, 1])
    right, wrong = torch.tensor([[0.0, 3.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    out, heads = output([right, wrong])
    loss = sd.SelfDistillationLoss(network_weight=0.0, branch_weight=0.0)
    loss(out, batch(labels)).total.backward()
    assert heads[0].grad.abs().max() < 1e-6
    assert heads[1].grad.abs().min() > 1e-3


def test_a_batch_that_no_head_gets_right_is_finite_and_has_only_the_hard_loss():
    labels = torch.tensor([0, 0, 0])
    wrong = torch.tensor([[-50.0, 50.0]]).expand(3, 2)
    out, heads = output([wrong, wrong])
    terms = sd.SelfDistillationLoss()(out, batch(labels))
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert terms["soft"] == 0
    assert torch.equal(terms.total.detach(), terms["hard"])
    assert all(torch.isfinite(h.grad).all() for h in heads)


def test_teachers_by_hand():
    logits = torch.tensor([[[0.0, 2.0]], [[3.0, 1.0]], [[0.0, 4.0]]])  # heads say 1, 0, 1; the label is 1
    correct = logits.argmax(-1) == 1
    ones = torch.ones(3, 1)

    def taught(speaks, loudness=ones, others_only=False):
        target, has_teacher = targets(logits, speaks, loudness, others_only)
        return target.squeeze(1).tolist(), has_teacher.squeeze(1).tolist()

    assert taught(TEACHERS["reliable"](correct)) == ([[0.0, 3.0]], [True])
    assert taught(TEACHERS["mean"](correct)) == ([[1.0, pytest.approx(7 / 3)]], [True])
    assert taught(TEACHERS["deepest"](correct)) == ([[0.0, 4.0]], [True])
    assert taught(TEACHERS["reliable"](~correct & False))[1] == [False]
    # by confidence, 1 to 3; and each head by the others alone, of which the wrong one has two
    assert taught(correct, torch.tensor([[1.0], [5.0], [3.0]]))[0] == [[0.0, 3.5]]
    assert taught(correct, others_only=True) == ([[0.0, 4.0], [0.0, 3.0], [0.0, 2.0]], [True] * 3)
    alone = torch.tensor([[True], [False], [False]])
    assert taught(alone, others_only=True)[1] == [False, True, True]


def test_confidence_is_the_probability_of_the_right_class():
    logits = torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 0.0, 100.0]]])
    torch.testing.assert_close(WEIGHTINGS["confidence"](logits, torch.tensor([2])), torch.tensor([[1 / 3], [1.0]]))


def test_a_head_that_is_right_alone_teaches_the_others_and_is_not_taught():
    right, wrong = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 0.0]])
    out, heads = output([wrong, right])
    loss = sd.SelfDistillationLoss(network_weight=0.0, branch_weight=0.0, others_only=True)
    loss(out, batch(torch.tensor([1]))).total.backward()
    assert heads[1].grad.abs().max() == 0
    assert heads[0].grad.abs().min() > 1e-3


def test_where_no_head_is_right_the_label_or_a_teacher_network_steps_in():
    labels = torch.tensor([0, 1])
    wrong, right = torch.tensor([[0.0, 2.0], [0.0, 1.0]]), torch.tensor([[-1.0, 1.0], [0.0, 3.0]])  # of sample 1
    terms = sd.SelfDistillationLoss(fallback="label")(output([wrong, right])[0], batch(labels))
    p = (wrong[0] / 3).softmax(0) / 2 + (right[0] / 3).softmax(0) / 2
    target = [0.5 * p + 0.5 * torch.tensor([1.0, 0.0]), ((wrong[1] + right[1]) / 2 / 3).softmax(0)]
    by_hand = sum(
        9 * (target[i] * (target[i].log() - (head[i] / 3).log_softmax(0))).sum() / 2
        for i in range(2)
        for head in (wrong, right)
    )
    torch.testing.assert_close(terms["soft"], by_hand)
    answer = torch.tensor([[2.0, 1.0], [5.0, 5.0]])  # the second is not asked
    taught = sd.Batch(torch.empty(0), labels, {"ann": sd.Output(answer, {}, {})})
    loss = sd.SelfDistillationLoss(fallback="ann")
    assert loss.needs().teachers == ("ann",)
    target[0] = (answer[0] / 3).softmax(0)
    by_hand = sum(
        9 * (target[i] * (target[i].log() - (head[i] / 3).log_softmax(0))).sum() / 2
        for i in range(2)
        for head in (wrong, right)
    )
    torch.testing.assert_close(loss(output([wrong, right])[0], taught)["soft"], by_hand)


def test_a_label_that_the_heads_think_impossible_is_no_nan():
    heads = [torch.tensor([[2000.0, 0.0, 0.0]])] * 2
    terms = sd.SelfDistillationLoss(fallback="label")(output(heads)[0], batch(torch.tensor([1])))
    assert torch.isfinite(terms["soft"])


def test_what_has_no_effect_on_a_soft_loss_is_refused():
    for fields, message in (
        ({"teacher": "deepest", "weighting": "confidence"}, "weighting has no effect with the deepest head"),
        ({"teacher": "mean", "fallback": "label"}, "with the teacher mean every sample has one"),
    ):
        with pytest.raises(ValueError, match=message):
            sd.SelfDistillationLoss(**fields)
    loss, network = sd.SelfDistillationLoss(others_only=True), sd.create_model("vgg11", 3, width=2)
    with pytest.raises(ValueError, match="wants several heads to teach each other, and there are no branches"):
        sd.SelfDistillation(network, sd.Rate(2), branches=(), objectives=loss)


def test_imagenet_weights():
    torch.manual_seed(0)
    heads, labels = [torch.randn(5, 3) for _ in range(3)], torch.tensor([0, 1, 2, 0, 1])
    ce = [torch.nn.functional.cross_entropy(h, labels) for h in heads]
    terms = sd.SelfDistillationLoss(teacher=None, branch_weight=0.7)(output(heads)[0], batch(labels))
    torch.testing.assert_close(terms.total.detach(), ce[2] + 0.7 * (ce[0] + ce[1]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "labels run from 0 to 3, but the network has 3 classes.*num_classes=4"),
        (torch.tensor([-1, 0]), "labels run from -1"),
        (torch.tensor([0.0, 1.0]), "class indices"),
        (torch.tensor([0, 1, 2]), "class indices"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        sd.Classification().check(torch.zeros(2, 3), labels)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean reliable"):
        sd.SelfDistillationLoss(teacher="relaible")
    with pytest.raises(ValueError, match="temperature is 0"):
        sd.SelfDistillationLoss(temperature=0)
    with pytest.raises(ValueError, match="without a teacher there is no soft loss"):
        sd.SelfDistillationLoss(teacher=None, weighting="confidence")
    with pytest.raises(ValueError, match="did you mean confidence"):
        sd.SelfDistillationLoss(weighting="confidense")


def test_an_own_objective_plugs_in():
    def margin(out, batch):
        total = torch.nn.functional.multi_margin_loss(out.logits, batch.targets)
        return sd.Terms(total, {"margin": total.detach()})

    learner = sd.SelfDistillation(
        sd.create_model("vgg11", 3, width=2), sd.Rate(2, loss_scale=1.0), branches=(), objectives=margin
    )
    terms = learner.loss(learner(torch.randn(2, 3, 16, 16)), torch.tensor([0, 2]))
    terms.total.backward()
    assert terms["margin"] == terms.total
    with pytest.raises(ValueError, match="unknown loss term 'soft'.*margin"):
        terms["soft"]
