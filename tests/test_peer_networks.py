"""The networks of other libraries that are benchmarked compute what ours do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spikedistill.bench import (
    peers,
)
from spikedistill.core.lif import LIF
from spikedistill.core.neuron import Neuron, spike_response
from spikedistill.models import create_model


def active_network(name: str, timesteps: int):
    """A network whose neurons fire in evaluation: its running statistics are those of a batch."""
    network = create_model(name, 7, width=8)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(16, 3, 32, 32), timesteps=timesteps)
    for norm in norms:
        norm.momentum = 0.1
    return network


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet19", "preact_resnet18", "speednet", "vgg11"])
def test_spikingjelly_computes_the_same_logits_and_gradients(name, functional):
    pytest.importorskip("spikingjelly")
    network = active_network(name, timesteps=3)
    peer = peers.SpikingJelly(network.body, 3, functional_neurons=functional).double().eval()
    network = network.double().eval()
    images, labels = torch.randn(4, 3, 32, 32).double(), torch.arange(4)
    ours = network(images, timesteps=3).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(peer(images), ours, rtol=0, atol=1e-13)

    network.train(), peer.train()
    gradients = []
    for logits, module in ((network(images, timesteps=3).logits, network), (peer(images), peer)):
        F.cross_entropy(logits, labels).backward()
        gradients.append({tuple(p.shape): torch.zeros(()) for p in module.parameters()})
        for p in module.parameters():
            gradients[-1][tuple(p.shape)] = gradients[-1][tuple(p.shape)] + p.grad.square().sum()
    assert gradients[0].keys() == gradients[1].keys()
    for shape, size in gradients[0].items():
        torch.testing.assert_close(gradients[1][shape], size, rtol=1e-10, atol=1e-18)


def test_peers_have_the_neurons_of_the_network():
    pytest.importorskip("spikingjelly")
    torch.manual_seed(0)
    neuron = Neuron(decay=1.0, start=0.5, detach_reset=False, threshold=0.7)
    network = create_model("speednet", 7, width=8, neuron=neuron).double()
    peer = peers.SpikingJelly(network.body, 4, functional_neurons=True).double()
    images = torch.randn(4, 3, 32, 32).double()
    found = []
    for logits, module in ((network(images, timesteps=4).logits, network), (peer(images), peer)):
        F.cross_entropy(logits, torch.arange(4)).backward()
        found.append([logits.detach(), next(m for m in module.modules() if isinstance(m, torch.nn.Linear)).weight.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="starts at 0 and leaks"):
        peers.SpikingJelly(network.body, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spikingjelly_compiled_computes_the_same():
    pytest.importorskip("spikingjelly")
    network = active_network("resnet18", timesteps=3)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    results = []
    for functional in (False, True):
        peer = peers.SpikingJelly(network.body, 3, functional_neurons=functional).eval()
        if functional:
            peer.compile(fullgraph=True)
        logits = peer(images)
        F.cross_entropy(logits, labels).backward()
        results.append((logits, [p.grad for p in peer.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_spikingjelly_is_built_of_its_own_layers():
    pytest.importorskip("spikingjelly")
    body = create_model("resnet18", 7, width=16).body
    peer = peers.SpikingJelly(body, 2)
    leaves = {type(m) for m in peer.body.modules() if not list(m.children())}
    torchs = {kind.__name__ for kind in leaves if kind.__module__.startswith("torch.")}
    assert torchs <= {"Identity", "Sequential"}  # the empty stem and empty shortcuts
    assert not any(kind.__module__.startswith("spikedistill") for kind in leaves)
    strided = peers.SpikingJelly(create_model("resnet18", 7, width=8).body, 2)
    assert any(type(m).__name__ == "StridedPointwise" for m in strided.modules())  # unsafe in oneDNN otherwise


def test_peers_leave_the_network_as_it_was():
    pytest.importorskip("spikingjelly")
    network = create_model("resnet18", 7, width=8)
    before = [type(m) for m in network.modules()]
    peers.SpikingJelly(network.body, 2)
    assert [type(m) for m in network.modules()] == before


def test_the_stem_sees_a_static_image_once():
    pytest.importorskip("spikingjelly")
    peer = peers.SpikingJelly(create_model("resnet18", 7, width=8).body, 5)
    shapes = []
    peer.stem.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    peer(torch.randn(2, 3, 8, 8))
    assert shapes == [(2, 8, 8, 8)]


def test_the_neuron_of_snntorch_is_the_preset_below_twice_the_threshold():
    pytest.importorskip("snntorch")
    current = 1.2 * torch.rand(6, 1000)  # v < 0.2 · 1 + 1.2
    expected = spike_response(current, Neuron())
    neuron = peers.snntorch_neuron(Neuron())
    assert torch.equal(torch.stack([neuron(step) for step in current]), expected)
    assert (expected.sum(0) > 1).any()


def test_snntorch_forgets_the_membrane_between_images():
    pytest.importorskip("snntorch")
    peer = peers.SnnTorch(active_network("resnet18", timesteps=3).body, 3).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(peer(images), peer(images))
        assert peer(images).std() > 0.1


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        torch.nn.AvgPool2d(3, 2, ceil_mode=True),
    ],
)
def test_a_layer_that_a_peer_does_not_have_is_refused(layer):
    pytest.importorskip("spikingjelly")
    with pytest.raises(ValueError, match="SpikingJelly has no layer like"):
        peers.SpikingJelly(torch.nn.Sequential(layer), 2)


def test_neurons_that_learn_or_stand_in_the_stem_are_refused():
    body = torch.nn.Sequential()
    body.add_module("stem", torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), LIF()))
    with pytest.raises(ValueError, match="the stem has neurons"):
        peers.take_stem(body)
    pytest.importorskip("spikingjelly")
    with pytest.raises(ValueError, match="neuron has no parameters"):
        peers.SpikingJelly(torch.nn.Sequential(LIF(decay=torch.nn.Parameter(torch.tensor(0.5)))), 2)
