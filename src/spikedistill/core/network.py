"""A network that can be fed images: any module of standard layers and LIF neurons, with names for its stages."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from spikedistill.core.dual import Static, Unrolled
from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.learning import ANN, BPTT
from spikedistill.core.lif import LIF
from spikedistill.core.modules import watching
from spikedistill.core.output import Output
from spikedistill.core.rules.weighted import SafeConvolutions
from spikedistill.core.signal import Flow, Signal
from spikedistill.errors import InvalidArgument, choose, whole_number

UNSAID: Any = object()
"""T has no default: forgetting it is an error, and None means the ANN twin."""


def rate(signal: Flow) -> Tensor:
    """The time mean [N, ...] of a signal; a plain tensor (the ANN twin) is its own."""
    return signal.rate if isinstance(signal, Signal) else signal


@contextlib.contextmanager
def observed(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The rates [N, ...] that leave named submodules during the `with` block, by name; the last call of each counts.

    Only rates are kept: the spike path is T times as large, and would live until the end of the forward pass.

    Raises:
        InvalidArgument: a name that the module does not have.
    """
    known = dict(module.named_modules())
    seen: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, output: Flow) -> Flow | None:
        if not isinstance(output, (Tensor, Signal)):
            raise InvalidArgument(
                f"the output of {name} ({type(module).__name__}) is a {type(output).__name__}; a stage, or what an "
                "objective looks at, has to give one tensor"
            )
        seen[name] = rate(output)
        return output.clone() if isinstance(output, Tensor) else None  # the next layer may work in place

    with watching({choose("module", name, known): known[name] for name in names}, look):
        yield seen


@contextlib.contextmanager
def firing(
    body: nn.Module, take: Callable[[Tensor], Any] = lambda rates: rates, twin: bool = False
) -> Iterator[dict[str, Any]]:
    """The rate [N, ...] of every layer of `LIF` neurons during the `with` block, by name; each use of a layer apart.

    Args:
        take: what is kept of a rate, so that not all of them live at once.
        twin: whether activations of the ANN twin count too; by default there is nothing of it, for it does not fire.
    """
    layers = {name: module for name, module in body.named_modules() if isinstance(module, LIF)}
    # One layer that is used twice, as a shared ReLU was, is two layers of neurons with rates of their own.
    uses: dict[str, int] = defaultdict(int)
    fired: dict[str, Any] = {}

    def look(name: str, _module: nn.Module, output: Flow) -> None:
        if isinstance(output, Signal) or twin:
            uses[name] += 1
            fired[name if uses[name] == 1 else f"{name} (use {uses[name]})"] = take(rate(output))

    with watching(layers, look):
        yield fired


