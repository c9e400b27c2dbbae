"""Objectives that have a frozen teacher or count spikes, from their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikedistill as sd
from spikedistill.objectives.activation_maps import class_activation_map

LABELS = torch.tensor([1, 0, 2])
ANN = "ann"


def batch(answer, labels=LABELS):
    return sd.Batch(torch.empty(0), labels, {ANN: answer})


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl(p, q):
    return (p * (p.log() - q.log())).sum(-1).mean()


# ---------------------------------------------------------------- two temperatures


def test_two_temperatures_ask_for_logits_in_their_ratio():
    target = numbers(3, 4)
    loss = sd.Distillation(ANN, temperature=4.0, student_temperature=2.0)
    best = target / 2 + 7.0  # τ_s/τ of them, and any constant
    out = batch(sd.Output(target, {}, {}))
    assert abs(float(loss(sd.Output(best, {}, {}), out).total)) < 1e-12
    z = numbers(3, 4, seed=1)
    by_hand = 8 * kl((target / 4).softmax(1), (z / 2).softmax(1))
    torch.testing.assert_close(loss(sd.Output(z, {}, {}), out).total, by_hand)


# ---------------------------------------------------------------- noise-smoothed logits


@pytest.mark.parametrize("noise", ["matched", "variance", "fixed"])
def test_noise_smoothed_logits_are_their_formula(noise):
    z, target = numbers(3, 5, seed=1).requires_grad_(), numbers(3, 5, seed=2)
    loss = sd.NoiseSmoothedDistillation(ANN, share=0.3, noise=noise, weight=0.5)
    torch.manual_seed(4)
    terms = loss(sd.Output(z, {}, {}), batch(sd.Output(target, {}, {})))
    torch.manual_seed(4)
    drawn = torch.randn(3, 5, dtype=torch.float64)
    spread = z.detach().std(1, keepdim=True)
    mean = z.detach().mean(1, keepdim=True)
    eps = {"matched": mean + drawn * spread, "variance": mean + drawn * spread**2, "fixed": drawn}[noise]
    by_hand = 4 * kl((target / 2).softmax(1), ((z + 0.3 * eps) / 2).softmax(1))
    torch.testing.assert_close(terms["noise_smoothed"], by_hand.detach())
    # the noise has no gradient of its own
    torch.testing.assert_close(torch.autograd.grad(terms.total, z), torch.autograd.grad(0.5 * by_hand, z))


def test_probabilities_can_be_mixed_as_the_published_code_does():
    z, target = numbers(3, 5, seed=1), numbers(3, 5, seed=2)
    loss = sd.NoiseSmoothedDistillation(ANN, share=0.1, noise="fixed", mixing="probabilities")
    torch.manual_seed(4)
    terms = loss(sd.Output(z, {}, {}), batch(sd.Output(target, {}, {})))
    torch.manual_seed(4)
    drawn = torch.randn(3, 5, dtype=torch.float64)
    mixed = 0.9 * (z / 2).softmax(1) + 0.1 * (drawn / 2).softmax(1)
    torch.testing.assert_close(terms.total, 4 * kl((target / 2).softmax(1), mixed))


# ---------------------------------------------------------------- activation maps


class Pooled(nn.Module):
    """Features, global average pooling and a linear classifier."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.features(x).relu().mean((2, 3)))


def test_a_map_by_the_classifier_counts_channels_by_its_weights():
    model = Pooled().double()
    features = numbers(3, 6, 5, 4).requires_grad_()
    logits = model.head(features.mean((2, 3)))
    found = class_activation_map(features, logits, LABELS)
    torch.testing.assert_close(found, torch.einsum("nc,nchw->nhw", model.head.weight[LABELS], features).detach())
    # Grad-CAM: smaller by the number of positions
    torch.testing.assert_close(class_activation_map(features, logits, LABELS, mean=True), found / 20)


def answered(seed=0):
    model = Pooled().double()
    features = numbers(3, 6, 5, 4, seed=seed).requires_grad_()
    return model, sd.Output(model.head(features.mean((2, 3))), {}, {"last": features})


