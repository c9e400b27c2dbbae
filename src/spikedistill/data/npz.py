"""Arrays of npz and npy files: pickles are refused, and so is what claims to be larger than it should."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from spikedistill.errors import DataError
from spikedistill.machine.reading import ReadError, regular

LARGEST = 2 * 1024**3
"""Bytes of one file, and of all its arrays unpacked: a zip of some kilobytes can claim to hold terabytes."""


def read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an npz file.

    Raises:
        DataError: damaged, too large, or without one of the keys.
    """
    _check_size(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in keys if key not in arrays]
            if missing:
                raise DataError(f"{path} has no array {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
            # Arrays of an npz file are read only when they are taken out, so damage shows here.
            return {key: _array(arrays[key]) for key in keys}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy meet damage, encryption and lies each in their own way
        raise DataError(f"{path} is not a readable npz file: {_words(error)}") from error


def npz_keys(path: Path) -> tuple[str, ...]:
    """Names of the arrays of an npz file.

    Raises:
        DataError: damaged or too large.
    """
    _check_size(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(arrays)
    except Exception as error:
        raise DataError(f"{path} is not a readable npz file: {_words(error)}") from error


def read_npy(path: Path) -> np.ndarray:
    """The array of a npy file.

    Raises:
        DataError: damaged, too large, or something else.
    """
    try:
        with regular(path, LARGEST).open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise DataError(f"{path} is not a readable .npy file of numbers (it does not begin as one)")
        return _array(np.load(path, allow_pickle=False))
    except (ReadError, DataError) as error:
        raise DataError(str(error)) from error
    except Exception as error:
        words = _words(error).replace("allow_pickle=False", "pickles are refused")
        raise DataError(f"{path} is not a readable .npy file of numbers ({words})") from error


def _array(value: object) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise DataError(f"it holds a {type(value).__name__} instead of an array")
    return value


def _check_size(path: Path) -> None:
    try:
        regular(path, LARGEST)
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except ReadError as error:
        raise DataError(str(error)) from error
    except Exception as error:
        raise DataError(f"{path} is not a readable npz file: {_words(error)}") from error
    if size > LARGEST:
        raise DataError(f"{path} claims {size:,} bytes of arrays, which is more than the {LARGEST:,} that are read")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
