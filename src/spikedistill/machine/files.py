"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from spikedistill.errors import DataError, WriteError
from spikedistill.machine.locks import Held, locked


def half_written(path: Path) -> str | None:
    """The name of the file that a process was writing here when it was killed; None where this is no such file."""
    found = re.fullmatch(r"\.(.+)\.\d+", path.name)
    return found[1] if found else None


def write_atomically(path: Path, write: Callable[[Path], object], keep: Path | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there; the old file stays until then.

    Args:
        keep: where the old file goes instead of being replaced.

    Raises:
        WriteError: it could not be written (a full disk); the old file is untouched.
    """
    # In the same folder, for a move between file systems would be a copy; by process, for two may write at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # `half_written` knows it
    try:
        write(temporary)
        # On the disk before it takes the old file's name: after a power cut one of the two is there, whole.
        with temporary.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # some mounted disks have no modes
            temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner can read
        if keep is not None and path.exists():
            path.replace(keep)  # killed between the two renames, a process leaves the old file here
        temporary.replace(path)
    # Of any kind: `write` is the caller's, and torch's and safetensors' errors are of no common class.
    except Exception as error:
        what = "free some space" if path.parent.is_dir() else f"the folder {path.parent} is gone"
        raise WriteError(
            f"could not write {path}: {error}. The previous version, if any, is unchanged; {what}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to be filled, which is moved to `out` at the end: it is whole or not there.

    Raises:
        DataError: `out` holds something already, or is where the program runs.
        WriteError: a file could not be written; `out` is then not there.
    """
    out = out.resolve()  # of a link, what it leads to
    if out == Path.cwd():
        raise DataError(f"{out} is the current folder; name a new one in it as --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already and is not overwritten; choose another --out")
    if out.is_dir():
        try:  # before the work: what is mounted there cannot be replaced
            out.rmdir()
            out.mkdir()
        except OSError as error:
            raise WriteError(f"{out} cannot be replaced ({error}); name a folder that is not there") from error
    # Beside the target and not in a temporary folder of the system: a move across file systems is a copy.
    unfinished, lock = (out.with_name(f".{out.name}.{word}") for word in ("making", "lock"))
    with contextlib.ExitStack() as held:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(lock, wait=False))
        except Held as error:
            raise DataError(f"{out} is being made by {error}; wait for it, or choose another --out") from error
        except OSError as error:
            raise WriteError(f"could not write {out}: {error}") from error
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed: we hold the lock
            unfinished.mkdir()
            yield unfinished
            # An empty folder is in the way of the move.
            if out.is_dir():
                out.rmdir()
            unfinished.rename(out)
        except OSError as error:
            if isinstance(error, WriteError):
                raise
            raise WriteError(f"could not write {out}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            lock.unlink(missing_ok=True)  # while it is held: nobody else has it


def _umask() -> int:
    """What files of this process must not be; it can only be asked by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, whole or not at all."""
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