def test_activation_maps_are_their_formula():
    model, answer = answered()
    rates = numbers(3, 8, 5, 4, seed=3).sigmoid().requires_grad_()
    out = sd.Output(numbers(3, 4), {}, {"last": rates}, timesteps=4)
    terms = sd.ActivationMapDistillation(ANN, weight=0.5, normalise="none")(out, batch(answer))
    top = answer.logits.argmax(1)
    te = torch.einsum("nc,nchw->nhw", model.head.weight[top], answer.features["last"]).detach().relu().flatten(1)
    st = 4 * rates.sum(1).flatten(1)
    by_hand = 4 * kl((te / 2).softmax(1), (st / 2).softmax(1))
    torch.testing.assert_close(terms["activation_maps"].double(), by_hand.detach(), rtol=1e-4, atol=1e-5)
    terms.total.backward()
    assert rates.grad.abs().max() > 0
    assert answer.features["last"].grad is None


def test_the_variants_of_activation_maps_differ_and_equal_maps_cost_nothing():
    _, answer = answered()
    rates = numbers(3, 8, 5, 4, seed=3).sigmoid()
    out = sd.Output(numbers(3, 4), {}, {"last": rates}, timesteps=4)
    variants = [{}, {"of": "label"}, {"weights": "gradients", "normalise": "none"}]
    variants += [{"positive": False}, {"scaling": "norm"}]
    variants += [{"normalise": "none"}, {"normalise": "batch"}, {"alike": False}, {"temperature": 4.0}]
    found = []
    for fields in variants:
        found.append(float(sd.ActivationMapDistillation(ANN, **fields)(out, batch(answer)).total))
    assert len({round(value, 6) for value in found}) == len(variants)
    # a student that fires as the teacher's map is: one channel, its class counted by 1
    features = numbers(3, 1, 5, 4).sigmoid().requires_grad_()
    logits = torch.cat([features.mean((2, 3)), torch.zeros(3, 1)], 1)
    same = sd.Output(logits, {}, {"last": features.detach()}, timesteps=50)
    teacher = sd.Output(logits, {}, {"last": features})
    assert float(sd.ActivationMapDistillation(ANN)(same, batch(teacher)).total) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("by", ["sample", "batch"])
def test_both_maps_are_normalised_alike(by):
    model, answer = answered()
    rates = numbers(3, 8, 5, 4, seed=3).sigmoid().requires_grad_()
    out = sd.Output(numbers(3, 4), {}, {"last": rates}, timesteps=4)
    terms = sd.ActivationMapDistillation(ANN, normalise=by)(out, batch(answer))
    top = answer.logits.argmax(1)
    te = torch.einsum("nc,nchw->nhw", model.head.weight[top], answer.features["last"]).detach().relu().flatten(1)
    maps = [te, 4 * rates.sum(1).flatten(1)]
    for k, map in enumerate(maps):
        low, high = (map.min(), map.max()) if by == "batch" else (map.amin(1, True), map.amax(1, True))
        maps[k] = (map - low) / (high - low)
    by_hand = 4 * kl(*((map / 2).softmax(1) for map in maps))
    torch.testing.assert_close(terms["activation_maps"].double(), by_hand.detach(), rtol=1e-4, atol=1e-5)
    (found,), (expected,) = (torch.autograd.grad(each, rates) for each in (terms.total, by_hand))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def ours(rates, answer, by):
    out = sd.Output(numbers(3, 4), {}, {"last": rates}, timesteps=4)
    return sd.ActivationMapDistillation(ANN, normalise=by)(out, batch(answer)).total


def test_a_silent_network_is_not_blown_up():
    _, answer = answered()
    rates = (1e-6 * numbers(3, 8, 5, 4)).requires_grad_()
    ours(rates, answer, "sample").backward()
    assert rates.grad.abs().max() < 10


def test_a_real_teacher_is_differentiated_behind_its_features_only():
    teacher = Pooled()
    learner = sd.SelfDistillation(
        sd.create_model("resnet18", 4, width=4),
        sd.Rate(2),
        branches=(),
        objectives={
            "hard": sd.SelfDistillationLoss(),
            "maps": sd.ActivationMapDistillation(ANN, teacher_stage="features"),
            "soft": sd.Distillation(ANN),
        },
        teachers={ANN: teacher},
    )
    images = torch.randn(3, 3, 16, 16)
    answer = learner._teachers[ANN](images)
    assert answer.features["features"].is_leaf
    expected = class_activation_map(answer.features["features"], answer.logits, LABELS)
    # behind these features stands a ReLU: channels count where it lets them through
    open_share = (answer.features["features"] > 0).float().mean((2, 3))
    by_hand = torch.einsum(
        "nc,nchw->nhw", teacher.head.weight[LABELS] * open_share, answer.features["features"].detach()
    )
    torch.testing.assert_close(expected, by_hand.detach())
    terms = learner.loss(learner(images), LABELS, images)
    terms.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert set(terms.parts) == {"hard", "activation_maps", "distillation"}


