"""How far products of spikes are from what rate-based backpropagation takes them for (method.md §7.4).

The gradient of a product a∘b goes through ā∘b̄. The difference mean_t(a∘b) − ā∘b̄ is the covariance over time of the
two; it is at hand in the forward pass, so looking at it costs nothing but this call.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from spikedistill.core.dual import Dual
from spikedistill.core.learning import Rate
from spikedistill.core.modules import evaluating
from spikedistill.core.network import as_network
from spikedistill.core.rules import RULES
from spikedistill.core.rules.common import rate_of, signals_in, tensors_of
from spikedistill.core.signal import Rule, Signals, TorchFunction, name_of, with_rules
from spikedistill.core.trace import user_frame


@dataclasses.dataclass(frozen=True)
class ProductCovariance:
    """One product of a forward pass.

    Attributes:
        where: the function, and the user's line.
        relative: ‖mean_t(a∘b) − ā∘b̄‖ ÷ ‖mean_t(a∘b)‖; 0 where the product is as the rates say.
    """

    where: str
    relative: float


@torch.no_grad()
def product_covariance(network: nn.Module, images: Tensor, timesteps: int) -> list[ProductCovariance]:
    """The covariance over time of every product of two signals in a network, in the order of their use.

    Args:
        images: [N, C, H, W], or event frames [T, N, C, H, W].
        timesteps: T ≥ 1.

    Raises:
        InvalidArgument: images or timesteps that do not fit.
    """
    network = as_network(network)
    found: list[ProductCovariance] = []

    def recording(rule: Rule) -> Rule:
        def recorded(function: TorchFunction, *args: object, **kwargs: object) -> Signals:
            out = rule(function, *args, **kwargs)
            # The same functions also multiply by constants, which is exact: only two signals are of interest.
            if isinstance(out, Dual) and len(signals_in((args, kwargs))) == 2:
                of_rates = function(*tensors_of(args, rate_of), **tensors_of(kwargs, rate_of))
                # The floor keeps the product of silent signals, 0 beside 0, from being NaN.
                error = (out.rate - of_rates).norm() / out.rate.norm().clamp(min=1e-12)
                found.append(ProductCovariance(f"{name_of(function)} at {user_frame()}", float(error)))
            return out

        return recorded

    bilinear = [f for f in RULES if name_of(f).rpartition(".")[2] in ("mul", "multiply", "matmul", "bmm", "einsum")]
    signal = Rate(timesteps).encode(images, over_time=network.is_over_time(images))
    with evaluating(network):
        network.propagate(with_rules(signal, {function: recording(RULES[function]) for function in bilinear}))
    return found
