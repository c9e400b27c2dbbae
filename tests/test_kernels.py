"""The fused kernels against plain PyTorch in float64, and the precision they are asked to keep."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.core.kernels import EAGER, Norm, Term, compiled, time_mean, time_sum
from spikedistill.core.kernels.uniform import uniform_like
from spikedistill.core.network import rate
from spikedistill.machine.compiler import missing_compiler

pytestmark = [
    pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="no C++ compiler"),
    pytest.mark.filterwarnings("ignore"),  # torch.compile's own
]

NEURONS = {
    "preset": sd.Neuron(),
    "hard, attached": sd.Neuron(decay=0.7, threshold=0.6, reset="hard", reset_value=-0.1, detach_reset=False),
    "soft, attached, atan": sd.Neuron(decay=1.0, detach_reset=False, surrogate=sd.Surrogate("atan", 2.0)),
}


def term(shape, steps, normed, seed):
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    values = random(steps * shape[0], *shape[1:])
    rate = values.unflatten(0, (steps, -1)).mean(0)
    channels = shape[1]
    return Term(values, rate, Norm(*(random(channels) for _ in range(3)), random(channels).abs()) if normed else None)


CASES = [
    ("preset", (False,)),
    ("preset", (True, False)),
    ("hard, attached", (True,)),
    ("soft, attached, atan", (True, True)),
]


@pytest.mark.parametrize(("neuron", "normed"), CASES, ids=str)
def test_neuron_kernel(neuron, normed):
    neuron = NEURONS[neuron]
    shape, steps = (3, 5, 4, 6), 3
    terms = tuple(term(shape, steps, n, k) for k, n in enumerate(normed))
    expected = EAGER.rate_response(terms, steps, steps, neuron)
    found = compiled().rate_response(terms, steps, steps, neuron)
    for name, a, b in zip(expected._fields, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}")
    assert 0 < found.rate.mean() < 1


@pytest.mark.parametrize(
    ("count", "steps", "dtype", "neuron"),
    [
        (2, 3, torch.float64, "soft, attached, atan"),
        (1, 6, torch.float32, "preset"),
        (2, 6, torch.bfloat16, "preset"),
    ],
)
def test_a_neuron_is_one_sweep(monkeypatch, count, steps, dtype, neuron):
    """Nothing but the results is as large as the currents: inductor would like to keep membranes, sums and spikes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    from step_memory import alive_at_peak

    made = [term((4, 32, 16, 16), steps, True, k) for k in range(count)]
    paths = [each.values.to(dtype, memory_format=torch.channels_last) for each in made]
    norms = [Norm(*(x.to(torch.promote_types(dtype, torch.float32)) for x in each.norm)) for each in made]
    terms = tuple(each._replace(path=p, norm=n) for each, p, n in zip(made, paths, norms, strict=True))

    def sweep():
        return compiled().rate_response(terms, steps, steps, NEURONS[neuron])

    results = sum(tensor.nbytes for tensor in sweep())
    assert results <= alive_at_peak(sweep) < 1.1 * results


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 7), (1, 3, 2, 2), (4, 8, 5, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("steps", [1, 4])
def test_shapes_and_static_input(shape, steps):
    terms = (term(shape, steps, True, 0),)
    for timesteps in {4, steps} if steps == 1 else {steps}:
        expected = EAGER.rate_response(terms, steps, timesteps, sd.Neuron())
        found = compiled().rate_response(terms, steps, timesteps, sd.Neuron())
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 8, 5, 3), (6, 5)], ids=str)
def test_moments_kernel_even_far_from_zero(shape):
    values = 1e4 + term(shape, 3, False, 0).values
    torch.testing.assert_close(compiled().moments(values, 3), EAGER.moments(values, 3), rtol=1e-10, atol=1e-12)
    single = compiled().moments(values.float(), 3)
    assert (single[2] / EAGER.moments(values, 3)[2] - 1).abs().max() < 1e-2  # float32 keeps the variance at mean 1e4


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 2), (2, 4, 3, 5, 2), (3, 0, 2, 2)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_over_time_keep_the_layout(shape, channels_last):
    """torch's own would give the other one, and take several times as long."""
    values = term(shape, 3, False, 0).values
    if channels_last and len(shape) > 2:
        values = values.movedim(1, -1).contiguous().movedim(-1, 1)
    values.requires_grad_()
    for found, expected in (
        (time_mean(values, 3), values.unflatten(0, (3, -1)).mean(0)),
        (time_sum(values, 3), values.unflatten(0, (3, -1)).sum(0)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
        assert found.stride() == values[: len(found)].stride() or not found.numel()
        (a,), (b,) = (torch.autograd.grad(out.square().sum(), values) for out in (found, expected))
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


class Spy(nn.Module):
    """Keeps the layout and the numbers of the gradient of what passes."""

    def forward(self, x):
        rate(x).register_hook(self.see)
        return x

    def see(self, grad):
        self.strides, self.grad = grad.stride(), grad


class Skipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.neuron = sd.LIF(NEURONS["preset"])

    def forward(self, x):
        return x + self.neuron(x)


MAKES = {
    "neuron": lambda: sd.LIF(NEURONS["preset"]),
    "learned": lambda: sd.LIF(decay=nn.Parameter(torch.tensor(0.8))),
    "skip": Skipped,
}


@pytest.mark.parametrize("made", MAKES)
@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_the_gradient_of_a_static_current_is_the_sum_over_time_in_its_layout(made, kernels):
    torch.manual_seed(0)
    spy, convolution = Spy(), nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    body = nn.Sequential(nn.BatchNorm2d(4), spy, MAKES[made](), convolution)
    images = torch.rand(3, 4, 6, 5).to(memory_format=torch.channels_last)
    network = sd.Network(body).double()
    out, _ = network.propagate(sd.BPTT(4).encode(images.double(), EAGER if kernels == "eager" else compiled(), False))
    out.values.square().sum().backward()
    assert spy.strides == images.stride()
    found = spy.grad
    steps = images.double().unsqueeze(0).repeat(4, 1, 1, 1, 1)  # an input over time: no step is shared
    seen = []
    body[1] = nn.Identity()
    body[0].register_forward_hook(lambda _, __, x: x.values.register_hook(seen.append) and None)
    network.propagate(sd.BPTT(4).encode(steps, EAGER, True))[0].values.square().sum().backward()
    expected = seen[0].unflatten(0, (4, -1)).sum(0)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [0, 2])
def test_backward_kernel(count):
    grad, eligibility = term((4, 8, 5, 3), 1, False, 0).values, term((4, 8, 5, 3), 1, False, 1).values
    normed = [(t.rate, t.norm) for t in (term((4, 8, 5, 3), 1, True, k) for k in range(count))]
    through, grads = compiled().rate_backward(grad, eligibility, normed)
    expected_through, expected = EAGER.rate_backward(grad, eligibility, normed)
    torch.testing.assert_close(through, expected_through)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", [sd.Rate(3), pytest.param(sd.BPTT(3), marks=pytest.mark.slow)])
def test_a_whole_step_is_the_same(rule):
    torch.manual_seed(0)
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=4).double(), rule)
    other = copy.deepcopy(learner)
    other.kernels = compiled()
    images, labels = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([1, 5, 9])
    for one in (learner, other):
        one.loss(one(images), labels).total.backward()
    for (name, a), b in zip(learner.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-12, msg=name)
    for a, b in zip(learner.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_batch_sizes_do_not_compile_again():
    from torch._dynamo.utils import counters

    network = sd.create_model("resnet18", num_classes=3, width=4)
    learner = sd.SelfDistillation(network, timesteps=2, kernels=compiled())

    def graphs_after(count):
        output = learner(torch.randn(count, 3, 16, 16))
        learner.loss(output, torch.zeros(count).long()).total.backward()
        return counters["stats"]["unique_graphs"]

    before = counters["stats"]["unique_graphs"]
    assert graphs_after(12) - before <= 6  # neuron: static input, one term, two; moments: static or not; the backward
    once = graphs_after(7)  # may lift an accidental equality of two sizes
    assert [graphs_after(n) for n in (12, 5, 9, 1, 2, 30)] == [once] * 6
    with torch.no_grad():
        network.eval().logits_over_time(torch.randn(20, 3, 16, 16), 2, compiled())
        evaluating = counters["stats"]["unique_graphs"]
        assert evaluating <= once + 2  # spikes alone, after a static and after a moving input
        for count in (3, 1, 50):
            network.logits_over_time(torch.randn(count, 3, 16, 16), 2, compiled())
    assert counters["stats"]["unique_graphs"] == evaluating


@pytest.mark.parametrize("kernels", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_bf16_autocast_trains(kernels):
    torch.manual_seed(0)
    learner = sd.SelfDistillation(
        sd.create_model("resnet18", 10, width=4), sd.Rate(3), kernels=EAGER if kernels == "eager" else compiled()
    )
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([1, 5, 9, 0])
    with torch.autocast("cpu", torch.bfloat16):
        out = learner(images)
    terms = learner.loss(out, labels)
    terms.total.backward()
    assert torch.isfinite(terms.total)
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in learner.parameters())
    assert all(b.dtype in (torch.float32, torch.int64) for b in learner.buffers())


@pytest.mark.skipif(not hasattr(torch.library, "get_kernel"), reason="needs a later torch")
def test_bf16_convolutions_by_fp32_only_round_their_results():
    path = Path(__file__).parents[1] / "scripts" / "bf16_by_fp32.py"
    script = runpy.run_path(str(path))
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, 6, 6).bfloat16(), torch.randn(5, 4, 3, 3).bfloat16()
    grad = torch.randn(3, 5, 6, 6).bfloat16()

    def run(dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight)]
        out = torch.nn.functional.conv2d(*leaves, padding=1)
        return out, *torch.autograd.grad(out, leaves, grad.to(dtype))

    exact = run(torch.float64)
    library = script["install"]()
    found = run(torch.bfloat16)
    assert run(torch.float32)[0].dtype == torch.float32
    del library  # and with it the replacement
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.allclose(a.double(), b, rtol=2**-8, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_on_cuda_is_that_on_the_cpu():
    torch.manual_seed(0)
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=4).double(), sd.Rate(3))
    other = copy.deepcopy(learner).cuda()
    other.kernels = compiled()
    images, labels = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([1, 5, 9])
    learner.loss(learner(images), labels).total.backward()
    other.loss(other(images.cuda()), labels.cuda()).total.backward()
    for (name, a), b in zip(learner.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=1e-6, atol=1e-9, msg=name)


