"""Finished runs side by side: mean, spread and differences over seeds, as a table and a figure.

Runs that differ in nothing but the seed (and in what cannot change a result, as the folder of the data) are one row.
Only what runs have written is read, as plain values: also runs of other versions can be compared.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spikedistill.data import DATASETS
from spikedistill.data.settings import ONLY_SOME_KNOW
from spikedistill.errors import DataError
from spikedistill.machine.reading import plain_json, plain_yaml, text_of
from spikedistill.report.figure import new_figure, save_figure
from spikedistill.report.metrics import read_metrics

SAME_RESULT = (
    "seed",
    "claim",
    "device",
    "data.root",
    "data.download",
    "data.workers",
    "data.events.cache",
    "data.scenes.cache",
)
"""Fields of a recipe that runs of one row may differ in."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a finished run has written.

    Attributes:
        folder: of the run.
        recipe: its fields by dotted name.
        score_name: what was measured, as "accuracy".
        scores: on the test samples, by timesteps ("ann" for the ANN twin).
        samples: how many test samples there were.
        seconds: of each epoch.
        spikes: for one test sample, over all layers and steps; None where the run did not count them.
        commit: of the package, None where it is not known.
    """

    folder: Path
    recipe: Mapping[str, Any]
    score_name: str
    scores: Mapping[str, float]
    samples: int
    seconds: tuple[float, ...]
    spikes: float | None
    commit: str | None
    seed: int

    @property
    def score(self) -> float:
        """At the number of time steps that the run was trained for; of the ANN twin its only one."""
        # a network for T = 1 is tested with 2 steps as well, so the largest is not always the one
        trained = str(self.recipe.get("rule.timesteps"))
        return self.scores.get(trained, list(self.scores.values())[-1])

    # By prefix: "claim" leaves out all fields below it too.

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result, the seed apart."""
        skipped = (*SAME_RESULT, *self._without_effect())
        return {name: value for name, value in self.recipe.items() if not name.startswith(skipped)}

    def _without_effect(self) -> list[str]:
        """Settings that its data set does not know; versions of the package write other defaults of them down."""
        dataset = DATASETS.get(str(self.recipe.get("data.name")))
        known = ONLY_SOME_KNOW if dataset is None else dataset.settings
        return [f"data.{name}." for name in ONLY_SOME_KNOW if name not in known]


