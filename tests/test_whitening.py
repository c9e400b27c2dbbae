"""A first layer that starts from the principal directions of its input's patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikedistill as sd
from spikedistill.training.recipe_files import load_recipe


def smooth_images(count=64):
    """Neighbouring pixels alike, as in pictures, around a mean."""
    coarse = F.interpolate(torch.randn(count, 3, 4, 4), 16, mode="bilinear")
    return coarse + 0.1 * torch.randn(count, 3, 16, 16) + 0.7


def first_layer(network):
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", ["speednet", "resnet18"])
def test_answers_are_uncorrelated_and_equally_strong(name):
    torch.manual_seed(0)
    network = sd.create_model(name, 5, width=64).double()
    images = smooth_images().double()
    kept = sd.whiten(network, images.split(16))
    layer = first_layer(network)
    assert kept == {"speednet": 12, "resnet18": 27}[name]
    answers = F.conv2d(images, layer.weight[:kept].detach()).transpose(0, 1).flatten(1)
    covariance = torch.cov(answers)
    off = covariance - covariance.diag().diag()
    assert off.abs().max() < 1e-6
    # what varies less than the floor stays below 1, and nothing is above it
    assert covariance.diag()[0] == pytest.approx(1, abs=1e-2)
    assert covariance.diag().max() <= 1 + 1e-4
    assert covariance.diag().min() > 0.2
    assert torch.equal(layer.weight[kept : 2 * kept], -layer.weight[:kept])


def test_a_narrow_layer_has_the_directions_of_the_largest_variance_and_what_is_left_stays():
    images = smooth_images()
    body = nn.Sequential(nn.Conv2d(3, 7, 2), nn.BatchNorm2d(7), sd.LIF(), nn.Flatten(), nn.Linear(7 * 225, 4))
    network = sd.Network(body)
    last = first_layer(network).weight[6].clone()
    assert sd.whiten(network, [images]) == 3
    assert torch.equal(first_layer(network).weight[6], last)
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
    variances = torch.linalg.eigvalsh(torch.cov(patches.T.double())).flip(0)
    filters = first_layer(network).weight[:3].flatten(1).double()
    filters = filters / filters.norm(dim=1, keepdim=True)
    along = (patches.double() @ filters.T).var(0)
    torch.testing.assert_close(along, variances[:3], rtol=1e-3, atol=1e-6)


def test_frames_over_time_and_a_layer_behind_others():
    frames = torch.rand(3, 20, 2, 8, 8)
    body = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 8, 3, padding=1), sd.LIF(), nn.Flatten(), nn.Linear(128, 4))
    network = sd.Network(body)
    assert sd.whiten(network, [frames]) == 4
    seen = F.avg_pool2d(frames.mean(0), 2)
    answers = F.conv2d(seen, first_layer(network).weight[:4]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(answers).diag(), torch.ones(4), rtol=0.05, atol=0.05)


def test_the_same_samples_give_the_same_weights():
    images, found = smooth_images(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = sd.create_model("speednet", 5, width=8)
        sd.whiten(network, [images])
        found.append(first_layer(network).weight.detach())
    assert torch.equal(*found)


def test_what_cannot_be_whitened_is_refused():
    images = smooth_images(4)
    linear = sd.Network(nn.Sequential(nn.Flatten(), nn.Linear(768, 4), sd.LIF(), nn.Linear(4, 2)))
    grouped = sd.Network(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), sd.LIF(), nn.Flatten(), nn.Linear(6 * 196, 2)))
    with pytest.raises(ValueError, match="this one has none"):
        sd.whiten(linear, [images])
    with pytest.raises(ValueError, match="of all input channels .*groups=3"):
        sd.whiten(grouped, [images])
    with pytest.raises(ValueError, match="needs training samples"):
        sd.whiten(grouped, [])
    assert not any(m._forward_pre_hooks for m in grouped.modules())
    with pytest.raises(ValueError, match="leave out one of them"):
        load_recipe("fashion-small", ["--whiten", "true", "--init", "runs/other"])


@pytest.mark.whole
def test_a_run_begins_whitened_and_goes_on_as_it_was(tmp_path, capsys):
    words = ["--optimizer.epochs", "1", "--timesteps", "2", "--data.train_rows", "200", "--data.validation_rows", "0"]
    words += ["--optimizer.lr", "1e-9", "--whiten", "true", "--branches.enabled", "false"]
    sd.train(load_recipe("fashion-small", words), tmp_path / "run")
    assert "start whitened: " in "".join(capsys.readouterr())
    weight = first_layer(sd.load(tmp_path / "run").network).weight
    half = len(weight) // 2
    torch.testing.assert_close(weight[half : 2 * half], -weight[:half])
    sd.resume(tmp_path / "run", ["--optimizer.epochs", "2"])
    assert "start" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("width", [2, 8])
def test_the_convolutions_of_speednet_begin_as_the_identity(width):
    body = sd.create_model("speednet", 5, width=width).body
    layers = [layer for name in body.stages for layer in body.get_submodule(name) if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 6
    for layer in layers:
        x, kept = torch.rand(2, layer.in_channels, 7, 7), min(layer.in_channels, layer.out_channels)
        with torch.no_grad():
            if layer.stride == (2, 2):  # the first of a stage has the pooling behind it in its weights
                torch.testing.assert_close(layer(x)[:, :kept], F.avg_pool2d(x, 2)[:, :kept])
            else:
                assert torch.equal(layer(x)[:, :kept], x[:, :kept])
            assert layer(x)[:, kept:].abs().sum() > 0 or kept == layer.out_channels


def test_the_first_convolution_of_a_stage_begins_as_one_with_pooling_behind_it():
    # so small a convolution that all that it can say is known: the weights of 3×3 are in those of 4×4
    torch.manual_seed(0)
    strided = next(sd.create_model("speednet", 5, width=40).body.stage1.children())
    weight = strided.weight.detach().double()
    # v ↦ (v, 0) + (0, v), along both sides and divided by 4, has one inverse: differences, summed up
    found = 4 * weight[..., :3, :3].clone()
    for axis in (-2, -1):
        for k in (1, 2):
            found.select(axis, k).sub_(found.select(axis, k - 1).clone())
    x = torch.randn(2, strided.in_channels, 9, 9).double()
    pooled = F.avg_pool2d(F.conv2d(x, found, padding=1), 2)
    torch.testing.assert_close(F.conv2d(x, weight, stride=2, padding=1), pooled, rtol=1e-5, atol=1e-6)
