"""Self-teachers: which heads speak, how loudly, and to whom (method.md §4.2).

Heads k = 1..K (the network's own last), samples i = 1..N. A teacher is a table of shares: what head j counts in what a
head is taught on sample i. Nothing here carries gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Speakers = Callable[[Tensor], Tensor]
"""Maps whether each head is right [K, N] to whether it speaks [K, N]."""


def reliable(correct: Tensor) -> Tensor:
    """The heads that are right on a sample: nobody, where none is."""
    return correct


def everybody(correct: Tensor) -> Tensor:
    """All heads, right or wrong."""
    return torch.ones_like(correct)


def deepest(correct: Tensor) -> Tensor:
    """The network's own output, which is the last head."""
    speaks = torch.zeros_like(correct)
    speaks[-1] = True
    return speaks


TEACHERS: dict[str, Speakers] = {"reliable": reliable, "mean": everybody, "deepest": deepest}

Loudness = Callable[[Tensor, Tensor], Tensor]
"""Maps the heads' logits [K, N, classes] and the classes [N] to what each head counts beside the others [K, N]."""


def by_confidence(logits: Tensor, classes: Tensor) -> Tensor:
    """By the probability that a head gives to the right class."""
    index = classes.expand(logits.shape[0], -1).unsqueeze(-1)
    return logits.softmax(-1).gather(-1, index).squeeze(-1)


WEIGHTINGS: dict[str, Loudness] = {"confidence": by_confidence}


def targets(logits: Tensor, speaks: Tensor, loudness: Tensor, others_only: bool) -> tuple[Tensor, Tensor]:
    """What each head is taught.

    Args:
        logits: of the heads [K, N, classes].
        speaks: which heads speak on a sample [K, N].
        loudness: what each counts [K, N], above 0.
        others_only: whether a head is not among its own teachers.

    Returns:
        Target logits [K, N, classes], and on which samples a head has a teacher [K, N]. Without
        `others_only` all heads are taught the same: [1, N, classes] and [1, N].
    """
    heads = logits.shape[0]
    # Weights that are 0 for silent heads: samples differ in who speaks, and no loop over them is needed.
    weights = (speaks * loudness.to(logits.dtype)).unsqueeze(0)  # [pupil, teacher, N]
    if others_only:
        others = ~torch.eye(heads, dtype=torch.bool, device=logits.device)
        weights = weights * others.unsqueeze(-1)
    whole = weights.sum(1)
    # Where nobody speaks the target is 0 and is not used.
    share = weights / whole.masked_fill(whole == 0, 1).unsqueeze(1)
    target = torch.stack([(each.unsqueeze(-1) * logits).sum(0) for each in share])
    return target, whole > 0
