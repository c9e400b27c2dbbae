"""`config.json` beside the weights: what it may hold. It comes from anybody's folder, so everything is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from spikedistill.data import Framing
from spikedistill.data.scenes.settings import Windowing
from spikedistill.errors import CheckpointError
from spikedistill.machine.device import PRECISIONS

FORMAT = "spikedistill network 2"
Check = Callable[[object], bool]

LARGEST_SIDE = 1 << 16
LARGEST_SAMPLE = 1 << 26
"""Numbers of one sample at one step: what a network is built and tried with."""


def _is_steps(value: object) -> bool:
    return value is None or (_is_count(value) and value <= 1 << 16)  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_shape(value: object) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        return False
    return all(_is_count(side) and side <= LARGEST_SIDE for side in value) and math.prod(value) <= LARGEST_SAMPLE


def _are_numbers(value: object) -> bool:
    numbers = isinstance(value, list) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    return numbers and len(value) > 0  # type: ignore[arg-type]


def _are_deviations(value: object) -> bool:
    return _are_numbers(value) and min(value) > 0  # type: ignore[type-var]


def _is_group(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_choice(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _are_targets(value: object) -> bool:
    if not _is_group(value):
        return False
    classes = value.get("classes", ["one"])  # type: ignore[union-attr]  # another task describes itself otherwise
    size = value.get("size", [1])  # type: ignore[union-attr]
    if not (isinstance(size, list) and all(_is_count(side) and side <= LARGEST_SIDE for side in size)):
        return False
    return isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)


def _makes(kind: type[Framing] | type[Windowing]) -> Check:
    def check(value: object) -> bool:
        try:
            return isinstance(value, dict) and isinstance(kind(**value), kind)
        except (TypeError, ValueError):
            return False

    return check


CONFIG: dict[str, tuple[Check, str]] = {
    "format": (lambda value: value == FORMAT, f"{FORMAT!r} (it was written by another version, or is foreign)"),
    "model": (_is_choice, "the name of a model and its options"),
    "task": (_is_choice, "the name of a task"),
    "timesteps": (_is_steps, "T, or null"),
    "precision": (lambda value: value in PRECISIONS, " or ".join(PRECISIONS)),
    "input": (_is_group, "what the network is fed"),
    "targets": (_are_targets, "a description of the answers, as names of classes"),
}
"""What each entry has to be, and how to say it."""
INPUTS: dict[str, dict[str, tuple[Check, str]]] = {
    "image": {
        "mean": (_are_numbers, "a number for each channel"),
        "std": (_are_deviations, "a number above 0 for each channel"),
    },
    "events": {"framing": (_makes(Framing), "how recordings are cut into frames")},
    "scenes": {"framing": (_makes(Windowing), "how windows of recordings are cut into frames")},
    "shifts": {
        "channels": (lambda value: _is_count(value) and value in (1, 3), "1 or 3"),
        "timesteps": (lambda value: _is_count(value) and value in (1, 2, 4, 8), "8, 4, 2 or 1"),
    },
    "tensor": {},
}
"""Kinds of input, and what each needs beside its shape."""


def check_config(config: object, source: str) -> None:
    """Refuse what this package has not written.

    Raises:
        CheckpointError: names the entry, what it is and what was expected.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"{source} holds a {type(config).__name__}; expected a mapping")
    _check(config, CONFIG, source, "")
    described = config["input"]
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in INPUTS:
        raise CheckpointError(f"{source}: input.kind is {kind!r}; expected {' or '.join(INPUTS)}")
    needed = {"shape": (_is_shape, "the sizes of one sample, as [C, H, W]"), **INPUTS[kind]}
    _check(described, needed, source, "input.")
    if not _is_count(described.get("enlarged", 1)) or described.get("enlarged", 1) > LARGEST_SIDE:
        raise CheckpointError(f"{source}: input.enlarged is {described['enlarged']!r}; expected a number of pixels")
    channels = described["shape"][0]
    for name in ("mean", "std"):
        if kind == "image" and len(described[name]) != channels:
            raise CheckpointError(f"{source}: input.{name} has {len(described[name])} numbers for {channels} channels")


def _check(values: Mapping[str, Any], entries: Mapping[str, tuple[Check, str]], source: str, prefix: str) -> None:
    for name, (fits, expected) in entries.items():
        if name not in values or not fits(values[name]):
            given = repr(values.get(name, "missing"))
            raise CheckpointError(f"{source}: {prefix}{name} is {given[:100]}; expected {expected}")
