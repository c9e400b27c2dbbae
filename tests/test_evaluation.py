"""Measurements of networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spikedistill as sd


class Known(nn.Module):
    """Fires at a known rate and answers with known logits."""

    def __init__(self):
        super().__init__()
        self.fast, self.slow, self.dead = sd.LIF(decay=1.0), sd.LIF(decay=1.0), sd.LIF(threshold=50.0)

    def forward(self, x):
        return self.fast(x) + 0.1 * self.slow(0.5 * x) + self.dead(x)


def test_accuracy_by_timesteps_and_firing_rates():
    images, labels = torch.eye(3), torch.tensor([0, 1, 0])  # the third answer is wrong
    found = sd.evaluate(sd.Network(Known()), [(images[:2], labels[:2]), (images[2:], labels[2:])], [1, 4])
    assert found.samples == 3
    assert found.score == {1: pytest.approx(2 / 3), 4: pytest.approx(2 / 3)}
    # of 3 inputs one is 1: fires at every step; at half the current at every second step
    assert found.firing_rates == {"fast": pytest.approx(1 / 3), "slow": pytest.approx(1 / 6), "dead": 0.0}
    (warning,) = found.warnings()
    assert warning.startswith("dead layers")
    assert "fast" not in warning.split(":")[1]


def test_saturated_layers_and_shared_neurons():
    lif = sd.LIF()
    net = sd.Network(nn.Sequential(lif, lif))
    found = sd.evaluate(net, [(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))], [2])
    assert found.firing_rates == {"0": 1.0, "0 (use 2)": 1.0}
    assert found.warnings()[0].startswith("saturated layers")


def test_evaluation_leaves_the_mode_of_the_network_and_refuses_nothing_to_do():
    net = sd.Network(Known()).train()
    sd.evaluate(net, [(torch.eye(3), torch.tensor([0, 1, 2]))], None)
    assert net.training
    with pytest.raises(ValueError, match="no samples"):
        sd.evaluate(net, [], [1])
    with pytest.raises(ValueError, match="at least one number"):
        sd.evaluate(net, [], [])


def test_a_learner_a_network_and_a_users_module_are_all_evaluated():
    batches = [(torch.eye(3), torch.tensor([0, 1, 2]))]
    body = Known()
    learner = sd.SelfDistillation(body, sd.Rate(4), branches=()).train()
    found = [sd.evaluate(each, batches, 4) for each in (learner, learner.network, body)]
    assert found[0] == found[1]
    assert found[2].score == found[0].score == {4: pytest.approx(1.0)}
    assert learner.training
    assert sd.evaluate(body, [sd.Batch(*batches[0])], None).score == {None: pytest.approx(1.0)}


def test_labels_that_do_not_fit_are_refused():
    """An accuracy of 8.0 was once the answer to labels [N, 1]."""
    for labels in (torch.zeros(3, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"class indices \[N\]"):
            sd.evaluate(Known(), [(torch.eye(3), labels)], 1)


def test_what_processes_measured_apart_is_what_one_measures():
    images, labels = torch.eye(3), torch.tensor([0, 1, 0])
    whole = sd.evaluate(Known(), [(images, labels)], [1, 4])
    states = []

    def keep(state):
        states.append(state)
        return [state]

    sd.evaluate(Known(), [(images[:1], labels[:1])], [1, 4], gather=keep)
    sd.evaluate(Known(), [(images[1:], labels[1:])], [1, 4], gather=keep)
    together = sd.evaluate(Known(), [], [1, 4], gather=lambda empty: [empty, *states])
    assert together.score == whole.score
    assert together.firing_rates == pytest.approx(whole.firing_rates)
