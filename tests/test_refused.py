"""What signals refuse, and in which words; operators and methods without a rule."""

from __future__ import annotations

import pytest
import torch
from test_dual import batch
from torch import nn

import spikedistill as sd
from spikedistill.core.signal import Signal


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.lif, self.function = nn.Conv2d(3, 4, 3), sd.LIF(), function

    def forward(self, x):
        return self.function(self.lif(self.conv(x)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.special.i0, r"(?s)no rule for .*i0.*test_refused.py:\d+ in .*Supported: .*conv2d.*register_rule"),
        (torch.relu, r"use spikedistill.LIF\(\).*"),
        (torch.flatten, "changed the batch dimension"),
        (lambda x: x / x, "not linear in the rates"),
        (lambda x: 1 / x, "not linear in the rates"),
        (lambda x: x.view(-1), "first size must be the batch size 2"),
        (lambda x: x.sum(), "changed the batch dimension"),
        (lambda x: torch.cat([x, x], 0), "changed the batch dimension"),
    ],
)
def test_operations_that_cannot_be_right_are_refused_by_name_and_place(function, message):
    with pytest.raises(sd.SpikedistillError, match=message) as caught:
        Calls(function)(sd.Rate(3).encode(torch.randn(2, 3, 5, 5)))
    assert "test_refused.py" in str(caught.value)


def test_users_can_register_a_rule():
    with pytest.raises(sd.SpikedistillError, match="no rule for"):
        Calls(torch.fft.fft)(sd.Rate(3).encode(torch.randn(2, 3, 5, 5)))
    sd.register_rule(torch.fft.fft, sd.rules.linear)
    try:
        out = Calls(lambda x: torch.fft.fft(x))(sd.Rate(3).encode(torch.randn(2, 3, 5, 5)))
        torch.testing.assert_close(out.rate.detach(), out.values.unflatten(0, (3, 2)).mean(0))
    finally:
        sd.forget_rule(torch.fft.fft)


@pytest.mark.parametrize(
    ("images", "timesteps", "message"),
    [
        (torch.zeros(2, 3, 8, 8), 0, "timesteps is 0; expected a whole number of at least 1"),
        (torch.zeros(2, 3, 8, 8), 2.0, "timesteps is 2.0"),
        (torch.zeros(4, 2, 3, 8, 8), 3, "have 4 steps but timesteps=3"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 2, r"x.float\(\) / 255"),
        (torch.zeros(2, 1, 8, 8), 2, r"expects 3 input channels.*given \(2, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), 2, r"takes samples \[C, H, W\].*given \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), 2, "not empty"),
        ([1, 2], 2, "given a list"),
    ],
)
def test_bad_images_are_refused(images, timesteps, message):
    net = sd.create_model("resnet18", 10, width=4)
    with pytest.raises(sd.SpikedistillError, match=message):
        net(images, timesteps=timesteps)


def test_signals_of_different_kinds_do_not_mix():
    images = torch.randn(2, 3, 5, 5)
    lif = sd.LIF()
    rate, through_time = lif(sd.Rate(3).encode(images)), lif(sd.BPTT(3).encode(images))
    with pytest.raises(sd.SpikedistillError, match="one kind of input"):
        rate + through_time
    with pytest.raises(sd.SpikedistillError, match="different timesteps"):
        rate + lif(sd.Rate(4).encode(images))
    assert isinstance(rate, Signal)


