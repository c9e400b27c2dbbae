"""Networks, branches, conversion of foreign networks, the authors' checkpoints."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

import spikedistill as sd
from spikedistill.export import authors
from spikedistill.models import list_models


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "stem", "block", "total", "branches"),
    [
        ("resnet18", 100, "cifar", "light", 12_571_856, 1_351_724),
        ("preact_resnet34", 1000, "imagenet", "light+residual", 41_361_696, 19_555_512),
    ],
)
def test_parameter_counts_are_the_authors(name, classes, stem, block, total, branches):
    learner = sd.SelfDistillation(sd.create_model(name, classes, stem=stem), sd.Rate(4), branch_block=block)
    assert parameters(learner) == total
    assert parameters(learner.branches) == branches
    assert parameters(learner.strip()) == total - branches


TOKENS = {"dim": 8, "heads": 2}
SMALL = dict.fromkeys(("spikformer", "qkformer", "spike_driven_transformer"), TOKENS)
"""Options of the models that have no width."""


@pytest.mark.parametrize("name", [name for name in list_models() if name != "spiking_centernet"])
def test_every_model_trains_by_every_rule(name):
    images, labels = torch.randn(2, 1, 16, 16), torch.tensor([0, 4])
    for rule in (sd.Rate(2), sd.BPTT(2), sd.ANN()):
        net = sd.create_model(name, 5, in_channels=1, **SMALL.get(name, {"width": 2}))
        learner = sd.SelfDistillation(net, rule)
        out = learner(images)
        assert type(out) is sd.Output
        assert out.logits.shape == (2, 5)
        assert list(out.branches) == list(net.stages[:-1])
        assert list(out.features) == list(net.stages)
        learner.loss(out, labels).total.backward()
        assert all(p.grad is not None for p in learner.parameters())


def test_strip_gives_the_bare_network_with_the_same_outputs():
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=4), sd.Rate(4)).eval()
    images = torch.randn(2, 3, 16, 16)
    bare = learner.strip()
    assert not any("branch" in name for name, _ in bare.named_parameters())
    torch.testing.assert_close(bare(images, timesteps=4).logits, learner(images).logits)


def test_branches_can_be_chosen_by_stage():
    net = sd.create_model("resnet18", 10, width=4)
    learner = sd.SelfDistillation(net, sd.Rate(2), branches=["layer2"])
    assert list(learner(torch.randn(1, 3, 16, 16)).branches) == ["layer2"]
    with pytest.raises(ValueError, match="unknown stage for a branch 'layer9'"):
        sd.SelfDistillation(net, sd.Rate(2), branches=["layer9"])
    with pytest.raises(ValueError, match="unknown stage for a branch 'layer4'"):
        sd.SelfDistillation(net, sd.Rate(2), branches=["layer4"])  # the last stage has the network's own head
    with pytest.raises(ValueError, match=r"Network\(body, stages="):
        sd.SelfDistillation(nn.Sequential(nn.Conv2d(3, 4, 3), sd.LIF()), sd.Rate(2))


def test_building_branches_leaves_the_network_as_it_was():
    net = sd.create_model("resnet18", 10, width=4)
    before = copy.deepcopy(net.state_dict())
    sd.SelfDistillation(net, sd.Rate(2))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "resnet81"}, "unknown model 'resnet81'; did you mean .*resnet18"),
        ({"name": "resnet18", "num_classes": 0}, "num_classes is 0"),
        ({"name": "resnet18", "width": 0}, "width is 0"),
        ({"name": "vgg11", "stem": "imagenet"}, "unknown option of vgg11 'stem'"),
        ({"name": "resnet18", "stem": "imagnet"}, "unknown stem of resnet18 'imagnet'; did you mean imagenet"),
    ],
)
def test_bad_models_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sd.create_model(**kwargs)


FOREIGN = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "torchvision vgg11_bn": lambda: torchvision.models.vgg11_bn(num_classes=10),
    "timm resnet26d": lambda: timm.create_model("resnet26d", num_classes=10),
    "timm vgg11": lambda: timm.create_model("vgg11", num_classes=10),
}


@pytest.mark.whole
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_networks_become_spiking_and_train(name):
    torch.manual_seed(0)
    model = FOREIGN[name]()
    images = torch.randn(2, 3, 64, 64)
    net = sd.to_spiking(model)
    assert not any(isinstance(m, sd.LIF) for m in model.modules())  # the original is left alone
    assert "became LIF neurons" in net.notes[0]
    assert any("max pooling" in note for note in net.notes)
    torch.testing.assert_close(net.eval()(images, timesteps=None).logits, model.eval()(images))
    learner = sd.SelfDistillation(net.train(), sd.Rate(2), example=images)
    assert len(learner.branches) == len(net.stages) - 1 >= 3
    learner.loss(learner(images), torch.tensor([1, 2])).total.backward()
    assert all(p.grad is not None for p in learner.parameters())


def test_networks_that_cannot_spike_are_refused_with_all_reasons():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.ReLU())
    with pytest.raises(sd.SpikedistillError, match=r"(?s)1 \(LayerNorm\).*2 \(GELU\)"):
        sd.to_spiking(model)
    with pytest.raises(sd.SpikedistillError, match="no ReLU or ReLU6 module to replace"):
        sd.to_spiking(nn.Linear(4, 4))


AUTHORS = {
    ("resnet18", "cifar", "light"): [
        "conv0.0.weight",
        "conv0.1.running_var",
        "layer1.0.bn1.weight",
        "layer2.0.shortcut.0.weight",
        "layer2.0.shortcut.1.bias",
        "scala1.0.op.0.weight",
        "scala1.2.op.6.running_mean",
        "scala1.0.residual.weight",
        "scala3.0.res_bn.weight",
        "fc1.weight",
        "fc3.bias",
        "classifier.0.weight",
    ],
    ("resnet19", "cifar", "light"): ["classifier.0.weight", "classifier.2.bias", "scala2.0.op.1.weight", "fc2.weight"],
    ("preact_resnet34", "imagenet", "light+residual"): [
        "conv1.bias",
        "bn1.weight",
        "layer1.2.conv2.bias",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.running_mean",
        "scala1.0.op.0.weight",
        "scala1.1.conv1.weight",
        "scala1.1.bn2.bias",
        "scala1.5.conv2.weight",
        "fc2.weight",
        "fc.bias",
    ],
}


@pytest.mark.parametrize("case", AUTHORS, ids=lambda case: case[0])
def test_the_authors_checkpoints_round_trip(case):
    arch, stem, block = case
    torch.manual_seed(0)
    learner = sd.SelfDistillation(sd.create_model(arch, 7, width=4, stem=stem), sd.Rate(3), branch_block=block)
    with torch.no_grad():
        for tensor in learner.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
    keys = authors.authors_keys(learner)
    assert set(AUTHORS[case]) <= set(keys)
    assert sorted(keys.values()) == sorted(learner.state_dict())
    theirs = {f"module.{key}": learner.state_dict()[ours] for key, ours in keys.items()}
    # as their scripts write it
    written = {"best_acc": 0.7, "best_epoch": 3, "best_net": theirs, "optimizer": {"state": {}}}
    loaded = authors.load_authors_checkpoint(written, arch, 7, timesteps=3)
    for name, tensor in learner.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    bare = {key: tensor for key, tensor in theirs.items() if not key.startswith(("module.scala", "module.fc1"))}
    if arch == "resnet19":
        bare = {key: tensor for key, tensor in bare.items() if not key.startswith("module.fc")}
        assert not authors.load_authors_checkpoint(bare, arch, 7, timesteps=3).branches


def test_foreign_checkpoints_are_refused():
    with pytest.raises(sd.SpikedistillError, match="no resnet18 of the authors"):
        authors.load_authors_checkpoint({"a.weight": torch.zeros(1)}, "resnet18", 10, 4)
    learner = sd.SelfDistillation(sd.create_model("resnet18", 7, width=4), sd.Rate(3))
    theirs = {key: learner.state_dict()[ours] for key, ours in authors.authors_keys(learner).items()}
    with pytest.raises(sd.SpikedistillError, match=r"classifier.* is \(7, 32\), expected \(10, 32\)|fc.*expected"):
        authors.load_authors_checkpoint(theirs, "resnet18", 10, 4)
    for wrong, words in (
        ({"best_acc": 0.7}, "no weights at the top of this file, nor below best_net.*it holds best_acc"),
        ({0: "a"}, "it holds 0"),
        (theirs | {"conv0.0.weight": torch.full((4, 3, 3, 3), torch.nan)}, "conv0.0.weight holds numbers"),
        (theirs | {"module.conv0.0.weight": theirs["conv0.0.weight"]}, "stand there twice"),
        (theirs | {"conv0.0.weight": theirs["conv0.0.weight"].to("meta")}, "no ordinary tensor"),
    ):
        with pytest.raises(sd.errors.CheckpointError, match=words):
            authors.load_authors_checkpoint(wrong, "resnet18", 7, 4)
    del theirs["layer1.0.bn1.weight"]
    with pytest.raises(sd.SpikedistillError, match=r"missing \['network.body.layer1.0.bn1.weight'\]"):
        authors.load_authors_checkpoint(theirs, "resnet18", 7, 4)
    with pytest.raises(ValueError, match="unknown architecture"):
        authors.load_authors_checkpoint({}, "resnet50", 10, 4)


def test_a_network_without_stages_says_so():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(1, 3, 8, 8))
    with pytest.warns(UserWarning, match=r"no stages were found.*stages=\[...\]\), from 0, 1, 2, 3"):
        net = sd.to_spiking(model)
    assert any("no stages" in note for note in net.notes)
    assert sd.to_spiking(model, stages=()).stages == ()  # asked for: no warning
    assert sd.to_spiking(model, stages=["1"]).stages == ("1",)


def test_a_trained_network_says_that_it_has_to_be_trained_again():
    model = torchvision.models.resnet18(num_classes=5)
    sd.to_spiking(model)  # a new one: no warning
    model.train()(torch.randn(2, 3, 32, 32))
    with pytest.warns(UserWarning, match="the accuracy of a trained network is gone"):
        sd.to_spiking(model)


def test_one_module_under_two_names_is_replaced_at_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            self.first = self.second = nn.ReLU()

        def forward(self, x):
            return self.head(self.second(self.first(self.conv(x))).mean((2, 3)))

    net = sd.to_spiking(Shared(), stages=())
    assert isinstance(net.body.first, sd.LIF)
    assert isinstance(net.body.second, sd.LIF)
    assert net(torch.randn(2, 3, 8, 8), timesteps=2).logits.shape == (2, 5)


def test_a_reset_value_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="reset_value is nan"):
        sd.Neuron(reset="hard", reset_value=float("nan"))


def test_one_stage_is_not_enough_for_a_branch():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), sd.LIF(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    for branches in (None, ["1"]):
        with pytest.raises(ValueError, match="has one stage, 1, and the last stage gets no branch"):
            sd.SelfDistillation(sd.Network(body, ["1"]), timesteps=2, branches=branches)
    assert not sd.SelfDistillation(sd.Network(body, ["1"]), timesteps=2, branches=()).branches
    with pytest.raises(ValueError, match="the learning rule is 'bptt'"):
        sd.SelfDistillation(body, "bptt", branches=())


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"tau": 2.0}, r"tau is called decay, or neuron=Neuron.from_tau\(tau\)"),
        ({"v_threshold": 1.0}, "v_threshold is called threshold here"),
        ({"beta": 0.9}, "beta is called decay here"),
        ({"treshold": 1.0}, "did you mean threshold"),
        ({"surrogate": "atan"}, "expected a Surrogate"),
    ],
)
def test_the_words_of_other_libraries_are_translated(constants, message):
    with pytest.raises(ValueError, match=message):
        sd.LIF(**constants)


def test_an_objective_that_returns_a_tensor_is_told_what_to_return():
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), sd.LIF())
    learner = sd.SelfDistillation(body, timesteps=2, branches=(), objectives=lambda output, batch: output.logits.sum())
    with pytest.raises(ValueError, match=r"returned a Tensor; expected Terms\(total, parts\)"):
        learner.loss(learner(torch.randn(2, 3, 2, 2)), torch.tensor([0, 1]))
