"""The training step: optimizers and schedules, batches in parts, averages; and steps that are recorded and replayed."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_device import GPU, backward_by_hand, on_gpu
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import spikedistill as sd
from spikedistill.core.network import Network
from spikedistill.core.output import Batch
from spikedistill.machine.graphs import WARM_UP, CudaRecorder, Replayed
from spikedistill.models.resnet import ResNet
from spikedistill.training import loop, optimizers
from spikedistill.training.average import MovingAverage
from spikedistill.training.optimizers import SGD, AdamW
from spikedistill.training.phases import Phase, Phases, PhaseSettings
from spikedistill.training.recipe_files import load_recipe
from spikedistill.training.step import Step


def test_weight_decay_is_on_convolution_and_linear_weights_only():
    learner = sd.SelfDistillation(sd.create_model("preact_resnet18", 10, width=2), sd.Rate(2))
    decayed, rest = optimizers.decay_groups(learner.modules(), 5e-4)
    ids = {id(p): name for name, p in learner.named_parameters()}
    names = [{ids[id(p)] for p in group["params"]} for group in (decayed, rest)]
    assert (decayed["weight_decay"], rest["weight_decay"]) == (5e-4, 0.0)
    assert len(names[0]) + len(names[1]) == len(ids)
    assert all(name.endswith("weight") for name in names[0])
    layers = (torch.nn.Conv2d, torch.nn.Linear)
    assert all(isinstance(learner.get_submodule(name.rpartition(".")[0]), layers) for name in names[0])
    assert not any(
        isinstance(learner.get_submodule(n.rpartition(".")[0]), torch.nn.Conv2d) and n.endswith("weight")
        for n in names[1]
    )


def test_every_parameter_is_in_one_group():
    network = sd.create_model("resnet18", 10, width=2)
    sd.learn_neurons(network, decay="layer")
    learner = sd.SelfDistillation(network, sd.Rate(2))
    groups = [{id(p) for p in group["params"]} for group in optimizers.make_optimizer(learner, SGD()).param_groups]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(list(learner.parameters()))


def test_what_a_weight_is_computed_from_decays_in_its_place():
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    torch.nn.utils.parametrizations.weight_norm(layers[0])
    torch.nn.utils.parametrizations.orthogonal(layers[1])
    names = {id(p): name for name, p in layers.named_parameters()}
    decayed, rest = (
        [names[id(p)] for p in group["params"]] for group in optimizers.decay_groups(layers.modules(), 0.1)
    )
    behind = [f"parametrizations.weight.{name}" for name in ("original0", "original1", "original")]
    assert decayed == [f"0.{behind[0]}", f"0.{behind[1]}", f"1.{behind[2]}"]
    assert set(rest) == {"0.bias", "1.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize(
    "settings", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.0), SGD(lr=0.1, nesterov=True), AdamW(lr=0.1)]
)
def test_a_parameter_may_get_its_first_gradient_late(settings):
    """A branch that begins with the spikes, a layer that is dropped in the first step."""
    first, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = settings.make([{"params": [first, late], "weight_decay": 0.0}])
    alone = torch.nn.Parameter(torch.ones(3))
    reference = settings.make([{"params": [alone], "weight_decay": 0.0}])
    for step in range(4):
        first.grad, late.grad = torch.ones(3), torch.full((3,), 2.0) if step else None
        optimizer.step()
        if step:
            alone.grad = late.grad.clone()
            reference.step()
    torch.testing.assert_close(late, alone)
    assert (first < late).all() == isinstance(settings, AdamW)  # one step more, of half the size


def test_a_mask_stays_what_it_is_in_the_average():
    body = torch.nn.Sequential(torch.nn.Linear(2, 2), sd.LIF(sd.Neuron()), torch.nn.Linear(2, 2))
    body.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    learner = sd.SelfDistillation(Network(body), sd.Rate(2), branches=())
    average = MovingAverage(learner.network, 0.9)
    before = body[0].weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            body[0].weight.add_(1)
        average.update_parameters(learner.network)
    assert average.module.body.mask.tolist() == [0.0, -torch.inf]
    assert (before < average.module.body[0].weight).all()
    assert (average.module.body[0].weight < body[0].weight).all()


class Reversed(torch.autograd.Function):
    """A function of the user's own, which torch runs without gradient."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class WithFunction(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.neuron, self.last = torch.nn.Linear(4, 4), sd.LIF(sd.Neuron()), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.last(Reversed.apply(self.neuron(self.first(x))))


