"""Spiking transformers: structure, gradients, and parity with SpikingJelly's layers."""

from pathlib import Path

import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.core.signal import Signal
from spikedistill.errors import InvalidArgument, UnsupportedOperation
from spikedistill.models.attention import ChannelAttention, SelfAttention, TokenAttention, by_head

SMALL = {"dim": 16, "heads": 2, "ratio": 2}
NETWORKS = {
    "spikformer": {},
    "qkformer": {"depths": [1, 1, 1]},
    "spike_driven_transformer": {},
    "spike_driven_transformer, linear": {"attention": "linear"},
}


def network(which, seed=0, **options):
    torch.manual_seed(seed)
    name = which.split(",")[0]
    return sd.create_model(name, 10, **{**SMALL, **NETWORKS[which], **options}).double()


def images(count=3, size=32, seed=0):
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(net, rule):
    learner = sd.SelfDistillation(net, rule, branches=())
    learner.zero_grad()
    learner.loss(learner(images()), torch.tensor([1, 5, 7])).total.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("which", NETWORKS)
def test_one_step_has_the_gradient_of_bptt(which):
    net = network(which)
    rate, bptt = gradients(net, sd.Rate(1)), gradients(net, sd.BPTT(1))
    assert rate.keys() == bptt.keys()
    for name, gradient in rate.items():
        assert torch.allclose(gradient, bptt[name], rtol=1e-8, atol=1e-12), name
    assert sum(float(g.abs().sum()) for g in rate.values()) > 0


@pytest.mark.parametrize("which", NETWORKS)
def test_rates_are_the_means_of_the_spikes(which):
    net = network(which)
    net(images(), timesteps=4)  # batch norm sees something
    net.eval()
    out, _ = net.propagate(sd.Rate(4).encode(images()))
    assert torch.allclose(out.rate, net(images(), timesteps=4).logits, atol=1e-10)
    assert net(images(), timesteps=None).logits.shape == (3, 10)


@pytest.mark.parametrize("which", NETWORKS)
@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.ANN()], ids=str)
def test_one_definition_trains_by_every_rule_with_branches(which, rule):
    net = network(which)
    learner = sd.SelfDistillation(net, rule)
    output = learner(images())
    assert set(output.branches) == set(net.stages[:-1])
    learner.loss(output, torch.tensor([1, 5, 7])).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


def test_the_order_of_the_products_does_not_matter_to_the_value():
    torch.manual_seed(0)
    layer = SelfAttention(16, 4, sd.Neuron()).double()
    x = (torch.rand(2, 16, 5, 3) < 0.4).double()
    seen = []
    layer.neuron.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    layer(x)
    q, k, v = (by_head(part(x), 4) for part in (layer.q, layer.k, layer.v))
    weights = q.transpose(-2, -1) @ k  # [N, heads, L, L]: of each token to each other
    expected = (weights @ v.transpose(-2, -1)).transpose(-2, -1) * 0.125
    assert torch.allclose(seen[0], expected)


def test_token_attention_keeps_or_drops_whole_tokens_of_a_head():
    torch.manual_seed(0)
    layer = TokenAttention(8, 2, sd.Neuron()).double()
    x = sd.BPTT(2).encode((torch.rand(2, 3, 8, 4, 4) < 0.5).double(), over_time=True)
    seen = []
    layer.out.register_forward_pre_hook(lambda module, args: seen.append(args[0].values))
    k = layer.k(x)
    layer(x)
    kept = seen[0].unflatten(1, (2, 4)).flatten(3)  # [T·N, heads, d, L]
    whole = k.values.unflatten(1, (2, 4)).flatten(3)
    kept_tokens = kept.abs().sum(2) > 0
    assert torch.equal(kept, whole * kept_tokens[:, :, None])
    assert 0 < kept_tokens.double().mean() < 1


def test_the_spike_driven_transformer_feeds_spikes_alone():
    net = network("spike_driven_transformer")
    net(images(6), timesteps=4)
    net.eval()
    seen = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and "patches.layers.0" not in name:
            module.register_forward_pre_hook(
                lambda module, args: seen.append(set(args[0].values.unique().tolist()) <= {0.0, 1.0})
            )
    net(images(), timesteps=4)
    assert len(seen) > 10
    assert all(seen)


