"""Classification: one class for each sample. The only room that knows what a class is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.errors import DataError, InvalidArgument
from spikedistill.machine.device import sent
from spikedistill.tasks.task import Description, Grid, Targets, Task

ANSWERS_SHOWN = 3
CLASSES_SHOWN = 20


def renumbered(names: tuple[str, ...], description: Description) -> tuple[tuple[str, ...], list[int]]:
    """The classes of a description, and the number there of each of `names`.

    Raises:
        DataError: a class that the description does not have.
    """
    # By name: where the folder of a class is missing, the numbers of those after it are other ones.
    known = list(description.get("classes", ()))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"these samples are of classes that the network does not know: {', '.join(unknown[:10])}; it knows "
            f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}. Name the classes as it was trained, or "
            "evaluate on data of the same classes"
        )
    return tuple(known), [known.index(name) for name in names]


def some_rows(numbers: Tensor, count: int) -> Tensor | slice:
    """`Labels.some` of class indices [M]."""
    if not bool((numbers.diff() >= 0).all()):
        return slice(count)
    # the first of each class, then the second of each, ...
    place = torch.arange(len(numbers)) - torch.searchsorted(numbers, numbers)
    return place.argsort(stable=True)[:count].sort()[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Labels(Targets):
    """Targets of classification.

    Attributes:
        numbers: class indices, int64 [M].
        names: of the classes, by index.

    Raises:
        DataError: labels that are no class indices, or names that are no text or stand for two classes.
    """

    numbers: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if wrong := [name for name in self.names if not isinstance(name, str)]:
            raise DataError(f"names of classes must be text; given {wrong[0]!r}, a {type(wrong[0]).__name__}")
        if len(set(self.names)) < len(self.names):  # samples are matched by the names of their classes
            twice = [name for name, count in Counter(self.names).items() if count > 1]
            raise DataError(f"two classes have one name: {', '.join(twice[:10])}; give each a name of its own")
        if self.numbers.dim() != 1 or self.numbers.is_floating_point():
            raise DataError(f"labels must be class indices [M]; given {self.numbers.dtype} {tuple(self.numbers.shape)}")
        object.__setattr__(self, "numbers", self.numbers.long())  # losses take no other whole numbers
        # Looking at numbers on a GPU would make it wait; there they come from labels that were checked on the CPU.
        if len(self.numbers) and self.numbers.device.type == "cpu":
            low, high = int(self.numbers.min()), int(self.numbers.max())
            if low < 0 or high >= len(self.names):
                raise DataError(f"labels run from {low} to {high}, but there are {len(self.names)} classes")

    def __len__(self) -> int:
        return len(self.numbers)

    def some(self, count: int) -> Tensor | slice:
        """The first; of rows that come class by class, as those of folders do, as many of each class as there are."""
        return some_rows(self.numbers, count)

    def rows(self, index: Tensor | slice) -> Labels:
        # All names stay, so that a part without some class keeps the numbering of the whole.
        return Labels(self.numbers[index], self.names)

    def to(self, device: torch.device) -> Labels:
        return Labels(self.numbers.to(device), self.names)

    def batch(self, index: Tensor) -> Tensor:
        """Class indices [N] of the samples `index` [N]."""
        # The index may be on the CPU while the labels have been moved to a GPU.
        return self.numbers[sent(index, self.numbers.device)]

    def description(self) -> Description:
        """The names of the classes, in the order of the logits."""
        return {"classes": list(self.names)}

    def matched(self, description: Description) -> Labels:
        """The same labels, numbered as in `description`; classes that occur there only are no harm.

        Raises:
            DataError: a class that the description does not have.
        """
        known, numbers = renumbered(self.names, description)
        # order[k] is the number there of what is class k here.
        order = torch.tensor(numbers, device=self.numbers.device)
        return Labels(order[self.numbers], known)

    def captions(self, index: Tensor) -> list[str]:
        """The names of their classes."""
        return [self.names[k] for k in self.batch(index).tolist()]

    def counts(self) -> dict[str, int]:
        """Samples by class."""
        found = self.numbers.bincount(minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))


def class_of(targets: Tensor) -> Tensor:
    """Class indices [N] of class indices, or of shares of the classes [N, classes] (mixed samples): the largest."""
    return targets.argmax(1) if targets.dim() == 2 else targets.long()


class Accuracy:
    """The share of samples whose largest logit is that of their class."""

    def __init__(self) -> None:
        self.samples = 0
        self.correct: Tensor | int = 0  # a tensor where the batches are, so that counting waits for no GPU

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: logits [N, classes] and class indices [N], or shares of the classes [N, classes]."""
        self.samples += len(targets)
        self.correct = self.correct + (logits.detach().argmax(1) == class_of(targets)).sum()

    def state(self) -> dict[str, Any]:
        return {"samples": self.samples, "correct": int(self.correct)}

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Add another meter's counts; counts, and not shares, because batches and processes differ in size."""
        self.samples += state["samples"]
        self.correct = self.correct + state["correct"]

    def columns(self) -> dict[str, float]:
        return {"accuracy": int(self.correct) / self.samples} if self.samples else {}


