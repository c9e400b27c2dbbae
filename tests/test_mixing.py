"""Mixing samples of a batch, and what the objectives and meters make of blended labels."""

import pytest
import torch
import torch.nn.functional as F

import spikedistill as sd
from spikedistill.data.augmentation import Augmentation
from spikedistill.data.batches import generator_for
from spikedistill.data.mixing import mixed

CLASSES = 6


def samples(*shape, count=6):
    torch.manual_seed(0)
    return torch.randn(*shape), torch.arange(count) % CLASSES


def shares_of(targets, labels):
    """What is left of each sample's own label."""
    return targets.gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize(("shape", "over_time"), [((6, 3, 8, 8), False), ((4, 6, 2, 8, 8), True), ((6, 7), False)])
def test_mixup_blends_each_sample_with_another_as_its_labels_say(shape, over_time):
    inputs, labels = samples(*shape)
    out = mixed(sd.Batch(inputs, labels), Augmentation(mixup=1.0), CLASSES, over_time, generator_for(0))
    assert out.inputs.shape == inputs.shape
    share = shares_of(out.targets, labels)
    assert torch.allclose(out.targets.sum(1), torch.ones(6))
    assert torch.allclose(share, share[0].expand(6))
    assert 0 < share[0] < 1
    expected = share[0] * inputs + (1 - share[0]) * inputs.roll(1, int(over_time))
    assert torch.allclose(out.inputs, expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "over_time"), [((6, 3, 8, 8), False), ((4, 6, 2, 8, 8), True)])
def test_cutmix_pastes_the_same_rectangle_at_all_steps_and_its_area_is_the_share(shape, over_time):
    inputs, labels = samples(*shape)
    out = mixed(sd.Batch(inputs, labels), Augmentation(cutmix=1.0), CLASSES, over_time, generator_for(1))
    kept = out.inputs == inputs
    assert torch.equal(out.inputs[~kept], inputs.roll(1, int(over_time))[~kept])
    assert torch.allclose(shares_of(out.targets, labels)[0], kept.float().mean())
    assert 0 < kept.float().mean() < 1


def test_both_take_turns_and_draw_nothing_from_the_networks_generator():
    inputs, labels = samples(6, 3, 8, 8)
    before = torch.get_rng_state()
    generator = generator_for(0)
    wanted = Augmentation(mixup=0.2, cutmix=1.0)
    outs = [mixed(sd.Batch(inputs, labels), wanted, CLASSES, False, generator).inputs for _ in range(20)]
    blended = [not bool((out == inputs).any()) for out in outs]
    assert 0 < sum(blended) < 20
    assert torch.equal(before, torch.get_rng_state())


def images(count=24):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return sd.ImageSet(pixels, sd.Labels(torch.arange(count) % 3, ("a", "b", "c")), (0.5,), (0.25,))


def test_batches_are_mixed_the_same_in_every_epoch_that_is_made_again():
    batches = sd.Batches(images(), 8, Augmentation(crop=0, flip=False, mixup=0.4), seed=3)
    first, again, resumed = list(batches.epoch(1)), list(batches.epoch(1)), list(batches.epoch(1, 2))
    assert all(torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) for a, b in zip(first, again))
    assert torch.equal(resumed[0].inputs, first[2].inputs)
    assert first[0].targets.shape == (8, 3)
    assert len(first[0]) == 8


def test_blended_labels_in_the_loss_are_the_blend_of_the_losses():
    logits = torch.randn(6, CLASSES, dtype=torch.float64)
    first, second, share = torch.arange(6) % CLASSES, (torch.arange(6) + 1) % CLASSES, 0.7
    blend = share * F.one_hot(first, CLASSES) + (1 - share) * F.one_hot(second, CLASSES)
    loss = sd.SelfDistillationLoss(teacher=None)
    terms = [loss(sd.Output(logits, {}, {}), sd.Batch(logits, labels)).total for labels in (blend, first, second)]
    assert torch.allclose(terms[0], share * terms[1] + (1 - share) * terms[2])


def test_a_head_is_right_on_a_blend_where_it_says_the_larger_part():
    blend = torch.tensor([[0.7, 0.3, 0.0]])
    right, wrong = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    output = sd.Output(right, {"stage": wrong}, {})
    soft = sd.SelfDistillationLoss()(output, sd.Batch(right, blend))["soft"]
    same = sd.SelfDistillationLoss()(output, sd.Batch(right, torch.tensor([0])))["soft"]
    assert soft > 0
    assert torch.equal(soft, same)


def test_label_smoothing_is_that_of_torch():
    logits, labels = torch.randn(6, CLASSES, dtype=torch.float64), torch.arange(6) % CLASSES
    loss = sd.SelfDistillationLoss(label_smoothing=0.1)
    found = loss(sd.Output(logits, {"stage": logits}, {}), sd.Batch(logits, labels))["hard"]
    assert torch.allclose(found, 2 * F.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation(mixup=-1), "augmentation.mixup is the parameter of a Beta distribution"),
        (lambda: sd.SelfDistillationLoss(label_smoothing=1.0), "label_smoothing is 1.0; expected 0 or more"),
        (
            lambda: mixed(sd.Batch(*samples(6, 7)), Augmentation(cutmix=1.0), CLASSES, False, generator_for(0)),
            r"a sample here is \[7\]; take mixup",
        ),
    ],
)
def test_misuse_is_refused(make, message):
    with pytest.raises(sd.SpikedistillError, match=message):
        make()


def test_only_class_labels_are_mixed():
    class Numbers:
        def __len__(self):
            return 24

    data = images()
    object.__setattr__(data, "targets", Numbers())
    with pytest.raises(sd.SpikedistillError, match="blend class labels; these samples have Numbers"):
        list(sd.Batches(data, 8, Augmentation(mixup=0.2), seed=0).epoch(0))
