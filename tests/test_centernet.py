"""Spiking CenterNet: sizes, spikes, one definition for every rule."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikedistill as sd
from spikedistill.errors import InvalidArgument
from spikedistill.models.spiking_centernet import padded
from spikedistill.objectives import CenterPoints
from spikedistill.tasks import Boxes, Detection
from spikedistill.tasks.heatmaps import found_boxes

NAMES = tuple("abc")


def model(classes=3, **options):
    torch.manual_seed(0)
    return sd.create_model("spiking_centernet", classes + 4, in_channels=2, **{"width": 4, **options}).double()


def frames(timesteps=3, samples=2, rows=64, columns=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(timesteps, samples, 2, rows, columns, generator=generator) < 0.2).double()


@pytest.mark.parametrize(("rows", "columns", "height", "width"), [(64, 96, 16, 24), (50, 70, 16, 24), (32, 33, 8, 16)])
def test_any_size_is_padded_and_boxes_stay(rows, columns, height, width):
    net = model().eval()
    images = frames(1, rows=rows, columns=columns)[0]
    assert net(images, timesteps=2).logits.shape == (2, 7, height, width)
    # the same picture with the padding done before: nothing is moved
    wide = F.pad(images, (0, -columns % 32, 0, -rows % 32))
    assert torch.equal(net(images, timesteps=2).logits, net(wide, timesteps=2).logits)
    assert torch.equal(padded(images), wide)


def test_one_definition_serves_all_rules_and_branches_say_maps():
    net, inputs = model(), frames()
    boxes = Boxes.of([torch.tensor([[10.0, 10, 20, 20, 1]])] * 2, NAMES, (64, 96)).boxes
    for rule in (sd.Rate(3), sd.BPTT(3), sd.ANN()):
        learner = sd.SelfDistillation(net, rule, objectives=CenterPoints(), task=Detection(), example=inputs[0, :1])
        output = learner(inputs)
        assert {head.shape for head in output.branches.values()} == {output.logits.shape}
        assert set(output.branches) == {"layer1", "layer2", "layer3", "layer4", "up3", "up2"}
        terms = learner.loss(output, boxes)
        terms.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())
        assert float(terms["branches"]) > 0
    net.eval()
    out, _ = net.propagate(sd.Rate(3).encode(inputs, over_time=True))
    assert torch.allclose(net(inputs, timesteps=3).logits, out.rate)


def test_only_spikes_travel_and_every_norm_follows_a_convolution():
    net = model().train()
    net(frames(4, 4), timesteps=4)
    body = net.eval().body
    seen = []

    def look(module, args, name=""):
        values = args[0].values
        seen.append(set(values.unique().tolist()) <= {0.0, 1.0})

    convolutions = [m for m in body.modules() if isinstance(m, nn.Conv2d)]
    handles = [m.register_forward_pre_hook(look) for m in convolutions]
    net(frames(4, 2), timesteps=4)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(convolutions)
    assert all(seen)
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions) - 3  # the heads end without


def test_heatmaps_begin_low_and_what_is_no_detection_is_refused():
    net = model().eval()
    heat = net(frames(), timesteps=3).logits.detach()[:, :3].sigmoid()
    assert 0.05 < float(heat.mean()) < 0.2
    with pytest.raises(InvalidArgument, match="needs outputs for heatmaps and 4 more; given 4"):
        sd.create_model("spiking_centernet", 4)
    with pytest.raises(InvalidArgument, match="expansion"):
        model(expansion=0.0)


@pytest.mark.parametrize("rule", [sd.Rate(3), sd.RateTwin(3), sd.ANN()])
def test_branches_begin_at_what_the_network_says_on_average(rule):
    """By its own rule: weights that were trained on spikes say anything as an ANN twin (1e16)."""
    net, inputs = model().eval(), frames()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.01)
    learner = sd.SelfDistillation(net, rule, objectives=CenterPoints(), task=Detection(), example=inputs[0, :1])
    starts = {t: net(inputs[0, :1], timesteps=t).logits.mean((0, 2, 3)) for t in (None, 3)}
    assert starts[None].abs().max() > 10 * starts[3].abs().max()
    start = starts[rule.timesteps]
    for head in learner.eval()(inputs).branches.values():
        assert torch.allclose(head, start[:, None, None].expand_as(head), rtol=1e-6)


def test_before_training_boxes_are_rare_usual_and_in_the_middle_of_a_cell():
    net = model().eval()
    for head in (net.body.heat, net.body.size, net.body.offset):
        nn.init.zeros_(head[-1].weight)  # what is left is what a head begins at
    found = found_boxes(net(frames(1)[0], timesteps=None).logits, 1, (64, 96))
    assert torch.allclose(found[:, 0, 4], torch.tensor(0.1), atol=1e-3)
    # the first cell: its middle at 2, 2, and a box of 32 pixels, cut off at the edge
    assert torch.allclose(found[:, 0, :4], torch.tensor([0.0, 0.0, 18.0, 18.0]))
