"""Convolutions of spikes in 8 bits: those of weights rounded by the same rule, at any shape and in every network."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F

import spikedistill as sd
from spikedistill.core.kernels import EAGER, EightBit, FusedEightBit, Kernels
from spikedistill.core.kernels.eight_bit import FEWEST_CHANNELS, convolution, rounded
from spikedistill.core.rules.common import kept
from spikedistill.machine.compiler import missing_compiler
from spikedistill.training.recipe_files import load_recipe


def as_rounded(weight):
    numbers, scale = rounded(weight)
    return (numbers * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)


class Rounded(Kernels):
    """The obvious version: ordinary convolutions of spikes as they are, with rounded weights."""

    def layer(self, operation, values, weight, bias, options):
        if operation is torch.conv2d and weight.shape[1] >= FEWEST_CHANNELS and ((values == 0) | (values == 1)).all():
            numbers, scale = rounded(weight)
            # Sums of whole numbers are exact in float64. A sum that is not would move spikes at the threshold.
            out = operation(values.double(), numbers.double(), None, **options).float() * scale.view(1, -1, 1, 1)
            return out if bias is None else out + bias.view(1, -1, 1, 1)
        return super().layer(operation, values, weight, bias, options)


def test_weights_are_rounded_to_the_nearest_of_255_numbers():
    weight = torch.randn(5, 4, 3, 3) * torch.tensor([1.0, 1e-3, 50.0, 0.0, 1e-30]).view(-1, 1, 1, 1)
    numbers, scale = rounded(weight)
    assert numbers.dtype == torch.int8
    for k in (0, 1, 2):
        assert numbers[k].abs().max() == 127
        assert (as_rounded(weight)[k] - weight[k]).abs().max() <= scale[k] / 2 * (1 + 1e-5)
    assert not numbers[3].any()
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (1, 1), (1, 1), 1),
        ((2, 2), (1, 1), (1, 1), 1),
        ((2, 1), (0, 2), (1, 2), 1),
        ((1, 1), (1, 1), (1, 1), 4),
    ],
)
def test_a_convolution_is_that_of_rounded_weights(stride, padding, dilation, groups, dtype):
    spikes = (torch.rand(6, 64, 9, 11) < 0.3).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(48, 64 // groups, 3, 3, dtype=dtype), torch.randn(48, dtype=dtype)
    options = (list(stride), list(padding), list(dilation), groups)
    found = convolution(spikes, weight, bias, *options)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    exact = F.conv2d(spikes.double(), as_rounded(weight.double()), bias.double(), *options)
    torch.testing.assert_close(found.double(), exact, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet19", "preact_resnet18", "vgg11", "speednet"])
def test_a_network_learns_as_with_rounded_weights(name):
    """Logits, and gradients of all parameters up to what the backward takes of the weights."""
    torch.manual_seed(0)
    network = sd.create_model(name, 5, width=32, neuron=sd.Neuron(threshold=0.2))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    results = []
    for kernels in (EightBit(), Rounded(), EAGER):
        learner = sd.SelfDistillation(copy.deepcopy(network), sd.Rate(3), branches=(), kernels=kernels)
        output = learner(images)
        learner.loss(output, labels).total.backward()
        results.append((output.logits.detach(), [p.grad for p in learner.parameters()]))
    (found, gradients), (expected, reference), (exact, _) = results
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, exact, rtol=1e-5, atol=1e-6)  # something was rounded
    for a, b in zip(gradients, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=1e-5 + 0.02 * float(b.abs().max()))


def test_spikes_are_kept_in_8_bits_and_computed_with_in_floats():
    learner = sd.SelfDistillation(sd.create_model("resnet18", 5, width=32), sd.Rate(2), branches=(), kernels=EightBit())
    dtypes, pooled = [], []

    def look(module, inputs, output):
        dtypes.append(kept(output).dtype)
        pooled.append(F.avg_pool2d(output, 2).values.dtype)
        assert (output + output).values.max() == 2
        assert kept(output[..., 1:]).dtype == torch.uint8

    learner.network.body.layer1.register_forward_hook(look)
    learner(torch.randn(2, 3, 16, 16))
    assert (dtypes, pooled) == ([torch.uint8], [torch.float32])


def test_a_neuron_and_a_norm_right_behind_spikes():
    body = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 32, 3, padding=1), sd.LIF(threshold=0.2), sd.LIF(threshold=0.5), torch.nn.BatchNorm2d(32)),
        *(torch.nn.Conv2d(32, 4, 3), sd.LIF(threshold=0.2), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)),
    )
    images = torch.randn(4, 3, 8, 8)
    logits = []
    for kernels in (EightBit(), EAGER):
        learner = sd.SelfDistillation(copy.deepcopy(body), sd.Rate(3), branches=(), kernels=kernels)
        logits.append(learner(images).logits)
    torch.testing.assert_close(logits[0], logits[1])  # batch norm's output is no spikes: nothing was rounded


@pytest.mark.skipif(missing_compiler(torch.device("cpu")) is not None, reason="no compiler")
def test_the_fused_form_is_the_eager_one():
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 5, width=32).to(memory_format=torch.channels_last)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    results = []
    for kernels in (EightBit(), FusedEightBit()):
        learner = sd.SelfDistillation(copy.deepcopy(network), sd.Rate(3), branches=(), kernels=kernels)
        output = learner(images)
        learner.loss(output, labels).total.backward()
        results.append([output.logits.detach(), *(p.grad for p in learner.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3 * float(b.abs().max()))


@pytest.mark.whole
def test_a_run_says_so_and_refuses_what_has_no_effect(tmp_path, capsys):
    words = ["--optimizer.epochs", "1", "--timesteps", "2", "--data.train_rows", "200", "--data.validation_rows", "0"]
    words += ["--convolutions", "8bit", "--device", "cpu"]
    with pytest.raises(ValueError, match="no layer of this network would be computed in 8 bits.* at least 32"):
        sd.train(load_recipe("fashion-small", [*words, "--model.width", "2"]), tmp_path / "narrow")
    learned = load_recipe("fashion-small", [*words, "--model.width", "16", "--learned.decay", "layer"])
    with pytest.raises(ValueError, match="no layer of this network .* neurons that do not learn"):
        sd.train(learned, tmp_path / "learned")
    words += ["--model.width", "16"]
    sd.train(load_recipe("fashion-small", words), tmp_path / "run")
    assert re.search("[1-9] of [0-9]+ layers on spikes in 8 bits", "".join(capsys.readouterr()))
    for rule in ("bptt", "rate_twin"):
        with pytest.raises(ValueError, match="--convolutions 8bit is for --rule rate, and this is .*; leave it out"):
            sd.train(load_recipe("fashion-small", [*words, "--rule", rule]), tmp_path / rule)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_computed_as_they_are(dtype):
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), sd.LIF(threshold=0.2), torch.nn.Conv2d(32, 2, 3)).to(dtype)
    images = torch.randn(2, 3, 8, 8, dtype=dtype)
    with torch.no_grad():
        found, expected = (body(sd.Rate(2).encode(images, kernels)).rate for kernels in (EightBit(), EAGER))
    assert torch.equal(found, expected)


def test_a_weight_that_is_no_number_stays_one():
    weight = torch.randn(4, 32, 3, 3)
    weight[1, 2, 0, 0] = float("nan")
    spikes = torch.ones(2, 32, 5, 5, dtype=torch.uint8)
    out = convolution(spikes, weight, None, [1, 1], [1, 1], [1, 1], 1)
    assert out[:, 1].isnan().all()
    assert out[:, 0].isfinite().all()
