"""Files of a run that are whole or not there: checkpoints and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikedistill.errors import CheckpointError, WriteError
from spikedistill.machine.files import write_atomically, write_json


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint of a run.

    Raises:
        CheckpointError: it could not be written (a full disk); the old one is untouched.
    """
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except WriteError as error:
        raise CheckpointError(f"{error}; then go on with: spikedistill train --resume {path.parent}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values; never executes code.

    Raises:
        CheckpointError: missing, truncated, or not a checkpoint of this package.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0][:200]}); it is truncated, or no checkpoint of "
            "spikedistill (files that would execute code on loading are refused)"
        ) from error
    if not isinstance(state, dict) or "learner" not in state:
        keys = sorted(map(str, state))[:8] if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is not a checkpoint of spikedistill; it holds {keys}")
    return state


def save_weights(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """`model.safetensors` and `config.json`."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
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
        return load_file(weights), json.loads(config.read_text(encoding="utf-8"))
    except Exception as error:
        raise CheckpointError(f"{weights} or {config.name} beside it cannot be read: {error}") from error


def apply_state(module: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict into a module, all of it or nothing.

    Raises:
        CheckpointError: names or shapes do not fit; says which.
    """
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
