"""The rank of a noisy matrix by empirical variational Bayesian matrix factorisation (Nakajima et al., JMLR 14, 2013).

A matrix [L, M], L ≤ M, is taken for one of low rank and noise of an unknown variance σ². In closed form: with α = L/M,
a singular value s is kept where

    s² > M·σ²·(1 + τ̄)·(1 + α/τ̄),    τ̄ = 2.5129·√α

and σ² is where the free energy is least, which is a function of one variable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spikedistill.errors import InvalidArgument

GRID = 200
"""Values of σ² that are tried, on a logarithmic scale, in each of two rounds."""


def variational_rank(matrix: Tensor) -> int:
    """The number of singular values of a matrix [L, M] that are no noise.

    Raises:
        InvalidArgument: no matrix, or numbers that are not finite.
    """
    if matrix.dim() != 2 or not matrix.isfinite().all():
        raise InvalidArgument(f"a rank is of a matrix of finite numbers; given {tuple(matrix.shape)}")
    rows, columns = sorted(matrix.shape)
    squares = torch.linalg.svdvals(matrix.double()).square() / columns
    if float(squares.max()) == 0:
        return 0
    alpha = rows / columns
    tau = 2.5129 * math.sqrt(alpha)
    border = (1 + tau) * (1 + alpha / tau)
    return int((squares > border * _noise(squares, rows, alpha, border)).sum())


def _noise(squares: Tensor, rows: int, alpha: float, border: float) -> float:
    """σ² where the free energy of eigenvalues `squares` [L] is least."""
    # Not more than all of it, and not less than what lies beyond the largest rank that can be told from noise.
    largest = min(math.ceil(rows / (1 + alpha)) - 1, rows - 1)
    high = float(squares.mean())
    rest = squares[largest:]
    low = max(float(squares[largest]) / border, float(rest.mean()))
    low = max(min(low, high), high * 1e-12)
    for _ in range(2):
        tried = torch.logspace(math.log10(low), math.log10(high), GRID, dtype=torch.float64)
        best = int(torch.stack([_free_energy(squares / sigma, alpha, border) for sigma in tried]).argmin())
        low, high = float(tried[max(best - 1, 0)]), float(tried[min(best + 1, GRID - 1)])
    return math.sqrt(low * high)


def _free_energy(x: Tensor, alpha: float, border: float) -> Tensor:
    """That of eigenvalues over the noise [L], up to a constant; −log x has the logarithm of the noise in it."""
    signal, noise = x[x > border], x[x <= border]
    shifted = signal - (1 + alpha)
    tau = (shifted + (shifted.square() - 4 * alpha).clamp(min=0).sqrt()) / 2
    parts = noise.sum() - noise.clamp(min=1e-300).log().sum() + (signal - tau).sum()
    return parts + ((tau + 1) / signal).log().sum() + alpha * (tau / alpha + 1).log().sum()
