"""What finished runs have written, as plain values: runs of other versions can be read too."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spikedistill.errors import DataError
from spikedistill.machine.reading import plain_json, plain_yaml, text_of
from spikedistill.report.metrics import read_metrics

Value = TypeVar("Value")

RENAMED = {
    "propagation": "rule.name",
    "timesteps": "rule.timesteps",
    "loss.scale": "rule.loss_scale",
    "loss.": "objectives.self_distillation.",
    "optimizer.cosine": "optimizer.schedule_per",
}
"""What the first versions called fields that are there today; of a group that ends with a dot all of them."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a finished run has written.

    Attributes:
        folder: of the run.
        recipe: its fields by dotted name, as they are called today.
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


def read_record(folder: Path) -> Record:
    """Read a finished run.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    recipe = _of(folder / "recipe.yaml", "a recipe", lambda path: _recipe(plain_yaml(text_of(path), str(path))))
    seed = _of(folder / "recipe.yaml", "a recipe with a seed", lambda _path: int(recipe.get("seed", 0)))
    name, scores, samples, spikes = _of(folder / "result.json", "a result", lambda path: _result(plain_json(path)))
    commit = _of(folder / "environment.json", "an environment", lambda path: plain_json(path).get("commit"))
    seconds = _of(folder / "metrics.csv", "the seconds of each epoch", _seconds)
    commit = None if commit is None else str(commit)[:60]
    return Record(folder, recipe, name, scores, samples, seconds, spikes, commit, seed)


def _of(path: Path, what: str, read: Callable[[Path], Value]) -> Value:
    try:
        return read(path)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, OverflowError, StopIteration) as error:
        # what Python says of values of another kind tells nothing
        words = f": {error}" if isinstance(error, (OSError, DataError)) else ""
        raise DataError(
            f"{path.parent} is not the folder of a finished run: {path.name} does not hold {what}{words}"
        ) from error


def _recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Its fields by the names that they have now."""
    found: dict[str, Any] = {}
    for name, value in _flat(values, ""):
        group = f"{name.split('.')[0]}."
        found[RENAMED.get(name) or name.replace(group, RENAMED.get(group, group), 1)] = value
    if found.get("rule.name") == "ann":  # it had T = null once
        found.pop("rule.timesteps", None)
    return found


def _result(result: dict[str, Any]) -> tuple[str, dict[str, float], int, float | None]:
    # The key is test_accuracy, or test_ and what another task measures.
    key = next(key for key, value in result.items() if key.startswith("test_") and isinstance(value, dict))
    scores = {str(t): float(score) for t, score in result[key].items()}
    samples, spikes = int(result["test_samples"]), result.get("spikes_per_sample")
    spikes = None if spikes is None else float(spikes)
    if not scores or samples < 1 or not all(map(math.isfinite, [*scores.values(), spikes or 0.0])):
        raise DataError("no scores of samples, or one that is no number")
    return key.removeprefix("test_"), scores, samples, spikes


def _seconds(path: Path) -> tuple[float, ...]:
    seconds = tuple(row["seconds"] for row in read_metrics(path))
    if not seconds or not all(map(math.isfinite, seconds)):
        raise DataError("no epoch, or one whose time is no number")
    return seconds


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
            folders = sorted(
                p for p in root.parent.glob(f"{glob.escape(root.name)}-*") if p.name[len(root.name) + 1 :].isdigit()
            )
        runs = [folder for folder in folders if (folder / "result.json").is_file()]
        if not runs:
            raise DataError(f"{root} holds no finished run (no result.json in it or right below it)")
        found += [read_record(folder) for folder in runs]
    # a folder that was named twice counts once
    return list({record.folder.resolve(): record for record in found}.values())
