"""Runs that differ in nothing but the seed as one row: which they are, their mean, spread and differences."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import statistics
from collections.abc import Mapping
from typing import Any

from spikedistill.comparison.records import Record
from spikedistill.comparison.sameness import settings_of
from spikedistill.data.datasets import GIVEN
from spikedistill.errors import DataError


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs that differ in their seeds only.

    Attributes:
        name: from the names of their folders, without the seed.
        records: by seed.
        differs: the fields in which this row differs from others, as words.
    """

    name: str
    records: list[Record]
    differs: str

    @property
    def scores(self) -> list[float]:
        return [record.score for record in self.records]

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.scores) if len(self.records) > 1 else None

    @property
    def spikes(self) -> float | None:
        """Mean over the seeds of the spikes for one sample; None where a run did not count them."""
        found = [record.spikes for record in self.records if record.spikes is not None]
        return statistics.mean(found) if len(found) == len(self.records) else None

    def difference(self, other: Row) -> tuple[float, float | None]:
        """Mean of this row less that of another, and its standard error.

        Runs of one seed share initialisation and order, so where both rows have the same seeds the difference is taken
        seed by seed; else the errors of the two means add up.
        """
        ours, theirs = ({record.seed: record.score for record in row.records} for row in (self, other))
        if ours.keys() == theirs.keys() and len(ours) > 1:
            pairs = [ours[seed] - theirs[seed] for seed in ours]
            return statistics.mean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
        spread = [row.deviation for row in (self, other)]
        if None in spread:
            return self.mean - other.mean, None
        variances = (deviation**2 / len(row.records) for deviation, row in zip(spread, (self, other)) if deviation)
        return self.mean - other.mean, math.sqrt(sum(variances))


def rows_of(records: list[Record]) -> list[Row]:
    """Runs grouped by what decides their result, in the order in which they were given.

    Raises:
        DataError: runs with different scores, or two of one recipe and seed.
    """
    for record in records:
        if record.score_name != records[0].score_name:
            first, other = records[0], record
            raise DataError(
                f"{first.folder} has a test {first.score_name}, and {other.folder} a test {other.score_name}; compare "
                "runs of one score"
            )
    groups: list[tuple[dict[str, Any], list[Record]]] = []
    for record in records:
        settings = settings_of(record) | _by_name(record)
        for others, members in groups:
            if _differing(settings, others) == []:
                members.append(record)
                break
        else:
            groups.append((settings, [record]))
    everything = [settings for settings, _ in groups]
    differing = list(dict.fromkeys(n for one, other in itertools.pairwise(everything) for n in _differing(one, other)))
    rows = []
    for settings, members in groups:
        ordered = sorted(members, key=lambda record: record.seed)
        _refuse_equal_seeds(ordered)
        words = [f"{name} {settings[name]}" for name in differing if name in settings and name != NAMED]
        rows.append(Row(" / ".join(sorted({stem(record) for record in ordered})), ordered, ", ".join(words)))
    return _told_apart(rows)


NAMED = "network or data that were handed over"


def _by_name(record: Record) -> dict[str, str]:
    """What was handed over in Python a recipe cannot tell from another: there the folder's name decides."""
    given = GIVEN in (record.recipe.get("model.name"), record.recipe.get("data.name"))
    return {NAMED: stem(record)} if given else {}


def _differing(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Fields that are not the same, or that one of them does not have (of another objective, of another network)."""
    names = dict.fromkeys([*settings, *others])
    return [n for n in names if (n in settings) != (n in others) or settings.get(n) != others.get(n)]


def stem(record: Record) -> str:
    """The name of a run's folder without its seed."""
    name = record.folder.resolve().name
    return re.sub(rf"[-_]0*{abs(record.seed)}$", "", name) or name


def _told_apart(rows: list[Row]) -> list[Row]:
    """Rows of one name get the folders in which they lie in front of it, or if that is one their own with the seeds."""
    for better in (lambda row: f"{_parents(row)}/{row.name}", lambda row: f"{_parents(row)}/{_folders(row)}"):
        names = [row.name for row in rows]
        rows = [row if names.count(row.name) == 1 else dataclasses.replace(row, name=better(row)) for row in rows]
    return rows


def _parents(row: Row) -> str:
    return " / ".join(sorted({record.folder.resolve().parent.name for record in row.records}))


def _folders(row: Row) -> str:
    return " + ".join(record.folder.resolve().name for record in row.records)


def _refuse_equal_seeds(records: list[Record]) -> None:
    for first, second in itertools.pairwise(records):
        if first.seed == second.seed:
            raise DataError(
                f"{first.folder} and {second.folder} have the same recipe and seed {first.seed}; compare one of them, "
                "or runs that differ"
            )