class Counting(sd.Kernels):
    """Eager kernels that note every layer with weights on a spike path."""

    def __init__(self):
        self.layers = []

    def weighted(self, operation, values, weight, bias, options, timesteps):
        self.layers.append((operation.__name__, tuple(weight.shape), values.requires_grad))
        return super().weighted(operation, values, weight, bias, options, timesteps)

    def apply(self, function, args, kwargs):
        self.layers.append((function.__name__, None, False))
        return super().apply(function, args, kwargs)


def test_kernels_are_a_value_that_sees_every_layer_of_the_spike_path():
    kernels = Counting()
    net = sd.create_model("resnet18", 10, width=4)
    learner = sd.SelfDistillation(net, timesteps=3, kernels=kernels)
    learner(torch.randn(2, 3, 16, 16))
    names = [name for name, _, _ in kernels.layers]
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert names.count("conv2d") == len(convolutions) - 1  # before the first neuron there are no spikes yet
    assert names.count("linear") == 1
    assert "adaptive_avg_pool2d" in names
    assert not any(requires_grad for _, _, requires_grad in kernels.layers)
    kernels.layers.clear()
    with torch.no_grad():  # evaluation goes through them too
        net(torch.randn(2, 3, 16, 16), timesteps=3, kernels=kernels)
    assert [name for name, _, _ in kernels.layers].count("conv2d") == len(convolutions) - 1


