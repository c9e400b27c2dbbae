"""Rate-based backpropagation in one pass: its invariant, its gradients against the two-pass procedure, its cost."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import lif_autograd, two_pass
from torch import nn

import spikedistill as sd
from spikedistill.core.dual import stitch

MODELS = ["resnet18", "resnet19", "preact_resnet18", "ms_resnet18", "speednet", "vgg11"]


def small(name, **kwargs):
    return sd.create_model(name, 10, width=4, **kwargs).double()


def batch(count=3, size=16, channels=3, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, channels, size, size, dtype=torch.float64, generator=generator)
    return images, torch.randint(0, classes, (count,), generator=generator)


def one_pass(learner, images, labels):
    learner = copy.deepcopy(learner).train()
    terms = learner.loss(learner(images), labels)
    terms.total.backward()
    return terms.total.detach(), {n: p.grad for n, p in learner.named_parameters()}, dict(learner.named_buffers())


def assert_same_step(learner, images, labels):
    loss, gradients, buffers = one_pass(learner, images, labels)
    expected_loss, expected, expected_buffers = two_pass(learner, images, labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=1e-13)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-13, msg=name)
    for name, buffer in expected_buffers.items():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-12, atol=1e-13, msg=name)
    assert any(gradient.abs().sum() > 0 for name, gradient in gradients.items() if "body" in name)


@pytest.mark.parametrize("name", MODELS)
def test_one_pass_equals_two_passes(name):
    torch.manual_seed(1)
    network = small(name, neuron=sd.Neuron())  # the reference has the preset neuron
    assert_same_step(sd.SelfDistillation(network, sd.Rate(3)), *batch())


def test_one_pass_equals_two_passes_with_the_imagenet_stem_and_branches():
    torch.manual_seed(1)
    net = small("preact_resnet18", stem="imagenet")
    assert_same_step(sd.SelfDistillation(net, sd.Rate(2), branch_block="light+residual"), *batch(size=64))


def test_one_pass_equals_two_passes_on_event_frames():
    torch.manual_seed(1)
    frames = (torch.rand(4, 3, 2, 16, 16) < 0.3).double()
    assert_same_step(sd.SelfDistillation(small("resnet18", in_channels=2), sd.Rate(4)), frames, batch()[1])


def test_an_unmodified_torchvision_resnet_equals_two_passes():
    torch.manual_seed(1)
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10).double()
    net = sd.to_spiking(model)
    learner = sd.SelfDistillation(net, sd.Rate(3), branches=())
    images, labels = batch(size=32)
    # one module per use for the reference, which keeps state between its passes; torchvision shares its ReLU
    reference = copy.deepcopy(learner)
    for block in [reference.network.body, *(layer[0] for layer in _layers(reference))]:
        block.relu = sd.LIF()
    for block in (layer[0] for layer in _layers(reference)):
        block.relu2 = sd.LIF()
        block.forward = _block_forward.__get__(block)
    loss, gradients, _ = one_pass(learner, images, labels)
    expected_loss, expected, _ = two_pass(reference, images, labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=1e-13)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-13, msg=name)


def _layers(learner):
    body = learner.network.body
    return [body.layer1, body.layer2, body.layer3, body.layer4]


def _block_forward(self, x):
    identity = x if self.downsample is None else self.downsample(x)
    return self.relu2(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + identity)


class Odd(nn.Module):
    """What users write: concatenation, in-place and scaled residuals, dropout, chunks, a mean, a bias without norm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.lif = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), sd.LIF()
        self.conv2 = nn.Conv2d(6, 6, 3, padding="same", groups=3)
        self.conv3, self.bn3 = nn.Conv2d(12, 8, 2, stride=2), nn.BatchNorm2d(8, affine=False)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, bias=False)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(8, 10)

    def forward(self, x):
        x = self.lif(self.bn1(self.conv1(x)))
        x = torch.cat([x, self.lif(self.conv2(x) * 1.5 - 0.2)], dim=1)
        y = self.lif(self.bn3(self.conv3(x)))
        y = y + self.lif(self.up(y))[:, :, ::2, ::2]
        y += 0.5 * y * self.scale
        first, second = y.chunk(2, dim=1)
        y = torch.cat((second, first), 1)
        return self.fc(self.drop(y).mean((2, 3)).view(y.size(0), -1))


