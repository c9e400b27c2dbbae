"""Autograd functions of which only first derivatives are right."""

from __future__ import annotations

from torch.autograd import Function
from torch.autograd.function import once_differentiable


class FirstOrder(Function):
    """Base of functions to whose backward pass what the forward pass has kept is a constant.

    Eligibility, membranes and statistics depend on the input, so a derivative of the gradient would be wrong: torch
    raises an error where one is taken.
    """

    def __init_subclass__(cls) -> None:
        cls.backward = staticmethod(once_differentiable(cls.backward))  # pyright: ignore[reportAttributeAccessIssue]