def test_parameters_that_no_gradient_reaches_are_named_once(capsys):
    learner = sd.SelfDistillation(Network(WithFunction()), sd.Rate(2), branches=())
    step = Step(learner, learner, optimizers.make_optimizer(learner, SGD()), SGD(), "fp32")
    batch = Batch(torch.randn(3, 4), torch.tensor([0, 1, 1]))
    for _ in range(2):
        step(batch, Phase(learner.rule), 0.1, lambda taken: None)
    said = capsys.readouterr().err
    assert said.count("no gradient came to 2 parameters of the network in the first step of Rate: ") == 1
    assert "body.first.weight, body.first.bias" in said
    step(batch, Phase(sd.ANN()), 0.1, lambda taken: None)  # of tensors it has one
    assert "no gradient" not in capsys.readouterr().err


def test_cosine():
    per_epoch = SGD(epochs=10, lr=0.1, schedule_per="epoch")
    torch_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], 0.1), 10)
    for epoch in range(10):
        assert optimizers.learning_rate(per_epoch, epoch, 5, 7) == pytest.approx(torch_schedule.get_last_lr()[0])
        torch_schedule.optimizer.step()
        torch_schedule.step()
    per_step = SGD(epochs=10, lr=0.1, schedule_per="step")
    assert optimizers.learning_rate(per_step, 9, 7, 7) == pytest.approx(0, abs=1e-12)


def test_warm_up_and_the_other_schedules():
    warm = AdamW(epochs=10, lr=0.2, warmup_epochs=2, schedule="linear", schedule_per="step")
    rates = [optimizers.learning_rate(warm, epoch, step, 5) for epoch in range(10) for step in range(5)]
    assert rates[0] == pytest.approx(0.02)  # the first step already moves
    assert rates[9] == pytest.approx(0.2)  # the last of the warm-up has the full rate
    assert rates[10] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert optimizers.learning_rate(warm, 9, 5, 5) == pytest.approx(0, abs=1e-12)
    constant = SGD(epochs=10, lr=0.2, schedule="constant")
    assert {optimizers.learning_rate(constant, epoch, 0, 5) for epoch in range(10)} == {0.2}
    for fields, message in {
        (("warmup_epochs", 10),): "expected 0 or more, and less than the 10 epochs",
        (("schedule", "cosin"),): "did you mean cosine",
        (("ema", 1.0),): "expected between 0 and 1",
        (("accumulate", 0),): "accumulate is 0",
        (("accumulate", 256),): "cannot be computed in 256 parts",
    }.items():
        with pytest.raises(ValueError, match=message):
            SGD(**dict(fields))


def test_another_optimizer_is_one_word():
    recipe = load_recipe("fashion-small", ["--optimizer", "adamw", "--optimizer.warmup_epochs", "1"])
    assert isinstance(recipe.optimizer, AdamW)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (1e-3, 0.05)  # not SGD's
    assert (recipe.optimizer.epochs, recipe.optimizer.batch_size) == (5, 64)  # these stay
    with pytest.raises(ValueError, match="optimizer 'adamw' has no field 'momentum'"):
        load_recipe("fashion-small", ["--optimizer", "adamw", "--optimizer.momentum", "0.9"])
    made = optimizers.make_optimizer(
        sd.SelfDistillation(torch.nn.Linear(2, 2), sd.Rate(2), branches=()), recipe.optimizer
    )
    assert isinstance(made, torch.optim.AdamW)


def session_of(settings):
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), sd.LIF(threshold=0.3), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    learner = sd.SelfDistillation(body.double(), sd.Rate(2), branches=())
    average = None if settings.ema is None else MovingAverage(learner.network, settings.ema)
    made = optimizers.make_optimizer(learner, settings)
    of_one = Phases(learner.rule, PhaseSettings(), settings.epochs, 0)
    return loop.Session(learner, of_one, learner, made, loop.Progress(), average)


