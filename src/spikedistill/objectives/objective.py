"""What an objective is: it turns an output and a batch into named losses, and says what it needs for that.

A new objective is one file with a frozen dataclass, whose fields are its recipe fields, and one row in
`objectives.OBJECTIVES`. Several are added up in one recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from spikedistill.core.output import Batch, Output
from spikedistill.errors import choose


@dataclasses.dataclass(frozen=True)
class Terms:
    """A loss and what it is made of: `total` to call backward on, `parts` (detached) to look at, by name."""

    total: Tensor
    parts: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """One part, [] (a number).

        Raises:
            InvalidArgument: a part that the objective does not have.
        """
        return self.parts[choose("loss term", name, self.parts)]

    def named(self) -> dict[str, Tensor]:
        """The parts, and first of them the total, detached, as "loss": a part of that name gives way to it."""
        loss = {"loss": self.total.detach()}
        return loss | dict(self.parts) | loss


@dataclasses.dataclass(frozen=True)
class Needs:
    """What an objective wants to find in its output and batch.

    Attributes:
        features: submodules of the network whose rates shall be in `output.features`, beside its stages.
        inputs: whether it looks at `batch.inputs`, which are otherwise left out where nobody needs them.
        teachers: frozen teacher networks whose outputs shall be in `batch.teachers`: the folder of a run, or a name
            that is given to the learner (`teachers={name: module}`).
        teacher_features: submodules of the teachers whose outputs shall be in their `features`.
        teacher_gradients: whether the teachers' logits shall have gradient to those features (not beyond them).
        neurons: whether it looks at `output.neurons`, the rates of all neurons.
        branches: whether it has no effect on a network without branches.

    Of submodules, "first" and "last" are the first and the last of the network's stages.
    """

    # Everything is off by default: what nobody asks for is not computed and not kept.
    features: tuple[str, ...] = ()
    inputs: bool = False
    teachers: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()
    teacher_gradients: bool = False
    neurons: bool = False
    branches: bool = False


class Objective:
    """Base of objectives; a subclass is a frozen dataclass."""

    def needs(self) -> Needs:
        """What it wants beside logits, branches and targets."""
        return Needs()

    def adapter(self, output: Output, teachers: Mapping[str, Output]) -> nn.Module | None:
        """A module with parameters of the objective's own, or None.

        It is trained and saved with the branches and removed with them. It is called with the `Output` of every
        forward pass, and what it gives is `output.adapted[NAME]`.

        Args:
            output, teachers: what network and teachers say about one example, for their shapes.
        """
        # Parameters cannot be a field: an objective is a frozen value that a recipe writes down.
        return None

    def __call__(self, output: Output, batch: Batch) -> Terms:
        """The loss of one batch of N samples, before the learning rule scales it."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to compute its loss")
