"""What a task has to say: the interfaces between a kind of question and everything that trains, measures and shows.

The loop, the recipes and the data readers know these protocols only. `classification.py` is the first task; another is
one more file and one row in `tasks.TASKS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor

Description = Mapping[str, Any]
"""Plain values that describe the targets of a data set; kept in `config.json`, beside the weights."""


class Motion(NamedTuple):
    """How the content of samples was moved along rows and columns: new = scale · old + shift, in pixels.

    Attributes:
        scale: [N, 2], of columns (x) and rows (y); below 0 where a sample was mirrored.
        shift: [N, 2], in pixels of the new sample.
        size: rows and columns of the new sample; what lies outside is cut off.
    """

    scale: Tensor
    shift: Tensor
    size: tuple[int, int]


class Mark(NamedTuple):
    """A rectangle to be drawn on a sample.

    Attributes:
        box: left, top, width and height in pixels.
        caption: what it is.
    """

    box: tuple[float, float, float, float]
    caption: str


class Targets(Protocol):
    """The right answers to the samples of a data set, one row for each.

    A class that inherits from it has targets that hold wherever a sample is moved to, and no marks.

    Attributes:
        are_places: whether they have to be moved with the samples (`moved`).
    """

    are_places: ClassVar[bool] = False

    def __len__(self) -> int: ...

    def rows(self, index: Tensor | slice) -> Self:
        """Those of the samples `index`."""
        ...

    def to(self, device: torch.device) -> Self: ...

    def batch(self, index: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What objectives and meters get for the samples `index` [N]: a tensor or a tuple of tensors, N in front."""
        ...

    def description(self) -> Description:
        """What a network that learned these has to know to name its answers."""
        ...

    def matched(self, description: Description) -> Self:
        """The same answers in the numbering of `description`.

        Raises:
            DataError: answers that a network with this description cannot give.
        """
        ...

    def some(self, count: int) -> Tensor | slice:
        """The rows that stand for all where only `count` are wanted: the first."""
        return slice(count)

    def captions(self, index: Tensor) -> list[str]:
        """A few words on each of the samples `index` [N], to stand over a picture."""
        ...

    def moved(self, targets: Any, motion: Motion) -> Any:
        """What `batch` gave for N samples, after these have been moved."""
        return targets

    def marks(self, targets: Any) -> list[list[Mark]]:
        """What is to be drawn on each of N samples, of what `batch` gave for them; empty where there is nothing."""
        return []


# Targets of meters and tasks below are `Any`: each task knows its own, and no other code looks into them.


class Meter(Protocol):
    """A measurement that adds up over batches and over processes."""

    def add(self, logits: Tensor, targets: Any) -> None:
        """Take in a batch: what the head said [N, ...], and the targets of the N samples. Needs no synchronisation."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything so far, as plain values and CPU tensors: can be saved, and sent to another process."""
        ...

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Take in what another meter of this kind has measured."""
        ...

    # Sums are handed on and not results, because a mean of means is right only for parts of one size.

    def columns(self) -> dict[str, float]:
        """The numbers to show, by name; empty where nothing was measured."""
        ...


class Grid(NamedTuple):
    """Counts by two things, to be shown as a picture.

    Attributes:
        title: what is counted.
        rows, columns: what the two things are.
        row_names, column_names: of each row and column.
        counts: [rows, columns].
        whole: of which counts are shares, by row (None: their sum).
        counted: what the whole consists of.
    """

    title: str
    rows: str
    columns: str
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    counts: Tensor
    whole: Tensor | None = None
    counted: str = "samples"


class Inspector(Protocol):
    """What looks closer than a score at what a network answers; it adds up as a `Meter` does."""

    def add(self, logits: Tensor, targets: Any) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def add_state(self, state: Mapping[str, Any]) -> None: ...

    def lines(self) -> list[str]:
        """What was found, in words."""
        ...

    def grid(self) -> Grid:
        """What was found, as a picture."""
        ...


class Task(Protocol):
    """A kind of question: what a head looks like, which targets fit, how answers are scored.

    A class that inherits from it trains with the meter that it is scored by, and draws nothing.
    """

    # A property without a setter: frozen dataclasses can be tasks.

    @property
    def score(self) -> str:
        """The column of the meter that says how good a network is."""
        ...

    def head_size(self, description: Description) -> int:
        """How many numbers the head gives for one sample (or for one pixel).

        Raises:
            InvalidArgument: targets of another task.
        """
        ...

    def check(self, logits: Tensor, targets: Any) -> None:
        """Raise InvalidArgument where targets do not fit what the head says, with both shapes."""
        ...

    def refuse_unscorable(self, targets: Targets, part: str) -> None:
        """Raise DataError where nothing can be scored on the samples of a part (in words)."""

    def meter(self, description: Description | None = None) -> Meter:
        """A new meter.

        Args:
            description: of the targets, where it is known: what an answer is to be held against.
        """
        ...

    def training_meter(self) -> Meter:
        """A meter for the batches of an epoch of training: cheap to fill, and with a small state.

        It need not measure the score: its state is saved with every checkpoint.
        """
        return self.meter()

    def sample_losses(self, logits: Tensor, targets: Any) -> Tensor | None:
        """How wrong each of N answers is, float32 [N], which says what is easy (`pruning`); None: that is not known."""
        return None

    def inspector(self, description: Description) -> Inspector | None:
        """What looks closer at answers to targets of this description; None where nothing does."""
        ...

    def answer(self, logits: Tensor, description: Description) -> str:
        """What a network says about one sample, `logits` [...], in words."""
        ...

    def marks(self, logits: Tensor, description: Description) -> list[Mark]:
        """What a network says about one sample, `logits` [...], to be drawn on it; empty where there is nothing."""
        return []
