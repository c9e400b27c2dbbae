"""Tensor-train decompositions of 3×3 kernels by singular values (method.md §8)."""

from __future__ import annotations

import torch
from torch import Tensor


def _padded(factor: Tensor, *shape: int) -> Tensor:
    """With zeros where a rank is more than the kernel has."""
    out = torch.zeros(shape, dtype=factor.dtype, device=factor.device)
    out[tuple(slice(0, size) for size in factor.shape)] = factor
    return out


def _split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """[m, n] ≈ left [m, r] @ right [r, n] with r ≤ rank; both as large as the other."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def train_of(weight: Tensor, rank: int) -> tuple[Tensor, ...]:
    """The tensor-train decomposition of [O, I, h, w] in the order I, h, w, O (three SVDs, one after the other)."""
    outputs, inputs = weight.shape[:2]
    first, rest = _split(weight.permute(1, 2, 3, 0).reshape(inputs, -1), rank)  # [I, a], [a, h·w·O]
    rows, rest = _split(rest.reshape(first.shape[1] * 3, -1), rank)  # [a·h, b], [b, w·O]
    columns, last = _split(rest.reshape(rows.shape[1] * 3, outputs), rank)  # [b·w, c], [c, O]
    a, b, c = first.shape[1], rows.shape[1], columns.shape[1]
    return (
        _padded(first.t(), rank, inputs)[:, :, None, None],
        _padded(rows.reshape(a, 3, b).permute(2, 0, 1), rank, rank, 3)[..., None],
        _padded(columns.reshape(b, 3, c).permute(2, 0, 1), rank, rank, 3)[:, :, None],
        _padded(last.t(), outputs, rank)[:, :, None, None],
    )


CROSS = ((0, 1), (1, 1), (2, 1), (1, 0), (1, 2))
"""Positions of a 3×3 kernel that ptt can have: the middle column, then what is left of the middle row."""


def cross_of(weight: Tensor, rank: int) -> tuple[Tensor, ...]:
    """The kernel without its corners, in a basis of ρ channels on both sides (the leading singular vectors)."""
    outputs, inputs = weight.shape[:2]
    cross = torch.stack([weight[:, :, h, w] for h, w in CROSS], 2)  # [O, I, 5]
    left = torch.linalg.svd(cross.reshape(outputs, -1), full_matrices=False)[0][:, :rank]  # [O, a]
    right = torch.linalg.svd(cross.transpose(0, 1).reshape(inputs, -1), full_matrices=False)[0][:, :rank]  # [I, b]
    core = torch.einsum("oa,oik,ib->abk", left, cross, right)
    middle = core[..., 1]  # belongs to both: half to each
    rows = torch.stack([core[..., 0], middle / 2, core[..., 2]], 2) * 2
    columns = torch.stack([core[..., 3], middle / 2, core[..., 4]], 2) * 2
    return (
        _padded(right.t(), rank, inputs)[:, :, None, None],
        _padded(rows, rank, rank, 3)[..., None],
        _padded(columns, rank, rank, 3)[:, :, None],
        _padded(left, outputs, rank)[:, :, None, None],
    )
