"""Tensor-train convolutions (TT-SNN, arXiv 2401.08001; method.md §8): a 3×3 one as four thin ones that merge back.

Of one rank ρ, without biases and with nothing between them: c1 1×1 to ρ channels, c2 3×1, c3 1×3, c4 1×1 from ρ
channels.

    stt   y = c4(c3(c2(c1 x)))
    ptt   y = c4((c2(c1 x) + c3(c1 x))/2)
    htt   as ptt in the first half of the steps, y = c4(c1 x) in the second

stt and ptt are linear and the same at every step: they are one 3×3 kernel each, that of ptt without corners.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from spikedistill.core.halves import through_halves
from spikedistill.core.modules import replace_modules
from spikedistill.core.network import Network, as_network
from spikedistill.core.signal import Flow
from spikedistill.errors import InvalidArgument, choose, whole_number
from spikedistill.models.decompositions import cross_of, train_of
from spikedistill.models.ranks import variational_rank

Form = Literal["stt", "ptt", "htt"]
FORMS = ("stt", "ptt", "htt")
Rank = int | float | str | Sequence[int]
"""A number of channels, a share of the smaller number of channels (to 1.0), "evbmf", or a number for each layer.
"evbmf 6 6 4" are the numbers that it has found before."""
FOUND = re.compile(r"evbmf(?: [1-9]\d*)*")
Keep = Callable[[str, nn.Conv2d], bool]


class TensorTrain(nn.Module):
    """A 3×3 convolution in tensor-train form.

    Args:
        c_in, c_out: channels.
        rank: ρ.
        form: "stt", "ptt" or "htt".
        stride: of both directions.
        bias: whether the result has one, as the convolution that it stands for.
    """

    def __init__(self, c_in: int, c_out: int, rank: int, form: Form, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        choose("form", form, FORMS)
        for name, value in (("c_in", c_in), ("c_out", c_out), ("rank", rank), ("stride", stride)):
            whole_number(name, value)
        self.form, self.stride = form, stride
        # In stt each direction is strided where it is looked along. In the others c2 and c3 stand side by side.
        down, along = ((stride, 1), (1, stride)) if form == "stt" else (stride, stride)
        self.c1 = nn.Conv2d(c_in, rank, 1, bias=False)
        self.c2 = nn.Conv2d(rank, rank, (3, 1), down, (1, 0), bias=False)
        self.c3 = nn.Conv2d(rank, rank, (1, 3), along, (0, 1), bias=False)
        self.c4 = nn.Conv2d(rank, c_out, 1, bias=bias)

    @property
    def over_halves(self) -> bool:
        return self.form == "htt"

    def forward(self, x: Flow) -> Flow:
        """[N, C_in, H, W] → [N, C_out, H/stride, W/stride], rounded up."""
        if self.form == "stt":
            return self.c4(self.c3(self.c2(self.c1(x))))
        if self.form == "ptt":
            return self._early(x)
        # All four stand in the halves: each of their weights wants the rates of its own steps.
        return through_halves(x, self._early, self._late)

    def _early(self, x: Flow) -> Flow:
        x = self.c1(x)
        return self.c4((self.c2(x) + self.c3(x)) / 2)

    def _late(self, x: Flow) -> Flow:
        return self.c4(self.c1(x[:, :, :: self.stride, :: self.stride]))

    def kernel(self) -> Tensor:
        """The 3×3 kernel [C_out, C_in, 3, 3] that it is; of htt, in the first half of the steps."""
        first, last = self.c1.weight[:, :, 0, 0], self.c4.weight[:, :, 0, 0]
        rows, columns = self.c2.weight[..., 0], self.c3.weight[:, :, 0]  # [ρ, ρ, 3] both
        if self.form == "stt":
            return torch.einsum("oa,abw,bch,ci->oihw", last, columns, rows, first)
        core = torch.zeros(*rows.shape, 3, dtype=rows.dtype, device=rows.device)
        core[..., 1] += rows / 2
        core[..., 1, :] += columns / 2
        return torch.einsum("oa,achw,ci->oihw", last, core, first)

    @torch.no_grad()
    def take(self, weight: Tensor) -> None:
        """Take the nearest weights that a decomposition of a kernel [C_out, C_in, 3, 3] gives.

        Raises:
            InvalidArgument: a kernel that is not finite.
        """
        if not bool(weight.isfinite().all()):
            raise InvalidArgument("a kernel with weights that are no finite numbers cannot be decomposed")
        found = (train_of if self.form == "stt" else cross_of)(weight.double(), self.c1.out_channels)
        for layer, value in zip((self.c1, self.c2, self.c3, self.c4), found, strict=True):
            layer.weight.copy_(value)


class Halves(nn.Module):
    """What htt merges to: one 3×3 convolution for the first half of the steps, a 1×1 for the second."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.second, self.over_halves = first, second, True

    def forward(self, x: Flow) -> Flow:
        stride = self.first.stride[0]
        return through_halves(x, self.first, lambda part: self.second(part[:, :, ::stride, ::stride]))


