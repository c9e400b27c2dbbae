"""What goes into a network and what comes out of it, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_leaves

from spikedistill.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass gives, the same under every learning rule.

    Attributes:
        logits: what the head says, [N, ...] ([N, classes] in classification): the mean over time.
        branches: the same from every branch, by stage name; empty without branches.
        features: the rate [N, C, H, W] at each stage and at whatever else an objective needs, by module name (in PreAct
            networks the mean membrane input).
        adapted: what the adapters of objectives make of all that, by the objective's name.
        neurons: the rate [N, ...] of each layer of neurons, by module name, where an objective asked for them.
        timesteps: T of this forward pass; None where there is no time.
    """

    logits: Tensor
    branches: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    adapted: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    neurons: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    timesteps: int | None = None

    def weighted(self, weights: Tensor) -> Output:
        """The same values, whose gradients are multiplied with `weights` [N], one for each sample.

        So every loss that is a mean over samples becomes the weighted one, whatever it looks at (method.md §5.1). No
        part of the output is computed from another any more: logits have no derivative by features.

        Raises:
            InvalidArgument: weights of another shape.
        """
        if weights.shape != self.logits.shape[:1]:
            raise InvalidArgument(f"weights are {tuple(weights.shape)}; expected one a sample, [{len(self.logits)}]")
        named = ("branches", "features", "adapted", "neurons")
        parts: dict[str, Any] = {
            part: {name: _Weighted.apply(value, weights) for name, value in getattr(self, part).items()}
            for part in named
        }
        return dataclasses.replace(self, logits=_Weighted.apply(self.logits, weights), **parts)


class _Weighted(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (weights,) = ctx.saved_tensors
        return grads[0] * weights.view(-1, *[1] * (grads[0].dim() - 1)).to(grads[0].dtype), None


@dataclasses.dataclass(frozen=True)
class Batch:
    """What an objective compares an output with.

    Attributes:
        inputs: what the network was fed, [N, ...] (images: [N, C, H, W]) or [T, N, ...] (event frames).
        targets: what the task's targets hand out for N samples; class indices int64 [N] in classification, or shares
            of the classes [N, classes] where samples were mixed.
        teachers: the outputs of frozen teacher networks on the same inputs, by the name an objective asked for.
        weights: what the gradient of each sample is multiplied with, [N] (None: 1). Objectives do not get to see it.
    """

    inputs: Tensor
    targets: Any  # only the task and its objectives know what they are
    teachers: Mapping[str, Output] = dataclasses.field(default_factory=dict)
    weights: Tensor | None = None

    def __len__(self) -> int:
        """N, the number of samples: targets have it in front, and inputs may have time before it."""
        leaf, given = tree_leaves(self.targets)[0], type(self.targets).__name__
        if not isinstance(leaf, Tensor):
            raise InvalidArgument(f"targets are a {given} of {type(leaf).__name__}; give tensors")
        return len(leaf)
