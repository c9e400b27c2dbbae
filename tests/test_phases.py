"""Phases of a run: which rule trains which step; and the rate twin that may be the first."""

from __future__ import annotations

import collections
import dataclasses
import math

import pytest
import torch

import spikedistill as sd
from spikedistill.core.rate_twin import mean_response
from spikedistill.report.metrics import read_metrics
from spikedistill.training.phases import Phases, PhaseSettings
from spikedistill.training.recipe_files import saved_recipe

SD = sd.Rate(4)


def phases(rule=SD, epochs=10, seed=0, **settings):
    return Phases(rule, PhaseSettings(**settings), epochs, seed)


# ---------------------------------------------------------------- which rule trains


def test_without_settings_the_rule_trains_all_steps():
    assert {phases().at(epoch, step, 5) for epoch in range(10) for step in range(5)} == {(SD, True, 1.0)}


@pytest.mark.parametrize("scale", ["1/T", 1.0])
def test_the_first_phases_have_the_scale_of_the_rule(scale):
    rule = sd.Rate(4, loss_scale=scale)
    rules = [phases(rule, ann=3, rate_twin=2).at(epoch, 0, 5).rule for epoch in range(10)]
    assert [type(each) for each in rules] == [sd.ANN] * 3 + [sd.RateTwin] * 2 + [sd.Rate] * 5
    assert {each.scale for each in rules} == {rule.scale}
    assert rules[-1] == rule
    assert phases(rule, rate_twin=3, noise=0.5).at(0, 0, 5).rule == sd.RateTwin(4, rule.scale, noise=0.5)


def test_branches_may_wait_for_the_rule():
    found = phases(ann=2, rate_twin=1, branches=False)
    assert [found.at(epoch, 0, 5).branches for epoch in range(5)] == [False] * 3 + [True] * 2
    network = sd.create_model("resnet18", 4, width=2)
    learner = sd.SelfDistillation(network, sd.Rate(2))
    output = learner(torch.randn(2, 3, 32, 32), sd.ANN(), branches=False)
    assert (output.branches, output.timesteps) == ({}, None)
    learner.loss(output, torch.tensor([0, 1])).total.backward()
    assert all(p.grad is None for p in learner.branches.parameters())
    assert len(learner(torch.randn(2, 3, 32, 32)).branches) == 3


def test_drawn_steps_are_those_named_and_do_not_depend_on_what_came_before():
    found = phases(drawn=[1, 2, 4])
    steps = [(epoch, step) for epoch in range(10) for step in range(60)]
    drawn = {at: found.at(*at, 60).rule for at in steps}
    counts = collections.Counter(rule.timesteps for rule in drawn.values())
    assert counts.keys() == {1, 2, 4}
    assert min(counts.values()) > 150  # of 600: a third each, and the binomial's spread is 12
    assert {drawn[0, step].timesteps for step in range(60)} == {1, 2, 4}  # within an epoch, too
    divided = phases(sd.Rate(4, loss_scale="1/T"), drawn=[1, 2, 4])
    assert {divided.at(*at, 60).rule.scale for at in steps} == {1 / 4}  # one scale, whatever T was drawn
    assert all(found.at(*at, 60).rule == drawn[at] for at in reversed(steps))
    other = [phases(drawn=[1, 2, 4], seed=1).at(*at, 60).rule for at in steps]
    assert other != list(drawn.values())


def test_growing_steps_share_the_epochs_with_spikes():
    found = Phases(SD, PhaseSettings(ann=4, growing=[1, 2, 4]), 10, 0)
    assert [found.at(epoch, 0, 5).rule.timesteps for epoch in range(10)] == [None] * 4 + [1, 1, 2, 2, 4, 4]
    assert found.at(9, 4, 5).rule.timesteps == 4


def test_resolutions_share_the_epochs_without_spikes():
    found = phases(ann=2, rate_twin=2, resolutions=[0.5, 1, 0.75])
    shown = [found.at(epoch, step, 3).resolution for epoch in range(5) for step in range(3)]
    assert shown == [0.5] * 4 + [1] * 4 + [0.75] * 4 + [1] * 3
    # too short for a twin: what says how it is trained goes as well
    assert PhaseSettings(ann=0.5, resolutions=[0.5]).counted(1) == PhaseSettings()


