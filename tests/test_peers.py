"""Neurons that a peer does not have: refused before anything of it is imported."""

from __future__ import annotations

import pytest

from spikedistill.bench import peers
from spikedistill.core.neuron import Neuron, Surrogate


@pytest.mark.parametrize(
    ("make", "constants", "message"),
    [
        (peers.spikingjelly_neuron, Neuron(reset="hard", reset_value=0.2), "leak towards the value"),
        (peers.spikingjelly_neuron, Neuron(start=0.5), "starts at 0 and leaks"),
        (peers.snntorch_neuron, Neuron(detach_reset=False), "soft reset without gradient"),
        (peers.snntorch_neuron, Neuron(reset="hard"), "soft reset without gradient"),
        (peers.snntorch_neuron, Neuron(surrogate=Surrogate("sigmoid", 4.5)), "a whole slope"),
    ],
)
def test_neurons_that_a_peer_does_not_have_are_refused(make, constants, message):
    with pytest.raises(ValueError, match=message):
        make(constants)
