"""Neurons whose decay λ and threshold θ are learned: the same sweeps, with one more sum for each (method.md §2.7).

With a_t = dv_t/dp for p = λ or θ, and h_t, d_t as in neuron.py:

    λ:  a_1 = u_0,  a_{t+1} = u_t + λ·d_t·a_t                    dr/dλ = (1/T) Σ_t h_t·a_t
    θ:  a_1 = 0,  a_{t+1} = λ·(d_t·a_t + x_t)                  dr/dθ = (1/T) Σ_t h_t·(a_t − 1)

x_t is what θ does to u_t beside v_t: a soft reset subtracts it, −s_t; and where the spike in the reset is not detached,
a higher threshold fires less, −∂u_t/∂s_t·h_t. Both responses are exact for any current, constant in time or not.

Shapes: T time steps, `...` any shape; λ and θ broadcast to `...`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spikedistill.core.neuron import Dynamics, Neuron, Surrogate, compute_dtype, first_membrane


@dataclasses.dataclass(frozen=True, eq=False)
class Learned(Dynamics):
    """A neuron with the decay and the threshold of this moment."""

    decay: Tensor | float
    threshold: Tensor | float
    reset: str
    reset_value: float
    detach_reset: bool
    surrogate: Surrogate
    start: float

    @classmethod
    def of(cls, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None) -> Learned:
        """A neuron with what learns put in its place."""
        return cls(
            neuron.decay if decay is None else decay,
            neuron.threshold if threshold is None else threshold,
            neuron.reset,
            neuron.reset_value,
            neuron.detach_reset,
            neuron.surrogate,
            neuron.start,
        )


# x_t by reset, and by whether the spike in it is detached
BY_THRESHOLD: dict[tuple[str, bool], Callable[[Tensor, Tensor, Tensor, Dynamics], Tensor]] = {
    ("soft", True): lambda v, s, h, n: -s,
    ("soft", False): lambda v, s, h, n: n.threshold * h - s,  # ∂u/∂s = −θ
    ("hard", True): lambda v, s, h, n: torch.zeros_like(v),
    ("hard", False): lambda v, s, h, n: (v - n.reset_value) * h,  # ∂u/∂s = −(v − v_reset)
}


class LearnedResponse(NamedTuple):
    spikes: Tensor  # [T, ...] in the current's dtype
    rate: Tensor  # [...]
    eligibility: Tensor  # [...] d rate / d(current added to every step)
    by_decay: Tensor  # [...] d rate / d decay
    by_threshold: Tensor  # [...] d rate / d threshold


def learned_response(current: Tensor, neuron: Dynamics) -> LearnedResponse:
    """`neuron.rate_response`, with the derivatives of the rate for the decay and the threshold.

    Args:
        current: [T, ...].

    Returns:
        Spikes in the dtype of the current; the rest in `compute_dtype` of it.
    """
    timesteps, dtype = current.shape[0], compute_dtype(current.dtype)
    membrane = first_membrane(current, neuron)
    zero, spikes = torch.zeros_like(membrane), []
    count, eligibility, by_decay, by_threshold = zero, zero, zero, zero
    # dv_1/dI = 1; v_1 = λ·u_0 + I_1 has no θ
    kappa, of_decay, of_threshold = torch.ones_like(membrane), membrane, zero
    by_reset = BY_THRESHOLD[neuron.reset, neuron.detach_reset]
    for t in range(timesteps):
        v = neuron.decay * membrane + current[t].to(dtype)
        s, h = neuron.fire(v), neuron.derivative(v)
        membrane, d = neuron.after_spike(v, s), neuron.slope(v, s, h)
        count = count + s
        eligibility = eligibility + kappa * h
        by_decay = by_decay + of_decay * h
        by_threshold = by_threshold + (of_threshold - 1) * h  # s = H(v − θ)
        kappa = 1 + neuron.decay * kappa * d
        of_decay = membrane + neuron.decay * of_decay * d
        of_threshold = neuron.decay * (of_threshold * d + by_reset(v, s, h, neuron))
        spikes.append(s.to(current.dtype))
    sums = (count, eligibility, by_decay, by_threshold)
    return LearnedResponse(torch.stack(spikes), *(x / timesteps for x in sums))


def learned_backward_through_time(
    grad_spikes: Tensor, membranes: Tensor, neuron: Dynamics
) -> tuple[Tensor, Tensor, Tensor]:
    """`neuron.backward_through_time`, with dL/dλ and dL/dθ of each neuron.

        dL/dλ = Σ_t δ_t·u_{t−1},   dL/dθ = Σ_t (λ·δ_{t+1}·x_t − dL/ds_t·h_t),   δ_t = dL/dv_t

    Args:
        grad_spikes, membranes: dL/ds_t and v_t, [T, ...].

    Returns:
        dL/dI_t [T, ...], dL/dλ [...], dL/dθ [...].
    """
    delta = torch.zeros_like(membranes[0])  # δ_{T+1} = 0
    by_decay, by_threshold, gradients = delta, delta, []
    by_reset = BY_THRESHOLD[neuron.reset, neuron.detach_reset]
    for t in reversed(range(membranes.shape[0])):
        v = membranes[t]
        s, h = neuron.fire(v), neuron.derivative(v)
        grad, later = grad_spikes[t].to(v.dtype), neuron.decay * delta  # later: dL/du_t
        by_decay = by_decay + delta * neuron.after_spike(v, s)  # δ_{t+1}·u_t
        by_threshold = by_threshold + later * by_reset(v, s, h, neuron) - grad * h
        delta = grad * h + later * neuron.slope(v, s, h)
        gradients.append(delta.to(grad_spikes.dtype))
    by_decay = by_decay + delta * neuron.start  # δ_1·u_0
    return torch.stack(gradients[::-1]), by_decay, by_threshold