class InPlace(nn.Module):
    """Two stages, with an operation in place behind each."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 3)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.relu(self.two(self.relu(self.one(x)))).mean((2, 3)))


def test_two_maps_of_one_teacher_and_operations_in_place():
    maps = {
        name: sd.ActivationMapDistillation(ANN, stage=stage, teacher_stage=of)
        for name, stage, of in (("a", "first", "one"), ("b", "last", "two"))
    }
    network, teacher = sd.create_model("resnet18", 4, width=2), InPlace()
    learner = sd.SelfDistillation(network, sd.Rate(2), branches=(), objectives=maps, teachers={ANN: teacher})
    images = torch.randn(3, 3, 32, 32)
    found = learner._teachers[ANN](images)
    # the features are those before what works in place, and the gradient of both is autograd's
    torch.testing.assert_close(found.features["one"].detach(), teacher.one(images).detach())
    inputs = teacher.one(images).detach().requires_grad_()
    two = teacher.two(inputs.relu())
    logits = teacher.head(two.relu().mean((2, 3)))
    torch.testing.assert_close(found.logits.detach(), logits.detach())
    for name, features in (("one", inputs), ("two", two)):
        expected = class_activation_map(features, logits, LABELS)
        torch.testing.assert_close(class_activation_map(found.features[name], found.logits, LABELS), expected)
    assert set(learner.loss(learner(images), LABELS, images).parts) == {"activation_maps", "b.activation_maps"}


def test_a_plain_module_sees_the_mean_of_frames():
    teacher = nn.Sequential(nn.Conv2d(2, 4, 16), nn.Flatten())
    network = sd.create_model("resnet18", 4, in_channels=2, width=2)
    example = torch.zeros(1, 2, 16, 16)
    learner = sd.SelfDistillation(
        network, sd.Rate(3), branches=(), objectives=sd.Distillation(ANN), teachers={ANN: teacher}, example=example
    )
    frames = torch.rand(3, 2, 2, 16, 16)
    terms = learner.loss(learner(frames), torch.tensor([0, 1]), frames)
    answer = sd.Output(teacher(frames.mean(0)), {}, {})
    expected = sd.Distillation(ANN)(learner(frames), batch(answer, torch.tensor([0, 1])))
    torch.testing.assert_close(terms["distillation"], expected["distillation"])
    wrong = nn.Module()
    wrong.forward = lambda x: {"logits": x}
    with pytest.raises(ValueError, match="the teacher ann gives a dict; expected one tensor of logits"):
        sd.SelfDistillation(network, sd.Rate(3), branches=(), objectives=sd.Distillation(ANN), teachers={ANN: wrong})


def test_first_and_last_are_stages():
    learner = sd.SelfDistillation(
        sd.create_model("resnet18", 4, width=4),
        sd.Rate(2),
        objectives=sd.ActivationMapDistillation(ANN, stage="first"),
        teachers={ANN: trained("resnet18")},
    )
    features = learner(torch.randn(2, 3, 32, 32)).features
    assert features["first"] is features["layer1"]
    assert "first" not in {name.split(".")[0] for name in learner.state_dict()}
    no_stages = sd.Network(Pooled())
    with pytest.raises(ValueError, match="the last stage is wanted, and this network does not say"):
        no_stages.module_name("last")


def trained(name):
    """A network whose batch norm has seen a batch."""
    network = sd.create_model(name, 4, width=2)
    network(torch.randn(2, 3, 32, 32), timesteps=None)
    return network


def test_a_spiking_teacher_has_no_activation_map_and_features_need_positions():
    from spikedistill.training.teachers import FrozenTeacher

    maps = sd.ActivationMapDistillation(ANN)
    with pytest.raises(ValueError, match="activation maps are of an ANN teacher, and the teacher spikes"):
        FrozenTeacher(trained("vgg11"), timesteps=2).asked([maps.needs()])
    flat = sd.Output(numbers(3, 4), {}, {"last": numbers(3, 8)}, timesteps=2)
    with pytest.raises(ValueError, match=r"the network's last gives \(3, 8\); an activation map needs \[N, C, H, W\]"):
        maps(flat, batch(answered()[1]))


# ---------------------------------------------------------------- spikes


def counted(network, images, timesteps):
    """Spikes for one sample, by looking at the spikes themselves."""
    total = []

    def look(_module, _inputs, output):
        total.append(float(output.values.sum()))

    handles = [m.register_forward_hook(look) for m in network.modules() if isinstance(m, sd.LIF)]
    with torch.no_grad():
        network.eval()(images, timesteps=timesteps)
    for handle in handles:
        handle.remove()
    return sum(total) / len(images)


def test_an_evaluation_counts_the_spikes_of_a_sample():
    torch.manual_seed(0)
    network = trained("vgg11")
    images = torch.randn(6, 3, 32, 32) * 3
    batches = [(images[:4], torch.zeros(4, dtype=torch.long)), (images[4:], torch.zeros(2, dtype=torch.long))]
    found = sd.evaluate(network, batches, [2, 3])
    assert found.spikes_per_sample == pytest.approx(counted(network, images, 3), rel=1e-5)
    assert found.spikes.keys() == found.firing_rates.keys()
    assert sd.evaluate(network, batches, None).spikes_per_sample is None


def test_the_penalty_is_the_mean_rate_above_the_target_and_reaches_the_weights():
    torch.manual_seed(0)
    network = sd.create_model("vgg11", 4, width=2)
    learner = sd.SelfDistillation(
        network, sd.Rate(3, loss_scale=1), branches=(), objectives=sd.SpikePenalty(target=0.01, weight=2.0)
    )
    images = torch.randn(4, 3, 32, 32)
    output = learner(images)
    terms = learner.loss(output, torch.zeros(4, dtype=torch.long))
    neurons = sum(rate[0].numel() for rate in output.neurons.values())
    mean = sum(rate.detach().sum(dtype=torch.float64) for rate in output.neurons.values()) / 4 / neurons
    assert float(terms["mean_rate"]) == pytest.approx(float(mean), rel=1e-5)
    assert float(terms.total.detach()) == pytest.approx(2 * (float(mean) - 0.01), rel=1e-4)
    terms.total.backward()
    assert next(network.parameters()).grad.abs().max() > 0
    free = sd.SpikePenalty(target=0.99)(output, sd.Batch(images, torch.zeros(4)))
    assert float(free.total.detach()) == 0
    with pytest.raises(ValueError, match="the ANN twin has none; leave it out"):
        sd.SelfDistillation(network, sd.ANN(), branches=(), objectives=sd.SpikePenalty())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.Distillation(ANN, student_temperature=0.0), "student_temperature is 0.0; expected a number above"),
        (lambda: sd.Distillation(ANN, weight=-1), "weight is -1; expected a number, 0 or more"),
        (
            lambda: sd.ActivationMapDistillation(),
            "needs a teacher: the folder of a finished run, as --teacher runs/ann",
        ),
        (lambda: sd.NoiseSmoothedDistillation(ANN, share=1.0, mixing="probabilities"), "share is 1.0"),
        (lambda: sd.SpikePenalty(target=1.5), "target is 1.5; expected a mean firing rate"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_logits_of_other_classes_are_refused():
    out = batch(sd.Output(numbers(3, 7), {}, {}))
    for loss in (sd.Distillation(ANN), sd.NoiseSmoothedDistillation(ANN)):
        with pytest.raises(ValueError, match=r"gives logits \(3, 7\), the network \(3, 4\)"):
            loss(sd.Output(numbers(3, 4), {}, {}), out)


def test_divergence_is_that_of_torch():
    z, target = numbers(3, 4), numbers(3, 4, seed=1)
    expected = F.kl_div((z / 4).log_softmax(1), (target / 4).softmax(1), reduction="batchmean")
    found = sd.Distillation(ANN)(sd.Output(z, {}, {}), batch(sd.Output(target, {}, {}))).total
    torch.testing.assert_close(found, 16 * expected)
