"""Networks as people have them: layers, wrappers and numbers that ours do not have, under every learning rule."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import spikedistill as sd
from spikedistill.core.modules import evaluating
from spikedistill.core.network import rate
from spikedistill.core.output import Output
from spikedistill.errors import InvalidArgument, UnsupportedOperation
from spikedistill.machine.device import autocast, to_channels_last
from spikedistill.models.branches import Branch
from spikedistill.models.layers import Depthwise
from spikedistill.training.teachers import FrozenTeacher

RULES = [sd.Rate(2), sd.BPTT(2), sd.ANN(), sd.RateTwin(2)]


def images(count=4, size=8, channels=3):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def small(width=8, **norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width, **norm), sd.LIF(sd.Neuron(threshold=0.3))]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width, **norm), sd.LIF(sd.Neuron(threshold=0.3))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


CORRUPTING = """
import torch, spikedistill as sd
from torch import nn
torch.manual_seed(0)
body = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), sd.LIF(), nn.Conv2d(4, 16, 1, stride=2), sd.LIF(), nn.Flatten(), nn.Linear(4096, 5)
)
learner = sd.SelfDistillation(body, sd.ANN(), branches=()).to(memory_format=torch.channels_last)
for _ in range(10):
    learner.loss(learner(torch.randn(16, 3, 32, 32)), torch.arange(16) % 5).total.backward()
"""


def test_the_twin_of_a_strided_pointwise_convolution_leaves_the_memory_whole():
    """oneDNN writes outside its workspace there, and ended the process."""
    done = subprocess.run([sys.executable, "-c", CORRUPTING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (2, "valid"), (2, 1), ((2,), 0), ((2, 1), (0,))])
def test_convolutions_of_the_twin_are_the_same_numbers(stride, padding):
    layer = nn.Conv2d(4, 6, 1, stride=stride, padding=padding).double()
    x = images(channels=4).double().requires_grad_()
    ours = x.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    out, _ = sd.Network(layer).propagate(ours)
    (found,) = torch.autograd.grad(out.square().sum(), ours)
    torch.testing.assert_close(out, layer(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def depthwise(kernel, stride, groups=8):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), sd.LIF(sd.Neuron(threshold=0.3)), layer, nn.Flatten())


class Backwards(TorchDispatchMode):
    """The dtypes that backwards of convolutions in groups were given."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default and args[9] > 1:
            self.dtypes += [t.dtype for t in args[:3]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "slow"), [(3, 2, 8, True), (5, 1, 8, True), (3, 1, 8, False), (3, 2, 4, False)]
)
def test_depthwise_convolutions_that_onednn_is_slow_at_are_trained_in_float32(rule, kernel, stride, groups, slow):
    """Its backward in bf16 took up to 60 times as long (docs/LOG.md, 2026-11-30)."""
    learner = sd.SelfDistillation(depthwise(kernel, stride, groups), rule, branches=())
    gradients = {}
    for precision in ("fp32", "bf16"):
        learner.zero_grad()
        with autocast(precision, torch.device("cpu")), Backwards() as seen:
            out = learner(images()).logits
        assert out.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        with seen:
            out.float().square().mean().backward()
        gradients[precision] = [p.grad for p in learner.network.parameters()]
    assert seen.dtypes == [torch.float32 if slow else torch.bfloat16] * 3
    for found, expected in zip(gradients["bf16"], gradients["fp32"], strict=True):
        assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("dims", [3, 4])
