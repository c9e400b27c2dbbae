"""Tensor-train convolutions: the kernels that they are, decompositions, merging, and both halves of time."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision

import spikedistill as sd
from spikedistill.core.halves import through_halves
from spikedistill.errors import InvalidArgument
from spikedistill.models.tensor_train import FORMS, Halves, TensorTrain, ranks_of

T = 4


def small(name="resnet18", **options):
    torch.manual_seed(0)
    return sd.create_model(name, 5, width=8, neuron=sd.Neuron(threshold=0.3), **options).double()


def images(count=3, size=16):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- one layer


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("form", ["stt", "ptt"])
def test_a_layer_is_the_convolution_with_its_kernel(form, stride):
    layer = TensorTrain(6, 9, 4, form, stride, bias=True).double()
    x = torch.randn(2, 6, 9, 12, dtype=torch.float64)
    expected = F.conv2d(x, layer.kernel(), layer.c4.bias, stride, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    if form == "ptt":
        assert not layer.kernel()[:, :, ::2, ::2].any()  # the corners


@pytest.mark.parametrize(("c_in", "c_out"), [(6, 9), (9, 6)])
def test_a_kernel_of_low_rank_is_found_again(c_in, c_out):
    for form in ("stt", "ptt"):
        origin, found = (TensorTrain(c_in, c_out, 3, form).double() for _ in range(2))
        found.take(origin.kernel().detach())
        torch.testing.assert_close(found.kernel(), origin.kernel(), rtol=1e-10, atol=1e-12)


def test_the_full_rank_gives_any_kernel_and_less_gives_less():
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    missed = []
    for rank in (12, 4, 2, 1):  # 12: no rank between the four factors is larger
        layer = TensorTrain(4, 6, rank, "stt").double()
        layer.take(weight)
        missed.append(float((layer.kernel().detach() - weight).norm() / weight.norm()))
    assert missed[0] < 1e-12
    assert missed == sorted(missed)
    assert missed[-1] < 1
    cross = weight.clone()
    cross[:, :, ::2, ::2] = 0
    layer = TensorTrain(4, 6, 6, "ptt").double()
    layer.take(weight)
    torch.testing.assert_close(layer.kernel(), cross, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "vgg11"])
def test_merging_leaves_every_output_as_it_is(name, form):
    network = small(name)
    thin = sd.tensor_train(network, 3, form)
    dense = sd.merge(thin)
    assert not any(isinstance(module, TensorTrain) for module in dense.modules())
    assert any(isinstance(module, Halves) for module in dense.modules()) == (form == "htt")
    for timesteps in (1, 3, T):
        with torch.no_grad():
            found, expected = (each.eval()(images(size=32), timesteps=timesteps).logits for each in (dense, thin))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if form != "htt":  # ordinary convolutions under the names of the network that it was made of
        network.load_state_dict(dense.state_dict())


def test_the_first_convolution_stays_dense_or_what_the_user_says():
    network = small()
    thin = sd.tensor_train(network, 2)
    assert isinstance(thin.body.stem[0], torch.nn.Conv2d)
    assert isinstance(thin.body.layer1[0].conv1, TensorTrain)
    assert isinstance(thin.body.layer2[0].shortcut[0], torch.nn.Conv2d)
    assert len(thin.notes) == 17
    assert thin.notes[-1] == "as they were: stem.0"
    assert "rank 2 of 8, misses" in thin.notes[0]
    assert isinstance(network.body.layer1[0].conv1, torch.nn.Conv2d)  # the one that was given is as it was
    assert thin.stages == network.stages
    kept = sd.tensor_train(network, 2, keep=lambda name, layer: not name.startswith("layer4"))
    assert isinstance(kept.body.layer3[0].conv1, torch.nn.Conv2d)
    assert isinstance(kept.body.layer4[1].conv2, TensorTrain)


@pytest.mark.whole
def test_other_peoples_networks():
    model = sd.to_spiking(torchvision.models.resnet18(num_classes=5), stages=())
    thin = sd.tensor_train(model, 0.25, "stt").eval()
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, thin))
    assert after < before / 4
    with torch.no_grad():
        outputs = [each.eval()(images(2, 64).float(), timesteps=2).logits for each in (thin, sd.merge(thin))]
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)


def test_from_scratch_and_from_weights():
    network = small()
    begun = sd.tensor_train(network, 2, decompose=False)
    assert "misses" not in begun.notes[0]
    for decompose in (True, False):
        with pytest.raises(InvalidArgument, match=r"in \d+ of 16 layers EVBMF finds nothing but noise: .* not trained"):
            sd.tensor_train(network, decompose=decompose)
    dense = sd.tensor_train(network, 1.0, "stt")
    missed = [float(note.split("misses ")[1].split("%")[0]) for note in dense.notes[:16]]
    assert max(missed) < 75
    biased = sd.tensor_train(small("preact_resnet18"), 2)
    assert torch.equal(biased.body.layer1[0].conv1.c4.bias, small("preact_resnet18").body.layer1[0].conv1.bias)


def test_what_is_done_to_a_layer_is_not_lost():
    """Layers with parametrisations, hooks or tied weights stay as they are; what is frozen stays frozen."""
    net = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(7)))
    torch.nn.utils.parametrizations.spectral_norm(net[1])
    torch.nn.utils.parametrizations.weight_norm(net[2])
    net[3].register_forward_hook(lambda module, args, out: out)
    net[5].weight = net[4].weight
    net[6].bias.requires_grad_(False)
    thin = sd.tensor_train(net, 2)
    assert [isinstance(layer, TensorTrain) for layer in thin.body] == [False] * 6 + [True]
    assert "as they were: 0, 1, 2, 3, 4, 5" in thin.notes
    assert (thin.body[6].c4.bias.requires_grad, thin.body[6].c1.weight.requires_grad) == (False, True)
    merged = sd.merge(thin).body[6]
    assert (merged.bias.requires_grad, merged.weight.requires_grad) == (False, True)
    frozen = sd.merge(sd.tensor_train(net.requires_grad_(False), 2, "htt")).body[6]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_one_layer(form):
    layer = torch.nn.Conv2d(4, 4, 3, padding=1).double()
    thin = sd.tensor_train(layer, 4, form, keep=lambda name, layer: False)
    assert isinstance(thin.body, TensorTrain)
    assert not isinstance(sd.merge(thin).body, TensorTrain)


class Once(torch.nn.Module):
    """Two of the layers are one."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.first

    def forward(self, x):
        return self.again(self.first(self.stem(x))).mean((2, 3))