def test_channel_attention_is_the_sum_over_tokens():
    torch.manual_seed(0)
    layer = ChannelAttention(6, 2, sd.Neuron()).double()
    x = (torch.rand(2, 6, 3, 3) < 0.5).double()
    q, k, v = layer.q(x), layer.k(x), layer.v(x)
    expected = layer.out(q * torch.relu((k * v).sum((2, 3), keepdim=True)))
    assert torch.allclose(layer(x), expected)  # of plain tensors a neuron is a ReLU


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("spikformer", {"dim": 20}, "expected a multiple of 8"),
        ("spikformer", {"dim": 16, "heads": 3}, "16 channels cannot be shared by 3 heads; take a divisor of 16"),
        ("qkformer", {"depths": [1, 2]}, "expected three numbers of blocks"),
        ("qkformer", {"dim": 16, "heads": 8}, "4 channels cannot be shared by 8 heads"),
        ("spike_driven_transformer", {"attention": "softmax"}, "attention"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, words):
    with pytest.raises(InvalidArgument, match=words):
        sd.create_model(name, 10, **options)


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.Softmax(-1)], ids=["LayerNorm", "Softmax"])
def test_what_transformers_of_others_need_stays_refused_by_name(layer):
    net = sd.Network(nn.Sequential(nn.Linear(8, 8), sd.LIF(), layer), sample_dims=1)
    with pytest.raises(UnsupportedOperation, match=r"layer_norm|softmax"):
        net.propagate(sd.Rate(2).encode(torch.randn(4, 8)))


def test_the_neuron_behind_a_product_is_half_of_the_others():
    """Also where they start or are reset above half of the threshold, which is then half of it."""
    for neuron in (sd.Neuron(start=0.6), sd.Neuron(reset="hard", reset_value=0.7)):
        net = network("spikformer", neuron=neuron)
        halves = {m.neuron for m in net.modules() if isinstance(m, sd.LIF)} - {neuron}
        assert {(n.threshold, n.start, n.reset_value) for n in halves} == {
            (0.5, neuron.start / 2, neuron.reset_value / 2)
        }