def test_phases_may_be_shares_of_the_epochs(tmp_path):
    found = phases(SD, 10, ann=0.25, rate_twin=0.5)
    kinds = [type(found.at(epoch, 0, 5).rule).__name__ for epoch in range(10)]
    assert kinds == ["ANN"] * 2 + ["RateTwin"] * 5 + ["Rate"] * 3
    assert PhaseSettings(ann=0.29).counted(100).ann == 29  # whose product in floating point is a little less
    # too short for any: what says how they are trained goes as well
    assert PhaseSettings(rate_twin=0.9, noise=0.1, branches=False).counted(1) == PhaseSettings()
    words = ["--model.width", "2", "--data.train_rows", "64", "--data.validation_rows", "0", "--data.test_rows", "16"]
    recipe = sd.load_recipe("fashion-small", [*words, "--phases.ann", "0.5", "--optimizer.epochs", "2"])
    sd.train(recipe, tmp_path / "run")
    # a run keeps what its share came to: with more epochs it does not go back to the twin
    assert saved_recipe(tmp_path / "run").phases == PhaseSettings(ann=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhaseSettings(ann=-1), "phases.ann is -1; expected a number of epochs, 0 or more"),
        (lambda: PhaseSettings(rate_twin=2.5), "phases.rate_twin is 2.5; expected .* or a share of them below 1"),
        (lambda: PhaseSettings(ann=math.nan), "phases.ann is nan"),
        (lambda: PhaseSettings(ann=math.inf), "phases.ann is inf"),
        (lambda: phases(SD, 4, ann=0.5, rate_twin=0.5), "take 4 of 4 epochs"),
        (lambda: PhaseSettings(ann=1, noise=0.1), "phases.noise 0.1 has no effect without epochs"),
        (lambda: PhaseSettings(branches=False), "phases.branches false has no effect without epochs before the rule's"),
        (lambda: PhaseSettings(drawn=[1], growing=[2]), "either drawn or growing"),
        (lambda: PhaseSettings(drawn=[0, 2]), r"phases.drawn is \[0, 2\]; expected numbers of steps"),
        (lambda: PhaseSettings(ann=1, resolutions=[]), r"phases.resolutions is \[\]; expected shares"),
        (lambda: PhaseSettings(ann=1, resolutions=[0.5, 0]), r"resolutions is \[0.5, 0\]; .* above 0 and at most 1"),
        (lambda: PhaseSettings(ann=1, resolutions=[24]), r"phases.resolutions is \[24\]"),
        (lambda: PhaseSettings(ann=1, resolutions=[math.nan]), r"phases.resolutions is \[nan\]"),
        (lambda: PhaseSettings(resolutions=[0.5]), "phases.resolutions has no effect without epochs before the rule's"),
        (lambda: PhaseSettings(growing=[]), r"phases.growing is \[\]"),
        (lambda: phases(SD, 5, ann=3, rate_twin=2), "take 5 of 5 epochs; leave at least one for the recipe's rule"),
        (lambda: phases(sd.ANN(), drawn=[1, 2]), "the ANN twin has no spikes, so its training has no phases"),
        (lambda: sd.RateTwin(4, noise=-1), "noise is -1; expected a standard deviation"),
    ],
)
def test_bad_phases_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_frames_have_their_own_steps(tmp_path):
    pairs = [(torch.rand(3, 2, 16, 16), k % 3) for k in range(12)]
    frames = sd.samples_of(pairs, "abc", over_time=True)
    data = sd.Splits(frames, None, frames)
    recipe = sd.load_recipe("fashion-small", ["--timesteps", "3", "--model.width", "2", "--optimizer.epochs", "2"])
    recipe = dataclasses.replace(recipe, phases=PhaseSettings(drawn=[1, 3]))
    with pytest.raises(ValueError, match="these samples have 3 steps of their own"):
        sd.train(recipe, tmp_path / "run", data=data)


WORDS = ["--data.train_rows=300", "--data.test_rows=50", "--data.validation_rows=0", "--model.width=2"]
WORDS += ["--precision=fp32", "--compile=off"]


