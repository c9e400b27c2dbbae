"""A step that is compiled as a whole: what it computes is what PyTorch computes, and nothing else changes."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict

import pytest
import torch
from test_step import session_of, steps
from tiny_runs import TINY, stopping_after
from torch import nn

import spikedistill as sd
from spikedistill.core.output import Batch
from spikedistill.objectives import Distillation, SelfDistillationLoss, SpikePenalty, Terms
from spikedistill.training import compiled_step as module
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.optimizers import SGD, make_optimizer
from spikedistill.training.phases import Phase
from spikedistill.training.step import Step

IMAGES = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture
def written_down(monkeypatch):
    """The list of operations itself, as PyTorch computes it: compiling takes half a minute for each network."""
    monkeypatch.setattr(module.torch, "compile", lambda graph, **_: graph)


def resnet():
    return sd.create_model("resnet18", 5, width=2).double()


def small():
    """Two stages, for a network of many layers takes ten seconds to be written down."""
    block = [[nn.Conv2d(i, 4, 3, padding=1), nn.BatchNorm2d(4), sd.LIF(threshold=0.5)] for i in (3, 4)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    body = nn.Sequential(OrderedDict(stem=nn.Sequential(*block[0]), end=nn.Sequential(*block[1]), head=head))
    return sd.Network(body, ["stem", "end"]).double()


def with_dropout():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), sd.LIF(threshold=0.3), nn.Dropout(0.5), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(144, 5)).double()


def learning():
    network = small()
    sd.learn_neurons(network, decay="channel", threshold="layer", example=IMAGES[:1])
    return network


def transformer():
    return sd.create_model("spikformer", 5, dim=8, depth=1, heads=2).double()


def thin():
    return sd.tensor_train(small(), rank=2, form="htt")


LEARNERS = {
    "self-distillation": lambda: sd.SelfDistillation(small(), sd.Rate(2)),
    "residual sums": lambda: sd.SelfDistillation(resnet(), sd.Rate(2)),
    "rate alone": lambda: sd.SelfDistillation(small(), sd.Rate(3, "1/T"), branches=()),
    "bptt": lambda: sd.SelfDistillation(small(), sd.BPTT(2)),
    "ann": lambda: sd.SelfDistillation(small(), sd.ANN()),
    "learning neurons": lambda: sd.SelfDistillation(learning(), sd.Rate(2)),
    "learning neurons, bptt": lambda: sd.SelfDistillation(learning(), sd.BPTT(2), branches=()),
    "products": lambda: sd.SelfDistillation(transformer(), sd.Rate(2)),
    "halves": lambda: sd.SelfDistillation(thin(), sd.Rate(4), branches=()),
    "teacher and penalty": lambda: sd.SelfDistillation(
        small(),
        sd.Rate(2),
        objectives=[SelfDistillationLoss(), Distillation(teacher="t"), SpikePenalty()],
        teachers={"t": taught()},
    ),
}


def taught():
    network = small()
    network.train()(IMAGES, timesteps=None)  # its batch norm has seen images
    return network


def gradients(learner):
    return {name: None if p.grad is None else p.grad.clone() for name, p in learner.named_parameters()}


@pytest.mark.parametrize("name", LEARNERS)
def test_loss_gradients_and_statistics_are_those_of_backward(name, written_down):
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    plain = copy.deepcopy(learner)
    terms = plain.loss(plain(IMAGES), LABELS, IMAGES)
    terms.total.backward()
    random = torch.get_rng_state()
    found, logits = CompiledStep(learner, "fp32")(Batch(IMAGES, LABELS))
    assert torch.equal(random, torch.get_rng_state())
    assert list(found) == list(terms.named())
    for part, value in terms.named().items():
        torch.testing.assert_close(found[part], value, rtol=1e-12, atol=1e-12)
    assert logits.shape == (6, 5)
    for (key, gradient), expected in zip(gradients(learner).items(), gradients(plain).values(), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12, msg=key)
        assert gradient is None or gradient.stride() == expected.stride()  # fused optimizers go by memory
    for buffer, expected in zip(learner.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12)


def test_a_second_batch_has_its_own_numbers_and_adds_to_the_gradients(written_down):
    learner = LEARNERS["self-distillation"]()
    plain, step = copy.deepcopy(learner), CompiledStep(learner, "fp32")
    for share, images in ((0.5, IMAGES), (0.25, IMAGES.flip(0))):
        (plain.loss(plain(images), LABELS).total * share).backward()
        step(Batch(images, LABELS), share=share)
    assert len(step._compiled) == 1
    for gradient, expected in zip(gradients(learner).values(), gradients(plain).values(), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_another_rule_and_branches_that_rest_are_other_steps(written_down):
    learner = LEARNERS["self-distillation"]()
    plain, step = copy.deepcopy(learner), CompiledStep(learner, "fp32")
    step(Batch(IMAGES, LABELS))
    for parameter in learner.parameters():
        parameter.grad = None
    step(Batch(IMAGES, LABELS), sd.Rate(2), False)
    assert all(parameter.grad is None for parameter in learner.branches.parameters())
    learner.zero_grad()
    step(Batch(IMAGES, LABELS), sd.ANN(), False)
    for _ in range(2):
        plain(IMAGES)  # moves the statistics as the first steps did
    plain.loss(plain(IMAGES, sd.ANN(), False), LABELS).total.backward()
    found = gradients(learner)
    assert [name for name, gradient in found.items() if gradient is None] == [n for n in found if "branches" in n]
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)


def test_what_does_not_learn_gets_no_gradient_and_is_read_anew_each_time(written_down):
    learner = LEARNERS["rate alone"]()
    frozen = learner.network.body.stem
    frozen.requires_grad_(False)
    step = CompiledStep(learner, "fp32")
    first = step(Batch(IMAGES, LABELS))[0]["loss"].clone()
    assert all(p.grad is None for p in frozen.parameters())
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.mul_(2).add_(0.1)
    assert step(Batch(IMAGES, LABELS))[0]["loss"] != first
    assert len(step._compiled) == 1


def test_random_numbers_are_drawn_anew(written_down):
    learner = sd.SelfDistillation(with_dropout(), sd.Rate(2), branches=())
    step = CompiledStep(learner, "fp32")
    plain = copy.deepcopy(learner)
    torch.manual_seed(3)
    expected = plain.loss(plain(IMAGES), LABELS).total
    after = torch.get_rng_state()
    torch.manual_seed(3)  # writing down draws, too, and must not be seen
    torch.testing.assert_close(step(Batch(IMAGES, LABELS))[0]["loss"], expected.detach(), rtol=1e-12, atol=0)
    assert torch.equal(after, torch.get_rng_state())
    losses = {float(step(Batch(IMAGES, LABELS))[0]["loss"]) for _ in range(4)}
    assert len(losses) == 4
    twin = sd.SelfDistillation(small(), sd.RateTwin(2, noise=0.5), branches=())
    step = CompiledStep(twin, "fp32")
    assert len({float(step(Batch(IMAGES, LABELS))[0]["loss"]) for _ in range(4)}) == 4


@dataclasses.dataclass(frozen=True)
class LooksAtNumbers(SelfDistillationLoss):
    def __call__(self, output, batch):
        terms = super().__call__(output, batch)
        return Terms(terms.total * (2 if float(terms.total) > 1 else 1), terms.parts)


@dataclasses.dataclass(frozen=True)
class Selects(SelfDistillationLoss):
    def __call__(self, output, batch):
        losses = torch.nn.functional.cross_entropy(output.logits, batch.targets, reduction="none")
        return Terms(losses[batch.targets > 1].mean(), {})


@dataclasses.dataclass(frozen=True)
class Picks(SelfDistillationLoss):
    def __call__(self, output, batch):
        return Terms(output.logits[torch.arange(len(output.logits)), batch.targets].mean(), {})


@pytest.mark.parametrize("objective", [LooksAtNumbers(), Selects()])
def test_what_cannot_be_compiled_says_so(objective):
    """A mask selects another number in each batch; that of the first would stay in the compiled step."""
    learner = sd.SelfDistillation(small(), sd.Rate(2), objectives=objective)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(ValueError, match="looks at its numbers .* train with --compile on"):
        CompiledStep(learner, "fp32")(Batch(IMAGES, LABELS))
    assert learner.kernels is sd.EAGER
    for name, tensor in learner.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_to_pick_by_whole_numbers_is_no_look_at_them(written_down):
    learner = sd.SelfDistillation(small(), sd.Rate(2), objectives=Picks())
    CompiledStep(learner, "fp32")(Batch(IMAGES, LABELS))


class Summed(nn.Module):
    """Two parameters that are added up; a buffer that counts; an input that is changed in place."""

    def __init__(self):
        super().__init__()
        self.p, self.q = (nn.Parameter(torch.ones(3, 1, 1)) for _ in range(2))
        self.layer = nn.Conv2d(3, 5, 8)
        self.register_buffer("seen", torch.zeros(()))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        self.seen += 1
        x = x.mul_(2)
        return self.layer(self.norm(x) * (self.p + self.q)).flatten(1)


def test_gradients_are_tensors_of_their_own_and_state_moves_once(written_down):
    learner = sd.SelfDistillation(Summed().double(), sd.ANN(), branches=())
    plain, step = copy.deepcopy(learner), CompiledStep(learner, "fp32")
    for seen in (1, 2):
        (a, b), (ours, theirs) = (IMAGES.clone() for _ in range(2)), (learner, plain)
        step(Batch(a, LABELS))
        plain.loss(plain(b), LABELS).total.backward()
        assert torch.equal(a, b)
        body = learner.network.body
        assert body.seen == seen
        assert body.p.grad.data_ptr() != body.q.grad.data_ptr()
        for gradient, expected in zip(gradients(ours).values(), gradients(theirs).values(), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


class Replaces(nn.Conv2d):
    def forward(self, x):
        self.seen = self.seen + 1
        return super().forward(x).flatten(1)


def test_a_buffer_that_is_replaced_is_refused():
    body = Replaces(3, 5, 8).double()
    body.register_buffer("seen", torch.zeros(()))
    with pytest.raises(ValueError, match=r"buffers learner.network.body.seen are replaced .* change them in place"):
        CompiledStep(sd.SelfDistillation(body, sd.ANN(), branches=()), "fp32")(Batch(IMAGES, LABELS))
    assert body.seen == 0


def test_what_trains_and_what_is_minimised_may_change(written_down):
    learner = LEARNERS["self-distillation"]()
    plain, step = copy.deepcopy(learner), CompiledStep(learner, "fp32")

    def freeze(each):
        each.network.body.stem.requires_grad_(False)

    def thaw(each):
        each.network.body.stem.requires_grad_(True)

    def settle(each):
        each.network.body.stem[1].eval()

    def weigh(each):
        each.objectives = {"self_distillation": SelfDistillationLoss(soft_weight=0.9)}

    for change in (lambda each: None, freeze, thaw, settle, weigh):
        for each in (learner, plain):
            change(each)
            each.zero_grad()
        step(Batch(IMAGES, LABELS))
        plain.loss(plain(IMAGES), LABELS).total.backward()
        for gradient, expected in zip(gradients(learner).values(), gradients(plain).values(), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_a_batch_is_of_tensors(written_down):
    with pytest.raises(ValueError, match="a batch is of tensors, inputs and targets; given int, int"):
        CompiledStep(LEARNERS["rate alone"](), "fp32")(Batch(IMAGES[:2], [0, 1]))


def test_labels_are_looked_at_before_anything_is_computed(written_down):
    learner = LEARNERS["rate alone"]()
    step = CompiledStep(learner, "fp32")
    for _ in range(2):  # before it is compiled, and after
        with pytest.raises(ValueError, match="labels run from 1 to 5, but the network has 5 classes"):
            step(Batch(IMAGES, LABELS + 1))
        assert gradients(learner)["network.body.stem.0.weight"] is None
        step(Batch(IMAGES, LABELS))
        learner.zero_grad()


def test_a_rest_of_an_epoch_is_not_compiled(written_down):
    session, settings = session_of(SGD(batch_size=6, epochs=1)), SGD(batch_size=6, epochs=1)
    compiled = CompiledStep(session.learner, "fp32")
    step = Step(session.learner, session.forward, session.optimizer, settings, "fp32", compiled=compiled)
    phase, seen = session.phases.at(0, 0, 1), []
    for samples in (6, 5, 6, 7):
        step(Batch(IMAGES.repeat(2, 1, 1, 1)[:samples], LABELS.repeat(2)[:samples]), phase, 0.1, seen.append)
    assert len(compiled._compiled) == 1
    assert [len(taken.parts[0].logits) for taken in seen] == [6, 5, 6, 7]


def test_compiled_steps_train_as_others_do():
    """Compiled in earnest, in float64: three steps with momentum, of which each has two parts."""
    settings = SGD(batch_size=6, epochs=1, accumulate=2)
    expected = steps(session_of(settings), settings)
    session = session_of(settings)
    found = steps(session, settings, compiled=CompiledStep(session.learner, "fp32"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.whole
def test_a_run_that_goes_on_takes_the_same_steps(tmp_path, written_down, monkeypatch):
    words = [*TINY, "--compile=step", "--optimizer.epochs=2", "--model=vgg11", "--model.width=2"]
    recipe = sd.load_recipe("fashion-small", words)
    sd.train(recipe, tmp_path / "whole")
    with stopping_after(3), pytest.raises(sd.errors.Interrupted):
        sd.train(recipe, tmp_path / "stopped")
    sd.resume(tmp_path / "stopped")
    ours, theirs = (sd.load(tmp_path / name).network.state_dict() for name in ("whole", "stopped"))
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert "compile: step" in (tmp_path / "whole/recipe.yaml").read_text()


@pytest.mark.parametrize("words", [["--parts=2"], ["--convolutions=8bit"]])
def test_what_does_not_go_with_it_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.setattr("spikedistill.training.impossible.missing_eight_bit", lambda device: None)
    with pytest.raises(ValueError, match=f"--compile step does not go with {words[0].split('=')[0]}"):
        sd.train(sd.load_recipe("fashion-small", [*TINY, "--compile=step", *words]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.ANN()], ids=lambda r: type(r).__name__)
def test_on_a_gpu_it_trains_as_others_do(rule):
    def trained(compiled):
        torch.manual_seed(0)
        learner, settings = sd.SelfDistillation(resnet(), rule).cuda(), SGD(batch_size=6, lr=0.1)
        step = Step(learner, learner, make_optimizer(learner, settings), settings, "fp32")
        step.compiled = CompiledStep(learner, "fp32") if compiled else None
        losses = []
        for k in range(6):
            images, labels = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.arange(6) % 3
            batch = Batch(images.cuda(), labels.cuda())
            step(batch, Phase(rule), 0.1 / (k + 1), lambda taken: losses.append(float(taken.parts[0].terms["loss"])))
        return losses

    assert trained(True) == pytest.approx(trained(False), rel=1e-9)
