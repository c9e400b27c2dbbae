"""Learned decay and threshold against autograd through a neuron that is written out here, in float64."""

import itertools

import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.core.learned import Learned, learned_backward_through_time, learned_response
from spikedistill.core.neuron import membrane_response, rate_response
from spikedistill.machine.compiler import missing_compiler

T = 5
NEURONS = [
    sd.Neuron(decay=0.6, threshold=0.9, reset=reset, reset_value=value, detach_reset=detach, surrogate=surrogate)
    for (reset, value), detach, surrogate in itertools.product(
        [("soft", 0.0), ("hard", 0.0), ("hard", -0.2)], [True, False], [sd.Surrogate(), sd.Surrogate("atan", 2.0)]
    )
] + [sd.Neuron(decay=0.6, start=0.45, reset=reset) for reset in ("soft", "hard")]


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance, surrogate):
        ctx.save_for_backward(distance)
        ctx.surrogate = surrogate
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.surrogate.derivative(ctx.saved_tensors[0]), None


def simulated(current, neuron, decay, threshold):
    """Spikes [T, ...] with autograd through everything; the equations of method.md §1."""
    u, spikes = torch.full_like(current[0], neuron.start), []
    for t in range(len(current)):
        v = decay * u + current[t]
        s = Spike.apply(v - threshold, neuron.surrogate)
        reset_by = s.detach() if neuron.detach_reset else s
        u = {
            "soft": v - threshold * reset_by,
            "hard": (1 - reset_by) * v + reset_by * neuron.reset_value,
        }[neuron.reset]
        spikes.append(s)
    return torch.stack(spikes)


def currents(*shape):
    torch.manual_seed(0)
    return torch.randn(T, *shape, dtype=torch.float64) * 0.6 + 0.7


def parameters(neuron, channels=None):
    shape = () if channels is None else (channels,)
    spread = torch.linspace(-0.05, 0.05, channels or 1, dtype=torch.float64).reshape(shape)
    return nn.Parameter(neuron.decay + spread), nn.Parameter(neuron.threshold + spread)


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_the_responses_of_the_rate_are_its_derivatives(neuron):
    current = currents(40)
    decay = torch.full((40,), neuron.decay, dtype=torch.float64, requires_grad=True)
    threshold = torch.full((40,), neuron.threshold, dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    rate = simulated(current + offset, neuron, decay, threshold).mean(0)
    expected = torch.autograd.grad(rate.sum(), (offset, decay, threshold))
    with torch.no_grad():
        found = learned_response(current, Learned.of(neuron, decay, threshold))
    assert torch.equal(found.rate, rate)
    for mine, theirs in zip((found.eligibility, found.by_decay, found.by_threshold), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)
        assert theirs.abs().max() > 0.1
    plain = rate_response(current, neuron)
    assert torch.equal(found.spikes, plain.spikes)
    assert torch.allclose(found.eligibility, plain.eligibility, atol=1e-12)


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_the_backward_through_time_is_that_of_autograd(neuron):
    current = currents(40).requires_grad_()
    decay = torch.full((40,), neuron.decay, dtype=torch.float64, requires_grad=True)
    threshold = torch.full((40,), neuron.threshold, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(T, 40, dtype=torch.float64)
    spikes = simulated(current, neuron, decay, threshold)
    expected = torch.autograd.grad((spikes * grad).sum(), (current, decay, threshold))
    with torch.no_grad():
        learned = Learned.of(neuron, decay, threshold)
        found = learned_backward_through_time(grad, membrane_response(current, learned)[1], learned)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("rule", [sd.Rate(T), sd.BPTT(T)], ids=["rate", "bptt"])
@pytest.mark.parametrize("channels", [None, 6], ids=["layer", "channel"])
def test_a_layer_gets_the_gradient_of_all_its_neurons(rule, channels):
    """One layer of neurons on frames: both learning rules give the derivative of the rate."""
    neuron = NEURONS[2]
    decay, threshold = parameters(neuron, channels)
    rest = {"reset": neuron.reset, "reset_value": neuron.reset_value, "detach_reset": neuron.detach_reset}
    layer = sd.LIF(decay=decay, threshold=threshold, surrogate=neuron.surrogate, **rest)
    frames = currents(3, 6, 4, 4)
    weights = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    (layer(rule.encode(frames, over_time=True)).rate * weights).sum().backward()
    found = decay.grad, threshold.grad
    shape = () if channels is None else (1, channels, 1, 1)
    rate = simulated(frames, neuron, decay.view(shape), threshold.view(shape)).mean(0)
    expected = torch.autograd.grad((rate * weights).sum(), (decay, threshold))
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)


def network(**learned):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), sd.LIF(**learned), nn.Flatten(), nn.Linear(6 * 64, 5)
    )


