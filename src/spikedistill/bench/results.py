"""What a benchmark found: rows that are kept in bench.json, and what is computed from them."""

from __future__ import annotations

import statistics
from typing import Any, Literal, TypedDict


class Measured(TypedDict):
    """A subject at one T.

    Keys:
        seconds: median time of a step; `fastest` and `slowest` are the extremes, `times` all of them in their order.
        peak_bytes: peak memory of the process above its state before the first step.
        first_step: seconds until the first step was done, compiling and the choice of precision included.
        precision: "fp32" or "bf16"; `setting` says in words how it was chosen.
    """

    subject: str
    timesteps: int
    seconds: float
    fastest: float
    slowest: float
    images_per_second: float
    peak_bytes: int
    first_step: float
    precision: str
    setting: str
    times: list[float]


class Failed(TypedDict):
    """A subject that could not take its steps at one T, and why."""

    subject: str
    timesteps: int
    failure: str


Row = Measured | Failed


class Result(TypedDict):
    """A benchmark, as bench.json keeps it."""

    environment: dict[str, Any]
    point: dict[str, Any]
    repeats: int
    rows: list[Row]


def measured_rows(result: Result, timesteps: int | None = None) -> list[Measured]:
    """The rows of subjects that took their steps, at one T or at all."""
    return [row for row in result["rows"] if "failure" not in row and timesteps in (None, row["timesteps"])]


def ratio(
    result: Result,
    subject: str,
    other: str,
    timesteps: int,
    quantity: Literal["seconds", "peak_bytes"] = "seconds",
) -> float | None:
    """subject ÷ other at one T; None where one of the two is missing.

    Of times it is the median of the ratios of steps taken next to each other, so that drift of the machine cancels.
    """
    found = {row["subject"]: row for row in measured_rows(result, timesteps)}
    if subject not in found or other not in found:
        return None
    # A peak is one number for all steps, so there is nothing to pair.
    if quantity == "peak_bytes":
        return found[subject]["peak_bytes"] / found[other]["peak_bytes"]
    # Row k of both is from the same round of steps. The ratio of the medians would compare different rounds.
    pairs = zip(found[subject]["times"], found[other]["times"], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)