def _check_shares(shares: Tensor) -> None:
    """Refuse shares of the classes that are none, where looking needs no synchronisation."""
    if shares.device.type != "cpu" or not len(shares):
        return
    low, sums = float(shares.min()), shares.sum(1)
    if not (low >= 0 and bool(((sums - 1).abs() < 1e-2).all())):
        raise InvalidArgument(
            f"labels [N, classes] must be shares from 0 that add up to 1; given from {low:g}, with sums from "
            f"{float(sums.min()):g} to {float(sums.max()):g}"
        )


class Confusion:
    """How often each class was taken for each other.

    Args:
        names: of the classes.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.counts = torch.zeros(len(names), len(names), dtype=torch.long)  # [true class, answer]

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: logits [N, classes] and class indices [N]."""
        classes = len(self.names)
        pairs = class_of(targets) * classes + logits.detach().argmax(1)
        self.counts += pairs.bincount(minlength=classes**2).view(classes, classes).cpu()

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def add_state(self, state: Mapping[str, Any]) -> None:
        self.counts = self.counts + state["counts"]

    def lines(self) -> list[str]:
        """Samples and accuracy of each class, and what it is taken for most often; of many classes the worst."""
        samples, right = self.counts.sum(1), self.counts.diag()
        share = right / samples.clamp(min=1)
        wrong = self.counts - right.diag()
        # a class that the samples do not have has no accuracy
        order = [k for k in range(len(self.names)) if samples[k]]
        if len(self.names) > CLASSES_SHOWN:
            order.sort(key=lambda k: float(share[k]))
        title = f"by class ({'all' if len(self.names) <= CLASSES_SHOWN else f'the {CLASSES_SHOWN} worst'})"
        width = max(len(name) for name in self.names)
        found = [f"{title:<{max(width + 2, len(title))}}  samples  accuracy  taken for"]
        for k in order[:CLASSES_SHOWN]:
            worst = int(wrong[k].argmax())
            other = f"{self.names[worst]} {wrong[k, worst] / samples[k]:.1%}" if wrong[k, worst] else ""
            name = f"  {self.names[k]}"
            found.append(f"{name:<{max(width + 2, len(title))}}  {samples[k]:7d}  {share[k]:8.1%}  {other}".rstrip())
        return found

    def grid(self) -> Grid:
        """The counts, true classes by answers."""
        return Grid("Answers by class", "true class", "answer", self.names, self.names, self.counts)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One class for each sample; scored by accuracy."""

    @property
    def score(self) -> str:
        return "accuracy"

    def head_size(self, description: Description) -> int:
        """One logit for each class."""
        if "classes" not in description:
            raise InvalidArgument(f"classification needs samples with classes; these have {', '.join(description)}")
        return len(description["classes"])

    def check(self, logits: Tensor, targets: Any) -> None:
        """Targets must be class indices [N], or shares of the classes [N, classes] where samples were mixed.

        The range of indices is checked where that needs no synchronisation.
        """
        if isinstance(targets, Tensor) and targets.shape == logits.shape and targets.is_floating_point():
            _check_shares(targets)
            return
        indices = isinstance(targets, Tensor) and targets.dtype in (torch.int64, torch.uint8)  # as losses take them
        if not indices or targets.shape != logits.shape[:1]:
            kind = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
            raise InvalidArgument(f"labels must be class indices [N] = [{len(logits)}], int64; given {kind}")
        if targets.device.type == "cpu" and len(targets):
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= logits.shape[1]:
                raise InvalidArgument(
                    f"labels run from {low} to {high}, but the network has {logits.shape[1]} classes (0 to "
                    f"{logits.shape[1] - 1}); create it with num_classes={high + 1} or more"
                )

    def meter(self, description: Description | None = None) -> Accuracy:
        return Accuracy()

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of each sample."""
        return F.cross_entropy(logits.float(), targets, reduction="none")

    def inspector(self, description: Description) -> Confusion:
        return Confusion(tuple(description["classes"]))

    def answer(self, logits: Tensor, description: Description) -> str:
        """The three likeliest classes with their probabilities, from the logits [classes] of one sample."""
        # In float32: the sum of bf16 probabilities is not near enough to 100 %.
        best = logits.float().softmax(0).topk(min(ANSWERS_SHOWN, len(logits)))
        shares = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return ", ".join(f"{description['classes'][k]} {share:.1%}" for share, k in shares)