def test_spikes_are_exact_in_8_bits():
    """Kernels for 8-bit spikes are a few lines: products with quantised weights, everything else as it is."""

    class EightBit(sd.Kernels):
        def weighted(self, operation, values, weight, bias, options, timesteps):
            scale = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True) / 127
            quantised = (weight / scale).round() * scale
            return super().weighted(operation, values, quantised, bias, options, timesteps)

    torch.manual_seed(0)
    net = sd.create_model("resnet18", 10, width=8)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    losses = {}
    for kernels in (sd.EAGER, EightBit()):
        learner = sd.SelfDistillation(copy.deepcopy(net), timesteps=3, kernels=kernels)
        terms = learner.loss(learner(images), labels)
        terms.total.backward()
        losses[kernels] = float(terms.total.detach())
        assert all(torch.isfinite(p.grad).all() for p in learner.parameters())
    exact, rounded = losses.values()
    assert rounded == pytest.approx(exact, rel=0.1)
    assert rounded != exact


# ---------------------------------------------------------------- random numbers for rounding


@pytest.mark.parametrize("shape", [(128, 24, 31, 31), (4, 8, 16, 16), (1, 3, 5, 5), (32, 100), (2, 2048, 32, 33)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_uniform_numbers_are_uniform_and_new_at_each_call(shape, channels_last):
    current = torch.zeros(shape, dtype=torch.bfloat16)
    if channels_last and len(shape) == 4:
        current = current.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    first, second = uniform_like(current), uniform_like(current)
    assert first.shape == current.shape
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) < 1
    count = first.numel()
    assert float(first.mean()) == pytest.approx(0.5, abs=5 / (12 * count) ** 0.5 * 2)
    assert (first == second).float().mean() < 0.01
    if shape[0] > 1 and count > 1000:  # neither do samples round alike
        pair = torch.stack([first[0].flatten(), first[1].flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 5 / (count / shape[0]) ** 0.5
    torch.manual_seed(0)
    assert torch.equal(uniform_like(current), first)
    assert uniform_like(current[:0]).shape == current[:0].shape