@pytest.mark.parametrize("rule", [sd.Rate(T), sd.BPTT(T)], ids=["rate", "bptt"])
def test_constants_that_do_not_move_leave_the_network_as_it_is(rule):
    images, labels, found = torch.randn(4, 1, 8, 8), torch.arange(4), []
    learned = {"decay": nn.Parameter(torch.tensor(0.2)), "threshold": nn.Parameter(torch.ones(6))}
    for constants in ({}, learned):
        net = network(**constants)
        learner = sd.SelfDistillation(net, rule, branches=())
        output = learner(images)
        learner.loss(output, labels).total.backward()
        found.append((output.logits, net[0].weight.grad, net[1].weight.grad))
        net.eval()
        with torch.no_grad():
            found[-1] += (sd.Network(net)(images, timesteps=T).logits,)
    for plain, other in zip(*found, strict=True):
        assert torch.allclose(plain, other, atol=1e-6)


@pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="no compiler")
@pytest.mark.parametrize("rule", [sd.Rate(T), sd.BPTT(T)], ids=["rate", "bptt"])
@pytest.mark.parametrize("learned", ["both", "decay", "threshold"])
def test_the_fused_kernels_give_what_the_eager_ones_do(rule, learned):
    neuron, found = NEURONS[2], []
    for kernels in (sd.EAGER, sd.compiled()):
        decay, threshold = parameters(neuron, 6)
        one = nn.Parameter(threshold.detach().mean())  # a single number for the layer, too
        chosen = {"both": {"decay": decay, "threshold": one}, "decay": {"decay": decay}}
        layer = sd.LIF(**chosen.get(learned, {"threshold": threshold}))
        frames = currents(3, 6, 4, 4).requires_grad_()
        out = layer(rule.encode(frames, kernels, over_time=True))
        (out.rate * torch.linspace(-1, 1, 6, dtype=torch.float64).view(6, 1, 1)).sum().backward()
        found.append([out.values, out.rate, frames.grad, *(p.grad for p in layer.parameters())])
    for eager, fused in zip(*found, strict=True):
        assert torch.allclose(eager, fused, atol=1e-12)


def test_they_learn_in_the_trainer_are_saved_and_loaded(tmp_path):
    net = network(decay=nn.Parameter(torch.tensor(0.2)), threshold=nn.Parameter(torch.ones(6)))
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    data = sd.ImageSet(images, sd.Labels(torch.arange(32) % 5, tuple("abcde")), (0.5,), (0.25,))
    words = ["--optimizer.epochs", "1", "--optimizer.batch_size", "8", "--branches.enabled", "false"]
    sd.train(sd.load_recipe("fashion-small", words), tmp_path / "run", network=net, data=sd.Splits(data, None, data))
    assert net[2].decay != 0.2
    assert (net[2].threshold != 1).all()
    again = network(decay=nn.Parameter(torch.tensor(0.5)), threshold=nn.Parameter(torch.ones(6)))
    trained = sd.Trained.load(tmp_path / "run", network=again)
    assert torch.equal(trained.network.body[2].decay, net[2].decay)
    assert "learned" in repr(trained.network.body[2])


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_a_recipe_lets_the_neurons_of_any_model_learn(tmp_path, per):
    words = ["--learned.decay", per, "--learned.threshold", "layer", "--model.width", "2", "--optimizer.epochs", "1"]
    words += [
        "--data.train_rows",
        "64",
        "--data.validation_rows",
        "0",
        "--data.test_rows",
        "32",
        "--optimizer.batch_size",
        "32",
    ]
    sd.train(sd.load_recipe("fashion-small", words), tmp_path / "run")
    neurons = [m for m in sd.Trained.load(tmp_path / "run").network.modules() if isinstance(m, sd.LIF)]
    assert all((n.decay.dim() == 1) == (per == "channel") and n.threshold.dim() == 0 for n in neurons)
    assert any((n.decay != 0.2).any() for n in neurons)


