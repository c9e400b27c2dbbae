"""Ranks of tensor-train convolutions that are found in weights."""

from __future__ import annotations

import pytest
import torch

import spikedistill as sd
from spikedistill.models.ranks import variational_rank
from spikedistill.models.tensor_train import asked, settled

SHAPES = [((40, 90), 5), ((90, 40), 12), ((64, 576), 3), ((64, 576), 20), ((50, 50), 0)]


@pytest.mark.parametrize(("shape", "rank"), SHAPES)
def test_the_rank_of_constructed_matrices(shape, rank):
    random = torch.Generator().manual_seed(rank)
    noise = torch.randn(*shape, generator=random, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(shape[0], max(rank, 1), generator=random, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(shape[1], max(rank, 1), generator=random, dtype=torch.float64))[0]
    # above the largest singular value of the noise, which is about √L + √M
    strength = 2 * (shape[0] ** 0.5 + shape[1] ** 0.5) * (rank > 0)
    for scale in (1e-3, 1.0, 1e4):
        assert variational_rank(scale * (noise + strength * left @ right.t())) == rank


def test_ranks_at_the_ends():
    assert variational_rank(torch.zeros(5, 7)) == 0
    for matrix in (torch.randn(3), torch.tensor([[float("nan"), 1.0]])):
        with pytest.raises(ValueError, match="matrix of finite numbers"):
            variational_rank(matrix)


def test_what_has_structure_gets_its_rank():
    """A layer whose kernel is of rank 3 but for a little noise, and one of noise alone beside two of them."""
    generator = torch.Generator().manual_seed(0)

    def kernel(rank, noise):
        shapes = ((24, rank), (rank, rank, 3, 3), (rank, 24), (24, 24, 3, 3))
        last, core, first, rest = (torch.randn(*shape, generator=generator) for shape in shapes)
        return torch.einsum("oa,abhw,bi->oihw", last, core, first) + noise * rest

    net = torch.nn.Sequential(*(torch.nn.Conv2d(24, 24, 3, padding=1) for _ in range(4)))
    with torch.no_grad():
        for layer, rank in zip(net, (1, 3, 3, 0), strict=True):
            layer.weight.copy_(kernel(rank, 0.1))
    thin = sd.tensor_train(net)
    assert "rank 3 of 24" in thin.notes[0]
    assert "rank 1 of 24, misses" in thin.notes[2]
    found = settled("evbmf", thin)
    assert found == "evbmf 3 3 1"
    assert settled(0.1, thin) == 0.1
    assert (asked(found), asked("evbmf"), asked(0.1), asked([3, 1])) == ("evbmf", "evbmf", 0.1, [3, 1])
    again = sd.tensor_train(sd.merge(thin), found, decompose=False)  # found before: the weights are not asked
    assert settled(found, again) == found
