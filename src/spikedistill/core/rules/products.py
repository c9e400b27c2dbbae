"""Products of two signals, as attention needs them (method.md §7).

For c(t) = a(t)∘b(t) with ∘ bilinear (elementwise product, matrix product, einsum), and changes δa, δb that are constant
in time:

    mean_t[(a + δa)∘(b + δb)] = mean_t[a∘b] + δa∘b̄ + ā∘δb + O(δ²)

So the value is the time mean of the true products, and the gradient that of the operation on the rates: exact to the
order to which the eligibility is (§2.2). What is lost is the covariance over time of the changes. The worst case is a
binary spike times itself: s·s = s has slope 1, the rule says 2·rate (§7.3).
mean_t(a∘b) − ā∘b̄ is at hand in the forward pass: `measure.products` reads it as a diagnostic (§7.4).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from spikedistill.core.rules.common import linear, stepwise
from spikedistill.core.signal import Flow, Rule, Signal, Signals, TorchFunction, name_of
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument, UnsupportedOperation

# `matrix @ x` asks x to multiply from the right: x comes first, and stands second.
_REVERSED = (torch.Tensor.__rmatmul__,)


def product(function: TorchFunction, left: Signal, right: Signal) -> Signals:
    """A bilinear operation on two signals [N, ...], sample by sample (method.md §7.1).

    Raises:
        UnsupportedOperation: shapes for which torch would mix samples or broadcast over them.
    """
    # Torch aligns shapes from the right: with fewer dimensions it could take another one for the batch.
    if left.dim() != right.dim() or left.batch != right.batch:
        raise UnsupportedOperation(
            f"{name_of(function)} of signals {tuple(left.shape)} and {tuple(right.shape)} at {user_frame()}: both need "
            "the batch in front and as many dimensions; add some of size 1 with unsqueeze(1)"
        )
    return stepwise(function, left, right)


def matrix_product(
    function: TorchFunction, input: Flow, other: Flow | None = None, *, mat2: Flow | None = None
) -> Signals:
    """matmul, bmm and @: of two signals sample by sample, or of a signal and a constant matrix.

    Arguments have torch's names: bmm calls its second one mat2.

    Raises:
        UnsupportedOperation: shapes for which torch would mix samples or broadcast over them.
    """
    right = other if mat2 is None else mat2
    if right is None:
        raise InvalidArgument(f"{name_of(function)} at {user_frame()} needs two matrices; given one")
    left, right = (right, input) if function in _REVERSED else (input, right)
    if not (isinstance(left, Signal) and isinstance(right, Signal)):
        return _with_matrix(function, left, right)
    # Of two signals [N, C], matmul would take N for the rows.
    if min(left.dim(), right.dim()) < 3:
        raise UnsupportedOperation(
            f"{name_of(function)} of signals {tuple(left.shape)} and {tuple(right.shape)} at {user_frame()} would mix "
            "the samples of the batch: give matrices for each sample, [N, ..., rows, columns]"
        )
    return product(torch.matmul, left, right)


def _with_matrix(function: TorchFunction, left: Flow, right: Flow) -> Signals:
    """Signal @ matrix is linear (method.md §2.3); matrix @ signal too, if each sample is a matrix."""
    signal, matrix = (left, right) if isinstance(left, Signal) else (right, left)
    # N matrices do not fit the spike path, which has T·N samples. Of a signal [N, C] at the right, the rows are the
    # samples, and the product would sum over them.
    per_sample = isinstance(matrix, Tensor) and matrix.dim() >= signal.dim() > 2 and matrix.shape[0] != 1
    # N matrices for N rows [C]: torch would multiply each with all of them
    per_sample = per_sample or (isinstance(matrix, Tensor) and matrix.dim() > signal.dim())
    if per_sample or (signal is right and signal.dim() < 3):
        raise UnsupportedOperation(
            f"{name_of(function)} of {tuple(left.shape)} and {tuple(right.shape)} at {user_frame()}: a constant in a "
            "matrix product with a signal is one matrix for all samples"
        )
    return linear(torch.matmul, left, right)


def einsum(function: TorchFunction, equation: str, *operands: Flow | Sequence[Flow]) -> Signals:
    """einsum in letters, of one or two signals; their first letter, and the result's, is the batch.

    Raises:
        UnsupportedOperation: samples would be summed or mixed, or a third signal.
    """
    if not isinstance(equation, str):  # torch also takes operands with lists of numbers
        raise UnsupportedOperation(f"einsum at {user_frame()}: give the equation in letters, as 'bnc,bmc->bnm'")
    # Torch takes the operands one by one or as one list.
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    inputs, _, output = equation.replace(" ", "").partition("->")
    letters = [term[:1] for term, x in zip(inputs.split(","), operands, strict=False) if isinstance(x, Signal)]
    constants = [term for term, x in zip(inputs.split(","), operands, strict=False) if not isinstance(x, Signal)]
    # Letters show what shapes cannot: that no sum goes over the batch, and that no constant has it. A constant with the
    # batch's letter would have N entries where the spike path has T·N.
    batch = letters[0]
    one_batch = set(letters) == {batch} == {output[:1]} and batch not in "".join(constants) and batch.isalpha()
    if not one_batch or len(letters) > 2:
        raise UnsupportedOperation(
            f"einsum {equation!r} at {user_frame()}: every signal and the result must begin with the letter of the "
            "batch, constants must not have it, and at most two operands may be signals; for example 'bnc,bmc->bnm'"
        )
    # With one signal it is linear; with two it is a product (method.md §7.1); with three §7 has no rule.
    return (linear if len(letters) == 1 else stepwise)(torch.einsum, equation, *operands)


PRODUCTS: dict[TorchFunction, Rule] = {
    **dict.fromkeys((torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, operator.matmul), matrix_product),
    **dict.fromkeys((torch.Tensor.__matmul__, torch.Tensor.__rmatmul__), matrix_product),
    torch.einsum: einsum,
}
