"""The same network in other libraries, trained by BPTT, with the same neurons (method.md §1).

Every peer takes a network's body, whose weights it copies, and maps images [N, C, H, W] to logits [N, classes], the
mean over T steps. An image is the same at every step, so what comes before the first neuron (the stem, where a network
has one) is computed once.
"""

# The peers are optional: they are imported where they are used.
# pyright: reportMissingImports=false

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.core.lif import LIF
from spikedistill.core.modules import replace_modules
from spikedistill.core.neuron import Neuron, compute_dtype
from spikedistill.errors import InvalidArgument
from spikedistill.models.layers import Head, StridedPointwise

FEWEST_CHANNELS = 16
"""Fewer channels in a strided 1×1 convolution are not safe in oneDNN, see `StridedPointwise`."""


def take_stem(body: nn.Module) -> nn.Module:
    """Take the stem out of a body; of a network without one an identity."""
    stem = dict(body.named_children()).get("stem")
    # Without one, everything is computed T times: correct, though slower than it could be.
    if stem is None:
        return nn.Identity()
    if any(isinstance(module, LIF) for module in stem.modules()):
        raise InvalidArgument("the stem has neurons, and a peer computes a stem once, without time; name it otherwise")
    body.add_module("stem", nn.Identity())
    return stem


# ---------------------------------------------------------------- SpikingJelly