def steps(session, settings, count=3, samples=6, recorder=None, compiled=None, weights=None):
    torch.manual_seed(1)
    losses, meter = loop._Losses(session.progress), session.learner.task.meter()
    step = Step(session.learner, session.forward, session.optimizer, settings, "fp32", recorder, compiled)
    for k in range(count):
        images = torch.randn(samples, 3, 8, 8, dtype=torch.float64)
        weights = None if weights is None else weights.roll(k)
        batch = sd.Batch(images, torch.arange(samples) % 5, weights=weights)
        loop._take(session, step, batch, session.phases.at(0, 0, 1), settings.lr / (k + 1), losses, meter)
    return {name: tensor.clone() for name, tensor in session.learner.network.state_dict().items()}


@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_a_batch_in_parts_gives_the_step_of_the_whole(parts):
    """Without batch norm, whose statistics are of a part."""
    whole, apart = (SGD(lr=0.1, accumulate=count) for count in (1, parts))
    expected, found = steps(session_of(whole), whole), steps(session_of(apart), apart)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


def test_the_average_of_the_weights_is_what_is_evaluated():
    settings = SGD(lr=0.1, ema=0.9)
    session = session_of(settings)
    plain, by_hand = session_of(settings), None
    for k in range(4):
        torch.manual_seed(k)
        steps(session, settings, 1)
        torch.manual_seed(k)
        now = steps(plain, settings, 1)
        decay = min(0.9, (1 + k) / (10 + k))  # k steps have been averaged
        by_hand = now if by_hand is None else {n: decay * by_hand[n] + (1 - decay) * now[n] for n in now}
    for name, tensor in session.network.state_dict().items():
        torch.testing.assert_close(tensor, by_hand[name])
        assert not torch.equal(tensor, session.learner.network.state_dict()[name])
    kept = session.state()["average"]
    assert int(kept["n_averaged"]) == 4
    assert all(torch.equal(kept[f"module.{name}"], tensor) for name, tensor in session.network.state_dict().items())


# ---------------------------------------------------------------- steps that are recorded and replayed


class Again:
    """A recorder without a GPU: what was recorded is done again, on the memory on which it was recorded."""

    def __init__(self):
        self.recorded = 0

    def warm(self, work):
        return work()

    def record(self, work):
        self.recorded += 1
        return work


@pytest.mark.parametrize("settings", [SGD(lr=0.1, clip_norm=0.5), SGD(lr=0.1, accumulate=2), AdamW(lr=0.01, ema=0.9)])
def test_replayed_steps_are_those_that_are_computed_anew(settings):
    """With a learning rate that changes, which a recording must not keep."""
    plain, replayed, recorder = session_of(settings), session_of(settings), Again()
    expected, found = steps(plain, settings, 8), steps(replayed, settings, 8, recorder=recorder)
    assert recorder.recorded == 1
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-8)  # the learning rate is in float32
    assert replayed.progress.sums == pytest.approx(plain.progress.sums)
    assert replayed.progress.samples == plain.progress.samples == 8 * 6


def test_each_form_of_the_arguments_is_recorded_apart():
    recorder = Again()
    doubled = Replayed(lambda key, x, targets: {"x": key * x, "y": targets[0] + 1}, recorder)
    results = []
    for _ in range(WARM_UP + 2):
        for key, size in ((2, 3), (2, 4), (5, 3)):
            x, target = torch.rand(size), torch.rand(size)
            results.append((doubled(key, x, (target,)), key * x, target + 1))
    for found, x, y in results:  # all of them still hold: later replays do not write over earlier results
        assert torch.equal(found["x"], x)
        assert torch.equal(found["y"], y)
    assert recorder.recorded == 3


class Waiting(TorchDispatchMode):
    """Notes operations that a CUDA graph cannot record: copies between devices, and what needs to know a number."""

    UNKNOWN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        if len({each.device.type for each in tensors}) > 1 or name in self.UNKNOWN:
            self.found.append(str(func))
        return out


def taught():
    return {"objectives": [sd.Distillation("ann"), sd.NoiseSmoothedDistillation("ann")]}


def three_blocks(width):
    """A residual network with a quarter of the operations of ResNet-18: fake tensors take their time for each."""
    body = ResNet((1, 1, 1), 3, width, 3, "cifar", sd.Neuron())
    return Network(body, body.stages)