def test_a_parameter_beyond_its_bounds_is_used_at_the_bound_and_finds_back():
    frames = currents(2, 3)
    for start, direction in ((1.3, -1), (-0.3, 1)):
        layer = sd.LIF(decay=nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
        with torch.no_grad():
            layer.decay.fill_(start)
        rate = layer(sd.BPTT(T).encode(frames, over_time=True)).rate
        bound = sd.LIF(decay=1.0 if start > 1 else 0.0)
        assert torch.equal(rate, bound(sd.BPTT(T).encode(frames, over_time=True)).rate)
        found = []
        for sign in (1, -1):
            layer.decay.grad = None
            (sign * layer(sd.BPTT(T).encode(frames, over_time=True)).rate.sum()).backward()
            step = -layer.decay.grad
            found.append(float(step))
        # one sign of the loss leads further out and is held, the other leads back and passes
        assert sorted(value * direction for value in found)[0] == 0
        assert sorted(value * direction for value in found)[1] > 0


def test_constants_become_parameters_by_name():
    layer = sd.LIF(decay=0.3)
    layer.learn("decay")
    layer.learn("threshold", channels=4)
    assert layer.decay.item() == pytest.approx(0.3)
    assert layer.threshold.tolist() == [1.0] * 4
    assert dict(layer.named_parameters()).keys() == {"decay", "threshold"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.LIF(decay=torch.tensor(0.2)), "decay is a Tensor; expected a number, or an nn.Parameter"),
        (lambda: sd.LIF(reset_value=nn.Parameter(torch.tensor(0.2))), "reset_value is a Parameter; expected a number"),
        (lambda: sd.LIF(decay=nn.Parameter(torch.ones(2, 1, 1))), r"one number \[\] or one for each channel \[C\]"),
        (lambda: sd.LIF(decay=nn.Parameter(torch.tensor(1.5))), "decay is 1.5; expected 0 ≤ decay ≤ 1"),
        (lambda: sd.LIF(threshold=nn.Parameter(torch.tensor([1.0, 0.0]))), "threshold is 0.0"),
        (lambda: sd.LIF().learn("reset_value"), "unknown learnable constant"),
        (lambda: sd.LIF(learn_beta=True), r"learn_beta is called decay=nn.Parameter"),
        (
            lambda: sd.LIF(decay=nn.Parameter(torch.full((3,), 0.2)))(sd.Rate(2).encode(torch.zeros(2, 5, 4, 4))),
            r"a decay for each of 3 channels was given \(2, 5, 4, 4\)",
        ),
        (lambda: sd.learn_neurons(sd.Network(nn.Linear(2, 2)), decay="layer"), "no LIF neurons that could learn"),
        (
            lambda: sd.learn_neurons(sd.Network(sd.LIF()), decay="pixel"),
            'per "channel"; given .pixel',
        ),
        (lambda: sd.learn_neurons(sd.Network(sd.LIF()), decay="channel"), "give example="),
    ],
)
def test_misuse_is_refused(make, message):
    with pytest.raises(sd.SpikedistillError, match=message):
        make()
