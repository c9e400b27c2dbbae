"""Device-correctness without a GPU: whole steps on fake tensors that claim to lie on one.

A fake tensor has a shape, a dtype and a device, and refuses operations between devices as a GPU would; only the numbers
are missing. So what would stop a run on a GPU with "expected all tensors to be on the same device" stops here.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import spikedistill as sd
from spikedistill.core.kernels import EAGER
from spikedistill.core.network import firing
from spikedistill.core.rate_twin import mean_response
from spikedistill.data import Augmentation, Batches, DataSettings, Framing, ImageSet, frames_of, load
from spikedistill.measure import evaluation
from spikedistill.training import loop
from spikedistill.training.optimizers import SGD, make_optimizer
from spikedistill.training.phases import Phase, Phases, PhaseSettings
from spikedistill.training.pruning import Pruner, Pruning, Shown
from spikedistill.training.step import Step

GPU = torch.device("cuda", 0)
CLASSES = ("a", "b", "c")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def backward_by_hand(loss):
    """Walk the graph of autograd and call every node: its engine would ask for a real GPU, the nodes do not."""
    waiting, order = {}, [loss.grad_fn]
    for node in order:  # how many gradients each node waits for
        for child, _ in node.next_functions:
            if child is not None:
                waiting[child] = waiting.get(child, 0) + 1
                if waiting[child] == 1:
                    order.append(child)
    gradients = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):  # a parameter
            (grad,) = given.values()
            assert (grad.device, grad.shape) == (node.variable.device, node.variable.shape)
            node.variable.grad = grad
            continue
        edges = node.next_functions
        if given:
            arguments = [given.get(k) for k in range(len(node._input_metadata))]
            results = _call(node, arguments)
        else:
            results = [None] * len(edges)
        for (child, index), grad in zip(edges, results, strict=True):
            if child is None:
                continue
            if grad is not None:
                expected = child._input_metadata[index]
                assert grad.device == expected.device
                grad = grad.sum_to_size(expected.shape).to(expected.dtype)  # as the engine does after broadcasting
                slots = gradients.setdefault(child, {})
                slots[index] = slots[index] + grad if index in slots else grad
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)


def _call(node, arguments):
    """The gradients of a node's inputs, one for each edge."""
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        results = node(*arguments)
        return results if isinstance(results, tuple) else (results,)
    results = node.apply(*arguments)  # a function of ours: one for each argument, tensor or not
    wanted = iter(g for g, needed in zip(results, node.needs_input_grad, strict=True) if needed)
    return [None if child is None else next(wanted) for child, _ in node.next_functions]


def on_gpu(module: nn.Module) -> nn.Module:
    """The module with fake parameters and buffers on the GPU."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=GPU))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.empty_like(buffer, device=GPU)
    return module


def pictures_in_memory(tmp_path):
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    return ImageSet(images, sd.Labels(LABELS, CLASSES), (0.5,) * 3, (0.25,) * 3), Augmentation(cutout=4)


def pictures_in_folders(tmp_path):
    for split in ("train", "val"):
        for name in CLASSES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for k in range(2):
                Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 24, 3), np.uint8)).save(
                    folder / f"{k}.png"
                )
    settings = DataSettings("picture-folder", str(tmp_path), size=16)
    return load(settings).train, Augmentation(crop=0, resized_crop=True)


def event_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 3, (6, 3, 2, 16, 16))
    return frames_of(list(zip(frames, LABELS.tolist(), strict=True)), CLASSES, Framing(3, size=16)), Augmentation(
        crop=0, roll=2
    )


KINDS = [pictures_in_memory, pictures_in_folders, event_frames]


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.BPTT(3), sd.RateTwin(3), sd.ANN()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_and_evaluation_stay_on_the_gpu(kind, rule, tmp_path, monkeypatch, request):
    request.addfinalizer(mean_response.cache_clear)  # curves of fake tensors are for nobody else
    mean_response.cache_clear()
    monkeypatch.setattr(torch.Tensor, "backward", backward_by_hand)
    samples, augmentation = kind(tmp_path)
    channels = samples.description()["shape"][0]
    learner = sd.SelfDistillation(sd.create_model("resnet18", 3, in_channels=channels, width=16), rule)
    batches = Batches(samples, 6, augmentation, 0)
    order = batches.order(0)
    raw = samples.read_changed(order, torch.arange(6), augmentation, torch.Generator().manual_seed(0))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = samples.to(GPU).finish(tree_map(lambda t: mode.from_tensor(t).to(GPU), raw))
        assert (batch.inputs.device, batch.targets.device) == (GPU, GPU)
        on_gpu(learner)
        progress, meter = loop.Progress(), learner.task.meter()
        optimizer = make_optimizer(learner, SGD())
        for group in optimizer.param_groups:
            group["fused"] = False  # the fused operation has no form for fake tensors
        phases = Phases(rule, PhaseSettings(), 3, 0)
        session = loop.Session(learner, phases, learner, optimizer, progress, pruner=Pruner(Pruning(0.5), 6, 0))
        assert session.device == GPU
        shown = Shown(batches, 0, torch.ones(6))
        batch = shown.weighted(batch, 0)
        assert batch.weights.device == GPU
        losses = loop._Losses(progress)
        step = Step(learner, learner, optimizer, SGD(clip_norm=1.0, accumulate=2), "fp32")
        taken = loop._take(session, step, batch, Phase(rule), 0.1, losses, meter)
        session.note(shown, taken, batch.targets)
        assert session.pruner.now.device == GPU
        for value in losses.pending[0][0].values():
            assert value.device == GPU
        assert meter.correct.device == GPU
        with torch.no_grad():
            steps = [1, 3] if rule.timesteps else [None]
            with firing(learner.network.body, take=evaluation._mean_and_neurons) as fired:
                logits = evaluation._logits(learner.network.eval(), batch.inputs, steps, EAGER)
            sums = evaluation._Sums({}, None)
            sums.add_fired(fired, 6)
        assert {each.device for each in logits.values()} == {GPU}
        assert {each.device for each in sums.fired.values()} <= {GPU}


def test_a_tensor_left_on_the_cpu_is_noticed():
    learner = sd.SelfDistillation(sd.create_model("resnet18", 3, width=4), sd.Rate(3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu(learner)
        with pytest.raises(RuntimeError, match="device"):
            learner(torch.zeros(2, 3, 16, 16))
        output = learner(torch.zeros(2, 3, 16, 16, device=GPU))
        with pytest.raises(RuntimeError, match="device"):
            sd.SelfDistillationLoss()(output, sd.Batch(torch.empty(0), torch.zeros(2, dtype=torch.long)))


def test_walking_the_graph_by_hand_gives_the_gradients_of_autograd():
    learner = sd.SelfDistillation(sd.create_model("resnet18", 3, width=4).double(), sd.Rate(3))
    other = copy.deepcopy(learner)
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), LABELS[:4]
    learner.loss(learner(images), labels).total.backward()
    backward_by_hand(other.loss(other(images), labels).total)
    for a, b in zip(learner.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)