# ---------------------------------------------------------------- networks


def _convolutions(network: Network) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.body.named_modules() if isinstance(module, nn.Conv2d)}


def _fits(layer: nn.Conv2d) -> bool:
    """Whether it is a 3×3 convolution that four thin ones can stand for."""
    own = type(layer)
    # one that does something else with its weights, as timm's ScaledStdConv2d, or that others do something to
    if own.forward is not nn.Conv2d.forward or own._conv_forward is not nn.Conv2d._conv_forward:
        return False
    if is_parametrized(layer) or layer._forward_hooks or layer._forward_pre_hooks:  # weight_norm, spectral_norm
        return False
    plain = layer.groups == 1 and tuple(layer.dilation) == (1, 1) and layer.padding_mode == "zeros"
    square = tuple(layer.kernel_size) == (3, 3) and layer.stride[0] == layer.stride[1]
    return plain and square and layer.padding in ((1, 1), "same")


def ranks_of(network: nn.Module) -> list[int]:
    """The rank of each tensor-train convolution, in their order."""
    return [module.c1.out_channels for module in network.modules() if isinstance(module, TensorTrain)]


def asked(rank: object) -> object:
    """A rank without what it has found: "evbmf" of "evbmf 6 6 4"."""
    return "evbmf" if isinstance(rank, str) and FOUND.fullmatch(rank) else rank


def settled(rank: Rank, network: nn.Module) -> Rank:
    """A rank that finds the same ranks again, whatever the weights: "evbmf" with those that it has found."""
    return " ".join(("evbmf", *map(str, ranks_of(network)))) if isinstance(rank, str) else rank


def _found_rank(layer: nn.Conv2d) -> int:
    """What EVBMF finds in the weights; 0 where they are noise."""
    weight = layer.weight.detach().double()
    return max(variational_rank(each) for each in (weight.flatten(1), weight.transpose(0, 1).flatten(1)))


def _refuse_noise(layers: list[nn.Conv2d]) -> None:
    """Networks that were never trained would be left with one channel for each layer."""
    empty = sum(_found_rank(layer) == 0 for layer in layers)
    if 2 * empty > len(layers):
        raise InvalidArgument(
            f"in {empty} of {len(layers)} layers EVBMF finds nothing but noise: their weights are not trained. Give a "
            "trained network (in a recipe: --init RUN), or a rank (rank=0.25; --tensor_train.rank 0.25)"
        )


def _rank_of(layer: nn.Conv2d, rank: int | float | str) -> int:
    full = min(layer.in_channels, layer.out_channels)
    if isinstance(rank, str):
        return max(1, _found_rank(layer))
    return min(rank, full) if isinstance(rank, int) else max(1, round(rank * full))


def check_rank(rank: object) -> None:
    """Raise InvalidArgument unless it is a `Rank`."""
    each = rank if isinstance(rank, (list, tuple)) else [rank]
    number = bool(each) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in each)
    share = isinstance(rank, float) and 0 < rank <= 1
    found = isinstance(rank, str) and FOUND.fullmatch(rank)
    if not (number or share or found):
        raise InvalidArgument(
            f"rank is {rank!r}; expected a number of channels, a share of the smaller number of channels above 0 and "
            'up to 1.0, "evbmf", or a number for each layer'
        )


def _found_before(rank: Rank) -> Rank:
    """The numbers that stand behind "evbmf", where there are any."""
    return [int(number) for number in rank.split()[1:]] or rank if isinstance(rank, str) else rank


