"""What signals have in common: they intercept torch functions and look them up in a table.

A signal is a tensor over time (dual.py has the three kinds). To a network it looks like a tensor [N, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spikedistill.errors import InvalidArgument, UnsupportedOperation
from spikedistill.core.kernels import Kernels
from spikedistill.core.trace import user_frame

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""What each torch function does to signals: rule(function, *args, **kwargs). Extend with `register_rule`."""


class Signal:
    """Base of the three signals: the torch-function protocol, and what a network may ask of a tensor's shape."""

    timesteps: int
    kernels: Kernels
    rate: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func)
        if rule is None:
            name = getattr(func, "__qualname__", None) or getattr(func, "__name__", repr(func))
            supported = sorted({getattr(f, "__name__", str(f)).strip("_") for f in RULES})
            raise UnsupportedOperation(
                f"no rule for {name} on a {cls.__name__} signal, called at {user_frame()}.\n"
                f"Supported: {', '.join(supported)}.\n"
                "If it acts on every time step alone and is linear, register it: "
                "spikedistill.register_rule(function, spikedistill.core.rules.common.linear)"
            )
        return rule(func, *args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        """[N, ...], the shape that the network sees."""
        return self.rate.shape

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.rate.dtype

    @property
    def device(self) -> torch.device:
        return self.rate.device

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    ndim = property(dim)


def register_rule(function: Any, rule: Rule) -> None:
    """Teach signals a torch function (or any function that calls `torch.overrides.handle_torch_function`).

    Args:
        rule: called as rule(function, *args, **kwargs) with signals among the arguments; returns a signal.
            `spikedistill.core.rules.common` has the common ones: `linear` for a function that is linear in the signal,
            `stepwise` for one that acts on every time step alone (gradient by the operation on the rate).
    """
    if not callable(rule):
        raise InvalidArgument(f"register_rule: the rule is {rule!r}; expected a function")
    RULES[function] = rule
