"""From images to logits: what is fed to a network, and what comes out of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import spikedistill.core.rules.norm
import spikedistill.core.rules.weighted  # noqa: F401  (these fill the table of rules)
from spikedistill.core.dual import Dual, Sequence, Static
from spikedistill.errors import InvalidArgument, choose
from spikedistill.core.kernels import EAGER, Kernels, Term, time_mean
from spikedistill.core.signal import Signal

PROPAGATIONS: dict[str, type[Dual] | type[Sequence] | None] = {"rate": Dual, "bptt": Sequence, "ann": None}
"""How a network learns, by what it is fed: rate-based backpropagation, BPTT, or the ANN twin."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass gives, the same in every mode.

    Attributes:
        logits: [N, classes], the mean over time.
        branches: logits [N, classes] of every branch, by stage name; empty without branches.
        features: the rate [N, C, H, W] (in PreAct networks the mean membrane input) at each stage.
    """

    logits: Tensor
    branches: Mapping[str, Tensor]
    features: Mapping[str, Tensor]


def encode(images: Tensor, timesteps: int | None, propagation: str, kernels: Kernels = EAGER) -> Any:
    """The input of a network.

    Args:
        images: [N, C, H, W] shown at every step, or event frames [T, N, C, H, W].
        timesteps: T ≥ 1; None only for the ANN twin.
        propagation: a key of `PROPAGATIONS`.

    Raises:
        InvalidArgument: shape, dtype or T do not fit.
    """
    kind = PROPAGATIONS[choose("propagation", propagation, PROPAGATIONS)]
    _check_input(images, timesteps, propagation)
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    if kind is None:
        return images
    assert timesteps is not None
    if images.dim() != 5:
        return Static(images, timesteps, kind, kernels)
    values = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    if kind is Sequence:
        return Sequence(values, timesteps, kernels)
    return Dual((Term(values.detach(), time_mean(values, timesteps)),), timesteps, kernels)


def _check_input(images: Tensor, timesteps: int | None, propagation: str) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = f"{images.dtype} tensor" if isinstance(images, Tensor) else type(images).__name__
        raise InvalidArgument(f"images must be a floating-point tensor; given a {kind} (uint8 images: x.float() / 255)")
    if propagation == "ann":
        if timesteps is not None:
            raise InvalidArgument(f"timesteps={timesteps} has no effect on the ANN twin; pass timesteps=None")
        if images.dim() == 5:
            raise InvalidArgument(f"the ANN twin takes images [N, C, H, W]; given {tuple(images.shape)}")
        return
    if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
        raise InvalidArgument(f"timesteps is {timesteps!r}; expected a whole number of at least 1")
    if images.dim() == 5 and images.shape[0] != timesteps:
        raise InvalidArgument(
            f"event frames [T, N, C, H, W] = {tuple(images.shape)} have {images.shape[0]} steps but timesteps="
            f"{timesteps}; pass timesteps={images.shape[0]}, or images [N, C, H, W] to show them at every step"
        )
    if images.dim() < 2 or 0 in images.shape:
        raise InvalidArgument(f"images must be [N, C, H, W] or [T, N, C, H, W], not empty; given {tuple(images.shape)}")


def rate(signal: Any) -> Tensor:
    """The time mean of a signal; a plain tensor (the ANN twin) is its own."""
    return signal.rate if isinstance(signal, Signal) else signal


@contextlib.contextmanager
def observed(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The rates [N, ...] that leave named submodules during the `with` block, by name; the last call of each counts.

    The hooks only look, and are gone after the block. Only rates are kept: the spike path is T times as large,
    and would live until the end of the forward pass.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    known = dict(module.named_modules())
    for name in names:
        choose("module", name, known)

        def look(_module: nn.Module, _args: Any, out: Any, name: str = name) -> None:
            seen[name] = rate(out)

        handles.append(known[name].register_forward_hook(look))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Network(nn.Module):
    """A network of standard layers and `LIF` neurons that can be fed images.

    Args:
        body: any module that maps [N, C, H, W] to logits [N, classes].
        stages: names of the submodules of `body` whose outputs are the ends of its stages, first to last; branches
            attach to them.
        notes: what to know about the network, in words (`to_spiking` fills it).

    Raises:
        InvalidArgument: a stage that `body` does not have.
    """

    def __init__(self, body: nn.Module, stages: Iterable[str] = (), notes: Iterable[str] = ()) -> None:
        super().__init__()
        self.body = body
        self.stages, self.notes = tuple(stages), tuple(notes)
        known = {name for name, _ in body.named_modules()}
        for stage in self.stages:
            choose("stage", stage, known)

    def propagate(self, signal: Any, watch: Iterable[str] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """The output signal [N, classes], and the rates [N, ...] at `watch` (default: the stages)."""
        with observed(self.body, self.stages if watch is None else watch) as seen:
            return self.body(signal), seen

    def forward(self, images: Tensor, timesteps: int | None, kernels: Kernels = EAGER) -> Output:
        """Run `timesteps` steps (spikes only), or the ANN twin for timesteps=None.

        Args:
            images: [N, C, H, W], or event frames [T, N, C, H, W].

        Returns:
            `Output` without branches. Gradients flow through time (BPTT); run evaluation under torch.no_grad().
        """
        propagation = "ann" if timesteps is None else "bptt"
        logits, features = self.propagate(encode(images, timesteps, propagation, kernels))
        return Output(rate(logits), {}, features)

    def logits_over_time(self, images: Tensor, timesteps: int, kernels: Kernels = EAGER) -> Tensor:
        """Logits of every step [T, N, classes]; the mean of the first k is the output at timesteps=k."""
        out, _ = self.propagate(encode(images, timesteps, "bptt", kernels), watch=())
        if isinstance(out, Static):
            out = Sequence.from_static(out)
        return out.values.unflatten(0, (timesteps, -1))
