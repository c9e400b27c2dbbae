"""Frozen teacher networks: held outside the module tree, never trained, never saved, always in evaluation mode."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from spikedistill.core.modules import watching
from spikedistill.core.network import UNSAID, Network, NetworkWrapper, as_network, observed
from spikedistill.core.output import Output
from spikedistill.errors import InvalidArgument, SpikedistillError, choose
from spikedistill.machine.device import autocast, to_channels_last
from spikedistill.objectives import Needs


class FrozenTeacher:
    """A private copy of a network that answers without gradient. It is no module, so nothing registers it.

    Args:
        network: a `Network` (or a learner, whose network is taken), run with `timesteps`; or any other module, which is
            called with the images, or with `timesteps` run as a network of `LIF` neurons.
        timesteps: T of a spiking teacher, None for an ANN, which a `Network` is then run as; where nothing is said, of
            a learner that of its learning rule, of anything else None.
        precision: "fp32" or "bf16".
        name: what an error calls it.

    Raises:
        InvalidArgument: weights that are NaN, or batch norm that has never seen data: the network was not trained.
    """

    def __init__(
        self, network: nn.Module, timesteps: int | None = UNSAID, precision: str = "fp32", name: str = ""
    ) -> None:
        called = f"the teacher {name}".rstrip()
        if not isinstance(network, nn.Module):
            raise InvalidArgument(f"{called} is a {type(network).__name__}; expected a trained network")
        _refuse_untrained(network, called)
        if timesteps is UNSAID:
            timesteps = getattr(network, "timesteps", None) if isinstance(network, NetworkWrapper) else None
        taken = as_network(network) if isinstance(network, NetworkWrapper) or timesteps is not None else network
        self._network = to_channels_last(copy.deepcopy(taken).eval().requires_grad_(False))
        self._timesteps, self._precision = timesteps, precision
        self._name, self._features, self._gradients = called, dict[str, str](), False

    def asked(self, needs: Iterable[Needs]) -> FrozenTeacher:
        """The same teacher, which also tells what these objectives want to know of it.

        Raises:
            InvalidArgument: a submodule that it does not have, or gradients of a spiking teacher.
        """
        found = copy.copy(self)
        found._features = {}
        known = dict(self._body().named_modules())
        for need in needs:
            for name in need.teacher_features:
                module = self._network.module_name(name) if isinstance(self._network, Network) else name
                found._features[name] = choose("module of the teacher", module, known)
            found._gradients = found._gradients or need.teacher_gradients
        if found._gradients and self._timesteps is not None:
            raise InvalidArgument(f"activation maps are of an ANN teacher, and {self._name} spikes; take an ANN twin")
        return found

    def _body(self) -> nn.Module:
        return self._network.body if isinstance(self._network, Network) else self._network

    @torch.no_grad()
    def __call__(self, inputs: Tensor, over_time: bool = False) -> Output:
        """The teacher's output, in its own precision.

        Where an objective asked for gradients, its logits have them to its features, and to nothing before those.

        Args:
            inputs: [N, ...], or [T, N, ...] with `over_time`, of which an ANN sees the mean over the steps.

        Raises:
            InvalidArgument: it gives something else than one tensor.
        """
        network = self._network.to(inputs.device)
        own = next((p.dtype for p in network.parameters() if p.is_floating_point()), inputs.dtype)
        inputs = inputs.to(own)  # of a student in half or double numbers
        if over_time and self._timesteps is None:
            inputs = inputs.mean(0)
        names = set(self._features.values())
        look = _cut(self._body(), names) if self._gradients else observed(self._body(), names)
        with autocast(self._precision, inputs.device), torch.set_grad_enabled(self._gradients), look as seen:
            if isinstance(network, Network):
                logits = network(inputs, timesteps=self._timesteps).logits
            else:
                logits = network(inputs)
        if not isinstance(logits, Tensor):
            raise InvalidArgument(
                f"{self._name} gives a {type(logits).__name__}; expected one tensor of logits. Wrap it in a module "
                "whose forward gives just that"
            )
        return Output(logits, {}, {name: seen[module] for name, module in self._features.items()})


@contextlib.contextmanager
def _cut(body: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """As `observed`, and what comes after the first of these submodules has gradient to their outputs.

    So only the layers behind it are differentiated, and nothing before is kept.
    """
    known = dict(body.named_modules())
    seen: dict[str, Tensor] = {}

    def cut(name: str, _module: nn.Module, output: Tensor) -> Tensor:
        # behind another of them it has gradient already
        seen[name] = output if output.requires_grad else output.detach().requires_grad_()
        return seen[name].clone()  # the next layer may work in place

    with watching({name: known[name] for name in names}, cut):
        yield seen


def _refuse_untrained(network: nn.Module, called: str) -> None:
    # a module may keep anything in its state
    state = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    bad = [name for name, value in state.items() if value.is_floating_point() and value.isnan().any()]
    if bad:
        raise InvalidArgument(f"{called}: {len(bad)} weights are NaN, first {bad[0]}; take another one")
    # by the statistics, and not by how many batches were counted: weights of older files say 0
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    means = [norm.running_mean for norm in norms if norm.running_mean is not None]
    if means and not any(mean.any() for mean in means):
        raise InvalidArgument(
            f"{called} was never trained: its batch norm has not seen a batch. Load its weights before (of timm or "
            "torchvision: pretrained ones for these classes), or train one: --rule ann"
        )


def answer(teacher: FrozenTeacher, name: str, example: Tensor, outputs: torch.Size) -> Output:
    """What a teacher says about one example.

    Args:
        outputs: the shape of what the network says of a batch, [N, ...].

    Raises:
        InvalidArgument: the input does not fit it, or its logits are of another shape than the network's.
    """
    try:
        found = teacher(example)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, SpikedistillError):
            raise
        raise InvalidArgument(
            f"the teacher {name} cannot be fed with samples {list(example.shape[1:])} ({error}); it must take what the "
            "network takes: wrap it in a module that resizes and normalises as it was trained. (If you feed others "
            "than these, pass example= one batch to the learner)"
        ) from error
    if found.logits.shape[1:] != outputs[1:]:
        raise InvalidArgument(
            f"the teacher {name} gives {list(found.logits.shape[1:])} logits for a sample, the network "
            f"{list(outputs[1:])}; both must have been made for the same classes. Take a teacher of these classes, or "
            "give it a new head and train it on them"
        )
    if not found.logits.isfinite().all():
        raise InvalidArgument(f"the teacher {name} answers with NaN or infinite logits; take another one")
    return found
