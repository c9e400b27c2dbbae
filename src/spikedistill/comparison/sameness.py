"""What decides the result of a run, under one name for each setting, whatever version of the package has written it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any

from spikedistill.comparison.records import Record
from spikedistill.data import DATASETS
from spikedistill.data.settings import ONLY_SOME_KNOW
from spikedistill.models.tensor_train import asked
from spikedistill.training.choices import ONE_OF, SEVERAL_OF, fields_of
from spikedistill.training.recipe_parsing import known_fields

SAME_RESULT = (
    "seed",
    "claim.",
    "device",
    "data.root",
    "data.download",
    "data.workers",
    "data.events.cache",
    "data.scenes.cache",
)
"""Fields of a recipe that runs of one row may differ in; those that end with a dot are groups."""
STOOD_AT = {"rule.name": "rate", "task.name": "classification", "optimizer.name": "sgd"}
"""Where a field stood before there was a word for it, if that is not its default now."""


def settings_of(record: Record) -> dict[str, Any]:
    """The settings that decide a run's result, the seed apart, and how many samples it was tested on.

    A field that its version did not know stands for what that version did. Weights to start from, and teachers, of
    the run's own seed (runs/ann-0 of seed 0, runs/ann-1 of seed 1) are the same setting, and so are the ranks
    that EVBMF found in such weights.
    """
    recipe = dict(record.recipe)
    known = {**_defaults(), **{name: value for key in ONE_OF for name, value in _of_choice(key, recipe).items()}}
    for key, table in SEVERAL_OF.items():
        for name, owner in table.items():
            if any(field.startswith(f"{key}.{name}.") for field in recipe):
                known |= {field.name: field.default for field in fields_of(owner, f"{key}.{name}.")}
    settings = known | STOOD_AT | recipe
    dataset = DATASETS.get(str(settings["data.name"]))
    skipped: list[str] = list(SAME_RESULT)
    if dataset is not None:
        # settings that a data set does not know: versions of the package write other defaults of them down
        skipped += [f"data.{name}{end}" for name in ONLY_SOME_KNOW if name not in dataset.settings for end in (".", "")]
        if not dataset.is_one:
            skipped.remove("data.root")
    kept = {name: value for name, value in settings.items() if not _is_of(name, skipped)}
    for name, value in kept.items():
        if isinstance(value, str) and name in ("data.root", "init"):
            kept[name] = os.path.normpath(value)
        if name == "tensor_train.rank":
            kept[name] = asked(value)
        if isinstance(value, str) and (name == "init" or name.endswith((".teacher", ".fallback"))):
            kept[name] = _of_any_seed(os.path.normpath(value), record.seed)
    return kept | {"test samples": record.samples}


def _of_any_seed(folder: str, seed: int) -> str:
    """The folder of a run of the same seed, from which a run started or was taught, without that seed."""
    return re.sub(rf"[-_]{seed}$", "-SEED", folder)


def _is_of(name: str, fields: list[str]) -> bool:
    return any(name == field or (field.endswith(".") and name.startswith(field)) for field in fields)


@functools.cache
def _defaults() -> dict[str, Any]:
    chosen = tuple(f"{key}." for key in (*ONE_OF, *SEVERAL_OF))
    return {name: field.default for name, field in known_fields().items() if not name.startswith(chosen)}


def _of_choice(key: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of what was chosen; of a user's own network they are not known."""
    owner = ONE_OF[key].get(str(recipe.get(f"{key}.name", STOOD_AT.get(f"{key}.name"))))
    return {} if owner is None else {field.name: field.default for field in fields_of(owner, f"{key}.")}