@pytest.mark.parametrize("first", ["ann", "rate_twin"])
def test_a_run_in_phases_resumes_to_the_same_bits(first, tmp_path, monkeypatch):
    more = [f"--phases.{first}=1", "--phases.branches=false", "--phases.drawn=[1, 2]", "--optimizer.epochs=3"]
    recipe = sd.load_recipe("fashion-small", [*WORDS, *more])
    sd.train(recipe, tmp_path / "whole")
    stops = iter([False] + [True] + [False] * 99)  # of five steps of the first epoch, so that a twin's step follows
    from spikedistill.training.stopping import Stoppable

    on_step = Stoppable.on_step

    def stopping(self, progress, steps):
        on_step(self, progress, steps)
        if next(stops):
            raise sd.Interrupted("now")

    monkeypatch.setattr(Stoppable, "on_step", stopping)
    with pytest.raises(sd.Interrupted):
        sd.train(recipe, tmp_path / "parts")
    sd.resume(tmp_path / "parts")
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    assert ["soft" in row for row in rows] == [False, True, True]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_neurons_that_learn_begin_after_the_twin_and_have_no_rate_twin(tmp_path):
    words = [*WORDS, "--learned.decay=layer", "--optimizer.epochs=2"]
    sd.train(sd.load_recipe("fashion-small", [*words, "--phases.ann=1"]), tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file()
    with pytest.raises(ValueError, match="the rate twin has no rule for neurons whose decay or threshold learns"):
        sd.train(sd.load_recipe("fashion-small", [*words, "--phases.rate_twin=1"]), tmp_path / "no")
    with pytest.raises(ValueError, match="the rule is the rate twin already"):
        phases(sd.RateTwin(4), rate_twin=2)


# ---------------------------------------------------------------- the rate twin


def twin_learner(network, rule, kernels=sd.EAGER):
    return sd.SelfDistillation(network, rule, branches=(), kernels=kernels)


def one_layer():
    torch.manual_seed(1)
    return sd.Network(torch.nn.Sequential(torch.nn.Linear(5, 6), sd.LIF(), torch.nn.Linear(6, 3))).double()


def test_behind_static_input_the_twin_is_rate_based_backpropagation():
    """One layer of neurons has a constant current: outputs and gradients are those of `Rate`."""
    x, labels = 3 * torch.randn(7, 5, dtype=torch.float64), torch.arange(7) % 3
    found = []
    for rule in (sd.Rate(4), sd.RateTwin(4)):
        learner = twin_learner(one_layer(), rule)
        output = learner(x)
        learner.loss(output, labels).total.backward()
        found.append([output.logits.detach(), *(p.grad for p in learner.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("neuron", [sd.Neuron(), sd.Neuron(decay=1.0), sd.Neuron(reset="hard", threshold=0.5)])
def test_the_curve_is_the_mean_over_fluctuating_currents(neuron):
    curve = mean_response(neuron, 4, 0.3)
    assert bool((curve.rate.diff() >= 0).all())
    assert curve.rate[0] == 0
    assert curve.rate[-1] > 0.95
    generator = torch.Generator().manual_seed(7)
    for knot in (60, 128, 160):
        mean = curve.first + knot * curve.step
        membrane, spikes = torch.zeros(20000), 0.0
        for _ in range(4):
            membrane = neuron.decay * membrane + mean + 0.3 * torch.randn(20000, generator=generator)
            fired = (membrane >= neuron.threshold).float()
            membrane = membrane - neuron.threshold * fired if neuron.reset == "soft" else membrane * (1 - fired)
            spikes += float(fired.mean()) / 4
        assert float(curve.rate[knot]) == pytest.approx(spikes, abs=0.012)


def test_a_current_that_is_no_number_and_a_random_number_next_to_one():
    curve = mean_response(sd.Neuron(), 4, 0.3)
    rate, _ = curve.at(torch.tensor([math.nan, 1e30, -1e30]), torch.full((3,), 1 - 2**-24), 4)
    assert rate[1:].tolist() == [1.0, 0.0]
    assert 0 <= float(rate[0]) <= 1


def test_the_end_of_the_curve_is_reached_from_a_deep_reset():
    curve = mean_response(sd.Neuron(reset="hard", reset_value=-5.0, decay=0.9), 4, 0.3)
    assert float(curve.rate[-1]) > 0.95


@pytest.mark.parametrize("shortcut_first", [True, False])
def test_a_neuron_behind_a_shortcut_is_a_deeper_one(shortcut_first):
    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = sd.LIF(), sd.LIF()

        def forward(self, x):
            y = self.first(x)
            return self.second(x + y if shortcut_first else y + x)

    body = Residual()
    currents = torch.full(
        (1, 1000), 0.45
    )  # the first is silent: the second has 0.45, where a constant current is silent
    assert twin_learner(sd.Network(body, sample_dims=1), sd.Rate(4))(currents).logits.sum() == 0
    fired = twin_learner(sd.Network(body, sample_dims=1), sd.RateTwin(4))(currents).logits
    assert fired.mean() == pytest.approx(0.055, abs=0.02)  # and a fluctuating one is not


def test_rates_are_those_of_t_steps_and_keep_their_mean():
    curve = mean_response(sd.Neuron(), 4, 0.3)
    current = torch.full((400, 10, 5, 5), 0.8)
    rate, eligibility = sd.EAGER.curve_response(current, curve, 4)
    assert set(rate.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    knot = round((0.8 - curve.first) / curve.step)
    assert float(rate.mean()) == pytest.approx(float(curve.rate[knot]), abs=0.003)
    assert eligibility.unique().tolist() == [float(curve.eligibility[knot])]
    # far outside the ends hold
    ends, _ = sd.EAGER.curve_response(torch.tensor([-1e4, 1e4]), curve, 4)
    assert ends.tolist() == [0.0, 1.0]


def test_without_noise_a_deeper_neuron_answers_a_constant_current_too():
    curve = mean_response(sd.Neuron(), 4, 0.0)
    for mean in (0.5, 0.9, 1.2):
        knot = round((mean - curve.first) / curve.step)
        exact = curve.first + knot * curve.step
        spikes = sum(_spikes_of_constant(exact))
        assert float(curve.rate[knot]) == spikes / 4


def _spikes_of_constant(current):
    membrane = 0.0
    for _ in range(4):
        membrane = 0.2 * membrane + current
        fired = membrane >= 1
        membrane -= fired
        yield float(fired)


def test_fused_and_eager_twins_agree():
    network = sd.create_model("resnet18", 4, width=4)
    images = torch.randn(3, 3, 16, 16)
    found = []
    for kernels in (sd.EAGER, sd.compiled()):
        torch.manual_seed(5)
        learner = twin_learner(network, sd.RateTwin(4, loss_scale=1), kernels)
        learner.zero_grad()
        output = learner(images)
        learner.loss(output, torch.tensor([0, 1, 2])).total.backward()
        found.append((output.logits.detach(), network.body.stem[0].weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-3, atol=2e-4)


def test_the_twin_takes_the_mean_of_frames_and_refuses_learned_neurons():
    network = sd.create_model("resnet18", 4, in_channels=2, width=2).eval()
    frames = torch.rand(3, 2, 2, 16, 16)
    outputs = []
    for inputs in (frames, frames.mean(0)):
        torch.manual_seed(0)
        outputs.append(twin_learner(network, sd.RateTwin(3))(inputs).logits)
    assert torch.equal(*outputs)
    sd.learn_neurons(network, "layer", None, frames[0])
    with pytest.raises(sd.SpikedistillError, match="the rate twin has no rule for neurons whose decay or threshold"):
        twin_learner(network, sd.RateTwin(3))(frames)


# ---------------------------------------------------------------- where the membrane starts


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("detach", [True, False])
def test_a_membrane_that_starts_elsewhere(reset, detach):
    """Spikes by hand, and the eligibility by autograd through the surrogate, in float64."""
    from reference import lif_autograd

    from spikedistill.core.neuron import rate_response

    neuron = sd.Neuron(decay=0.7, start=0.5, reset=reset, detach_reset=detach)
    current = torch.tensor([0.7, 0.2, 1.4], dtype=torch.float64).repeat(5, 1)
    found = rate_response(current, neuron)
    # 0.7·0.5 + 0.7 fires at once, which it would not from 0
    assert found.spikes[0, 0] == 1
    assert rate_response(current, dataclasses.replace(neuron, start=0.0)).spikes[0, 0] == 0
    added = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    rate = lif_autograd(current + added, neuron).mean(0)
    (slope,) = torch.autograd.grad(rate.sum(), added)
    torch.testing.assert_close(found.rate, rate.detach())
    torch.testing.assert_close(found.eligibility, slope, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="start is 1.0; expected a finite number below the threshold"):
        sd.Neuron(start=1.0)
