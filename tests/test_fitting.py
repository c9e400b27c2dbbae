"""Weights of an ANN twin fitted to spikes: what is scaled, what is left, and that a run does it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spikedistill as sd
from spikedistill.cli import main
from spikedistill.core.rate_twin import mean_response
from spikedistill.training.fitting import _rescale, fit_to_spikes


def trained(name="resnet18", **options):
    torch.manual_seed(0)
    network = sd.create_model(name, 4, width=4, **options)
    for _ in range(30):
        network(2 * torch.randn(16, 3, 16, 16), timesteps=None)
    return network.eval()


def batches(count=3):
    return list((2 * torch.randn(count, 16, 3, 16, 16)).unbind(0))


def test_currents_come_to_where_the_neurons_answer():
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fit = fit_to_spikes(network, batches(), 4)
    after = network.state_dict()
    middle = mean_response(sd.Neuron(), 4, 0.3)
    assert fit.offset == pytest.approx(float(0.9 - 0.5), abs=0.08)  # the preset fires at half of its steps near 0.9
    assert middle.rate[round((fit.offset + 0.5 - middle.first) / middle.step)] >= 0.5
    scale = torch.tensor(fit.scale)
    # γ of every norm is scaled; of two that go into one neuron (the sum of a block) one is shifted
    norms = [name.removesuffix(".running_mean") for name in after if name.endswith("running_mean")]
    for name in norms:
        torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] * scale)
    shifted = [n for n in norms if not torch.allclose(after[f"{n}.bias"], before[f"{n}.bias"] * scale)]
    assert len(shifted) == len(fit.fitted) == 17
    for name in shifted:
        torch.testing.assert_close(after[f"{name}.bias"], before[f"{name}.bias"] * scale + fit.offset)
    # convolutions and the classifier are as they were, and so is the mode
    assert all(torch.equal(after[n], before[n]) for n in after if n.endswith("weight") and n[:-7] not in norms)
    assert not network.training
    assert fit.left == ()
    assert "17 layers fitted" in str(fit)


def test_rates_follow_the_activations_more_closely():
    fit = fit_to_spikes(trained(), batches(), 4)
    assert fit.after > fit.before + 0.02


def test_statistics_are_those_of_spikes_and_each_norm_keeps_its_momentum():
    network = trained()
    norm = network.body.layer1[0].bn2
    images = batches(1)
    fit_to_spikes(network, images, 4)
    seen = []
    handle = network.body.layer1[0].conv2.register_forward_hook(lambda _m, _i, output: seen.append(output.values))
    with torch.no_grad():
        network.train()
        network.propagate(sd.Rate(4).encode(images[0]))
    handle.remove()
    network.eval()
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm.momentum, 0.1)
    # one batch, of which a tenth was taken in once more: the same mean again
    torch.testing.assert_close(before, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_fit_that_does_not_help_is_taken_back():
    network = trained("preact_resnet18")  # its membranes are sums of all blocks: one map does not suit them
    weights = {name: p.clone() for name, p in network.named_parameters()}
    fit = fit_to_spikes(network, batches(), 4)
    assert fit.fitted == ()
    assert fit.after == fit.before
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())
    assert str(fit).startswith("not fitted: rates and activations correlate by")


def test_a_norm_that_many_neurons_share_is_scaled_once_and_those_without_one_are_named():
    network = trained("preact_resnet18")
    stem, block = network.body.stem[1], network.body.layer1[0].bn2
    gamma, beta, behind = (p.detach().clone() for p in (stem.weight, stem.bias, block.bias))
    with torch.no_grad():
        fitted = _rescale(network, batches(1)[0], 4, 0.5, 0.4)
    torch.testing.assert_close(stem.weight.detach(), gamma / 2)
    # the offset comes along the stream: once with the stem, and not again with each block that adds to it
    torch.testing.assert_close(stem.bias.detach(), beta / 2 + 0.4)
    torch.testing.assert_close(block.bias.detach(), behind / 2)
    assert {"layer1.0.neuron1", "layer1.1.neuron1"} < set(fitted)
    assert "layer2.0.neuron1" not in fitted
    mixed = sd.Network(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            sd.LIF(),
            nn.Conv2d(8, 8, 3),
            sd.LIF(),
            nn.Flatten(),
            nn.Linear(8 * 14 * 14, 4),
        )
    )
    fit = fit_to_spikes(mixed, batches(), 4)
    assert (fit.fitted, fit.left) in ((("2",), ("4",)), ((), ("2", "4")))
    bare = sd.Network(nn.Sequential(nn.Conv2d(3, 4, 3), sd.LIF(), nn.Flatten(), nn.Linear(784, 4)))
    with pytest.raises(ValueError, match="no neuron of this network stands behind a batch norm"):
        fit_to_spikes(bare, batches(), 4)
    with pytest.raises(ValueError, match="fitting needs training samples"):
        fit_to_spikes(trained(), [], 4)


def test_frames_and_neurons_that_are_used_twice():
    network = trained(in_channels=3)
    frames = [each.unsqueeze(0).expand(4, *each.shape) for each in batches()]
    assert fit_to_spikes(network, frames, 4).fitted
    shared = sd.LIF()
    twice = sd.Network(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), shared),
            *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), shared),
            *(nn.Flatten(), nn.Linear(8 * 14 * 14, 4)),
        )
    )
    before = {name: tensor.clone() for name, tensor in twice.state_dict().items()}
    found = fit_to_spikes(twice, batches(), 4)
    # both norms stand before the one neuron: it is fitted at both, or at none
    after = twice.state_dict()
    changed = {name.split(".")[1] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == ({"1", "4"} if found.fitted else set())
    with pytest.raises(ValueError, match="this network has no LIF neurons"):
        fit_to_spikes(sd.Network(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), sample_dims=3), batches(), 4)


WORDS = ["--data.train_rows=300", "--data.test_rows=50", "--data.validation_rows=0", "--model.width=2"]
WORDS += ["--optimizer.epochs=1", "--precision=fp32", "--compile=off"]


@pytest.mark.whole
def test_a_run_starts_from_fitted_weights(tmp_path, capsys):
    ann = tmp_path / "ann"
    assert main(["train", "--rule", "ann", *WORDS, "--out", str(ann)]) == 0
    capsys.readouterr()
    start = ["--init", str(ann), "--init_fit", "true"]
    assert main(["train", *WORDS, *start, "--out", str(tmp_path / "snn")]) == 0
    assert "layers fitted: currents times" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "snn")]) == 0  # finished; nothing is fitted again
    assert "layers fitted" not in capsys.readouterr().err
    spiking = ["--init", str(tmp_path / "snn"), "--init_fit", "true"]
    assert main(["train", *WORDS, *spiking, "--out", str(tmp_path / "no")]) == 1
    assert "init_fit is for the weights of an ANN twin, and" in capsys.readouterr().err
    for words in (["--init_fit", "true"], [*start, "--rule", "ann"], [*start, "--phases.ann", "1"]):
        assert main(["train", *WORDS, "--optimizer.epochs=2", *words, "--out", str(tmp_path / "no")]) == 1
        assert "init_fit fits the weights of --init to spikes, and has no effect" in capsys.readouterr().err


# ---------------------------------------------------------------- statistics anew


def test_statistics_anew_are_those_of_the_batches_and_nothing_else_changes():
    torch.manual_seed(0)
    network = sd.create_model("resnet18", 4, width=4, neuron=sd.Neuron(threshold=0.3))
    batches = [torch.randn(6, 3, 16, 16) for _ in range(3)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sd.retake_statistics(network, batches, 3)
    first = network.body.stem[1]
    currents = [network.body.stem[0](each) for each in batches]
    torch.testing.assert_close(first.running_mean, torch.stack([c.mean((0, 2, 3)) for c in currents]).mean(0))
    assert first.momentum == 0.1
    for name, value in network.state_dict().items():
        same = torch.equal(value, before[name])
        assert same != ("running" in name or "num_batches" in name), name
    with pytest.raises(ValueError, match="given none"):
        sd.retake_statistics(network, [], 3)


def test_evaluate_takes_statistics_anew(tmp_path, capsys):
    words = ["--data.train_rows", "200", "--data.test_rows", "60", "--data.validation_rows", "0", "--model.width", "4"]
    words += ["--optimizer.epochs", "1", "--timesteps", "4", "--phases.drawn", "[1, 4]", "--compile", "off"]
    assert main(["train", "fashion-small", *words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    evaluate = ["evaluate", str(tmp_path / "run"), "--retake", "1000", "--timesteps", "4", "1"]
    assert main(evaluate) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("%")[1] for line in lines] == [
        f" accuracy with statistics of T = {t}, of 200 training samples, 60 samples" for t in (1, 4)
    ]
    for more, message in ((["--retake", "1"], "at least 2"), (["--figure", str(tmp_path / "f.png")], "leave one of")):
        assert main([*evaluate, *more]) == 1
        assert message in capsys.readouterr().err