def read_record(folder: Path) -> Record:
    """Read a finished run.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    # The files of a run are read as plain values: a recipe of another version may have fields that this one refuses.
    try:
        recipe = plain_yaml(text_of(folder / "recipe.yaml"), str(folder / "recipe.yaml"))
        result = plain_json(folder / "result.json")
        environment = plain_json(folder / "environment.json")
        rows = read_metrics(folder / "metrics.csv")
        # The column is test_accuracy, or test_ and what another task measures.
        name = next(key for key, value in result.items() if key.startswith("test_") and isinstance(value, dict))
        seconds = tuple(row["seconds"] for row in rows)
        spikes = result.get("spikes_per_sample")
        spikes = None if spikes is None else float(spikes)
        values = dict(_flat(recipe, ""))
        commit, seed = environment.get("commit"), int(values.get("seed", 0))
        commit = None if commit is None else str(commit)[:60]
        scores = {str(t): float(score) for t, score in result[name].items()}
        samples = int(result["test_samples"])
        numbers = [*scores.values(), *seconds, 0.0 if spikes is None else spikes]
        if not (scores and seconds) or samples < 1 or not all(map(math.isfinite, numbers)):
            raise ValueError("result.json holds no scores")
        return Record(folder, values, name[5:], scores, samples, seconds, spikes, commit, seed)
    except (OSError, ValueError, KeyError, StopIteration, AttributeError, TypeError, OverflowError) as error:
        raise DataError(f"{folder} is not the folder of a finished run: {error or type(error).__name__}") from error


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:  # an empty one is a choice without fields
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def find_runs(roots: list[Path]) -> list[Record]:
    """The finished runs among folders, and in the folders right below them; for FOLDER that is none, FOLDER-0, -1, ...

    Raises:
        DataError: a root without any.
    """
    found: list[Record] = []
    for root in roots:
        if root.is_dir():
            folders = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
        else:  # what `train --seeds` makes of --out
            folders = sorted(p for p in root.parent.glob(f"{root.name}-*") if p.name[len(root.name) + 1 :].isdigit())
        runs = [folder for folder in folders if (folder / "result.json").is_file()]
        if not runs:
            raise DataError(f"{root} holds no finished run (no result.json in it or right below it)")
        found += [read_record(folder) for folder in runs]
    # a folder that was named twice counts once
    return list({record.folder.resolve(): record for record in found}.values())


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

    A field that one recipe has and the other does not (they may be of different versions) separates nothing.

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
    # A group collects the fields of all its runs, so the next run is compared with everything that is known of it.
    groups: list[tuple[dict[str, Any], list[Record]]] = []
    for record in records:
        for settings, members in groups:
            if _agree(settings, record.settings):
                settings.update(record.settings)
                members.append(record)
                break
        else:
            groups.append((dict(record.settings), [record]))
    names = dict.fromkeys(name for settings, _ in groups for name in settings)
    differing = [name for name in names if len({str(s[name]) for s, _ in groups if name in s}) > 1]
    rows = []
    for settings, members in groups:
        ordered = sorted(members, key=lambda record: record.seed)
        _refuse_equal_seeds(ordered)
        stems = {re.sub(r"[-_]?\d+$", "", record.folder.name) or record.folder.name for record in ordered}
        words = [f"{name} {settings[name]}" for name in differing if name in settings]
        rows.append(Row(" / ".join(sorted(stems)), ordered, ", ".join(words)))
    return rows


def _refuse_equal_seeds(records: list[Record]) -> None:
    for first, second in itertools.pairwise(records):
        if first.seed == second.seed:
            raise DataError(
                f"{first.folder} and {second.folder} have the same recipe and seed {first.seed}; compare one of them, "
                "or runs that differ (of a network handed over in Python a recipe cannot tell another)"
            )


CHOICES = ("objectives.", "model.", "rule.", "task.")
"""Groups in which a field that is missing means another choice, and not another version."""
ADDED = ("learned.", "data.augmentation.", "phases.", "init_fit", "whiten", "parts")
"""Groups that grow with the versions; what a version does not know is off in it."""
OFF = (None, 0, False, "")
ON = {"phases.branches": True}
"""Fields for which a version that does not know them stood on."""


def _agree(settings: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    for group in (*CHOICES, *ADDED):
        ours, theirs = ({name for name in each if name.startswith(group)} for each in (settings, others))
        if group in CHOICES and not (ours and theirs):  # one of the two names its choices otherwise
            continue
        # a field of one of them only says nothing where it is off
        both = {**others, **settings}
        if any(both[name] not in OFF and both[name] != ON.get(name, ...) for name in ours ^ theirs):
            return False
    return all(value == others[name] for name, value in settings.items() if name in others)


def table(rows: list[Row]) -> str:
    """The rows in Markdown; differences are to the first."""
    first = rows[0]
    score = first.records[0].score_name
    head = ["run", "n", f"test {score}, % (by seed)", "mean", "sd", f"less {first.name}", "s per epoch", "s in all"]
    counted = any(row.spikes is not None for row in rows)
    head += ["spikes per sample", "commit"] if counted else ["commit"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        by_seed = ", ".join(f"{100 * value:.2f}" for value in row.scores)
        spread = "" if row.deviation is None else f"{100 * row.deviation:.2f}"
        commits = ", ".join(sorted({record.commit or "unknown" for record in row.records}))
        seconds = statistics.median(statistics.median(record.seconds) for record in row.records)
        in_all = statistics.median(sum(record.seconds) for record in row.records)
        mean = f"**{100 * row.mean:.2f}**"
        cells = [row.name, str(len(row.records)), by_seed, mean, spread, _difference(row, first)]
        cells += [f"{seconds:.0f}", f"{in_all:.0f}"]
        if counted:
            cells.append("" if row.spikes is None else f"{row.spikes:,.0f}")
        lines.append([*cells, commits])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _difference(row: Row, first: Row) -> str:
    if row is first:
        return ""
    value, error = row.difference(first)
    return f"{100 * value:+.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def draw(rows: list[Row], path: Path) -> None:
    """Every seed as a point, every mean as a bar."""
    figure = new_figure(8, 0.5 * len(rows) + 1.2)
    axes = figure.subplots()
    for k, row in enumerate(rows):
        values = [100 * value for value in row.scores]
        axes.plot(values, [k] * len(values), "o", color="tab:blue", alpha=0.6)
        axes.plot([100 * row.mean] * 2, [k - 0.3, k + 0.3], color="tab:blue", linewidth=3)
        axes.annotate(
            f"{100 * row.mean:.1f} (n = {len(values)})",
            (max(values), k),
            (8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.margins(x=0.25)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axes.set(xlabel=f"test {rows[0].records[0].score_name} (%): seeds and their mean")
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_spikes(rows: list[Row], path: Path) -> None:
    """The mean score over the spikes for one sample, a point for each row, with the spread of the seeds.

    Raises:
        DataError: no run has counted its spikes.
    """
    counted = [(row.spikes, row) for row in rows if row.spikes is not None]
    if not counted:
        raise DataError("none of these runs has counted its spikes (they are of an earlier version, or ANN twins)")
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for spikes, row in counted:
        spread = None if row.deviation is None else 100 * row.deviation
        axes.errorbar(spikes, 100 * row.mean, yerr=spread, fmt="o", color="tab:blue", capsize=3)
        axes.annotate(row.name, (spikes, 100 * row.mean), (7, 4), textcoords="offset points")
    axes.set(xlabel="spikes per sample (all layers and steps)", ylabel=f"test {rows[0].records[0].score_name} (%)")
    axes.margins(x=0.2, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
