"""Progressive resizing: small inputs cost less, and are enough to begin with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.learning import ANN
from spikedistill.core.modules import evaluating
from spikedistill.errors import InvalidArgument
from spikedistill.training.learner import SelfDistillation


def size_at(inputs: Tensor, resolution: float) -> tuple[int, int]:
    """Height and width, at least 1, of inputs [..., H, W] at a share of both."""
    height, width = (max(1, round(n * resolution)) for n in inputs.shape[-2:])
    return height, width


def resized(inputs: Tensor, resolution: float) -> Tensor:
    """Images [N, C, H, W] or frames [T, N, C, H, W] at a share of their height and width.

    Args:
        resolution: above 0; 1 gives the inputs themselves.
    """
    if resolution == 1:
        return inputs
    images = inputs.reshape(-1, *inputs.shape[-3:])
    small = F.interpolate(images, size_at(inputs, resolution), mode="bilinear", antialias=True)
    return small.reshape(*inputs.shape[:-2], *small.shape[-2:])


def refuse_resolutions(learner: SelfDistillation, example: Tensor, resolutions: Iterable[float]) -> None:
    """Try the learner at every resolution before it is trained.

    Args:
        example: one sample at one step as a batch, [1, C, H, W].

    Raises:
        InvalidArgument: inputs that are no images; or a network that takes one size only, or answers in another form at
            another size.
    """
    shape = tuple(example.shape[1:])
    if example.dim() != 4 or not example.is_floating_point():
        raise InvalidArgument(
            f"phases.resolutions is for images and frames of them, [C, H, W] in floating point, and a sample is "
            f"{shape} of {example.dtype}; leave it out"
        )
    answers = {}
    for resolution in (1.0, *resolutions):
        size = "x".join(map(str, size_at(example, resolution)))
        try:
            shown = resized(example, resolution)
            with torch.no_grad(), evaluating(learner):
                answers[size] = tuple(learner(shown, ANN()).logits.shape)
            for teacher in learner.teachers.values():
                teacher(shown)
        except (RuntimeError, ValueError, TypeError) as error:
            if resolution == 1:
                raise
            raise InvalidArgument(
                f"phases.resolutions {resolution} makes inputs of {size}, which the network or a teacher cannot take "
                f"({error}); give larger ones, or leave it out"
            ) from error
    if len(set(answers.values())) > 1:
        said = ", ".join(f"{answer} of {size}" for size, answer in answers.items())
        raise InvalidArgument(
            f"phases.resolutions is for networks whose answers have one form, as classes; this one's are {said}, and "
            "targets are made for the whole size: leave it out"
        )
