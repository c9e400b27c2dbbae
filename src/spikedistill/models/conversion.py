"""Turn an ordinary network into a spiking one: ReLU → LIF, and words about everything else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from spikedistill.core.lif import LIF
from spikedistill.core.modules import replace_modules
from spikedistill.core.network import Network
from spikedistill.core.neuron import Neuron
from spikedistill.errors import InvalidArgument, UnsupportedOperation

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6)
"""Activations that a spiking neuron can stand in for: non-negative, and zero for negative input."""

# They are negative somewhere, or not zero for negative input: a firing rate cannot follow them.
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
_BY_SAMPLE = "normalises each sample by itself, which is not linear in the rates; use BatchNorm"
_OWN_STATE = "keeps its own state over time"
# Refused at the conversion, by the layer's name; otherwise the first forward pass would refuse them, one by one.
_UNSUPPORTED: dict[type[nn.Module], str] = {
    nn.LayerNorm: _BY_SAMPLE,
    nn.GroupNorm: _BY_SAMPLE,
    nn.InstanceNorm2d: _BY_SAMPLE,
    nn.MultiheadAttention: "has a softmax inside; write the attention with products of spikes and without softmax",
    nn.LSTM: _OWN_STATE,
    nn.GRU: _OWN_STATE,
    nn.RNN: _OWN_STATE,
}
_PASSING = (nn.Dropout, nn.Flatten, nn.Identity, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


class _Unshared(nn.modules.batchnorm._BatchNorm):
    """Batch norm in the place of one that is shared by processes, of inputs of any form."""

    def _check_input_dim(self, input: Any) -> None:
        pass


def _unshared(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, nn.SyncBatchNorm):
        return None
    norm = _Unshared(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
    norm.load_state_dict(module.state_dict())
    return norm.train(module.training)


# What works, but not quite as in the network that was given.
_REMARKS: dict[type[nn.Module], str] = {
    nn.MaxPool2d: "max pooling after a neuron: the gradient is routed by the rates, an approximation (average pooling "
    "is exact)",
    nn.Dropout: "dropout: one mask for all time steps",
    _Unshared: "SyncBatchNorm became batch norm of each process: its statistics are not shared",
}


def to_spiking(
    model: nn.Module,
    neuron: Neuron | None = None,
    stages: Iterable[str] | None = None,
    activations: type[nn.Module] | Iterable[type[nn.Module]] = ACTIVATIONS,
) -> Network:
    """A spiking copy of `model`; the model itself and its weights are left as they are.

    What the user has to know is in the `notes` of the result. What would surprise is also a warning: that no stages
    were found, so that there are no branches, and that a trained network has to be trained again.

    Args:
        neuron: constants of the LIF neurons (None: the paper's preset).
        stages: submodules whose outputs end a stage, for branches (None: `layer1..`, `stages.0..` or, in a plain
            `features` sequence, the layer before each pooling, where the model has such; (): none, without a warning).
        activations: module types to replace; also such as a firing rate cannot follow (GELU), on your own account.

    Raises:
        InvalidArgument: nothing to replace, or a stage the model does not have.
        UnsupportedOperation: layers that cannot work on spikes; names all of them.
    """
    notes, sample_dims = (), None
    if isinstance(model, Network):
        stages = model.stages or None if stages is None else stages  # its own, where no others are named
        model, notes, sample_dims = model.body, model.notes, model.sample_dims
    # A copy with its own weights: training it leaves the user's network as it was.
    body = copy.deepcopy(model)
    activations = (activations,) if isinstance(activations, type) else tuple(activations)
    _refuse_unsupported(body, activations)
    constants = neuron or Neuron()
    replace_modules(body, _unshared)
    replaced = replace_modules(body, lambda m: LIF(constants) if isinstance(m, activations) else None)
    if replaced == 0:
        raise InvalidArgument(_nothing_to_replace(model, activations))
    found = _find_stages(body) if stages is None else list(stages)
    if stages is None and len(found) == 1:  # the last stage gets no branch, so one is as good as none
        found = []
    # Stages that were named, even none of them, are a choice and no surprise.
    surprises = [*_stages_note(body, found, asked=stages is not None), *_training_note(model), *_last_note(body)]
    for surprise in surprises:
        warnings.warn(surprise, stacklevel=2)  # at the user's line
    notes = (*notes, f"{replaced} activations became LIF neurons", *_remarks(body), *surprises)
    return Network(body, found, notes, sample_dims)


def _nothing_to_replace(model: nn.Module, activations: tuple[type[nn.Module], ...]) -> str:
    wanted = " or ".join(a.__name__ for a in activations)
    # Either it has another activation, or it calls F.relu, which a search through modules does not find.
    kinds = sorted({type(m).__name__ for m in model.modules() if isinstance(m, _OTHER_ACTIVATIONS)})
    hint = f"it has {', '.join(kinds)} (pass activations=...)" if kinds else "use nn.ReLU() modules, not F.relu"
    return f"{type(model).__name__} has no {wanted} module to replace; {hint}"


def _stages_note(body: nn.Module, found: list[str], asked: bool) -> list[str]:
    if found or asked:
        return []
    names = ", ".join(name for name, _ in body.named_children())
    return [
        f"no stages were found in {type(body).__name__}, so it gets no branches and self-distillation has nothing to "
        f"distil; name the submodules whose outputs end a stage: to_spiking(model, stages=[...]), from {names} or below"
    ]


def _training_note(model: nn.Module) -> list[str]:
    """A network whose batch norm has seen data was trained; as a spiking one it answers nearly at random."""
    # Only batch norm counts what it has seen; a network without it gives no sign.
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    if not any(m.num_batches_tracked is not None and int(m.num_batches_tracked) > 0 for m in norms):
        return []
    return [
        "the accuracy of a trained network is gone when its ReLUs become neurons: the weights are a start, train it "
        "again (a few epochs bring it back)"
    ]


def _last_note(body: nn.Module) -> list[str]:
    """A head that ends with a neuron answers with firing rates."""
    head, last = None, body
    # Only of what stands in a sequence the order of calls is known; what was defined last is mostly the head.
    while isinstance(last, nn.Sequential) or last is body:
        head = last if isinstance(last, nn.Sequential) else None
        called = [child for child in last.children() if not isinstance(child, _PASSING)]
        if not called:
            return []
        last = called[-1]
    elsewhere = {m for m in body.modules() if isinstance(m, nn.Linear)} - set(head.modules() if head else ())
    if head is None or not isinstance(last, LIF) or elsewhere:
        return []
    return [
        "the last layer of the head was an activation and is a neuron now: what it answers are firing rates between 0 "
        "and 1, and no logits; leave that activation out of the model"
    ]


def _refuse_unsupported(body: nn.Module, replaced: tuple[type[nn.Module], ...]) -> None:
    """Raise UnsupportedOperation with every layer that cannot work on spikes."""
    # All at once: nobody wants to mend a network layer by layer, error by error.
    found = []
    for name, module in body.named_modules():
        why = next((why for kind, why in _UNSUPPORTED.items() if isinstance(module, kind)), None)
        if isinstance(module, replaced):
            continue
        if isinstance(module, _OTHER_ACTIVATIONS):
            why = "is no activation that a spiking neuron can stand in for; replace it by nn.ReLU (or activations=...)"
        if why is not None:
            found.append(f"{name} ({type(module).__name__}) {why}")
    if found:
        raise UnsupportedOperation("this network cannot become a spiking one:\n  " + "\n  ".join(found))


def _remarks(body: nn.Module) -> list[str]:
    modules = list(body.modules())
    return [remark for kind, remark in _REMARKS.items() if any(isinstance(m, kind) for m in modules)]


def _find_stages(body: nn.Module) -> list[str]:
    """The ends of the stages of the usual layouts: torchvision's and timm's ResNets, VGG's `features`."""
    children = dict(body.named_children())
    # The first layout that fits: layer1, layer2, ... of ResNets, a list `stages`, VGG's flat `features`.
    layers = [name for name in children if name.startswith("layer") and name[5:].isdigit()]
    # a list is not called itself
    layers = [name for name in layers if not isinstance(children[name], nn.ModuleList)]
    if layers:
        return layers
    if isinstance(children.get("stages"), (nn.Sequential, nn.ModuleList)):
        return [f"stages.{name}" for name, _ in children["stages"].named_children()]
    features = children.get("features")
    if isinstance(features, nn.Sequential):
        names = [name for name, _ in features.named_children()]
        pools = [k for k, m in enumerate(features) if isinstance(m, (nn.MaxPool2d, nn.AvgPool2d))]
        # The layer before a pooling ends a stage at the stage's own resolution.
        return [f"features.{names[k - 1]}" for k in pools if k > 0]
    return []
