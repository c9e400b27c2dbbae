"""The layer of LIF neurons: what stands in a network where a ReLU stood."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from spikedistill.core.neuron import Neuron
from spikedistill.errors import InvalidArgument, choose

Flow = TypeVar("Flow")
"""What flows through a network: a tensor, or a signal over time (dual.py), which is built on neurons."""

LEARNABLE = ("decay", "threshold")
"""Constants of a neuron that can be parameters."""


def lif(x: Flow, neuron: Neuron) -> Flow:
    """Apply the neuron to whatever flows through the network; that decides how it learns.

    A `Dual` signal gives rate-based backpropagation, an `Unrolled` one gives BPTT or evaluation (both in `dual.py`),
    and an ordinary tensor [N, ...] gives the ANN twin: a ReLU (method.md §2.6).
    """
    # A signal looks this function up in its table of rules, as it does torch's own (core/rules).
    if has_torch_function_unary(x):
        return handle_torch_function(lif, (x,), x, neuron)
    return torch.relu(x)  # pyright: ignore[reportArgumentType, reportReturnType]  # a signal does not come this far


def learned_lif(x: Flow, neuron: Neuron, decay: Tensor | None, threshold: Tensor | None) -> Flow:
    """As `lif`, with a decay and a threshold that learn (method.md §2.7); in the ANN twin neither has an effect.

    Args:
        neuron: the other constants, and the decay or threshold that does not learn.
        decay, threshold: one number [], or one for each channel [C]; None: the neuron's constant.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(learned_lif, (x,), x, neuron, decay, threshold)
    return torch.relu(x)  # pyright: ignore[reportArgumentType, reportReturnType]


_ELSEWHERE = {
    "tau": "decay, or neuron=Neuron.from_tau(tau)",
    "beta": "decay",
    "v_threshold": "threshold",
    "v_reset": "reset='hard' with reset_value",
    "surrogate_function": "surrogate",
    "spike_grad": "surrogate",
    "learn_beta": "decay=nn.Parameter(torch.tensor(0.2))",
    "learn_threshold": "threshold=nn.Parameter(torch.tensor(1.0))",
}
"""What other libraries call the constants."""


def _refuse_unknown(constant: str) -> None:
    """Name the constant that was meant."""
    known = [field.name for field in dataclasses.fields(Neuron)]
    if constant in _ELSEWHERE:
        raise InvalidArgument(f"a neuron's {constant} is called {_ELSEWHERE[constant]} here; known: {', '.join(known)}")
    choose("constant of a neuron", constant, known)


class LIF(nn.Module):
    """A layer of LIF neurons: put it where a ReLU would stand. It keeps no state.

    It has no parameters, unless `decay` or `threshold` is an `nn.Parameter`: one number [] for the layer, or one for
    each channel [C]. Those learn (method.md §2.7). A decay is kept within 0 to 1 and a threshold above 0.01 as they are
    used, whatever an optimizer makes of the parameter.

    Args: as `Neuron`, or pass a ready one as `neuron`.

    Raises:
        InvalidArgument: both a neuron and constants, constants that `Neuron` refuses, or a tensor that would not learn.
    """

    def __init__(self, neuron: Neuron | None = None, **constants: Any) -> None:
        super().__init__()
        if neuron is not None and constants:
            raise InvalidArgument(f"LIF(neuron=...) takes no further constants; given {sorted(constants)}")
        if neuron is not None and not isinstance(neuron, Neuron):
            raise InvalidArgument(
                f"neuron is {neuron!r}; expected a Neuron, or constants by name: LIF(decay=0.2, threshold=1.0)"
            )
        for name, value in constants.items():
            _refuse_unknown(name)
            if isinstance(value, Tensor) and not (isinstance(value, nn.Parameter) and name in LEARNABLE):
                raise InvalidArgument(
                    f"{name} is a {type(value).__name__}; expected a number"
                    + (", or an nn.Parameter to learn it" if name in LEARNABLE else "")
                )
        parameters = {name: v for name, v in constants.items() if isinstance(v, nn.Parameter)}
        plain = {name: v for name, v in constants.items() if name not in parameters}
        self.neuron = neuron if neuron is not None else Neuron(**plain)
        self.decay: nn.Parameter | None
        self.threshold: nn.Parameter | None
        for name in LEARNABLE:
            self.register_parameter(name, None)
        for name, parameter in parameters.items():
            self.learn(name, parameter)

    def learn(
        self,
        name: str,
        start: nn.Parameter | None = None,
        channels: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Make a constant a parameter.

        Args:
            name: "decay" or "threshold".
            start: the parameter, [] or [C] (None: a new one that begins with the constant).
            channels: C of a new one; None: one number for the layer.
            device: of a new one.

        Raises:
            InvalidArgument: another name, another shape, or values that the constant could not have.
        """
        choose("learnable constant of a neuron", name, LEARNABLE)
        if start is None:
            constant = float(getattr(self.neuron, name))
            start = nn.Parameter(torch.full(() if channels is None else (channels,), constant, device=device))
        if start.dim() > 1 or not start.is_floating_point():
            raise InvalidArgument(
                f"a learned {name} is one number [] or one for each channel [C], of floats; given "
                f"{start.dtype} {list(start.shape)}"
            )
        if not start.numel():
            raise InvalidArgument(
                f"a learned {name} has no channels; expected one number [] or one for each channel [C]"
            )
        for value in {float(start.detach().min()), float(start.detach().max())}:  # `Neuron` says what is wrong
            dataclasses.replace(self.neuron, **{name: value})
        setattr(self, name, start)

    def forward(self, x: Flow) -> Flow:
        if self.decay is None and self.threshold is None:
            return lif(x, self.neuron)
        return learned_lif(x, self.neuron, self.decay, self.threshold)

    def extra_repr(self) -> str:
        n = self.neuron
        decay, threshold = (_shown(getattr(n, name), getattr(self, name)) for name in LEARNABLE)
        return f"decay={decay}, threshold={threshold}, reset={n.reset!r}, surrogate={n.surrogate.name!r}"


def _shown(constant: float, parameter: nn.Parameter | None) -> str:
    if parameter is None:
        return str(constant)
    per = "" if parameter.dim() == 0 else f" over {len(parameter)} channels"
    return f"learned ({float(parameter.detach().mean()):.3g}{per})"
