"""Turn an ordinary network into a spiking one: ReLU → LIF, and words about everything else."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from spikedistill.errors import InvalidArgument, UnsupportedOperation
from spikedistill.core.network import Network
from spikedistill.core.neuron import LIF, Neuron

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)
"""Activations that a spiking neuron can stand in for: non-negative, and zero for negative input."""

_OTHER_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.Hardswish,
    nn.Mish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softmax,
)
_UNSUPPORTED: dict[type[nn.Module], str] = {
    nn.LayerNorm: "normalises each sample by itself, which is not linear in the rates; use BatchNorm",
    nn.GroupNorm: "normalises each sample by itself, which is not linear in the rates; use BatchNorm",
    nn.InstanceNorm2d: "normalises each sample by itself, which is not linear in the rates; use BatchNorm",
    nn.MultiheadAttention: "multiplies activations with each other, which is not linear in the rates",
    nn.LSTM: "keeps its own state over time",
    nn.GRU: "keeps its own state over time",
    nn.RNN: "keeps its own state over time",
}
_REMARKS: dict[type[nn.Module], str] = {
    nn.MaxPool2d: "max pooling after a neuron: the gradient is routed by the rates, an approximation (average pooling "
    "is exact)",
    nn.Dropout: "dropout: one mask for all time steps",
    nn.SyncBatchNorm: "SyncBatchNorm: its statistics are not shared between processes on spiking signals",
}


def to_spiking(
    model: nn.Module,
    neuron: Neuron | None = None,
    stages: Iterable[str] | None = None,
    activations: tuple[type[nn.Module], ...] = ACTIVATIONS,
) -> Network:
    """A spiking copy of `model`; the model itself and its weights are left as they are.

    Args:
        neuron: constants of the LIF neurons (None: the paper's preset).
        stages: submodules whose outputs end a stage, for branches (None: `layer1..`, `stages.0..` or, in a plain
            `features` sequence, the layer before each pooling, where the model has such).
        activations: module types to replace.

    Returns:
        A `Network`; what was changed and what to know is in its `notes`.

    Raises:
        InvalidArgument: nothing to replace, or a stage the model does not have.
        UnsupportedOperation: layers that cannot work on spikes; names all of them.
    """
    body = copy.deepcopy(model)
    _refuse_unsupported(body)
    replaced = _replace(body, activations, neuron or Neuron())
    if replaced == 0:
        kinds = sorted({type(m).__name__ for m in model.modules() if isinstance(m, _OTHER_ACTIVATIONS)})
        raise InvalidArgument(
            f"{type(model).__name__} has no {' or '.join(a.__name__ for a in activations)} module to replace"
            + (
                f"; it has {', '.join(kinds)} (pass activations=...)"
                if kinds
                else "; use nn.ReLU() modules, not F.relu"
            )
        )
    notes = [f"{replaced} activations became LIF neurons", *_remarks(body)]
    return Network(body, _find_stages(body) if stages is None else stages, notes)


def _refuse_unsupported(body: nn.Module) -> None:
    kinds = tuple(_UNSUPPORTED)
    found = [
        f"{name} ({type(m).__name__}) {next(why for k, why in _UNSUPPORTED.items() if isinstance(m, k))}"
        for name, m in body.named_modules()
        if isinstance(m, kinds)
    ]
    found += [
        f"{name} ({type(m).__name__}) is no activation that a spiking neuron can stand in for; replace it by nn.ReLU"
        for name, m in body.named_modules()
        if isinstance(m, _OTHER_ACTIVATIONS)
    ]
    if found:
        raise UnsupportedOperation("this network cannot become a spiking one:\n  " + "\n  ".join(found))


def _replace(module: nn.Module, activations: tuple[type[nn.Module], ...], neuron: Neuron) -> int:
    count = 0
    for name, child in module.named_children():
        if isinstance(child, activations):
            setattr(module, name, LIF(neuron))
            count += 1
        else:
            count += _replace(child, activations, neuron)
    return count


def _remarks(body: nn.Module) -> list[str]:
    modules = list(body.modules())
    return [remark for kind, remark in _REMARKS.items() if any(isinstance(m, kind) for m in modules)]


def _find_stages(body: nn.Module) -> list[str]:
    """The ends of the stages of the usual layouts: torchvision's and timm's ResNets, VGG's `features`."""
    children = dict(body.named_children())
    layers = [name for name in children if name.startswith("layer") and name[5:].isdigit()]
    if layers:
        return layers
    if isinstance(children.get("stages"), (nn.Sequential, nn.ModuleList)):
        return [f"stages.{name}" for name, _ in children["stages"].named_children()]
    features = children.get("features")
    if isinstance(features, nn.Sequential):
        names = [name for name, _ in features.named_children()]
        pools = [k for k, m in enumerate(features) if isinstance(m, (nn.MaxPool2d, nn.AvgPool2d))]
        return [f"features.{names[k - 1]}" for k in pools if k > 0]
    return []
