"""The leaky integrate-and-fire neuron: equations and derivatives. The layer that is made of it is in lif.py.

method.md §1, for t = 1..T with u_0 = start:

    v_t = decay · u_{t-1} + I_t                  charge (the input is not scaled by 1 − decay)
    s_t = H(v_t − threshold)                     fire
    u_t = v_t − threshold · s_t                  soft reset
    u_t = (1 − s_t) · v_t + s_t · reset_value    hard reset

Every derivative below follows from two numbers per step: h_t = ds_t/dv_t, which the surrogate supplies, and
d_t = du_t/dv_t, which the reset rule supplies (table `RESETS`). Backpropagation through time and the eligibility of
rate-based backpropagation (§2) are both sums over products of h_t and d_t, so one table serves both.

Nothing here knows about autograd, and no state outlives a call: the membrane is a local variable.
Shapes: T time steps, `...` any shape (the neuron is elementwise). Arithmetic is at least float32.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikedistill.errors import InvalidArgument, choose

# ---------------------------------------------------------------- surrogate gradients

# Names in these formulas are those of method.md §1.1: x is the distance v − θ, alpha the inverse width.


def _sigmoid(x: Tensor, alpha: float) -> Tensor:
    s = torch.sigmoid(alpha * x)
    return alpha * s * (1 - s)


def _atan(x: Tensor, alpha: float) -> Tensor:
    return 0.5 * alpha / (1 + (0.5 * math.pi * alpha * x) ** 2)


def _triangle(x: Tensor, alpha: float) -> Tensor:
    return alpha * torch.clamp(1 - alpha * x.abs(), min=0.0)


def _rectangle(x: Tensor, alpha: float) -> Tensor:
    return alpha * (x.abs() < 0.5 / alpha).to(x.dtype)


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": _sigmoid,  # α·σ(αx)·(1 − σ(αx))
    "atan": _atan,  # (α/2) / (1 + (παx/2)²)
    "triangle": _triangle,  # α·max(0, 1 − α|x|)
    "rectangle": _rectangle,  # α where |x| < 1/(2α), else 0
}
"""The stand-ins for the derivative of H at x = v − threshold. Each has unit area; α is the inverse width."""


def _check_numbers(constants: object, names: tuple[str, ...], what: str = "") -> None:
    """Raise InvalidArgument unless these are plain numbers: a tensor would not learn, and nobody would see it."""
    for name in names:
        value = getattr(constants, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise InvalidArgument(f"{what}{name} is {value!r}, a {type(value).__name__}; expected a number")


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """The stand-in for dH/dv (method.md §1.1).

    Args:
        name: a shape, a key of `SURROGATES`.
        alpha: its inverse width, above 0.

    Raises:
        InvalidArgument: an unknown shape, or alpha not above 0.
    """

    name: str = "sigmoid"
    alpha: float = 4.0

    def __post_init__(self) -> None:
        choose("surrogate", self.name, SURROGATES)
        _check_numbers(self, ("alpha",), "surrogate ")
        # "not above" instead of "at most": NaN is refused too. The checks of `Neuron` are written the same way.
        if not 0 < self.alpha < math.inf:
            raise InvalidArgument(f"surrogate alpha is {self.alpha}; expected a number above 0 (the paper uses 4)")

    def derivative(self, distance: Tensor) -> Tensor:
        """h at `distance` = v − threshold; same shape."""
        return SURROGATES[self.name](distance, self.alpha)


# ---------------------------------------------------------------- reset rules


class Reset(NamedTuple):
    """A reset rule: u_t(v, s, neuron), and d_t = du_t/dv_t (v, s, h, neuron) with the spike detached there or not.

    method.md §2.2 derives d_t = ∂u/∂v + ∂u/∂s·h; a detached spike drops the second summand.
    """

    apply: Callable[[Tensor, Tensor, Dynamics], Tensor]
    slope_detached: Callable[[Tensor, Tensor, Tensor, Dynamics], Tensor]
    slope_attached: Callable[[Tensor, Tensor, Tensor, Dynamics], Tensor]


# The functions of a column have the same arguments, so that whoever looks a rule up need not ask which it is.
RESETS: dict[str, Reset] = {
    "soft": Reset(
        apply=lambda v, s, n: v - n.threshold * s,
        slope_detached=lambda v, s, h, n: torch.ones_like(v),  # ∂u/∂v = 1: what is left over stays in the membrane
        slope_attached=lambda v, s, h, n: 1 - n.threshold * h,
    ),
    "hard": Reset(
        apply=lambda v, s, n: (1 - s) * v + s * n.reset_value,
        slope_detached=lambda v, s, h, n: 1 - s,  # after a spike the membrane has forgotten its input
        slope_attached=lambda v, s, h, n: (1 - s) - (v - n.reset_value) * h,
    ),
}


class Dynamics:
    """What the sweeps over time ask of a neuron; decay and threshold are numbers (`Neuron`), or tensors that broadcast
    to the membrane (`learned.Learned`).
    """

    decay: Any
    threshold: Any
    reset: str
    reset_value: float
    detach_reset: bool
    surrogate: Surrogate
    start: float

    def fire(self, membrane: Tensor) -> Tensor:
        """s = H(v − θ) as 0/1 in the membrane's dtype; exactly at the threshold it fires (method.md §1)."""
        return (membrane >= self.threshold).to(membrane.dtype)

    def derivative(self, membrane: Tensor) -> Tensor:
        """h = ds/dv at the membrane v."""
        return self.surrogate.derivative(membrane - self.threshold)

    def after_spike(self, membrane: Tensor, spike: Tensor) -> Tensor:
        """u, the membrane after the reset."""
        return RESETS[self.reset].apply(membrane, spike, self)

    def slope(self, membrane: Tensor, spike: Tensor, derivative: Tensor) -> Tensor:
        """d = du/dv by the reset rule (the table of method.md §2.2)."""
        rule = RESETS[self.reset]
        slope = rule.slope_detached if self.detach_reset else rule.slope_attached
        return slope(membrane, spike, derivative, self)