METHODS = {
    "relu": lambda x: x.relu(),
    "sigmoid": lambda x: x.sigmoid(),
    "Tensor.clamp": lambda x: x.clamp(0, 1),
    "pow": lambda x: x**2,
    "gt": lambda x: x > 0,
    "eq": lambda x: x == 0,
    "Tensor.exp": lambda x: x.exp(),
    "Tensor.add_": lambda x: x.add_(1),
    "abs": abs,
    "neither true nor false": lambda x: x if x else 0,
    "iterating over the samples": lambda x: list(x),
    "flip": lambda x: x.flip(0),
    "getitem": lambda x: x[0],
    "chunk": lambda x: x.chunk(2),
    "stack": lambda x: torch.stack([x, x]),
    "permute": lambda x: x.permute(1, 0, 2, 3),
    "roll": lambda x: x.roll(1, 0),
    "narrow": lambda x: x.narrow(0, 0, 2),
    "select": lambda x: x.select(0, 1),
    "index_select": lambda x: x.index_select(0, torch.tensor([0, 1])),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_operators_without_a_rule_are_refused_by_name(name):
    with pytest.raises(sd.SpikedistillError, match=name) as caught:
        Calls(METHODS[name])(sd.Rate(3).encode(torch.randn(2, 3, 5, 5)))
    assert "test_refused.py" in str(caught.value)


LINEAR = {
    "+=": lambda x: _plus(x),
    "float": lambda x: x.float().double(),
    "flip": lambda x: x.flip(-1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "swapaxes": lambda x: x.swapaxes(1, -1),
    "movedim": lambda x: x.movedim(1, -1),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1),
    "expand_as": lambda x: x.sum(1, keepdim=True).expand_as(x),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "stack": lambda x: torch.stack([x, 2 * x], dim=2),
    "unbind": lambda x: sum(x.unbind(1)),
    "roll": lambda x: x.roll(1, 2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "rsub": lambda x: 1 - x,
    "unfold": lambda x: nn.functional.unfold(x, 2),
    "concat": lambda x: torch.concat([x, x], -1),
}


def _plus(x):
    x += 1
    return x


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_keep_the_invariant_and_agree_with_bptt(name):
    torch.manual_seed(1)
    module, images = Calls(LINEAR[name]).double(), batch(size=6)[0]
    gradients = {}
    for rule in (sd.Rate(4), sd.BPTT(4)):
        module.zero_grad()
        out = module(rule.encode(images))
        weights = torch.linspace(0.5, 1.5, out.rate.numel(), dtype=torch.float64).view(out.rate.shape)
        (out.rate * weights).sum().backward()
        gradients[rule] = (out.rate.detach(), module.conv.weight.grad.clone())
        mean = out.values.detach().unflatten(0, (4, -1)).mean(0)
        torch.testing.assert_close(out.rate.detach(), mean)
    # one neuron and a constant input: the rate gradient is exact, so both rules must agree to the last digits
    torch.testing.assert_close(gradients[sd.Rate(4)], gradients[sd.BPTT(4)], rtol=1e-10, atol=1e-12)


def test_a_users_rule_hides_ours_whenever_it_was_registered():
    calls = []

    def mine(function, *args, **kwargs):
        calls.append(function)
        return sd.rules.convolution(function, *args, **kwargs)

    sd.register_rule(torch.conv2d, mine)
    try:
        net = sd.create_model("resnet18", 10, width=4)  # once, this put ours back
        net(batch()[0].float(), timesteps=2)
        assert len(calls) == 20
    finally:
        sd.forget_rule(torch.conv2d)
    net(batch()[0].float(), timesteps=2)
    assert len(calls) == 20
    with pytest.raises(ValueError, match="expected a function"):
        sd.register_rule(torch.conv2d, None)


@pytest.mark.parametrize("result", [lambda x: (x, x), lambda x: {"out": x}, lambda x: None])
def test_networks_that_return_no_tensor_are_refused(result):
    with pytest.raises(ValueError, match="returns a (tuple|dict|NoneType); expected one tensor of logits"):
        sd.Network(Calls(result))(torch.randn(2, 3, 5, 5), timesteps=2)


def test_a_network_that_takes_tensors_out_of_signals_is_refused():
    with pytest.raises(ValueError, match="gives a plain tensor for a spiking input, so its time is lost"):
        sd.evaluate(Calls(lambda x: x.rate.mean((2, 3))), [(torch.randn(2, 3, 5, 5), torch.tensor([0, 1]))], 2)


def test_functions_are_named_as_users_know_them():
    from spikedistill.core.signal import name_of

    names = {nn.functional.max_pool2d: "max_pool2d", torch.conv2d: "conv2d", torch.Tensor.clamp: "clamp"}
    for function, name in names.items():
        assert name_of(function).rpartition(".")[2] == name