class Network(nn.Module):
    """A network of standard layers and `LIF` neurons that can be fed images.

    Args:
        body: any module that maps [N, C, H, W] to logits [N, classes] (for another task: to one tensor [N, ...]).
        stages: names of the submodules of `body` whose outputs are the ends of its stages, first to last; branches
            attach to them.
        notes: what to know about the network, in words (`to_spiking` fills it).
        sample_dims: dimensions of one sample at one step: 3 for an image [C, H, W], 2 for a sequence [C, L], 1 for
            features [F]. An input with one more than a batch of these has time in front. None: what the first layer
            says (a 2-d convolution 3, a 1-d one 2).

    Raises:
        InvalidArgument: a stage that `body` does not have, or dimensions that are no number.
    """

    def __init__(
        self,
        body: nn.Module,
        stages: Iterable[str] = (),
        notes: Iterable[str] = (),
        sample_dims: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        # Branches are no submodules of it: the network is the same, and has the same weights, with and without them.
        self.stages, self.notes = tuple(stages), tuple(notes)
        known = {name for name, _ in body.named_modules()}
        for stage in self.stages:
            choose("stage", stage, known - {""})
        self.sample_dims = _first_layer_dims(body) if sample_dims is None else whole_number("sample_dims", sample_dims)

    def module_name(self, name: str) -> str:
        """The name of a submodule of the body; "first" and "last" are the first and the last stage.

        Raises:
            InvalidArgument: the network says of no stage where it ends.
        """
        if name not in _ENDS or name in dict(self.body.named_modules()):
            return name
        if not self.stages:
            raise InvalidArgument(
                f"the {name} stage is wanted, and this network does not say where its stages end; name a module of "
                "it, or pass Network(body, stages=[...])"
            )
        return self.stages[_ENDS[name]]

    def is_over_time(self, inputs: Tensor) -> bool:
        """Whether inputs are [T, N, ...], one for each step, and not [N, ...], by `sample_dims`.

        Raises:
            InvalidArgument: neither; or it cannot be told, as of [·, ·, F] where the first layer is a linear one.
        """
        if not isinstance(inputs, Tensor):  # the learning rule says what is wrong with it
            return False
        if self.sample_dims is None:
            return _usually_over_time(inputs)
        extra = inputs.dim() - self.sample_dims - 1
        if extra not in (0, 1):
            one = _SHAPES.get(self.sample_dims, f"{self.sample_dims} dimensions")
            raise InvalidArgument(
                f"this network takes samples {one}, as [N, ...] or with time as [T, N, ...]; given "
                f"{tuple(inputs.shape)}. If its samples are others, say so: Network(body, sample_dims=...)"
            )
        return extra == 1

    @overload
    def propagate(self, signal: Tensor, features: Iterable[str] | None = None) -> tuple[Tensor, dict[str, Tensor]]: ...
    @overload
    def propagate(self, signal: Flow, features: Iterable[str] | None = None) -> tuple[Flow, dict[str, Tensor]]: ...
    def propagate(self, signal: Flow, features: Iterable[str] | None = None) -> tuple[Flow, dict[str, Tensor]]:
        """Run the body on what a learning rule encoded.

        Args:
            signal: as `LearningRule.encode` gives it.
            features: names of submodules whose rates are wanted (None: the stages).

        Returns:
            The output signal [N, ...], and the rates [N, ...] by name.

        Raises:
            InvalidArgument: the body gives something else than one tensor.
        """
        names = self.stages if features is None else tuple(features)
        plain = isinstance(signal, Tensor) and signal.device.type == "cpu" and not torch.compiler.is_compiling()
        guard = SafeConvolutions() if plain else contextlib.nullcontext()
        with observed(self.body, names) as seen, guard:
            out = self.body(signal)
        if missing := [name for name in names if name not in seen]:
            raise InvalidArgument(
                f"{', '.join(missing)} of {type(self.body).__name__} was not called, or not as a module, so its output "
                "is not known; name modules that are (of a list its members)"
            )
        if not isinstance(out, (Tensor, Signal)):
            raise InvalidArgument(
                f"{type(self.body).__name__} returns a {type(out).__name__}; expected one tensor of logits. Wrap it in "
                "a module whose forward gives just that"
            )
        return out, seen

    def forward(self, images: Tensor, timesteps: int | None = UNSAID, kernels: Kernels = EAGER) -> Output:
        """Run `timesteps` steps (spikes only), or the ANN twin for timesteps=None.

        Args:
            images: [N, C, H, W], event frames [T, N, C, H, W], or other samples [N, ...] or [T, N, ...] (`sample_dims`
                tells which).

        Returns:
            `Output` without branches. Gradients flow through time (BPTT); run evaluation under torch.no_grad().

        Raises:
            InvalidArgument: images or timesteps that do not fit (`is_over_time`, `LearningRule.encode`).
        """
        if timesteps is UNSAID:
            raise InvalidArgument("say how many time steps: net(images, timesteps=4); None is the ANN twin")
        # Evaluation needs spikes and no rates beside them, which is what BPTT feeds (method.md §2.6).
        learning_rule = ANN() if timesteps is None else BPTT(timesteps)
        logits, features = self.propagate(learning_rule.encode(images, kernels, self.is_over_time(images)))
        return Output(rate(logits), {}, features)

    def logits_over_time(self, images: Tensor, timesteps: int, kernels: Kernels = EAGER) -> Tensor:
        """Logits of every step [T, N, ...]; the mean of the first k is the output at timesteps=k.

        Neurons are causal: what they do in the first k steps does not depend on the later ones. (But where the halves
        of a network lie does: core/halves.py.)
        """
        # No features: the rates of the stages would be computed for nobody.
        signal = BPTT(timesteps).encode(images, kernels, self.is_over_time(images))
        out, _ = self.propagate(signal, features=())
        if isinstance(out, Static):  # a network without a neuron says the same at every step
            out = Unrolled.from_static(out)
        if not isinstance(out, Unrolled):
            raise InvalidArgument(
                f"{type(self.body).__name__} gives a plain tensor for a spiking input, so its time is lost; do not "
                "take tensors out of signals inside a network (x.rate, x.values)"
            )
        return out.values.unflatten(0, (timesteps, -1))


_ENDS = {"first": 0, "last": -1}

_SHAPES = {1: "[F]", 2: "[C, L]", 3: "[C, H, W]", 4: "[C, D, H, W]"}
"""Samples at one step, by their number of dimensions."""

# 1-d, 2-d and 3-d kernels, and the samples that they see.
_SEES: dict[int, tuple[type[nn.Module], ...]] = {
    2: (nn.Conv1d, nn.ConvTranspose1d),
    3: (nn.Conv2d, nn.ConvTranspose2d),
    4: (nn.Conv3d, nn.ConvTranspose3d),
}


def _first_layer_dims(body: nn.Module) -> int | None:
    """`sample_dims` by the first layer with weights; a linear layer takes anything, and says nothing."""
    for module in body.modules():
        if isinstance(module, (nn.Linear, nn.Bilinear, nn.Embedding)):
            return None
        for dims, kinds in _SEES.items():
            if isinstance(module, kinds):
                return dims
    return None


def _usually_over_time(inputs: Tensor) -> bool:
    """Where a network does not say what its samples are: features, images and event frames are told by their form."""
    if inputs.dim() == 3:
        first, second, third = inputs.shape
        raise InvalidArgument(
            f"an input {tuple(inputs.shape)} may be {first} time steps of {second} samples, or {first} samples of "
            f"{second} × {third} numbers, and this network does not say which. Say it: Network(body, sample_dims=1) "
            "for [T, N, F], Network(body, sample_dims=2) for [N, C, L] or [N, L, F]"
        )
    return inputs.dim() == 5


class NetworkWrapper(nn.Module):
    """Base of modules that hold a network to train it: evaluation looks through them at the network alone."""

    network: Network


def _in_parallel(module: nn.Module) -> nn.Module | None:
    return module.module if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else None


def as_network(module: nn.Module) -> Network:
    """The network that a module is or holds; any other module becomes one without stages."""
    # wrappers of torch: DataParallel, DistributedDataParallel, and what torch.compile gives
    while isinstance(inner := getattr(module, "_orig_mod", None) or _in_parallel(module), nn.Module):
        module = inner
    if isinstance(module, NetworkWrapper):
        return module.network
    return module if isinstance(module, Network) else Network(module)
