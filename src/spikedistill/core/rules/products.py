"""Products of two signals, as attention needs them (method.md §7).

For c(t) = a(t)∘b(t) with ∘ bilinear (elementwise product, matrix product, einsum), and changes δa, δb that are constant
in time:

    mean_t[(a + δa)∘(b + δb)] = mean_t[a∘b] + δa∘b̄ + ā∘δb + O(δ²)

So the value is the time mean of the true products, and the gradient that of the operation on the rates: exact to the
order to which the eligibility is. What is lost is the covariance over time of the changes. The worst case is a binary
spike times itself: s·s = s has slope 1, the rule says 2·rate.
mean_t(a∘b) − ā∘b̄ is at hand in the forward pass: `measure.products` reads it as a diagnostic.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from spikedistill.core.rules.common import linear, stepwise
from spikedistill.core.signal import Rule, Signal, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import UnsupportedOperation

_REVERSED = (torch.Tensor.__rmatmul__,)


def product(function: Rule, left: Signal, right: Signal) -> Any:
    """A bilinear operation on two signals, sample by sample.

    Raises:
        UnsupportedOperation: shapes for which torch would mix samples or broadcast over them.
    """
    if left.dim() != right.dim() or left.batch != right.batch:
        raise UnsupportedOperation(
            f"{name_of(function)} of signals {tuple(left.shape)} and {tuple(right.shape)} at {user_frame()}: both need "
            "the batch in front and as many dimensions; add some of size 1 with unsqueeze(1)"
        )
    return stepwise(function, left, right)


def matrix_product(function: Rule, left: Any, right: Any) -> Any:
    """matmul, bmm and @: of two signals sample by sample, or of a signal and a constant matrix."""
    if function in _REVERSED:
        left, right = right, left
    if not (isinstance(left, Signal) and isinstance(right, Signal)):
        return _with_matrix(function, left, right)
    if min(left.dim(), right.dim()) < 3:
        raise UnsupportedOperation(
            f"{name_of(function)} of signals {tuple(left.shape)} and {tuple(right.shape)} at {user_frame()} would mix "
            "the samples of the batch: give matrices for each sample, [N, ..., rows, columns]"
        )
    return product(torch.matmul, left, right)


def _with_matrix(function: Rule, left: Any, right: Any) -> Any:
    """Signal @ matrix is linear; matrix @ signal too, unless its columns are the samples."""
    signal, matrix = (left, right) if isinstance(left, Signal) else (right, left)
    per_sample = isinstance(matrix, Tensor) and matrix.dim() >= signal.dim() > 2 and matrix.shape[0] != 1
    if per_sample or (signal is right and signal.dim() < 3):
        raise UnsupportedOperation(
            f"{name_of(function)} of {tuple(left.shape)} and {tuple(right.shape)} at {user_frame()}: a constant in a "
            "matrix product with a signal is one matrix for all samples"
        )
    return linear(torch.matmul, left, right)


def einsum(function: Rule, equation: str, *operands: Any) -> Any:
    """einsum in letters, of one or two signals; their first letter, and the result's, is the batch.

    Raises:
        UnsupportedOperation: samples would be summed or mixed, or a third signal.
    """
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    inputs, _, output = equation.replace(" ", "").partition("->")
    letters = [term[:1] for term, x in zip(inputs.split(","), operands, strict=False) if isinstance(x, Signal)]
    constants = [term for term, x in zip(inputs.split(","), operands, strict=False) if not isinstance(x, Signal)]
    batch = letters[0]
    one_batch = set(letters) == {batch} == {output[:1]} and batch not in "".join(constants) and batch.isalpha()
    if not one_batch or len(letters) > 2:
        raise UnsupportedOperation(
            f"einsum {equation!r} at {user_frame()}: every signal and the result must begin with the letter of the "
            "batch, constants must not have it, and at most two operands may be signals; for example 'bnc,bmc->bnm'"
        )
    return (linear if len(letters) == 1 else stepwise)(torch.einsum, equation, *operands)


PRODUCTS: dict[Any, Rule] = {
    **dict.fromkeys((torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, operator.matmul), matrix_product),
    **dict.fromkeys((torch.Tensor.__matmul__, torch.Tensor.__rmatmul__), matrix_product),
    torch.einsum: einsum,
}
