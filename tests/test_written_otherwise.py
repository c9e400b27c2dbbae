"""Networks as people write them: torch's functions in all their forms, other types of numbers, gates of one number."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from test_refused import Calls
from torch import nn
from torch.nn import functional as F

import spikedistill as sd
from spikedistill.core.kernels import FUSED
from spikedistill.errors import InvalidArgument, UnsupportedOperation

FEATURES = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def spiking(function, images=FEATURES, rule=None):
    torch.manual_seed(0)
    return Calls(function).double()((rule or sd.Rate(3)).encode(images))


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        (lambda x: x.sum(axis=1), lambda x: x.sum(1)),
        (lambda x: torch.mean(x, axis=(2, 3)), lambda x: x.mean((2, 3))),
        (lambda x: torch.stack([x, x], axis=1), lambda x: torch.stack([x, x], 1)),
        (lambda x: torch.sum(input=x, dim=1), lambda x: x.sum(1)),
        (lambda x: torch.stack(tensors=[x, x], dim=1), lambda x: torch.stack([x, x], 1)),
        (lambda x: torch.chunk(input=x, chunks=2, dim=1)[0], lambda x: x.chunk(2, 1)[0]),
        (lambda x: np.sqrt(2) * x, lambda x: x * float(np.sqrt(2))),
        (lambda x: np.float32(2) * x + np.int64(1), lambda x: x * 2 + 1),
    ],
)
def test_a_function_is_the_same_in_every_form(written, usual):
    found, expected = spiking(written), spiking(usual)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.rate, expected.rate)


def test_a_list_to_join_may_begin_with_nothing():
    assert torch.equal(spiking(lambda x: torch.cat([torch.empty(0), x], 1)).rate, spiking(lambda x: x).rate)


def test_under_autocast_a_rate_is_the_mean_of_its_spikes():
    """Rounded to bf16 it would be off by 0.001, and so would what branches get."""
    with torch.autocast("cpu", torch.bfloat16):
        found = Calls(lambda x: x)(sd.Rate(3).encode(FEATURES.float()))
    assert found.values.dtype == torch.bfloat16
    assert torch.equal(found.rate, found.values.float().unflatten(0, (3, 2)).mean(0))


def test_a_tensor_for_each_sample_is_stacked_as_it_is_joined():
    token = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    stacked = spiking(lambda x: torch.stack([x, token], 1))
    joined = spiking(lambda x: torch.cat([x, token], 1))
    assert torch.equal(stacked.rate.flatten(1, 2), joined.rate)
    assert torch.equal(stacked.values.flatten(1, 2), joined.values)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda x: torch.cat([torch.zeros(1, 4, 3, 3).double(), x], 1),
            r"tensor \(1, 4, 3, 3\): the first size must be",
        ),
        (lambda x: x.view(torch.int32), r"to another type at .*convert with .to"),
        (lambda x: nn.Linear(5, 2).double()(x), r"linear at .* expects 5 features .* given \(2, 4, 3, 3\)"),
        (
            lambda x: F.conv_transpose2d(x, torch.zeros(5, 2, 3, 3).double()),
            r"expects 5 input channels .* \(2, 4, 3, 3\)",
        ),
        (lambda x: x[:, torch.tensor([0, 1]), :, torch.tensor([0, 1])], "do not stand side by side"),
        (
            lambda x: nn.MultiheadAttention(9, 1, batch_first=True).double()(*[x.flatten(2)] * 3),
            "softmax is not linear",
        ),
        (
            lambda x: nn.TransformerEncoderLayer(9, 1, 9, batch_first=True).double()(x.flatten(2)),
            "softmax is not linear",
        ),
    ],
)
@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3)])
def test_what_cannot_be_is_refused_in_sizes_that_its_author_knows(function, words, rule):
    with pytest.raises(sd.SpikedistillError, match=words):
        spiking(function, rule=rule)


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), [0, 1]),
        (slice(None), slice(None), [0, 2], [1, 0]),
        (..., 0),
        (slice(None), 0, slice(None), torch.tensor([0, 1])),  # a number is taken before lists are
        (slice(None), np.array([0, 2])),
        (slice(None), np.int64(1), None),
    ],
)
def test_indices_side_by_side_choose_in_every_sample(index):
    found = spiking(lambda x: x[index])
    whole = spiking(lambda x: x)
    assert torch.equal(found.rate, whole.rate[index])
    assert torch.equal(found.values, whole.values[index])


@pytest.mark.parametrize("move", [lambda x: x.transpose(0, 1), lambda x: x.permute(1, 0, 2, 3)])
@pytest.mark.parametrize("channels", [2, 6])  # N, and T·N: the size of what was moved says nothing then
@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3)])
def test_a_batch_that_was_moved_is_noticed_whatever_the_sizes_are(move, channels, rule):
    signal = rule.encode(torch.randn(3, 2, channels, 3, 3), over_time=True)
    with torch.no_grad(), pytest.raises(UnsupportedOperation, match="it moved it"):
        move(signal)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", [sd.Rate(2), sd.BPTT(2), sd.RateTwin(2), sd.ANN()])
def test_a_network_of_half_floats_trains(dtype, rule):
    learner = sd.SelfDistillation(sd.create_model("resnet18", 5, width=4), rule).to(dtype)
    learner.loss(learner(torch.randn(3, 3, 8, 8, dtype=dtype)), torch.tensor([0, 1, 2])).total.backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in learner.parameters())


class Gate(nn.Module):
    """One number for each sample opens or closes the rest."""

    def __init__(self):
        super().__init__()
        self.layer, self.neurons, self.gate, self.head = (
            nn.Linear(6, 8),
            sd.LIF(),
            sd.LIF(threshold=0.5),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        hidden = self.neurons(self.layer(x))
        return self.head(hidden * self.gate(hidden.sum(1)).unsqueeze(1))


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.RateTwin(3)])
def test_fused_kernels_take_one_number_for_each_sample(rule):
    network = sd.Network(Gate())
    inputs = torch.randn(4, 6)
    found = []
    for kernels in (None, FUSED):
        learner = sd.SelfDistillation(copy.deepcopy(network), rule, branches=())
        if kernels is not None:
            learner.kernels = kernels
        torch.manual_seed(0)
        learner.loss(learner(inputs), torch.tensor([0, 1, 2, 0])).total.backward()
        found.append([p.grad for p in learner.parameters()])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.RateTwin(3)])
def test_derivatives_of_a_gradient_are_refused(rule):
    """Eligibility and membranes are constants to the backward pass; a gradient penalty would be wrong in silence."""
    learner = sd.SelfDistillation(sd.create_model("resnet18", 5, width=2), rule, branches=())
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    total = learner.loss(learner(images), torch.tensor([0, 1])).total
    (gradient,) = torch.autograd.grad(total, images, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.ANN()])
def test_batch_norm_of_one_value_is_refused_as_torch_does(rule):
    network = sd.Network(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), sd.LIF(), nn.Linear(3, 2)))
    learner = sd.SelfDistillation(network, rule, branches=())
    with pytest.raises((InvalidArgument, ValueError), match="more than (one|1) value per channel"):
        learner(torch.randn(1, 4))
    assert learner(torch.randn(2, 4)).logits.shape == (2, 2)
    assert learner.eval()(torch.randn(1, 4)).logits.shape == (1, 2)


def test_one_sample_is_answered_by_a_norm_without_memory():
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    network = sd.Network(nn.Sequential(nn.Linear(4, 3), norm, sd.LIF(), nn.Linear(3, 2))).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 4), timesteps=2).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sd.Neuron(decay=nn.Parameter(torch.tensor(0.2))), "(?s)decay is .* a Parameter; expected a number"),
        (lambda: sd.Neuron(threshold="1"), "threshold is '1', a str; expected a number"),
        (lambda: sd.Neuron(threshold=float("inf")), "threshold is inf"),
        (lambda: sd.Neuron(detach_reset="false"), "detach_reset is 'false'; expected True or False"),
        (lambda: sd.LIF(decay=[0.1, 0.2]), r"decay is \[0.1, 0.2\], a list"),
        (lambda: sd.LIF(decay=nn.Parameter(torch.zeros(0))), "has no channels"),
        (lambda: sd.Surrogate("atan", "2"), "surrogate alpha is '2', a str"),
        (lambda: sd.Surrogate("atan", float("inf")), "surrogate alpha is inf"),
        (lambda: sd.Rate(4, loss_scale=float("inf")), "loss_scale is inf"),
        (lambda: sd.RateTwin(4, noise=float("inf")), "noise is inf"),
        (lambda: sd.create_model("resnet18", "10"), "num_classes is '10'; expected a whole number"),
        (lambda: sd.create_model("resnet18", 10.5), "num_classes is 10.5"),
        (lambda: sd.Network(nn.Linear(2, 2), sample_dims="2"), "sample_dims is '2'"),
        (
            lambda: sd.evaluate(sd.create_model("vgg11", 2, width=2), [], 2.5),
            "timesteps are 2.5; expected whole numbers",
        ),
        (lambda: sd.evaluate(sd.create_model("vgg11", 2, width=2), [], "4"), "timesteps are '4'"),
        (lambda: sd.load_authors_checkpoint("x.pth", "resnet18", 10, 2), "state_dict is a str"),
    ],
)
def test_constants_of_another_kind_are_named(make, words):
    with pytest.raises(sd.SpikedistillError, match=words):
        make()


def test_numbers_of_numpy_are_numbers():
    assert sd.create_model("resnet18", np.int64(3), width=2)(torch.zeros(2, 3, 8, 8), timesteps=1).logits.shape == (
        2,
        3,
    )
    assert sd.Network(nn.Linear(2, 2), sample_dims=np.int64(1)).sample_dims == 1
    assert sd.Neuron(decay=np.float32(0.5), threshold=np.float64(2)).decay == 0.5
    network = sd.create_model("vgg11", 2, width=2)
    found = sd.evaluate(network, [(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))], np.int64(2))
    assert list(found.score) == [2]


def test_activations_that_were_named_are_replaced_on_their_users_account():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UnsupportedOperation, match=r"1 \(GELU\) is no activation .*activations="):
        sd.to_spiking(model)
    network = sd.to_spiking(model, stages=(), activations=[nn.GELU])
    assert isinstance(network.body[1], sd.LIF)
    assert isinstance(sd.to_spiking(model, stages=(), activations=nn.GELU).body[1], sd.LIF)
