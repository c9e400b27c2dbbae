"""Products of signals: exact for changes that are constant in time; what is lost; the diagnostic (method.md §7)."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spikedistill as sd
from spikedistill.core.rules import products
from spikedistill.errors import UnsupportedOperation
from spikedistill.measure.products import product_covariance

T, N = 4, 3


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def frames(*shape, seed=0):
    """An input that differs at every step: [T, N, ...] as a network gets it, with time as an own dimension."""
    return random(T, N, *shape, seed=seed)


OPERATIONS = {
    "elementwise": (lambda a, b: a * b, (2, 5), (2, 5)),
    "broadcast": (lambda a, b: a * b, (2, 1), (2, 5)),
    "in place": (lambda a, b: _times(a, b), (2, 5), (2, 5)),
    "@": (lambda a, b: a @ b, (2, 5), (5, 3)),
    "matmul with heads": (torch.matmul, (2, 4, 5), (2, 5, 3)),
    "bmm": (torch.bmm, (4, 5), (5, 3)),
    "einsum": (lambda a, b: torch.einsum("bnc,bmc->bnm", a, b), (4, 5), (3, 5)),
    "einsum with a sum": (lambda a, b: torch.einsum("bnc,bnc->bc", a, b), (4, 5), (4, 5)),
}


def _times(a, b):
    a *= b
    return a


def signals(kind, a, b):
    """Two signals with the values a and b [T, N, ...] and leaves that change all steps alike."""
    da = torch.zeros(a.shape[1:], dtype=a.dtype, requires_grad=True)
    db = torch.zeros(b.shape[1:], dtype=b.dtype, requires_grad=True)
    context = sd.Rate(T).encode(torch.zeros(1, 1, 1, 1)).context
    made = []
    for values, change in ((a, da), (b, db)):
        if kind is sd.Unrolled:
            made.append(sd.Unrolled((values + change).flatten(0, 1), context))
        else:
            from spikedistill.core.kernels import Term

            made.append(sd.Dual((Term(values.flatten(0, 1), values.mean(0) + change),), context))
    return made, (da, db)


@pytest.mark.parametrize("name", OPERATIONS)
def test_value_is_the_mean_of_the_true_products_and_the_gradient_exact_for_constant_changes(name):
    """Against autograd through every step: the derivative for a change added to all steps alike."""
    operation, left, right = OPERATIONS[name]
    a, b = frames(*left, seed=1), frames(*right, seed=2)
    gradients, values = {}, {}
    for kind in (sd.Dual, sd.Unrolled):
        pair, changes = signals(kind, a.clone(), b.clone())
        out = operation(*pair)
        assert type(out) is kind
        values[kind] = out.rate.detach()
        weights = random(*out.rate.shape, seed=3)
        gradients[kind] = torch.autograd.grad((out.rate * weights).sum(), changes)
    torch.testing.assert_close(values[sd.Dual], values[sd.Unrolled], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradients[sd.Dual], gradients[sd.Unrolled], rtol=1e-11, atol=1e-12)


def test_what_is_lost_is_the_covariance_of_the_changes():
    """A binary spike times itself: s·s = s has slope 1, the rule says 2·rate."""
    layer = nn.Sequential(nn.Linear(6, 9), sd.LIF()).double()
    images = 2 * random(N, 6)
    spikes = layer(sd.Rate(8).encode(images))
    squared = spikes * spikes
    torch.testing.assert_close(squared.values, spikes.values)  # the values are right: a spike squared is a spike
    torch.testing.assert_close(squared.rate, spikes.rate)
    (slope,) = torch.autograd.grad(squared.rate.sum(), spikes.rate)
    torch.testing.assert_close(slope, 2 * spikes.rate.detach())
    assert (slope - 1).abs().max() > 0.5  # ... which for a silent or a busy neuron is far from 1


@settings(max_examples=20)
@given(st.floats(1e-5, 1e-3), st.integers(0, 999))
def test_the_error_is_of_second_order(size, seed):
    a, b = frames(4, 5, seed=seed), frames(5, 3, seed=seed + 1)
    da, db = random(N, 4, 5, seed=seed + 2), random(N, 5, 3, seed=seed + 3)
    changed = ((a + size * da) @ (b + size * db)).mean(0)
    first_order = (a @ b).mean(0) + size * (da @ b.mean(0) + a.mean(0) @ db)
    torch.testing.assert_close(changed - first_order, size**2 * da @ db, rtol=1e-4, atol=1e-12)


class Attention(nn.Module):
    """Attention of spikes without softmax, in the order q(kᵀv), with heads: no T anywhere."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), sd.LIF())
        self.q, self.k, self.v = (
            nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width), sd.LIF()) for _ in range(3)
        )
        self.neuron = sd.LIF(threshold=0.5)
        self.project = nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width), sd.LIF())
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2)  # [N, C, tokens]
        samples, channels, tokens = x.shape

        def by_head(y):
            return y.unflatten(1, (self.heads, channels // self.heads)).swapaxes(-1, -2)

        q, k, v = (by_head(layer(x)) for layer in (self.q, self.k, self.v))
        y = (q @ (k.transpose(-2, -1) @ v)) * 0.125
        y = self.neuron(y).transpose(-1, -2).reshape(samples, channels, tokens)
        x = x + self.project(y)
        gate = self.neuron(x.sum(1, keepdim=True)).expand(samples, channels, tokens)  # as QKFormer's token attention
        x = x * gate
        return self.head(x.mean(2))


def test_attention_trains_by_every_rule_from_one_definition():
    torch.manual_seed(0)
    body = Attention().double()
    images, labels = random(4, 3, 6, 6), torch.tensor([1, 2, 3, 4])
    for rule in (sd.Rate(3), sd.BPTT(3), sd.ANN()):
        learner = sd.SelfDistillation(copy.deepcopy(body), rule, branches=())
        learner.loss(learner(images), labels).total.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learner.parameters())
    rate = sd.SelfDistillation(body.eval(), sd.Rate(3), branches=())
    torch.testing.assert_close(rate(images).logits, sd.Network(body)(images, timesteps=3).logits)


def test_at_one_step_the_rule_is_the_surrogate_gradient():
    torch.manual_seed(0)
    body, images, labels = Attention().double(), random(4, 3, 6, 6), torch.tensor([1, 2, 3, 4])
    gradients = []
    for rule in (sd.Rate(1), sd.BPTT(1)):
        learner = sd.SelfDistillation(copy.deepcopy(body), rule, branches=())
        learner.loss(learner(images), labels).total.backward()
        gradients.append([p.grad for p in learner.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_arguments_by_name_are_those_by_place():
    x, y = (sd.BPTT(2).encode(random(2, 3, 4, 5), over_time=True) for _ in range(2))
    y = y.transpose(1, 2)
    assert torch.equal(torch.bmm(x, mat2=y).values, torch.bmm(x, y).values)
    assert torch.equal(torch.matmul(x, other=y).values, (x @ y).values)
    with pytest.raises(UnsupportedOperation, match="give the equation in letters"):
        torch.einsum(x, [0, 1, 2], y, [0, 2, 3], [0, 1, 3])


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = sd.LIF()

    def forward(self, x):
        s = self.lif(x)
        return torch.mul(s, other=s.flip(1)).flatten(1)


def test_the_diagnostic_sees_arguments_by_name():
    assert len(product_covariance(sd.Network(ByName(), sample_dims=2), 2 * random(4, 3, 6), 4)) == 1


def test_the_diagnostic_is_the_covariance_over_time_of_the_factors():
    torch.manual_seed(0)
    body = Attention().double()
    images = 2 * random(4, 3, 6, 6)
    with torch.no_grad():
        for _ in range(30):  # running statistics under which the neurons fire
            sd.Network(body)(images, timesteps=4)
    found = product_covariance(body, images, 4)
    assert len(found) == 3  # kᵀv, q(kᵀv), and the gate
    assert all("test_products.py" in each.where for each in found)
    assert all(0 < each.relative < 2 for each in found)
    assert all(each.relative < 1e-12 for each in product_covariance(body, images, 1))  # one step has no covariance
    seen = []
    by_hand = products.matrix_product

    def look(function, left, right):
        out = by_hand(function, left, right)
        a, b = (x.values.unflatten(0, (4, -1)) for x in (left, right))
        centred = ((a - a.mean(0)) @ (b - b.mean(0))).mean(0)
        seen.append(float(centred.norm() / out.rate.norm()))
        return out

    sd.register_rule(torch.matmul, look)
    try:
        body.eval()
        with torch.no_grad():
            sd.Network(body).propagate(sd.Rate(4).encode(images))
    finally:
        sd.forget_rule(torch.matmul)
    assert [each.relative for each in found[:2]] == pytest.approx(seen, rel=1e-9)


def lif(*shape):
    return sd.LIF()(sd.Rate(2).encode(torch.randn(*shape)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lif(3, 4) @ lif(3, 4), "would mix the samples"),
        (lambda: torch.bmm(lif(3, 4, 5), torch.randn(3, 5, 2)), "one matrix for all samples"),
        (lambda: lif(3, 4) * lif(3, 4, 4), "add some of size 1"),
        (lambda: torch.einsum("bnc,amc->abnm", lif(3, 4, 5), lif(3, 4, 5)), "must begin with the letter of the batch"),
        (lambda: torch.einsum("bnc,bmc,bkc->b", *[lif(3, 4, 5)] * 3), "at most two operands may be signals"),
        (lambda: torch.einsum("bn,bn->n", lif(3, 4), lif(3, 4)), "must begin with the letter of the batch"),
        (lambda: lif(3, 4).softmax(-1), "does without softmax"),
        (lambda: torch.nn.functional.layer_norm(lif(3, 4), [4]), "use nn.BatchNorm"),
    ],
)
def test_products_that_cannot_be_right_are_refused(call, message):
    with pytest.raises(sd.SpikedistillError, match=message):
        call()


def test_a_constant_matrix_is_linear():
    weight = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    signal = sd.LIF()(sd.Rate(3).encode(2 * random(3, 4, 5)))
    torch.testing.assert_close((signal @ weight).rate, signal.rate @ weight)
    torch.testing.assert_close(torch.einsum("bnc,cd->bnd", signal, weight).rate, signal.rate @ weight)
    left = random(4, 4)
    torch.testing.assert_close((left @ signal).rate, left @ signal.rate)


def test_a_class_token_is_the_same_at_every_step():
    token = torch.randn(1, 1, 5, dtype=torch.float64, requires_grad=True)
    signal = sd.LIF()(sd.Rate(3).encode(2 * random(2, 4, 5)))
    joined = torch.cat([token.expand(2, -1, -1), signal], 1)
    assert joined.rate.shape == (2, 5, 5)
    torch.testing.assert_close(joined.values.unflatten(0, (3, 2)).mean(0), joined.rate)
    joined.rate.sum().backward()
    assert token.grad.tolist() == [[[2.0] * 5]]
    torch.testing.assert_close(signal.mT.rate, signal.rate.mT)