@dataclasses.dataclass(frozen=True)
class Neuron(Dynamics):
    """The constants of a LIF neuron; the default is the paper's preset (method.md §1).

    Args:
        decay: λ, the share of the membrane kept per step, 0 ≤ λ ≤ 1 (λ = 1 − 1/τ; 1 is a non-leaky neuron).
        threshold: θ > 0, in the units of the input current.
        reset: "soft" subtracts the threshold, "hard" sets the membrane to `reset_value`.
        reset_value: membrane after a spike; only with hard reset, and below the threshold.
        detach_reset: whether the gradient ignores the spike in the reset (as the authors do).
        surrogate: the derivative used for the step function.
        start: u_0, the membrane before the first step, below the threshold.

    Raises:
        InvalidArgument: a value outside its range, or a `reset_value` that would have no effect.
    """

    decay: float = 0.2
    threshold: float = 1.0
    reset: str = "soft"
    reset_value: float = 0.0
    detach_reset: bool = True
    surrogate: Surrogate = Surrogate()
    start: float = 0.0

    def __post_init__(self) -> None:
        choose("reset", self.reset, RESETS)
        if not isinstance(self.surrogate, Surrogate):
            raise InvalidArgument(
                f"surrogate is {self.surrogate!r}; expected a Surrogate, as Surrogate('atan', alpha=2.0)"
            )
        _check_numbers(self, ("decay", "threshold", "reset_value", "start"))
        if not isinstance(self.detach_reset, bool):
            raise InvalidArgument(f"detach_reset is {self.detach_reset!r}; expected True or False")
        if not 0 <= self.decay <= 1:
            raise InvalidArgument(
                f"decay is {self.decay}; expected 0 ≤ decay ≤ 1 (for a time constant tau pass decay = 1 - 1/tau)"
            )
        if not 0 < self.threshold < math.inf:
            raise InvalidArgument(f"threshold is {self.threshold}; expected a number above 0")
        # A constant without effect is refused: whoever sets it believes that it has one.
        if self.reset == "soft" and self.reset_value != 0:
            raise InvalidArgument(
                f"reset_value={self.reset_value} has no effect with reset='soft'; use reset='hard' or leave it out"
            )
        if not math.isfinite(self.reset_value):
            raise InvalidArgument(f"reset_value is {self.reset_value}; expected a finite number below the threshold")
        # A membrane that is reset to the threshold or above it would not be reset at all.
        if self.reset_value >= self.threshold:
            raise InvalidArgument(f"reset_value {self.reset_value} must lie below the threshold {self.threshold}")
        if not (math.isfinite(self.start) and self.start < self.threshold):
            raise InvalidArgument(
                f"start is {self.start}; expected a finite number below the threshold {self.threshold}"
            )

    @classmethod
    def from_tau(cls, tau: float, **constants: Any) -> Neuron:
        """The neuron with membrane time constant `tau` ≥ 1 in steps: decay = 1 − 1/τ (method.md §1).

        Raises:
            InvalidArgument: tau below 1.
        """
        if not tau >= 1:
            raise InvalidArgument(f"tau is {tau}; expected tau ≥ 1 (in time steps)")
        return cls(decay=1 - 1 / tau, **constants)


