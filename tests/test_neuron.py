"""The neuron: trajectories by hand, and its derivatives against autograd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import lif_autograd

import spikedistill as sd
from spikedistill.core.neuron import RESETS, SURROGATES, backward_through_time, membrane_response, rate_response

# decay 0.5, threshold 1, currents 0.6, 0.8, 0.5, 0.1, worked out by hand
TRAJECTORIES = {
    # v1=.6; v2=.3+.8=1.1 fires, u=.1; v3=.05+.5=.55; v4=.275+.1=.375
    "soft": (sd.Neuron(decay=0.5), [0.6, 1.1, 0.55, 0.375]),
    # v2=1.1 fires, u=0; v3=.5; v4=.25+.1=.35
    "hard to 0": (sd.Neuron(decay=0.5, reset="hard"), [0.6, 1.1, 0.5, 0.35]),
    # v2=1.1 fires, u=-.2; v3=-.1+.5=.4; v4=.2+.1=.3
    "hard to -0.2": (sd.Neuron(decay=0.5, reset="hard", reset_value=-0.2), [0.6, 1.1, 0.4, 0.3]),
}


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_trajectory_by_hand(case):
    neuron, membranes = TRAJECTORIES[case]
    current = torch.tensor([0.6, 0.8, 0.5, 0.1], dtype=torch.float64).view(4, 1)
    spikes, v = membrane_response(current, neuron)
    assert spikes.flatten().tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(v.flatten(), torch.tensor(membranes, dtype=torch.float64))


def test_soft_reset_of_the_preset_keeps_the_excess_and_fires_at_the_threshold():
    current = torch.tensor([1.0, 2.4, 0.7], dtype=torch.float64).view(3, 1)
    spikes, v = membrane_response(current, sd.Neuron())
    # v1 = 1 fires (v ≥ θ), u = 0; v2 = 2.4 fires, u = 1.4; v3 = .28 + .7
    torch.testing.assert_close(v.flatten(), torch.tensor([1.0, 2.4, 0.98], dtype=torch.float64))
    assert spikes.flatten().tolist() == [1, 1, 0]


neurons = st.builds(
    lambda decay, threshold, reset, below, detach, shape, alpha: sd.Neuron(
        decay, threshold, reset, threshold - below if reset == "hard" else 0.0, detach, sd.Surrogate(shape, alpha)
    ),
    st.floats(0, 1),
    st.floats(0.3, 2),
    st.sampled_from(sorted(RESETS)),
    st.floats(0.1, 1.5),
    st.booleans(),
    st.just("sigmoid"),
    st.just(4.0),
)


@settings(max_examples=60, deadline=None)
@given(neurons, st.integers(1, 8), st.integers(0, 10_000))
def test_eligibility_is_the_derivative_of_the_rate_for_a_constant_current(neuron, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    current = 2 * torch.randn(steps, 5, dtype=torch.float64, generator=generator)
    offset = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    rate = lif_autograd(current + offset, neuron).mean(0)
    rate.sum().backward()
    response = rate_response(current, neuron)
    torch.testing.assert_close(response.rate, rate.detach())
    torch.testing.assert_close(response.eligibility, offset.grad, rtol=1e-12, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(neurons, st.integers(1, 8), st.integers(0, 10_000))
def test_backward_through_time_equals_autograd(neuron, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    current = (2 * torch.randn(steps, 5, dtype=torch.float64, generator=generator)).requires_grad_()
    weight = torch.randn(steps, 5, dtype=torch.float64, generator=generator)
    (lif_autograd(current, neuron) * weight).sum().backward()
    _, membranes = membrane_response(current.detach(), neuron)
    torch.testing.assert_close(backward_through_time(weight, membranes, neuron), current.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", sorted(SURROGATES))
@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_surrogates_are_even_peak_at_the_threshold_and_have_unit_area(name, alpha):
    x = torch.linspace(-2000, 2000, 4_000_001, dtype=torch.float64)
    h = sd.Surrogate(name, alpha).derivative(x)
    torch.testing.assert_close(h, h.flip(0))
    assert h.argmax() in (len(x) // 2, *range(len(x) // 2 - int(500 / alpha), len(x) // 2 + 1))
    assert abs(torch.trapezoid(h, x).item() - 1) < 5e-3


def test_the_preset_is_the_papers():
    neuron = sd.Neuron()
    assert (neuron.decay, neuron.threshold, neuron.reset, neuron.detach_reset) == (0.2, 1.0, "soft", True)
    assert neuron.surrogate == sd.Surrogate("sigmoid", 4.0)
    assert sd.Neuron.from_tau(1.25).decay == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"decay": 1.2}, "expected 0 ≤ decay ≤ 1"),
        ({"threshold": 0.0}, "above 0"),
        ({"reset": "sofft"}, "did you mean soft"),
        ({"reset_value": 0.3}, "has no effect with reset='soft'"),
        ({"reset": "hard", "reset_value": 1.0}, "below the threshold"),
    ],
)
def test_bad_constants_are_refused(constants, message):
    with pytest.raises(ValueError, match=message):
        sd.Neuron(**constants)


def test_bad_surrogate_is_refused():
    with pytest.raises(ValueError, match="did you mean sigmoid"):
        sd.Surrogate("sigmoidal")
    with pytest.raises(ValueError, match="above 0"):
        sd.Surrogate("atan", 0.0)


@pytest.mark.parametrize(("threshold", "timesteps"), [(1.0, 4), (2.0, 4), (2.0, 8)])
def test_what_a_rate_loses_of_a_current(monkeypatch, threshold, timesteps):
    """Without a leak it is what rounding and cutting off lose, which needs no neuron."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    from threshold_loss import KINDS, lost

    currents = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded = (timesteps * (currents / threshold).clamp(0, 1)).round()
    kept = torch.corrcoef(torch.stack([rounded, currents.relu()]))[0, 1] ** 2
    assert lost(KINDS["without a leak"](threshold), timesteps) == pytest.approx(1 - float(kept), abs=0.002)
