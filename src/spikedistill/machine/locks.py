"""Locks between processes: a file that one of them holds. The lock of a process that died is free."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from spikedistill.errors import SpikedistillError


class Held(SpikedistillError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock `path` for the `with` block. The file stays and says who held it last.

    On Windows nothing is locked.

    Args:
        wait: for the process that holds it; or raise.

    Raises:
        Held: another process has it; the message says which and since when.
        OSError: the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise Held(file.read(200).strip() or "another process") from error
        file.truncate(0)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
        file.flush()
        yield
