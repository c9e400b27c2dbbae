"""Files of a run that are whole or not there: checkpoints and weights."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.errors import CheckpointError, WriteError
from spikedistill.machine.files import write_atomically, write_json
from spikedistill.machine.output import say
from spikedistill.machine.reading import ReadError, content_of, plain_json, regular

CHECKPOINT = "checkpoint.pt"
"""The checkpoint of a run, in its folder."""


def has_begun(folder: Path) -> bool:
    """Whether a run there has come to its first checkpoint, so that it can go on."""
    return any(path.is_file() for path in (folder / CHECKPOINT, before(folder / CHECKPOINT)))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint of a run; the one before is kept beside it.

    Raises:
        CheckpointError: it could not be written (a full disk); the old one is untouched.
    """
    try:
        write_atomically(path, lambda file: _write_sealed(file, state), keep=before(path))
    except WriteError as error:
        raise CheckpointError(f"{error}; then go on with: spikedistill train --resume {path.parent}") from error


def before(path: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values; never executes code. A damaged checkpoint is left for the one before it.

    Raises:
        CheckpointError: both are missing, damaged, or not checkpoints of this package.
    """
    try:
        return _load_sealed(path)
    except CheckpointError as error:
        if not before(path).is_file():
            raise
        state = _load_sealed(before(path))
        with contextlib.suppress(OSError):  # or the next one would put it in the place of the good one
            path.replace(path.with_name(f"{path.stem}-damaged{path.suffix}"))
        say(f"warning: {error}. Going on from the one before, {before(path)}", "stderr")
        return state


# ---------------------------------------------------------------- the seal

# A checkpoint is torch's zip archive, with a digest of itself in the comment that zip archives may end with: one file,
# one rename, and torch.load reads it as it is. A flipped bit would otherwise train on, for torch checks no sums.

_END, _DIGEST = b"PK\x05\x06", 32
"""What the last 22 bytes of a zip archive without comment begin with; and bytes of a digest."""


def _write_sealed(file: Path, state: dict[str, Any]) -> None:
    torch.save(state, file)
    content = file.read_bytes()
    assert content[-22:-18] == _END, "torch.save no longer ends with a zip directory"
    with file.open("r+b") as archive:
        archive.seek(-2, os.SEEK_END)
        archive.write(_DIGEST.to_bytes(2, "little") + hashlib.blake2b(content, digest_size=_DIGEST).digest())


def _load_sealed(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        content = content_of(path)
    except ReadError as error:
        raise CheckpointError(str(error)) from error
    content, digest = content[:-_DIGEST], content[-_DIGEST:]
    if content[-22:-18] != _END or content[-2:] != _DIGEST.to_bytes(2, "little"):
        raise CheckpointError(
            f"{path} is no checkpoint of this version of spikedistill, or it is truncated ({len(content)} bytes)"
        )
    content = content[:-2] + b"\0\0"
    if hashlib.blake2b(content, digest_size=_DIGEST).digest() != digest:
        raise CheckpointError(f"{path} is damaged: its content is not what was written")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0][:200]}); files that would execute code on loading are "
            "refused"
        ) from error
    if not isinstance(state, dict) or "learner" not in state:
        keys = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is not a checkpoint of spikedistill; it holds {keys}")
    return state


# ---------------------------------------------------------------- weights


def save_weights(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """`model.safetensors` and `config.json`."""
    from safetensors.torch import save_file

    plain: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # a module that stands at two places has its weights under two names; each gets its own
        plain[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    write_atomically(folder / "model.safetensors", lambda file: save_file(plain, file))
    write_json(folder / "config.json", config)


def load_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the configuration that `save_weights` wrote.

    Raises:
        CheckpointError: a file is missing, truncated or foreign.
    """
    from safetensors.torch import load_file

    weights, config = folder / "model.safetensors", folder / "config.json"
    for file in (weights, config):
        if not file.is_file():
            hint = f"; the run has not finished: spikedistill train --resume {folder}" if folder.is_dir() else ""
            raise CheckpointError(f"there is no {file}{hint}")
    try:
        values = plain_json(config)
        return load_file(regular(weights)), values
    except Exception as error:
        raise CheckpointError(f"{weights} or {config.name} beside it cannot be read: {error}") from error


def apply_state(module: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict into a module, all of it or nothing.

    Raises:
        CheckpointError: names or shapes do not fit; says which.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{source} does not fit the network: it holds no tensors by name")
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    problems = [f"missing {missing[:4]}"] * bool(missing) + [f"unexpected {extra[:4]}"] * bool(extra) + shapes[:4]
    if problems:
        raise CheckpointError(f"{source} does not fit the network: {'; '.join(problems)}")
    module.load_state_dict(state)