STEPS = [
    *((rule, SGD(clip_norm=1.0, accumulate=2), dict) for rule in (sd.Rate(3), sd.BPTT(3), sd.RateTwin(3), sd.ANN())),
    (sd.Rate(3), AdamW(), dict),
    (sd.Rate(3), SGD(), taught),
    (sd.Rate(3), SGD(), lambda: {"objectives": [sd.SelfDistillationLoss(others_only=True), sd.SpikePenalty(0.01)]}),
    (sd.Rate(3), SGD(), lambda: {"objectives": sd.SelfDistillationLoss(weighting="confidence", fallback="label")}),
]


@pytest.mark.parametrize(("rule", "settings", "objectives"), STEPS)
def test_a_step_can_be_recorded(rule, settings, objectives, monkeypatch):
    """Nothing in it waits for the GPU or reads memory of the host; on fake tensors, for here is no GPU."""
    monkeypatch.setattr(torch.Tensor, "backward", backward_by_hand)
    given, network = objectives(), three_blocks(width=16)
    if objectives is taught:
        teacher = three_blocks(width=4)
        teacher(torch.randn(4, 3, 16, 16), timesteps=None)  # one that has seen a batch
        given["teachers"] = {"ann": teacher}
    learner = sd.SelfDistillation(network, rule, **given)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = sd.Batch(torch.empty(6, 3, 16, 16, device=GPU), torch.empty(6, dtype=torch.long, device=GPU))
        on_gpu(learner)
        for frozen in learner._teachers.values():
            on_gpu(frozen._network).to = lambda device, network=frozen._network: network  # it is there already
        optimizer = optimizers.make_optimizer(learner, settings)
        for group in optimizer.param_groups:
            group["fused"] = False  # the fused operation has no form for fake tensors
        # What stands in for SGD's fused step asks a learning rate in a tensor for its number; AdamW's does not.
        recorder = Again() if isinstance(settings, AdamW) else None
        step = Step(learner, learner, optimizer, settings, "fp32", recorder)
        for _ in range(WARM_UP):  # they also fill caches, and make momenta
            step(batch, Phase(rule), 0.1, lambda taken: None)
        with Waiting() as waiting:
            step._whole(Phase(rule), batch.inputs, batch.targets, [])
    assert waiting.found == []


def test_waiting_for_the_gpu_is_noticed():
    with FakeTensorMode(), Waiting() as waiting:
        torch.zeros(2, device=GPU) + torch.tensor(1.0, device=GPU)
        torch.zeros(2, device=GPU).to("cpu")
    assert waiting.found


def test_graphs_are_of_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="this is the device cpu; leave out --graphs"):
        sd.train(load_recipe("fashion-small", ["--graphs", "true", "--device", "cpu"]), tmp_path / "run")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", [SGD(lr=0.1, clip_norm=0.5), AdamW(lr=0.01)])
@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.ANN()], ids=lambda r: type(r).__name__)
def test_graphs_give_the_steps_that_are_computed_anew(rule, settings):
    def trained(recorder):
        torch.manual_seed(0)
        learner = sd.SelfDistillation(sd.create_model("resnet18", 3, width=8), rule).double().cuda()
        step = Step(learner, learner, optimizers.make_optimizer(learner, settings), settings, "fp32", recorder)
        losses = []

        def look(taken):
            losses.append(taken.parts[0].terms["loss"])

        for k in range(8):
            images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.arange(6) % 3
            step(sd.Batch(images.cuda(), labels.cuda()), Phase(rule), 0.1 / (k + 1), look)
        return [float(loss) for loss in losses]

    recorded = trained(CudaRecorder(torch.device("cuda")))
    assert recorded == pytest.approx(trained(None), rel=1e-5)  # its learning rate is float32


@pytest.mark.parametrize(("samples", "sizes"), [(8, [2, 2, 2, 2]), (4, [2, 2]), (7, [3, 2, 2]), (3, [3]), (1, [1])])
def test_no_part_of_an_epochs_last_batch_is_a_single_sample(samples, sizes):
    """Batch norm would refuse it, at the end of the first epoch."""
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), sd.Rate(2))
    step = Step(learner, learner, None, SGD(batch_size=8, accumulate=4), "fp32")
    batch = Batch(torch.zeros(samples, 3, 8, 8), torch.zeros(samples).long())
    assert [len(part.inputs) for part in step.parts(batch)] == sizes
    alone = Step(learner, learner, None, SGD(batch_size=4, accumulate=4), "fp32")
    whole = Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4).long())
    assert [len(part.inputs) for part in alone.parts(whole)] == [1, 1, 1, 1]  # which was asked for