def test_a_layer_at_two_places_stays_one():
    thin = sd.tensor_train(Once(), 4)
    assert thin.body.first is thin.body.again
    assert ranks_of(thin) == [4]
    assert sd.tensor_train(Once(), [4], decompose=False).body.again.c1.out_channels == 4
    dense = sd.merge(thin)
    assert dense.body.first is dense.body.again
    x = images(2, 8).float()
    torch.testing.assert_close(dense.body(x), thin.body(x))


class Standardised(torch.nn.Conv2d):
    """Its weights are not those that it convolves with, as timm's ScaledStdConv2d."""

    def forward(self, x):
        return torch.nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


class Masked(torch.nn.Conv2d):
    """The same, by the method that torch's own convolution is made of."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight.tril(), bias)


@pytest.mark.parametrize(
    ("layer", "replaced"),
    [
        (torch.nn.Conv2d(8, 8, 3, padding=1), True),
        (torch.nn.Conv2d(8, 8, 3, padding="same"), True),
        (torch.nn.Conv2d(8, 8, 3, stride=2, padding=1), True),
        (torch.nn.Conv2d(8, 8, 3, padding=1, groups=2), False),
        (torch.nn.Conv2d(8, 8, 3, padding=2, dilation=2), False),
        (torch.nn.Conv2d(8, 8, 3, padding=0), False),
        (torch.nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), False),
        (torch.nn.Conv2d(8, 8, 3, stride=(1, 2), padding=1), False),
        (Standardised(8, 8, 3, padding=1), False),
        (Masked(8, 8, 3, padding=1), False),
    ],
)
def test_which_layers_four_thin_ones_can_stand_for(layer, replaced):
    others = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
    thin = sd.tensor_train(torch.nn.Sequential(*others, layer), 2)
    assert isinstance(thin.body[2], TensorTrain) == replaced
    assert thin.notes[-1] == ("as they were: 0" if replaced else "as they were: 0, 2")


def test_what_is_frozen_stays_so_and_notes_of_ranks_end_with_the_ranks():
    dense = small()
    dense.body.layer1.requires_grad_(False)
    thin = sd.tensor_train(dense, 0.5, "ptt")
    trained = {name: p.requires_grad for name, p in thin.body.named_parameters() if ".c" in name}
    assert trained
    assert all(learns != name.startswith("layer1") for name, learns in trained.items())
    assert any(": rank 4 of 8" in note for note in thin.notes)
    assert not any("rank" in note for note in sd.merge(thin).notes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("merged", [False, True])
def test_the_rate_twin_has_them_too(form, merged):
    """With rates that are the same at every step it is what spikes say of such a current in the first layer."""
    thin = sd.tensor_train(small(), 2, form)
    network = sd.merge(thin) if merged else thin
    learner = sd.SelfDistillation(network, sd.RateTwin(4), branches=())
    output = learner(images(2))
    output.logits.sum().backward()
    assert output.logits.isfinite().all()
    assert all(p.grad is not None for p in learner.parameters())
    layer = network.body.layer1[0].conv1
    x = torch.rand(2, 8, 6, 6, dtype=torch.float64)
    rates = sd.Network(layer).propagate(sd.RateTwin(5).encode(x))[0].rate
    over_time = sd.Network(layer).propagate(sd.BPTT(5).encode(x.expand(5, *x.shape), over_time=True))[0].rate
    torch.testing.assert_close(rates, over_time)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank is 0; expected a number of channels"),
        ({"rank": 1.5}, "rank is 1.5; expected"),
        ({"rank": "best"}, "rank is 'best'; expected"),
        ({"rank": "evbmf 3 0"}, "rank is 'evbmf 3 0'; expected"),
        ({"rank": "evbmf 3 3"}, "there are 2 ranks for 16 layers"),
        ({"rank": True}, "rank is True; expected"),
        ({"rank": [3, 3]}, "there are 2 ranks for 16 layers: layer1.0.conv1,"),
        ({"rank": [3, 0]}, "a number for each layer"),
        ({"form": "tt"}, "unknown form 'tt'"),
        ({"keep": lambda name, layer: True}, "has no 3×3 convolution"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sd.tensor_train(small(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 8, 0, "stt"), "rank is 0; expected a whole number"),
        ((8, 8, 2, "stt", (2, 2)), r"stride is \(2, 2\); expected a whole number"),
        ((8, 8, 2, "xtt"), "unknown form"),
    ],
)
def test_bad_layers(arguments, message):
    with pytest.raises(ValueError, match=message):
        TensorTrain(*arguments)


def test_kernels_that_are_not_finite_are_not_decomposed():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1))
    net[1].weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="weights that are no finite numbers"):
        sd.tensor_train(net, 2)


def test_nothing_to_merge():
    with pytest.raises(ValueError, match="no tensor-train convolutions"):
        sd.merge(small())


# ---------------------------------------------------------------- gradients


def gradients(network, rule, inputs, labels):
    learner = sd.SelfDistillation(copy.deepcopy(network), rule, branches=())
    output = learner(inputs)
    learner.loss(output, labels).total.backward()
    return output.logits.detach(), {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", FORMS)
def test_rate_gradients_at_constant_input_are_those_of_bptt(form):
    """One layer of neurons, then the layer, then a readout: the rates say all there is to say."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 6, 3, padding=1), sd.LIF(threshold=0.2), TensorTrain(6, 7, 3, form, 2)),
        *(torch.nn.Flatten(), torch.nn.Linear(7 * 64, 5)),
    ).double()
    labels = torch.arange(3)
    for timesteps in (1, 3, T):
        (logits, rate), (expected, bptt) = (
            gradients(sd.Network(body), rule(timesteps), images(), labels) for rule in (sd.Rate, sd.BPTT)
        )
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
        for name, grad in bptt.items():
            if "body.0." in name and form == "htt" and timesteps > 1:
                # the neurons' eligibility is one for all steps, and the halves ask for two
                assert F.cosine_similarity(rate[name].flatten(), grad.flatten(), 0) > 0.9
                continue
            torch.testing.assert_close(rate[name], grad, rtol=1e-10, atol=1e-12, msg=f"{name}, T = {timesteps}")