def test_the_depthwise_convolutions_of_a_branch_are_trained_in_float32(dims):
    branch = to_channels_last(Branch([8, 16], 5, dims=dims))
    features = torch.rand(4, *[8] * (dims - 1), requires_grad=True)
    with autocast("bf16", features.device), Backwards() as seen:
        branch(features).sum().backward()
    assert sorted(map(str, seen.dtypes)) == ["torch.bfloat16"] * 3 + ["torch.float32"] * 3  # the second has no stride


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_depthwise_convolutions_go_with_checkpoints(rule):
    """What is kept of one is of the dtype that it is computed in, inside a guard and outside."""

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = depthwise(3, 2)

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    torch.manual_seed(0)
    layers = Checkpointed()
    grads = []
    for body in (layers, layers.body):
        learner = sd.SelfDistillation(body, rule, branches=())
        learner.zero_grad()
        with autocast("bf16", torch.device("cpu")):
            torch.manual_seed(1)
            out = learner(images()).logits
        out.float().square().mean().backward()
        grads.append([p.grad.clone() for p in learner.network.parameters()])
    assert grads[0][1].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_depthwise_convolutions_of_the_twin_go_with_operations_in_place():
    found = []
    for inplace in (True, False):
        layers = depthwise(3, 2)
        layers.insert(3, nn.ReLU(inplace))
        learner = sd.SelfDistillation(layers, sd.ANN(), branches=())
        with autocast("bf16", torch.device("cpu")):
            out = learner(images()).logits
        out.float().square().mean().backward()
        found.append([out, *(p.grad for p in learner.network.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_depthwise_convolutions_have_sizes_without_numbers(rule):
    with torch.device("meta"):
        network = sd.Network(depthwise(3, 2))
        out, _ = network.propagate(rule.encode(torch.empty(4, 3, 8, 8)))
    assert rate(out).shape == (4, 8 * 4 * 4)


def test_depthwise_convolutions_of_doubles_stay_double():
    layer = Depthwise(8, 8, 3, stride=2, groups=8).double()
    x = images(channels=8).double().requires_grad_()
    with autocast("bf16", x.device):
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, 2, groups=8), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="type"):
        Depthwise(8, 8, 3, stride=2, groups=8)(x.bfloat16())


def test_scores_by_timesteps_where_batch_norm_looks_at_the_whole_run():
    net = sd.Network(small(track_running_stats=False)).eval()
    x = images(60)
    with torch.no_grad():
        net.body[-1].bias -= net(x, timesteps=1).logits.mean(0)  # so that samples have different answers
    labels = net(x, timesteps=1).logits.argmax(1)
    assert not labels.equal(net.logits_over_time(x, 8)[0].argmax(1))
    assert sd.evaluate(net, [(x, labels)], [1, 8]).score[1] == 1.0


def test_spikes_of_samples_of_several_sizes_are_their_mean():
    net = small().eval()
    batches = [(images(4, 8), torch.zeros(4).long()), (images(4, 16), torch.zeros(4).long())]
    alone = [sd.evaluate(net, [batch], 4).spikes_per_sample for batch in batches]
    assert sd.evaluate(net, batches, 4).spikes_per_sample == pytest.approx(sum(alone) / 2)
    with pytest.raises(InvalidArgument, match="different sizes"):
        sd.operations(net, batches, 4)


def test_features_are_what_left_the_stage_whatever_works_in_place_behind_it():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.neuron, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), sd.LIF(), nn.Linear(4, 2)

        def forward(self, x):
            y = self.a(x)
            y += self.b(x)
            return self.head(self.neuron(y).mean((2, 3)))

    net = sd.Network(Summed(), stages=["a"])
    torch.testing.assert_close(net(images(), timesteps=None).features["a"], net.body.a(images()))


def test_a_teacher_answers_as_it_was_trained():
    x = images()
    net = sd.Network(small())
    net(x, timesteps=4)  # statistics
    learner = sd.SelfDistillation(net, sd.Rate(4), branches=())
    spikes, twin = (net.eval()(x, timesteps=t).logits for t in (4, None))
    assert not torch.allclose(spikes, twin)
    torch.testing.assert_close(FrozenTeacher(learner)(x).logits, spikes)
    torch.testing.assert_close(FrozenTeacher(learner, timesteps=None)(x).logits, twin)
    torch.testing.assert_close(FrozenTeacher(net)(x).logits, twin)
    torch.testing.assert_close(FrozenTeacher(net.body, timesteps=4)(x).logits, spikes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_student_of_other_numbers_than_its_teacher(dtype):
    x, teacher = images(), small()
    sd.Network(teacher)(x, timesteps=None)
    objectives = [sd.Distillation(teacher="t")]
    learner = sd.SelfDistillation(
        small().to(dtype), sd.Rate(2), branches=(), objectives=objectives, teachers={"t": teacher}
    )
    terms = learner.loss(learner(x.to(dtype)), torch.arange(4), x.to(dtype))
    terms.total.backward()
    assert terms.total.isfinite()


def test_distillation_of_maps_is_refused():
    maps = torch.rand(4, 2, 3, 3)
    batch = sd.Batch(images(), None, {"t": Output(maps, {}, {})})
    with pytest.raises(
        InvalidArgument, match=r"Distillation compares logits \[N, classes\]; this network gives \(4, 2"
    ):
        sd.Distillation(teacher="t")(Output(maps, {}, {}), batch)


def test_three_dimensions_can_be_tuned_and_taught():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), sd.LIF(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    )
    net = nn.Sequential(body, nn.Linear(4, 2))
    x = torch.rand(2, 1, 4, 4, 4)
    learner = sd.SelfDistillation(net, sd.Rate(2), branches=(), example=x)
    sd.tune(learner, x, samples=10)
    net(x)
    assert FrozenTeacher(net)(x).logits.shape == (2, 2)
    mixed = to_channels_last(nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv2d(2, 3, 3)))
    assert mixed[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_validation_loss_with_maps_needs_no_gradient():
    torch.manual_seed(0)
    teacher = sd.create_model("resnet18", 3, width=4)
    teacher(images(), timesteps=None)
    objectives = [sd.ActivationMapDistillation(teacher="t")]
    net = sd.create_model("resnet18", 3, width=4)
    learner = sd.SelfDistillation(net, sd.Rate(2), branches=(), objectives=objectives, teachers={"t": teacher})
    x, labels = images(), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        found = learner.loss(learner(x), labels, x).total
    torch.testing.assert_close(found, learner.loss(learner(x), labels, x).total.detach())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_looked_through(wrap):
    net = sd.Network(small())
    assert sd.evaluate(wrap(net), [(images(), torch.arange(4))], 2).samples == 4
    assert sd.evaluate(wrap(sd.SelfDistillation(net, sd.Rate(2), branches=())), [(images(), torch.arange(4))], 2)


def test_a_network_of_relus_is_converted_with_its_stages():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    net = sd.to_spiking(sd.Network(body, stages=["1"], notes=["mine"], sample_dims=3))
    assert isinstance(net.body[1], sd.LIF)
    assert net.stages == ("1",)
    assert net.notes[0] == "mine"
    assert net(images(), timesteps=2).logits.shape == (4, 2)
    assert isinstance(body[1], nn.ReLU)


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.ReLU()])
        self.pair, self.unused, self.head = Pair(), nn.Identity(), nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.layer1:
            x = layer(x)
        return self.head(self.pair(x)[0].mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_what_is_no_stage_is_said_to_be_none():
    with pytest.warns(UserWarning, match="no stages were found"):
        assert sd.to_spiking(Lists()).stages == ()
    for stage, message in (
        ("unused", "unused of Lists was not called"),
        ("pair", r"output of pair \(Pair\) is a tuple"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            sd.to_spiking(Lists(), stages=[stage])(images(), timesteps=2)


def test_a_head_that_ends_with_a_neuron_is_told():
    def head(*more):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 2, 1), *more))

    with pytest.warns(UserWarning, match="what it answers are firing rates"):
        sd.to_spiking(head(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), stages=())
    assert not any("firing rates" in note for note in sd.to_spiking(head(nn.Flatten()), stages=()).notes)


