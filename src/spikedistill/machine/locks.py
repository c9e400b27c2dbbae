"""Locks between processes: a file that one of them holds. The lock of a process that died is free."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from spikedistill.errors import SpikedistillError
from spikedistill.machine.output import say

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""How a file system says that it has no locks."""


class Held(SpikedistillError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock `path` for the `with` block. The file says who held it last.

    Gives whether it is held: on Windows, and on a file system without locks, nothing is locked.

    Args:
        wait: for the process that holds it; or raise.

    Raises:
        Held: another process has it; the message says which and since when.
        OSError: the file cannot be made, or is a link.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    while True:
        # A link would be followed to a file of the user's, which would be written over.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.pread(file, 200, 0).decode("utf-8", "replace").strip()
            os.close(file)
            raise Held(holder or "another process") from error
        except OSError as error:
            os.close(file)
            if error.errno not in UNSUPPORTED:
                raise
            say(f"warning: {path.parent} cannot be locked ({error.strerror}); start no second run there", "stderr")
            yield False
            return
        # The one before may have taken the file away while this waited: then another one counts now.
        with contextlib.suppress(OSError):
            if os.fstat(file).st_ino == path.stat(follow_symlinks=False).st_ino:
                break
        os.close(file)
    try:
        os.ftruncate(file, 0)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        os.pwrite(file, f"process {os.getpid()} on {platform.node()} since {now}\n".encode(), 0)
        yield True
    finally:
        os.close(file)