def test_each_half_sees_its_own_steps():
    weights = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)
    frames = torch.randn(3, 2, 4, dtype=torch.float64)  # T = 3: two steps and one
    expected = (2 * frames[0] + 2 * frames[1] + 5 * frames[2]).detach() / 3
    for rule in (sd.Rate(3), sd.BPTT(3)):
        weights.grad = None
        out = through_halves(rule.encode(frames, over_time=True), lambda x: x * weights[0], lambda x: x * weights[1])
        torch.testing.assert_close(out.rate, expected)
        out.rate.sum().backward()
        by_hand = torch.stack([frames[:2].sum(), frames[2].sum()]) / 3
        torch.testing.assert_close(weights.grad, by_hand)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_scores_by_timesteps_are_those_of_runs_of_so_many(merged, frames):
    """Where the halves of htt meet depends on T, so its first steps are no run of fewer."""
    net = sd.tensor_train(small(), 0.5, "htt").double()
    net(images(8), timesteps=4)  # statistics of batch norm
    net = (sd.merge(net) if merged else net).eval()
    shown = torch.stack([images(8)] * 4) * torch.rand(4, 1, 1, 1, 1).double() if frames else images(8)
    labels = {t: net(shown[:t] if frames else shown, timesteps=t).logits.argmax(1) for t in (1, 2, 4)}
    assert not labels[2].equal(net.logits_over_time(shown, 4)[:2].mean(0).argmax(1))
    for t in labels:  # right for that T alone
        assert sd.evaluate(net, [(shown, labels[t])], [1, 2, 4]).score[t] == 1.0


@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_them_learns(form):
    torch.manual_seed(0)
    learner = sd.SelfDistillation(sd.tensor_train(small().float(), 4, form), sd.Rate(T))
    optimizer = torch.optim.SGD(learner.parameters(), 0.1, momentum=0.9)
    inputs, labels, losses = images(8).float(), torch.arange(8) % 5, []
    for _ in range(25):
        loss = learner.loss(learner(inputs), labels).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        assert learner.network(inputs, timesteps=None).logits.isfinite().all()  # the ANN twin
