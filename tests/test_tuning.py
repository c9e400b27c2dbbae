"""Kernels, memory format and precision: what is chosen for a run, and by `tune` for a loop of one's own."""

import copy

import pytest
import torch

import spikedistill as sd
from spikedistill.core.kernels import EAGER, compiled
from spikedistill.machine.compiler import missing_compiler
from spikedistill.training import precision
from spikedistill.training.precision import choose_precision
from spikedistill.training.tuning import choose_kernels


def test_precision_is_chosen_by_measuring(monkeypatch):
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), sd.Rate(2))
    images = torch.randn(4, 3, 16, 16)
    before = copy.deepcopy(learner.state_dict())
    assert choose_precision("bf16", learner, images)[0] == "bf16"
    monkeypatch.setattr(precision, "computes_in_bf16", lambda device: False)
    monkeypatch.delenv("SPIKEDISTILL_PRECISION", raising=False)
    assert choose_precision("auto", learner, images) == ("fp32", "fp32: this processor has no units for bf16")
    monkeypatch.setattr(precision, "computes_in_bf16", lambda device: True)
    for slow, fast in (("fp32", "bf16"), ("bf16", "fp32")):
        monkeypatch.setattr(precision, "_timed", lambda step, name, device, slow=slow: 2.0 if name == slow else 1.0)
        chosen, reason = choose_precision("auto", learner, images)
        assert chosen == fast
        assert f"1.000 s against 2.000 s in {slow}" in reason
    monkeypatch.undo()
    assert set(precision.measured_seconds(learner, images)) == {"fp32", "bf16"}
    for name, tensor in learner.state_dict().items():
        assert torch.equal(tensor, before[name])  # measuring changes nothing


def test_what_auto_means_can_be_said_in_the_environment(monkeypatch):
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), sd.Rate(2))
    images = torch.randn(2, 3, 16, 16)
    for wish in ("fp32", "bf16"):
        monkeypatch.setenv("SPIKEDISTILL_PRECISION", wish)
        assert choose_precision("auto", learner, images) == (wish, f"{wish}, as SPIKEDISTILL_PRECISION says")
        assert choose_precision("fp32", learner, images)[0] == "fp32"  # the recipe goes before the environment
    monkeypatch.setenv("SPIKEDISTILL_PRECISION", "fp16")
    with pytest.raises(ValueError, match="SPIKEDISTILL_PRECISION=fp16; expected fp32 or bf16"):
        choose_precision("auto", learner, images)
    monkeypatch.setenv("SPIKEDISTILL_COMPILE", "off")
    assert choose_kernels("auto", learner, images, 10**9).reason == "eager, as SPIKEDISTILL_COMPILE says"


def test_compiling_is_left_out_where_it_does_not_pay(monkeypatch):
    monkeypatch.delenv("SPIKEDISTILL_COMPILE", raising=False)
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2, in_channels=1), sd.Rate(2))
    example = torch.zeros(1, 1, 28, 28)
    few = choose_kernels("auto", learner, example, samples=1000)
    many = choose_kernels("auto", learner, example, samples=10**9)
    assert few.compile == "off"
    assert few.reason.startswith("eager: compiling takes")
    if missing_compiler(example.device) is None:
        assert many.reason.startswith("compiled: saves")
        assert many.compile == "on"
        assert (type(few.kernels), type(many.kernels)) == (type(EAGER), type(compiled()))


def test_without_a_compiler_the_eager_form_runs_and_says_so(monkeypatch):
    monkeypatch.delenv("SPIKEDISTILL_COMPILE", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2), sd.Rate(2))
    example = torch.zeros(1, 3, 16, 16)
    assert "no C++ compiler" in choose_kernels("auto", learner, example, 10**9).reason
    with pytest.raises(ValueError, match="--compile on is not possible: no C"):
        choose_kernels("on", learner, example, 1)


def learner_and_batch():
    torch.manual_seed(0)
    learner = sd.SelfDistillation(sd.create_model("resnet18", 10, width=2, in_channels=1), sd.Rate(2))
    return learner, torch.randn(4, 1, 16, 16)


def test_a_loop_of_ones_own_is_tuned_as_the_trainer_is_and_nothing_else_changes(monkeypatch):
    monkeypatch.delenv("SPIKEDISTILL_COMPILE", raising=False)
    learner, images = learner_and_batch()
    before, random = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    tuning = sd.tune(learner, images, samples=10**9, precision="fp32")
    assert tuning.precision == "fp32"
    expected, _, reason = choose_kernels("auto", learner, images[:1], 10**9)
    assert learner.kernels is expected
    assert f"kernels {reason}" in str(tuning)
    assert torch.equal(random, torch.get_rng_state())
    for name, tensor in learner.state_dict().items():
        assert torch.equal(tensor, before[name])
    weight = learner.network.body.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_gradients_that_were_there_stay_where_precision_is_measured(monkeypatch):
    monkeypatch.delenv("SPIKEDISTILL_PRECISION", raising=False)
    monkeypatch.setattr(precision, "computes_in_bf16", lambda device: True)
    learner, images = learner_and_batch()
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    sd.tune(learner, images, samples=1, compile="off")
    assert all(bool((parameter.grad == 1).all()) for parameter in learner.parameters())


def test_what_is_tuned_computes_the_same(monkeypatch):
    labels, found = torch.tensor([0, 1, 2, 3]), []
    for tuned in (False, True):
        learner, images = learner_and_batch()
        if tuned:
            sd.tune(learner, images, samples=1, precision="fp32", compile="off")
        loss = learner.loss(learner(images), labels).total
        loss.backward()
        found.append((loss, learner.network.body.layer1[0].conv1.weight.grad))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_the_tuned_precision_is_that_of_the_forward_pass():
    learner, images = learner_and_batch()
    for chosen, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        tuning = sd.tune(learner, images, samples=1, precision=chosen, compile="off")
        with tuning.autocast():
            assert learner(images).logits.dtype == dtype