class SpikingJelly(nn.Module):
    """SpikingJelly 2.x, built of its own multi-step layers on [T, N, ...].

    Args:
        body: the network; each layer is replaced by SpikingJelly's of the same kind with the same weights.
        timesteps: T.
        functional_neurons: SpikingJelly's neuron as a function instead of its module: without state, which is what
            torch.compile wants.

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self, body: nn.Module, timesteps: int, functional_neurons: bool = False) -> None:
        super().__init__()
        self.timesteps, self.has_state = timesteps, not functional_neurons
        self.body = copy.deepcopy(body)
        self.stem = take_stem(self.body)
        make_neuron = FunctionalLIF if functional_neurons else spikingjelly_neuron
        replace_modules(self.body, lambda module: spikingjelly_layer(module, make_neuron))

    def forward(self, images: Tensor) -> Tensor:
        if self.has_state:
            from spikingjelly.activation_based import functional

            functional.reset_net(self.body)  # the neurons keep their membrane between calls
        current = self.stem(images)
        # A view with stride 0 along time, not T copies.
        return self.body(current.unsqueeze(0).expand(self.timesteps, *current.shape)).mean(0)


def spikingjelly_neuron(constants: Neuron) -> nn.Module:
    """SpikingJelly's neuron module with a neuron's constants.

    Raises:
        InvalidArgument: one that the module does not have: a membrane that begins elsewhere than at 0, or no decay.
    """
    if constants.start != 0 or constants.decay == 1:
        raise InvalidArgument(f"SpikingJelly's LIFNode starts at 0 and leaks; given {constants}")
    _check_surrogate(constants)
    reset = _reset(constants)
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.LIFNode(
        tau=1 / (1 - constants.decay),
        decay_input=False,
        v_threshold=constants.threshold,
        v_reset=reset,
        surrogate_function=surrogate.Sigmoid(constants.surrogate.alpha),
        detach_reset=constants.detach_reset,
        step_mode="m",
    )


def _check_surrogate(constants: Neuron) -> None:
    if constants.surrogate.name != "sigmoid":
        raise InvalidArgument(f"peers are built with the sigmoid surrogate gradient; given {constants.surrogate}")


def _reset(constants: Neuron) -> float | None:
    """In SpikingJelly's terms: what the membrane is set to, None for a soft reset.

    Raises:
        InvalidArgument: a neuron that leaks and is reset to another value than 0: SpikingJelly's leaks towards it.
    """
    if constants.reset == "soft":
        return None
    if constants.reset_value != 0 and constants.decay < 1:
        raise InvalidArgument(f"SpikingJelly's neurons leak towards the value they are reset to; given {constants}")
    return constants.reset_value


class FunctionalLIF(nn.Module):
    """SpikingJelly's neuron as a function of currents [T, N, ...], with a membrane of at least float32.

    Its module takes the membrane's type from the current; in bf16 that is slower and coarser.
    """

    def __init__(self, constants: Neuron) -> None:
        super().__init__()
        from spikingjelly.activation_based import functional, surrogate

        _check_surrogate(constants)
        leaks = constants.decay < 1
        self.function = functional.lif_multi_step if leaks else functional.if_multi_step
        leak = (1 / (1 - constants.decay), False) if leaks else ()  # tau, and the input is not scaled by it
        gradient = surrogate.Sigmoid(constants.surrogate.alpha)
        self.arguments = (*leak, constants.threshold, _reset(constants), gradient, constants.detach_reset)
        self.start = constants.start

    def forward(self, current: Tensor) -> Tensor:
        membrane = torch.full_like(current[0], self.start, dtype=compute_dtype(current.dtype))
        return self.function(current, membrane, *self.arguments)[0]


def spikingjelly_layer(module: nn.Module, make_neuron: Callable[[Neuron], nn.Module]) -> nn.Module | None:
    """SpikingJelly's layer for one of ours, in multi-step mode and with its weights; None for containers.

    Raises:
        ImportError: it is not installed.
    """
    from spikingjelly.activation_based import layer

    if isinstance(module, LIF):
        if any(True for _ in module.parameters()):
            raise InvalidArgument("a peer's neuron has no parameters; compare networks whose neurons do not learn")
        return make_neuron(module.neuron)
    _refuse_other_layers(module)
    # Its own convolution is faster than picking pixels, so it is taken wherever it is safe.
    if isinstance(module, StridedPointwise) and module.in_channels < FEWEST_CHANNELS:
        return layer.SeqToANNContainer(module)
    # Our head flattens what follows the batch dimension; SpikingJelly's tensors have time in front of it.
    if isinstance(module, Head):
        parts = nn.Sequential(module.pool, layer.Flatten(step_mode="m"), module.hidden, module.classifier)
        replace_modules(parts, lambda part: spikingjelly_layer(part, make_neuron))
        return parts
    for kind, arguments in _LAYERS.items():
        if isinstance(module, kind):
            made = getattr(layer, kind.__name__)(*arguments(module), step_mode="m")
            # Its layers are subclasses of PyTorch's and keep their weights under the same names.
            made.load_state_dict(module.state_dict())
            return made
    return None


def _refuse_other_layers(module: nn.Module) -> None:
    """Options that its layers do not have, or that would be lost: it would be another network.

    Raises:
        InvalidArgument: names the layer.
    """
    padded = isinstance(module, nn.Conv2d) and module.padding_mode != "zeros"
    pooled = isinstance(module, nn.AvgPool2d) and (module.ceil_mode or not module.count_include_pad)
    divided = isinstance(module, nn.AvgPool2d) and module.divisor_override is not None
    if padded or pooled or divided:
        raise InvalidArgument(f"SpikingJelly has no layer like {module}; compare a network without it")


_LAYERS: dict[type[nn.Module], Callable[[Any], tuple[Any, ...]]] = {
    nn.Conv2d: lambda m: (
        m.in_channels,
        m.out_channels,
        m.kernel_size,
        m.stride,
        m.padding,
        m.dilation,
        m.groups,
        m.bias is not None,
    ),
    nn.BatchNorm2d: lambda m: (m.num_features, m.eps, m.momentum),
    nn.Linear: lambda m: (m.in_features, m.out_features, m.bias is not None),
    nn.AvgPool2d: lambda m: (m.kernel_size, m.stride, m.padding),
    nn.AdaptiveAvgPool2d: lambda m: (m.output_size,),
}
"""Kinds of layers that SpikingJelly has under the same name, and the arguments that make an equal one."""


# ---------------------------------------------------------------- snnTorch


class SnnTorch(nn.Module):
    """snnTorch, step by step as its tutorials do, with hidden states in the neurons; other layers are PyTorch's.

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self, body: nn.Module, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.body = copy.deepcopy(body)
        self.stem = take_stem(self.body)
        replace_modules(self.body, lambda module: snntorch_neuron(module.neuron) if isinstance(module, LIF) else None)

    def forward(self, images: Tensor) -> Tensor:
        from snntorch import utils

        utils.reset(self.body)  # the neurons keep their membrane between calls
        current = self.stem(images)
        return torch.stack([self.body(current) for _ in range(self.timesteps)]).mean(0)


def snntorch_neuron(constants: Neuron) -> nn.Module:
    if constants.start != 0 or constants.reset != "soft" or not constants.detach_reset:
        raise InvalidArgument(
            f"snnTorch's Leaky starts at 0 here and has a soft reset without gradient; given {constants}"
        )
    _check_surrogate(constants)
    if constants.surrogate.alpha != int(constants.surrogate.alpha):
        raise InvalidArgument(f"snnTorch's sigmoid has a whole slope; given {constants.surrogate}")
    import snntorch
    from snntorch import surrogate

    # `reset_delay=False` resets in the step of the spike, as method.md §1 does. Where a membrane reaches twice the
    # threshold it still subtracts otherwise than ours; that changes spikes, not the work of a step.
    gradient = surrogate.sigmoid(slope=int(constants.surrogate.alpha))
    both = {"init_hidden": True, "reset_delay": False}
    return snntorch.Leaky(beta=constants.decay, threshold=constants.threshold, spike_grad=gradient, **both)