def signals_of(module, images, steps):
    seen = []
    hooks = [m.register_forward_hook(lambda m, a, out: seen.append(out)) for m in module.modules()]
    module(sd.Rate(steps).encode(images))
    for hook in hooks:
        hook.remove()
    return [s for s in seen if isinstance(s, sd.Dual)]


@pytest.mark.parametrize("name", [*MODELS, "odd"])
@pytest.mark.parametrize("training", [True, False])
def test_the_rate_is_the_mean_of_the_spikes_after_every_layer(name, training):
    torch.manual_seed(2)
    body = Odd().double() if name == "odd" else small(name).body
    signals = signals_of(body.train(training), batch()[0], 5)
    assert len(signals) > 5
    for signal in signals:
        mean = signal.values.unflatten(0, (5, -1)).mean(0)
        torch.testing.assert_close(signal.rate.detach(), mean, rtol=1e-11, atol=1e-12)
        assert not signal.values.requires_grad


def test_a_users_module_trains_and_agrees_in_every_mode():
    torch.manual_seed(3)
    body = Odd().double().eval()
    images, _ = batch()
    net = sd.Network(body)
    rate = sd.SelfDistillation(net, sd.Rate(4), branches=())(images)
    torch.testing.assert_close(rate.logits, net(images, timesteps=4).logits)
    rate.logits.sum().backward()
    assert all(p.grad is not None for p in body.parameters())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(3, 9), st.integers(1, 3), st.integers(0, 999)
)
def test_shapes(steps, count, channels, size, stride, seed):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride, padding=1),
        nn.BatchNorm2d(4),
        sd.LIF(),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    images = 3 * torch.randn(count, channels, size, size, dtype=torch.float64)
    learner = sd.SelfDistillation(body, sd.Rate(steps), branches=())
    if count * ((size - 1) // stride + 1) ** 2 == 1:
        return  # one value per channel: batch norm refuses, as torch does
    assert_same_step(learner, images, torch.randint(0, 3, (count,)))


def test_one_step_of_rate_equals_one_step_of_bptt():
    """T = 1: the rate gradient is the surrogate gradient."""
    torch.manual_seed(4)
    net = small("resnet18")
    images, labels = batch()
    gradients = {}
    for rule in (sd.Rate, sd.BPTT):
        learner = sd.SelfDistillation(copy.deepcopy(net), rule(1), branches=())
        learner.loss(learner(images), labels).total.backward()
        gradients[rule] = [p.grad for p in learner.parameters()]
    for a, b in zip(gradients[sd.Rate], gradients[sd.BPTT], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 1.7])
def test_one_layer_with_constant_input_has_the_gradient_of_bptt(threshold):
    torch.manual_seed(5)
    layer = nn.Sequential(nn.Linear(6, 9), sd.LIF(threshold=threshold)).double()
    images = torch.randn(4, 6, dtype=torch.float64)
    gradients = {}
    for rule in (sd.Rate, sd.BPTT):
        layer.zero_grad()
        layer(rule(6).encode(images)).rate.square().sum().backward()
        gradients[rule] = [p.grad.clone() for p in layer.parameters()]
    torch.testing.assert_close(gradients[sd.Rate], gradients[sd.BPTT], rtol=1e-12, atol=1e-14)


