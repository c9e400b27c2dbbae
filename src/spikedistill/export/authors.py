"""The authors' published checkpoints: their names of parameters and ours.

Their state dicts have the network's layers, the branches as `scalaK` (blocks) and `fcK` (classifier), K = 1 for the
first stage. The ResNets call the stem `conv0` and the head `classifier`; the PreAct networks `conv1`, `bn1` and `fc`.
Stage widths are read from the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from spikedistill.core.learning import Rate
from spikedistill.errors import CheckpointError, choose
from spikedistill.models import create_model
from spikedistill.models.branches import LightBlock
from spikedistill.models.preact import PreActResNet
from spikedistill.models.resnet import ResNet
from spikedistill.training.checkpoints import apply_state
from spikedistill.training.learner import SelfDistillation

# our name (of the learner) → theirs, first match counts; {k} is the number of the stage
_NETWORK = {
    "resnet": (
        (r"network\.body\.stem\.(\d)", r"conv0.\1"),
        (r"network\.body\.head\.classifier", "classifier.0"),
        (r"network\.body\.", ""),
    ),
    "resnet19": (
        (r"network\.body\.stem\.(\d)", r"conv0.\1"),
        (r"network\.body\.head\.hidden\.0", "classifier.0"),
        (r"network\.body\.head\.classifier", "classifier.2"),
        (r"network\.body\.", ""),
    ),
    "preact": (
        (r"network\.body\.stem\.0", "conv1"),
        (r"network\.body\.stem\.1", "bn1"),
        (r"network\.body\.head\.classifier", "fc"),
        (r"network\.body\.", ""),
    ),
}
ARCHITECTURES = {
    "resnet18": "resnet",
    "resnet34": "resnet",
    "resnet19": "resnet19",
    "preact_resnet18": "preact",
    "preact_resnet34": "preact",
}
"""Our models that the authors have too, and the family whose names of parameters they follow."""
_LIGHT = ((r"main\.", "op."), (r"residual\.0", "residual"), (r"residual\.1", "res_bn"))
_RESIDUAL = ((r"main\.0", "conv1"), (r"main\.1", "bn1"), (r"main\.3", "conv2"), (r"main\.4", "bn2"))


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return name


def _their_key(name: str, learner: SelfDistillation, family: str) -> str:
    branch = re.match(r"branches\.([^.]+)\.(.*)", name)
    if branch is None:
        return _renamed(name, _NETWORK[family])
    number = learner.network.stages.index(branch[1]) + 1
    block = re.match(r"blocks\.(\d+)\.(.*)", branch[2])
    if block is None:
        return branch[2].replace("classifier", f"fc{number}")
    light = isinstance(learner.branches.get_submodule(f"{branch[1]}.blocks.{block[1]}"), LightBlock)
    return f"scala{number}.{block[1]}.{_renamed(block[2], _LIGHT if light else _RESIDUAL)}"


def _family(learner: SelfDistillation) -> str:
    body = learner.network.body
    if isinstance(body, PreActResNet):
        return "preact"
    if not isinstance(body, ResNet):
        raise CheckpointError(f"the authors have no network like {type(body).__name__}; known: ResNet, PreActResNet")
    return "resnet19" if len(body.head.hidden) else "resnet"  # type: ignore[arg-type, union-attr]


def authors_keys(learner: SelfDistillation) -> dict[str, str]:
    """The authors' key of every parameter and buffer → its name in `learner.state_dict()`.

    Raises:
        CheckpointError: a network that the authors do not have.
    """
    family = _family(learner)
    return {_their_key(name, learner, family): name for name in learner.state_dict()}


def load_authors_checkpoint(
    state_dict: Mapping[str, Tensor], arch: str, num_classes: int, timesteps: int
) -> SelfDistillation:
    """A learner with the weights of one of the authors' checkpoints.

    Args:
        state_dict: theirs, as `torch.load(file, weights_only=True)` gives it; a wrapping dict with "best_net" (as
            their scripts write it), "state_dict", "model" or "net", and "module." before the names, are taken off.
            Branches may be missing.
        arch: "resnet18", "resnet34", "resnet19", "preact_resnet18" or "preact_resnet34".
        num_classes: of the checkpoint.
        timesteps: T to train or evaluate with.

    Raises:
        InvalidArgument: an unknown architecture.
        CheckpointError: keys are missing or left over, shapes do not fit, or numbers are not finite; says which.
    """
    family = ARCHITECTURES[choose("architecture", arch, ARCHITECTURES)]
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(
            f"state_dict is a {type(state_dict).__name__}; expected what torch.load(file, weights_only=True) gives"
        )
    state = _unwrapped(state_dict)
    stem = state.get("conv1.weight" if family == "preact" else "conv0.0.weight")
    if stem is None or stem.dim() != 4:
        raise CheckpointError(f"this is no {arch} of the authors: it has no stem; its keys begin {sorted(state)[:5]}")
    network = create_model(
        arch,
        num_classes,
        width=stem.shape[0],
        in_channels=stem.shape[1],
        stem="imagenet" if stem.shape[2] == 7 else "cifar",
    )
    block = "light+residual" if any(re.match(r"scala\d\.1\.conv1", key) for key in state) else "light"
    branches = None if any(key.startswith("scala") for key in state) else ()
    learner = SelfDistillation(network, Rate(timesteps), branches=branches, branch_block=block)
    keys = authors_keys(learner)
    ours = {keys.get(theirs, theirs): tensor for theirs, tensor in state.items()}
    apply_state(learner, ours, "the authors' checkpoint")
    return learner


WRAPPERS = ("best_net", "state_dict", "model", "net")
"""Keys below which a file may hold the weights; the authors' own scripts write the first."""


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, Mapping):
            state = inner
            break
    else:
        if not any(isinstance(tensor, Tensor) for tensor in state.values()):
            raise CheckpointError(
                f"no weights at the top of this file, nor below {', '.join(WRAPPERS)}; it holds "
                f"{', '.join(map(str, list(state)[:5]))}"
            )
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        name = str(key).removeprefix("module.")
        if name in found:
            raise CheckpointError(f"the weights {name} stand there twice, with and without module. before the name")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
            raise CheckpointError(f"{name} is no ordinary tensor of numbers ({tensor.layout}, {tensor.dtype})")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds numbers that are not finite")
        found[name] = tensor
    return found