@pytest.mark.parametrize("equation", ["b...c,cd->b...d", "bijc,cd->bijd"])
def test_operations_of_einsum_with_dots(equation):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron, self.weight, self.head = sd.LIF(), nn.Parameter(torch.rand(3, 5)), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(torch.einsum(equation, self.neuron(x).permute(0, 2, 3, 1), self.weight).mean((1, 2)))

    assert sd.operations(Mixed(), [images(2, 4)], 2).macs == 4 * 4 * 3 * 5 + 10


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_stochastic_depth_as_timm_writes_it(rule):
    class Dropped(nn.Module):
        def forward(self, x):
            mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
            return x * mask.div_(0.5)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), sd.LIF(), Dropped(), nn.Flatten(), nn.Linear(144, 2))
    learner = sd.SelfDistillation(net, rule, branches=())
    learner.loss(learner(images()), torch.tensor([0, 1, 0, 1])).total.backward()
    assert net[0].weight.grad.isfinite().all()


def test_matrices_for_each_sample_are_refused_at_every_number_of_steps():
    class Own(nn.Module):
        def forward(self, x):
            return x @ torch.rand(4, 12, 5)

    for timesteps in (1, 2):
        with pytest.raises(UnsupportedOperation, match="one matrix for all samples"):
            sd.Network(nn.Sequential(nn.Flatten(), nn.Linear(192, 12), sd.LIF(), Own()))(images(), timesteps=timesteps)


def test_a_layer_that_does_more_than_keep_its_mode_gets_it_back():
    class Merging(nn.Linear):
        def train(self, mode=True):
            if mode != self.training:
                self.weight.data += -1 if mode else 1
            return super().train(mode)

    layer = Merging(2, 2)
    before = layer.weight.clone()
    with evaluating(nn.Sequential(layer)):
        assert not layer.weight.equal(before)
    torch.testing.assert_close(layer.weight, before)


def test_small_mistakes_are_told():
    net = sd.Network(small())
    with pytest.raises(InvalidArgument, match="a list of batches"):
        sd.whiten(net, images())
    with pytest.raises(InvalidArgument, match="every patch of these is the same"):
        sd.whiten(small(), [torch.ones(4, 3, 8, 8)])
    with pytest.raises(InvalidArgument, match="targets are a list of int"):
        sd.evaluate(net, [(images(), [0, 1, 2, 0])], 2)


def test_a_teacher_with_a_state_of_its_own():
    class Counted(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state): ...

    assert FrozenTeacher(nn.Sequential(nn.Flatten(), Counted(192, 2)))(images()).logits.shape == (4, 2)