def test_they_are_on_the_command_line(tmp_path):
    words = ["--model", "spikformer", "--model.dim", "16", "--model.heads", "2", "--model.depth", "1"]
    words += ["--data.train_rows", "64", "--data.test_rows", "40", "--optimizer.epochs", "1", "--timesteps", "2"]
    found = sd.train(sd.load_recipe("fashion-small", [*words, "--data.validation_rows", "0"]), tmp_path / "run")
    assert found.samples == 40
    assert sd.load(tmp_path / "run")(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


# ---------------------------------------------------------------- parity with SpikingJelly


NEURON = sd.Neuron(decay=0.5, threshold=2.0, reset="hard")
"""SpikingJelly's LIF with τ = 2 halves the input and has threshold 1: the spikes of this one, of doubled membranes."""


def copied(ours, theirs):
    """Give `theirs` the weights of `ours`; both register their layers in the order of the forward pass."""
    weighted = (nn.Conv2d, nn.Conv1d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    source = [m for m in ours.modules() if isinstance(m, weighted)]
    target = [m for m in theirs.modules() if isinstance(m, weighted)]
    return source, target


@torch.no_grad()
def give(source, target):
    """The weights of layers to one layer, which computes all of them at once (q, k and v)."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        values = [getattr(m, name, None) for m in source]
        place = getattr(target, name, None)
        if place is None:
            continue
        if values[0] is None:
            place.zero_()  # a bias before batch norm, which ours leaves out
        else:
            place.copy_(torch.cat(values).view(place.shape))


def warm(net):
    """Weights and statistics that are not those of the start, so that layers fire at every depth."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.2, 0.6)
    for _ in range(3):
        net.train()(images(4), timesteps=4)
    return net.eval()


def their_logits(theirs, timesteps=4):
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    functional.reset_net(theirs)
    frames = images().expand(timesteps, -1, -1, -1, -1)
    out = theirs.double().eval()(frames)
    return out.mean(0) if out.dim() == 3 else out


def pairs(ours, theirs, grouped):
    """(our layers, their layer) in order; `grouped` names those of ours that are one layer of theirs."""
    source, target = copied(ours, theirs)
    names = {id(m): name for name, m in ours.named_modules()}
    groups, k = [], 0
    while k < len(source):
        count = grouped(names[id(source[k])])
        if count > 1:  # conv, BN of each: first all convolutions, then all norms
            convolutions, norms = source[k : k + 2 * count : 2], source[k + 1 : k + 2 * count : 2]
            groups += [convolutions, norms]
            k += 2 * count
        else:
            groups.append([source[k]])
            k += 1
    assert len(groups) == len(target)
    return zip(groups, target, strict=True)


def test_spikformer_is_spikingjellys():
    models = pytest.importorskip("spikingjelly.activation_based.model.spikformer")
    ours = warm(network("spikformer", neuron=NEURON))
    theirs = models.Spikformer(
        T=4, img_size_h=32, img_size_w=32, patch_size=4, num_classes=10, embed_dims=16, num_heads=2, mlp_ratio=2.0,
        depths=2,
    ).double()  # fmt: skip
    for source, target in pairs(ours, theirs, lambda name: 3 if name.endswith("attention.q.0") else 1):
        give(source, target)
    logits = ours(images(), timesteps=4).logits
    assert torch.allclose(logits, their_logits(theirs), atol=1e-12)
    assert float(logits.detach().std()) > 0.01


def test_qkformer_is_spikingjellys():
    models = pytest.importorskip("spikingjelly.activation_based.model.qkformer")
    ours = warm(network("qkformer", neuron=NEURON, stem="imagenet"))
    theirs = models.QKFormer(T=4, num_classes=10, embed_dims=16, num_heads=(2, 2, 2), depths=(1, 1, 1), mlp_ratio=2.0)
    theirs = theirs.double()
    for k in range(3):
        stage = getattr(ours.body, f"stage{k + 1}")
        embedding, block = getattr(theirs, f"patch_embed{k + 1}"), getattr(theirs, f"stage{k + 1}")
        if k == 0:
            first = [m for m in ours.body.first.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
            mine = [*first, *copied(stage[0], embedding)[0]]
        else:
            mine = copied(stage[0], embedding)[0]
        for source, target in zip(mine, copied(stage[0], embedding)[1], strict=True):
            give([source], target)
        count = 3 if k == 2 else 2
        grouped = lambda name, count=count: count if name.endswith("attention.q.0") else 1  # noqa: E731
        for source, target in pairs(stage[1:], block, grouped):
            give(source, target)
    give([ours.body.head.classifier], theirs.head)
    logits = ours(images(), timesteps=4).logits
    assert torch.allclose(logits, their_logits(theirs), atol=1e-12)
    assert float(logits.detach().std()) > 0.01


def test_the_spike_driven_transformer_is_spikingjellys():
    models = pytest.importorskip("spikingjelly.activation_based.model.spike_driven_transformer")
    ours = warm(network("spike_driven_transformer", neuron=NEURON))
    theirs = models.SpikeDrivenTransformer(
        T=4, num_classes=10, embed_dims=16, num_heads=2, depths=2, mlp_ratio=2.0, pooling_stat="0011"
    ).double()  # fmt: skip
    for source, target in pairs(ours, theirs, lambda name: 1):
        give(source, target)
    logits = ours(images(), timesteps=4).logits
    assert torch.allclose(logits, their_logits(theirs), atol=1e-12)
    assert float(logits.detach().std()) > 0.01


def test_the_gradient_study_finds_what_is_known(monkeypatch):
    """At one step both gradients are the same."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import gradient_study

    batch = sd.Batch(images(), torch.tensor([1, 5, 7]))
    found = gradient_study.compared(network("spikformer"), batch, 1)
    assert len(found) > 10
    assert all(cosine == pytest.approx(1.0) and ratio == pytest.approx(1.0) for _, cosine, ratio, _ in found)
    assert min(cosine for _, cosine, _, _ in gradient_study.compared(network("spikformer"), batch, 4)) < 0.999


def test_a_product_is_not_a_plain_tensor():
    """Attention of signals gives a signal: nothing is taken out of it."""
    layer = SelfAttention(8, 2, sd.Neuron())
    x = sd.Rate(2).encode((torch.rand(2, 3, 8, 4, 4) < 0.5).float(), over_time=True)
    assert isinstance(layer(x), Signal)


@pytest.mark.parametrize("which", NETWORKS)
def test_neurons_behind_products_have_half_of_the_threshold(which):
    net = network(which, neuron=sd.Neuron(threshold=0.6))
    kinds = (SelfAttention, TokenAttention, ChannelAttention)
    behind = [module.neuron for module in net.modules() if isinstance(module, kinds)]
    assert {neuron.neuron.threshold for neuron in behind} == {0.3}
    others = {m.neuron.threshold for m in net.modules() if isinstance(m, sd.LIF) and m not in behind}
    assert others == {0.6}
