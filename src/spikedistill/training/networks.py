"""Where the network of a run comes from: a row of `MODELS`, or a function or class of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.core.lif import LIF
from spikedistill.core.modules import evaluating
from spikedistill.core.network import Network
from spikedistill.data.dataset import HUB
from spikedistill.errors import InvalidArgument, SpikedistillError, choose
from spikedistill.machine.modules import import_here
from spikedistill.models import MODELS
from spikedistill.models.conversion import ACTIVATIONS, to_spiking

OUTPUTS = ("outputs", "num_classes")
INPUTS = ("in_channels",)
NOT_OPTIONS = (*OUTPUTS, *INPUTS)
"""Arguments that the data decide, where a builder takes them; all others are recipe fields."""

GIVEN = "given"
"""The name of a model that was handed over as a module, in Python: a recipe cannot build it again."""

Builder = Callable[..., nn.Module]


def is_imported(name: str) -> bool:
    """Whether a model is "package.module:function" and not a row of ours."""
    return ":" in name


def is_function(teacher: str) -> bool:
    """Whether a teacher is "package.module:function", and not the folder of a run or a name of the hub."""
    return is_imported(teacher) and not teacher.startswith(HUB) and not Path(teacher).is_dir()


def builder_of(name: str) -> Builder:
    """The function or class that builds the model `name`.

    "package.module:function" is imported, also from the current folder.

    Raises:
        InvalidArgument: no such model, module or function.
    """
    if name == GIVEN:
        return _given
    if not is_imported(name):
        return MODELS[choose("model", name, MODELS)]
    module_name, _, attribute = name.partition(":")
    try:
        module = import_here(module_name)
    except (ImportError, ValueError) as error:  # ValueError: no name before the colon
        raise InvalidArgument(
            f"the model {name!r} cannot be imported: {error}. It is looked for in {Path.cwd()} and among the installed "
            "packages; name it as package.module:function"
        ) from error
    own = [key for key, value in vars(module).items() if _builds(value) and value.__module__ == module.__name__]
    if attribute not in vars(module) or not _builds(getattr(module, attribute)):
        raise InvalidArgument(
            f"{module_name} has no function or class {attribute!r} that could build a network; it has "
            f"{', '.join(own) or 'none'}"
        )
    return getattr(module, attribute)


def _given() -> nn.Module:
    raise InvalidArgument(
        "the network of this run was handed over in Python, and its recipe cannot build it; hand it over again: "
        "spikedistill.resume(folder, network=...), spikedistill.load(folder, network=...)"
    )


def _builds(value: object) -> bool:
    return inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, nn.Module))


def build_network(name: str, options: Mapping[str, Any], outputs: int, in_channels: int) -> Network:
    """Build a model by name.

    A module without a `LIF` neuron is converted: its ReLUs become neurons.

    Args:
        outputs: size of the head, given to the builder as `outputs` or `num_classes` if it takes one of them.
        in_channels: of the input, given to the builder if it takes them.

    Raises:
        InvalidArgument: an unknown option, or a builder that gives no module.
    """
    builder = builder_of(name)
    parameters = inspect.signature(builder).parameters
    decided = {key: outputs for key in OUTPUTS if key in parameters}
    decided |= {key: in_channels for key in INPUTS if key in parameters}
    try:
        module = builder(**decided, **options)
    except InvalidArgument:
        raise
    # torch refuses sizes in its own ways, and a builder may import what is not there
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, ImportError) as error:
        raise InvalidArgument(f"the model {name!r} could not be built: {error}") from error
    if not isinstance(module, nn.Module):
        raise InvalidArgument(f"the model {name!r} gave a {type(module).__name__}; expected a torch module")
    return as_spiking(module)


def as_spiking(module: nn.Module) -> Network:
    """A network of whatever the user has: as it is where neurons stand in it, else converted."""
    spikes = any(isinstance(part, LIF) for part in module.modules())
    if isinstance(module, Network) and (spikes or not any(isinstance(part, ACTIVATIONS) for part in module.modules())):
        return module
    return Network(module) if spikes else to_spiking(module)


def fed_with(network: Network, sample_dims: int) -> Network:
    """The network for samples of so many dimensions at one step; one that does not say what it takes is told.

    Raises:
        InvalidArgument: it says something else.
    """
    if network.sample_dims is None:
        return Network(network.body, network.stages, network.notes, sample_dims)
    if network.sample_dims != sample_dims:
        raise InvalidArgument(
            f"the network takes samples of {network.sample_dims} dimensions, the data have {sample_dims} (an image "
            "[C, H, W] has 3, a sequence [C, L] has 2, features [F] have 1). If it does take those, say so: "
            f"Network(body, sample_dims={sample_dims})"
        )
    return network


def check_network(network: Network, example: Tensor, outputs: int, spikes: bool) -> None:
    """Refuse a network that cannot take a sample of the data, or whose head does not fit, before anything is trained.

    Args:
        example: one sample as a batch, [1, ...].
        spikes: whether it will be evaluated on spikes, which may take another way through it.

    Raises:
        InvalidArgument: says what torch said, or names both sizes; or the network keeps what no file of weights holds.
    """
    state = network.state_dict()
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise InvalidArgument(
            f"the network keeps {', '.join(others[:4])}, which are no tensors (get_extra_state), and a file of weights "
            "holds tensors only; keep them in a buffer, or outside the network"
        )
    try:
        with torch.no_grad(), evaluating(network):
            example = example.to(next(network.parameters()))
            logits = network(example, timesteps=None).logits
            if spikes:
                network.logits_over_time(example, 1)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, SpikedistillError):
            raise
        # nearly always pictures that are halved more often than they can be
        shape = tuple(example.shape[1:])
        raise InvalidArgument(
            f"the network cannot take a sample of shape {shape}: {error}. Use larger samples (--data.size, where the "
            "data are files), or a network that takes them"
        ) from error
    if logits.dim() < 2 or logits.shape[1] != outputs:
        raise InvalidArgument(
            f"the network gives {tuple(logits.shape)} for one sample, the data have {outputs} classes (or numbers); "
            f"expected (1, {outputs}). Build it with that many outputs, or let its function take `num_classes`"
        )
