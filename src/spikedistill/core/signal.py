"""What signals have in common: they intercept torch functions and look up the rule for each.

A signal is a tensor over time (dual.py has the three kinds). To a network it looks like a tensor [N, ...].
"""

from __future__ import annotations

import dataclasses
import functools
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch.overrides import resolve_name

from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.tensor_methods import TensorMethods, TorchFunction
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

Rule = Callable[..., Any]
"""What a torch function does to signals: rule(function, *args, **kwargs), with signals among the arguments."""

Flow: TypeAlias = "Signal | Tensor"
"""What flows through a network: a signal, or in the ANN twin a plain tensor [N, ...]."""

Signals: TypeAlias = "Signal | tuple[Signals, ...] | list[Signals]"
"""What a rule gives: one signal, or as many as the function has results (chunk, split)."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What all signals of one forward pass share.

    Attributes:
        timesteps: T.
        rules: the rule of each torch function.
        kernels: how spike paths are computed.
        fluctuating: whether a static signal stands for one that changes over time, as behind the rate twin's neurons.
    """

    timesteps: int
    rules: Mapping[TorchFunction, Rule]
    kernels: Kernels = EAGER
    fluctuating: bool = False


def first_signal(values: Iterable[object]) -> Signal | None:
    """The first signal among arguments, or in a list or tuple among them (cat, stack)."""
    for value in values:
        if isinstance(value, Signal):
            return value
        if isinstance(value, (list, tuple)):
            found = first_signal(value)
            if found is not None:
                return found
    return None


def is_autocast(x: Flow) -> bool:
    """Whether autocast is on where the tensor is; a device that has none (meta) refuses to be asked."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def name_of(function: TorchFunction) -> str:
    """A torch function as its user knows it: `max_pool2d`, `Tensor.clamp`, `einsum`."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", repr(function))
    if "<locals>" in name:  # pooling functions are made by torch at import, without a name of their own
        name = resolve_name(function) or name
    # Torch's own classes behind its names: torch.conv2d is `_VariableFunctionsClass.conv2d`.
    return name.replace("TensorBase", "Tensor").replace("_VariableFunctionsClass.", "")


def dispatch(function: TorchFunction, args: Iterable[object], kwargs: Mapping[str, object]) -> Any:
    """Apply the rule of `function` to arguments with a signal among them.

    Raises:
        UnsupportedOperation: there is no rule; names the function and the user's line.
    """
    signal = first_signal((*args, *kwargs.values()))
    # Torch asks a signal only for calls that have one among their arguments, or in a list of them.
    assert signal is not None
    # The table travels with the signal, so one forward pass can have rules of its own (measure/products.py).
    rule = signal.context.rules.get(function)
    if rule is None:
        refuse(function, signal)
    if not kwargs:
        return rule(function, *args)
    args, kwargs = _as_usually_written(args, kwargs)
    return rule(function, *args, **kwargs)


def _as_usually_written(
    args: Iterable[object], kwargs: Mapping[str, object]
) -> tuple[Iterable[object], Mapping[str, object]]:
    """The signal in front, whatever torch calls it there; and numpy's word for a dimension by torch's own."""
    kwargs = {"dim" if name == "axis" else name: value for name, value in kwargs.items()}
    if not args:
        args = [kwargs.pop(name) for name in ("input", "tensors") if name in kwargs][:1]
    return args, kwargs


def refuse(function: TorchFunction, signal: Signal) -> NoReturn:
    """Say that a function has no rule, where it was called, and what to do.

    Raises:
        UnsupportedOperation: always.
    """
    # The table also holds functions whose rule is to refuse them: they are not supported.
    rules = {f: rule for f, rule in signal.context.rules.items() if not rule.__module__.endswith(".refused")}
    # A function stands there in several forms (torch.add, Tensor.add, Tensor.__add__): one name is enough.
    supported = sorted({name_of(f).rpartition(".")[2].strip("_") for f in rules})
    raise UnsupportedOperation(
        f"no rule for {name_of(function)} on a {type(signal).__name__} signal, called at {user_frame()}.\n"
        f"Supported: {', '.join(supported)}.\n"
        "If it acts on every time step alone and is linear, register it: "
        "spikedistill.register_rule(function, spikedistill.rules.linear)"
    )


def with_rules(signal: Any, own: Mapping[TorchFunction, Rule]) -> Any:
    """A signal whose forward pass has rules of its own in front of the usual ones; nothing global is changed."""
    # Results of rules carry the context on, so the table goes through the whole network.
    context = dataclasses.replace(signal.context, rules=ChainMap(dict(own), dict(signal.context.rules)))
    return dataclasses.replace(signal, context=context)


class Signal(TensorMethods):
    """Base of the three signals: the torch-function protocol, and what a network may ask of a tensor.

    Every method that changes values goes through the table of rules (tensor_methods.py has the usual ones). Methods of
    tensors that are not written there do so too (`__getattr__`), so what has no rule is refused by name.
    """

    # Not a subclass of Tensor: code that looks for tensors, as the rules do for constants, must not take it for one.

    context: Context
    rate: Tensor

    @classmethod
    def __torch_function__(
        cls, func: TorchFunction, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    def _call(self, function: TorchFunction, *args: object, **kwargs: object) -> Any:
        return dispatch(function, (self, *args), kwargs)

    # ---- what a network may ask

    @property
    def timesteps(self) -> int:
        """T."""
        return self.context.timesteps

    @property
    def kernels(self) -> Kernels:
        return self.context.kernels

    @property
    def carrier(self) -> Tensor:
        """A tensor of the signal's dtype and device, at hand without computing anything."""
        return self.rate

    @property
    def shape(self) -> torch.Size:
        """[N, ...], the shape that the network sees."""
        return self.rate.shape

    @property
    def batch(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.carrier.dtype

    @property
    def device(self) -> torch.device:
        return self.carrier.device

    @property
    def requires_grad(self) -> bool:
        return self.rate.requires_grad

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    ndim = property(dim)

    def numel(self) -> int:
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return True

    @property
    def is_nested(self) -> bool:
        """Asked by torch's attention layers alone, before anything else.

        Raises:
            UnsupportedOperation: always.
        """
        raise UnsupportedOperation(
            f"an attention or transformer layer of torch on a signal at {user_frame()}: softmax is not linear in "
            "the rates; write the attention with products of spikes, as models/attention.py does"
        )

    def __len__(self) -> int:
        return self.batch

    def __getattr__(self, name: str) -> Any:
        """Any other method of a tensor: by its rule, or refused by name."""
        # Python and numpy look for protocols by such names (`__array__`, `__deepcopy__`): those must look absent.
        method = None if name.startswith("__") else getattr(torch.Tensor, name, None)
        if not callable(method):
            raise AttributeError(f"a {type(self).__name__} signal has no attribute {name!r}")
        return functools.partial(self._call, method)


def check_timesteps(timesteps: object) -> None:
    """Raise InvalidArgument unless T is a whole number of at least 1."""
    # True is an int in Python, and no number of steps.
    if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
        raise InvalidArgument(f"timesteps is {timesteps!r}; expected a whole number of at least 1")