def tensor_train(
    network: nn.Module, rank: Rank = "evbmf", form: Form = "ptt", *, decompose: bool = True, keep: Keep | None = None
) -> Network:
    """A copy of a network with tensor-train convolutions in the place of its 3×3 ones.

    Its `notes` say for each layer the rank, and the share of the weights that the decomposition misses; and which 3×3
    convolutions stay as they are.

    Args:
        network: any; it is left as it is.
        rank: ρ: a number of channels (1: one, at most those of the layer), a share of the smaller number of channels
            (1.0: all of them, which still is not without loss, for the middle of a train may have 3ρ), "evbmf": by
            variational Bayesian matrix factorisation of trained weights, or one number for each layer that is
            replaced, in their order. "evbmf 6 6 4" stands for the numbers behind it.
        form: "stt", "ptt" or "htt".
        decompose: whether the layers begin as decompositions of the weights that were there, or at random.
        keep: keep(name, layer) says which convolutions stay dense (None: the first one by its place among the modules,
            as in the paper). What is no plain 3×3 convolution with padding 1 stays as it is in any case.

    Raises:
        InvalidArgument: another form or rank, a network without such a convolution, or "evbmf" of weights that were
            not trained.
    """
    choose("form", form, FORMS)
    check_rank(rank)
    rank = _found_before(rank)
    made = copy.deepcopy(as_network(network))
    layers = _convolutions(made)
    first = next(iter(layers), None)
    kept = {name for name, layer in layers.items() if (name == first if keep is None else keep(name, layer))}
    shared = Counter(id(layer.weight) for layer in layers.values())
    names = {
        id(layer): name
        for name, layer in layers.items()
        if name not in kept and _fits(layer) and shared[id(layer.weight)] == 1  # tied weights would come apart
    }
    if not names:
        raise InvalidArgument(
            "this network has no 3×3 convolution with padding 1, stride alike in both directions and one group that "
            "may be replaced"
        )
    if isinstance(rank, (list, tuple)) and len(rank) != len(names):
        raise InvalidArgument(f"there are {len(rank)} ranks for {len(names)} layers: {', '.join(names.values())}")
    if isinstance(rank, str):
        _refuse_noise([layers[name] for name in names.values()])
    notes, replacements = list[str](), dict[int, TensorTrain]()

    def replaced(layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, nn.Conv2d) or id(layer) not in names:
            return None
        if id(layer) not in replacements:  # one that is used at two places stays one
            own = rank if isinstance(rank, (int, float, str)) else rank[len(notes)]
            replacements[id(layer)], note = _replacement(layer, own, form, decompose)
            notes.append(f"{names[id(layer)]}: {note}")
        return replacements[id(layer)]

    body = _with(made.body, replaced)
    dense = [name for name, layer in layers.items() if layer.kernel_size == (3, 3) and id(layer) not in names]
    if dense:
        notes.append(f"as they were: {', '.join(dense)}")
    return Network(body, made.stages, (*made.notes, *notes), made.sample_dims)


def _with(body: nn.Module, choose: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A network with modules replaced, itself among them."""
    new = choose(body)
    if new is None:
        replace_modules(body, choose)
    return body if new is None else new


def _replacement(layer: nn.Conv2d, rank: int | float | str, form: Form, decompose: bool) -> tuple[TensorTrain, str]:
    size = _rank_of(layer, rank)
    new = TensorTrain(layer.in_channels, layer.out_channels, size, form, layer.stride[0], layer.bias is not None)
    new = new.to(layer.weight).requires_grad_(layer.weight.requires_grad)  # what was frozen stays so
    note = f"rank {size} of {min(layer.in_channels, layer.out_channels)}"
    if layer.bias is not None and new.c4.bias is not None:
        with torch.no_grad():
            new.c4.bias.copy_(layer.bias)
        new.c4.bias.requires_grad_(layer.bias.requires_grad)
    if decompose:
        weight = layer.weight.detach()
        new.take(weight)
        missed = (new.kernel().detach() - weight).norm() / weight.norm().clamp(min=1e-12)
        note += f", misses {float(missed):.1%} of the weights"
    return new, note


def merge(network: nn.Module) -> Network:
    """A copy of a network with ordinary convolutions in the place of tensor-train ones: the same outputs.

    Raises:
        InvalidArgument: there is none.
    """
    made = copy.deepcopy(as_network(network))
    thin = {name: module for name, module in made.body.named_modules() if isinstance(module, TensorTrain)}
    if not thin:
        raise InvalidArgument("this network has no tensor-train convolutions to merge")
    merged = {id(module): _merged(module) for module in thin.values()}
    body = _with(made.body, lambda module: merged.get(id(module)))
    told = tuple(f"{name}: rank " for name in thin)  # of layers that are no more
    notes = tuple(note for note in made.notes if not note.startswith(told))
    return Network(body, made.stages, notes, made.sample_dims)


@torch.no_grad()
def _merged(layer: TensorTrain) -> nn.Module:
    first = _dense(layer.kernel(), layer.stride, layer.c4.bias)
    # what was frozen stays so
    first.weight.requires_grad_(any(each.weight.requires_grad for each in (layer.c1, layer.c2, layer.c3, layer.c4)))
    if layer.form != "htt":
        return first
    second = torch.einsum("oa,ai->oi", layer.c4.weight[:, :, 0, 0], layer.c1.weight[:, :, 0, 0])
    other = _dense(second[:, :, None, None], 1, layer.c4.bias)
    other.weight.requires_grad_(first.weight.requires_grad)
    return Halves(first, other)


def _dense(kernel: Tensor, stride: int, bias: Tensor | None) -> nn.Conv2d:
    outputs, inputs, size, _ = kernel.shape
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias is not None).to(kernel)
    layer.weight.copy_(kernel)
    if bias is not None and layer.bias is not None:
        layer.bias.copy_(bias)
        layer.bias.requires_grad_(bias.requires_grad)
    return layer