def test_bptt_equals_autograd_through_a_network_unrolled_by_hand():
    torch.manual_seed(6)
    first, second = nn.Linear(6, 9).double(), nn.Linear(9, 3).double()
    body = nn.Sequential(first, sd.LIF(detach_reset=False), second)
    images = torch.randn(4, 6, dtype=torch.float64)
    logits = body(sd.BPTT(5).encode(images)).rate
    logits.square().sum().backward()
    found = [p.grad.clone() for p in body.parameters()]
    body.zero_grad()
    spikes = lif_autograd(first(images).unsqueeze(0).expand(5, 4, 9), sd.Neuron(detach_reset=False))
    by_hand = second(spikes).mean(0)
    by_hand.square().sum().backward()
    torch.testing.assert_close(logits, by_hand)
    torch.testing.assert_close(found, [p.grad for p in body.parameters()], rtol=1e-11, atol=1e-13)


def test_running_statistics_are_updated_once_per_step():
    net = small("resnet18")
    learner = sd.SelfDistillation(net, sd.Rate(4))
    learner(batch()[0])
    counts = {int(m.num_batches_tracked) for m in learner.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counts == {1}


def saved_bytes(learner, images):
    """Bytes that autograd keeps for the backward, each storage once; parameters do not count."""
    parameters = {p.untyped_storage().data_ptr() for p in learner.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        learner.loss(learner(images), torch.zeros(len(images), dtype=torch.long))
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("name", MODELS)
def test_bytes_saved_for_the_backward_do_not_grow_with_timesteps(name):
    images, _ = batch()
    few = saved_bytes(sd.SelfDistillation(small(name), sd.Rate(2)), images)
    many = saved_bytes(sd.SelfDistillation(small(name), sd.Rate(8)), images)
    assert many == few
    through_time = saved_bytes(sd.SelfDistillation(small(name), sd.BPTT(8), branches=()), images)
    assert through_time > 2 * many  # the measure does see memory that grows


def test_static_input_is_computed_once_until_the_first_neuron(monkeypatch):
    batches = []
    net = small("resnet18").eval()
    original = net.body.stem[0]._conv_forward
    monkeypatch.setattr(net.body.stem[0], "_conv_forward", lambda x, w, b: (batches.append(x), original(x, w, b))[1])
    for rule in (sd.Rate(4), sd.BPTT(4)):
        batches.clear()
        net.propagate(rule.encode(batch()[0]))
        assert isinstance(batches[0], sd.Static)
        assert batches[0].rate.shape[0] == 3
    stem = net.body.stem(sd.Rate(4).encode(batch()[0]))
    assert isinstance(stem, sd.Static)


def test_calling_twice_gives_the_same_and_leaves_nothing_behind():
    torch.manual_seed(7)
    learner = sd.SelfDistillation(small("resnet18"), sd.Rate(4)).eval()
    images, _ = batch()
    before = {id(m): sorted(m.__dict__) for m in learner.modules()}
    with torch.no_grad():
        first, second = learner(images), learner(images)
    assert torch.equal(first.logits, second.logits)
    assert {id(m): sorted(m.__dict__) for m in learner.modules()} == before


def test_the_ann_twin_is_the_relu_network():
    torch.manual_seed(8)
    net = small("resnet18").eval()
    twin = copy.deepcopy(net.body)
    for module in twin.modules():
        for name, child in module.named_children():
            if isinstance(child, sd.LIF):
                setattr(module, name, nn.ReLU())
    images, _ = batch()
    torch.testing.assert_close(net(images, timesteps=None).logits, twin(images))


def test_early_exit_logits_are_those_of_fewer_timesteps():
    torch.manual_seed(9)
    net = small("resnet18")
    images, _ = batch()
    net(images, timesteps=2)  # move the running statistics
    net.eval()
    over_time = net.logits_over_time(images, 6)
    for steps in (1, 3, 6):
        torch.testing.assert_close(over_time[:steps].mean(0), net(images, timesteps=steps).logits)


def test_stitch():
    value, source = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0], requires_grad=True)
    out = stitch(value, 3 * source)
    assert out.tolist() == [1.0, 2.0]
    out.sum().backward()
    assert source.grad.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="differ in shape"):
        stitch(torch.zeros(2), torch.zeros(3))
