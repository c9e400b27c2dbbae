"""Reading files that may come from anybody: no more than a limit, never a pipe, and nothing in them is executed."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from spikedistill.errors import DataError, SpikedistillError

SMALL = 16 * 1024**2
"""Bytes of a file of words and numbers (a recipe, a config) that nobody needs to exceed."""
YAML = 256 * 1024
"""Characters of YAML, whose reader takes seconds for each million of them."""
DEEPEST = 50
"""Levels of nesting in such a file."""


class ReadError(SpikedistillError, OSError):
    """A file that cannot be read, or whose content is not what it should be; the message has its name."""


def regular(path: Path, limit: int | None = None) -> Path:
    """The path, if it is a file of at most `limit` bytes.

    Raises:
        ReadError: missing, a folder, a pipe or a device (which would never end), or too large.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ReadError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ReadError(f"{path} is {kind}; expected a file")
    if limit is not None and found.st_size > limit:
        raise ReadError(f"{path} has {found.st_size:,} bytes, which is more than the {limit:,} that are read")
    return path


def by_name(paths: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    """Files by a name of theirs, by which other files or tables speak of them.

    Raises:
        DataError: two files have one name: one of them would be lost.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(name(path), path)
        if other != path:
            raise DataError(f"{other} and {path} are both called {name(path)}; rename one of them")
    return found


def content_of(path: Path, limit: int | None = None) -> bytes:
    """All bytes of a file.

    Raises:
        ReadError: as `regular`.
    """
    try:
        return regular(path, limit).read_bytes()
    except (OSError, MemoryError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{path} cannot be read: {error}") from error


def text_of(path: Path, limit: int = SMALL) -> str:
    """A file as text, in UTF-8 whatever the locale of the machine is.

    Raises:
        ReadError: as `regular`, or in another encoding.
    """
    try:
        return content_of(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError(f"{path} is not UTF-8 text ({error}); save it in UTF-8") from error


def plain_json(path: Path, limit: int = SMALL) -> Any:
    """The value of a JSON file of at most `limit` bytes.

    Raises:
        ReadError: not readable, not JSON, or nested too deeply.
    """
    text = text_of(path, limit)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path} is not JSON: {error}") from error
    return _not_too_deep(value, str(path))


class _Loader(yaml.SafeLoader):
    """Plain values only, each name once; no references: a few of them can stand for billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"references (*{event.anchor}) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        made = super().construct_mapping(node, deep)
        if len(made) < len(node.value):  # the first of two would be lost without a word
            names = Counter(self.construct_object(name, True) for name, _ in node.value)
            twice = [str(name) for name, count in names.items() if count > 1]
            raise yaml.YAMLError(f"{', '.join(twice)} stands there twice,{node.start_mark}")
        return made


def plain_yaml(text: str, source: str) -> Any:
    """The value of YAML text.

    Raises:
        ReadError: not YAML, with references, or nested too deeply.
    """
    if len(text) > YAML:
        raise ReadError(f"{source} has {len(text):,} characters, which is more than the {YAML:,} that are read")
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, KeyError, IndexError) as error:
        # PyYAML meets odd tags and dates with errors of Python's own
        raise ReadError(f"{source} is not valid YAML: {error}") from error
    return _not_too_deep(value, source)


def _not_too_deep(value: Any, source: str) -> Any:
    """The value, if it is nested no deeper than anybody writes."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ReadError(f"{source} is nested more than {DEEPEST} levels deep")
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return value