# ---------------------------------------------------------------- the neuron over T steps


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype membranes are integrated in: float64 for float64, else float32."""
    # bf16 has 8 significant bits. Membranes near the threshold would be rounded to its other side.
    return torch.promote_types(dtype, torch.float32)


class RateResponse(NamedTuple):
    spikes: Tensor  # [T, ...] in the current's dtype, or the one asked for
    rate: Tensor  # [...] mean of the spikes over T
    eligibility: Tensor  # [...] d rate / d(current added to every step)


def first_membrane(current: Tensor | Sequence[Tensor], neuron: Dynamics) -> Tensor:
    """u_0 [...] for `current` [T, ...], in the dtype that is integrated in and in the memory layout of the current."""
    return torch.full_like(current[0], neuron.start, dtype=compute_dtype(current[0].dtype))


def rate_response(
    current: Tensor | Sequence[Tensor], neuron: Dynamics, spike_dtype: torch.dtype | None = None
) -> RateResponse:
    """Spikes, firing rate and eligibility in one sweep over time (method.md §2.2).

        e = (1/T) Σ_t κ_t·h_t,   κ_1 = 1,   κ_{t+1} = 1 + decay·κ_t·d_t

    κ_t = dv_t/dI for a current I added to every step, so e = dr/dI exactly (with h for dH/dv).

    Args:
        current: [T, ...], or the T of them one by one.
        spike_dtype: of the spikes (None: the current's).

    Returns:
        Rate and eligibility are in `compute_dtype` of the current.
    """
    timesteps, dtype = len(current), compute_dtype(current[0].dtype)
    spike_dtype = spike_dtype or current[0].dtype
    membrane = first_membrane(current, neuron)  # no current reaches it, so e does not ask what it is
    count, eligibility = torch.zeros_like(membrane), torch.zeros_like(membrane)
    kappa = torch.ones_like(membrane)  # κ_1 = 1: v_1 = I_1 + ε
    spikes = []
    for t in range(timesteps):
        v = neuron.decay * membrane + current[t].to(dtype)
        s, h = neuron.fire(v), neuron.derivative(v)
        membrane = neuron.after_spike(v, s)
        count = count + s
        # e takes κ_t, so κ moves on to the next step only after it.
        eligibility = eligibility + kappa * h
        kappa = 1 + neuron.decay * kappa * neuron.slope(v, s, h)
        spikes.append(s.to(spike_dtype))  # 0 and 1 are exact in every dtype
    return RateResponse(torch.stack(spikes), count / timesteps, eligibility / timesteps)


def membrane_response(current: Tensor, neuron: Dynamics) -> tuple[Tensor, Tensor]:
    """Spikes and membranes v_t before the reset, both [T, ...], for `current` [T, ...] (method.md §1)."""
    dtype = compute_dtype(current.dtype)
    membrane = first_membrane(current, neuron)
    spikes, membranes = [], []
    for t in range(current.shape[0]):
        v = neuron.decay * membrane + current[t].to(dtype)
        s = neuron.fire(v)
        membrane = neuron.after_spike(v, s)
        spikes.append(s.to(current.dtype))
        membranes.append(v)  # in full precision: the backward decides again from them which neurons fired
    return torch.stack(spikes), torch.stack(membranes)


def spike_response(current: Tensor, neuron: Dynamics) -> Tensor:
    """Spikes only, [T, ...], for `current` [T, ...]: what evaluation needs."""
    return membrane_response(current, neuron)[0]


def backward_through_time(grad_spikes: Tensor, membranes: Tensor, neuron: Dynamics) -> Tensor:
    """dL/dI_t [T, ...] from dL/ds_t and v_t, by BPTT: δ_t = dL/ds_t·h_t + decay·δ_{t+1}·d_t.

    δ_t is dL/dv_t and dL/dI_t in one, because v_t = decay·u_{t−1} + I_t (method.md §1). Its second summand is what
    reaches v_t through u_t and the charge of the next step.
    """
    delta = torch.zeros_like(membranes[0])  # δ_{T+1} = 0: nothing comes after the last step
    gradients = []
    for t in reversed(range(membranes.shape[0])):
        v = membranes[t]
        # Computed again from v: keeping s and h as well would take three times the memory.
        s, h = neuron.fire(v), neuron.derivative(v)
        delta = grad_spikes[t].to(v.dtype) * h + neuron.decay * delta * neuron.slope(v, s, h)
        gradients.append(delta.to(grad_spikes.dtype))
    return torch.stack(gradients[::-1])  # they were found from the last step to the first
