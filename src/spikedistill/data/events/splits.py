"""Named divisions of recordings into training and test: published numbers are not comparable across them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from spikedistill.data.batches import generator_for
from spikedistill.data.events.recordings import Recordings
from spikedistill.errors import DataError

FOLDS = 5


def _by_class(recordings: Recordings) -> list[list[int]]:
    return [[k for k, label in enumerate(recordings.labels) if label == c] for c in range(len(recordings.classes))]


def _stratified(recordings: Recordings, seed: int) -> list[int]:
    return [row for rows in _shuffled(recordings, seed) for row in rows[: round(len(rows) / 10)]]


def _shuffled(recordings: Recordings, seed: int) -> Iterator[list[int]]:
    """The rows of each class in a random order."""
    for c, rows in enumerate(_by_class(recordings)):
        # Each class has random numbers of its own, so that a class more or less leaves the others as they are.
        order = torch.randperm(len(rows), generator=generator_for(seed, c)).tolist()
        yield [rows[k] for k in order]


def _first_90(recordings: Recordings, seed: int) -> list[int]:
    return [k for rows in _by_class(recordings) for k in rows[int(0.9 * len(rows)) :]]


def _last_900(recordings: Recordings, seed: int) -> list[int]:
    # By the number in the name, not by position: file 100 sorts before file 11.
    return [k for k in range(len(recordings)) if recordings.number(k) < 100]


def _fold(k: int) -> Callable[[Recordings, int], list[int]]:
    """Fold k: each class is drawn into equal parts, so that all folds together test every recording once."""

    def test_rows(recordings: Recordings, seed: int) -> list[int]:
        return [row for rows in _shuffled(recordings, seed) for row in rows[k::FOLDS]]

    return test_rows


def _authors(recordings: Recordings, seed: int) -> list[int]:
    # A permutation of the whole list, so that classes are not equally large in either part.
    count = len(recordings)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(42)).tolist()
    return order[count - count // 10 :]


SPLITS: dict[str, tuple[str, Callable[[Recordings, int], list[int]]]] = {
    "stratified-90-10": ("a tenth of each class, drawn by data.split_seed, is the test set", _stratified),
    "first-90": ("the first 90 % of each class, by name, train; the rest test", _first_90),
    "last-900": ("files 0 to 99 of each class test; the rest train", _last_900),
    **{
        f"fold-{k + 1}-of-{FOLDS}": (
            f"fold {k + 1} of {FOLDS} of each class, drawn by data.split_seed, is the test set",
            _fold(k),
        )
        for k in range(FOLDS)
    },
    "authors": ("a permutation of the class-ordered list with torch seed 42: 90 % train, 10 % test", _authors),
}
"""What each split is, in words, and the function that gives its test rows."""


def split(recordings: Recordings, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Training and test rows, int64, ascending.

    Raises:
        DataError: one of the two would be empty.
    """
    test = torch.tensor(sorted(SPLITS[name][1](recordings, seed)), dtype=torch.long)
    # Whatever is not a test row trains, so no recording can be in both or in neither.
    is_test = torch.zeros(len(recordings), dtype=torch.bool)
    is_test[test] = True
    train = torch.arange(len(recordings))[~is_test]
    if len(train) == 0 or len(test) == 0:
        raise DataError(
            f"the split {name!r} leaves {len(train)} of {len(recordings)} recordings for training and {len(test)} for "
            "the test; there are too few, or use another --data.events.split"
        )
    return train, test
