"""Batch normalisation of signals (method.md §2.4).

In training one mean μ and one variance σ² per channel are taken over all T·N·H·W values of the spike path; the running
statistics are updated once per call. The rate is normalised with the same μ and σ², so with x̂ = (x̄ − μ)/√(σ² + ε),
M = N·H·W and g the incoming gradient:

    dL/dγ = Σ g·x̂,   dL/dβ = Σ g,   dL/dx̄ = γ/√(σ² + ε) · (g − mean(g) − x̂·mean(g·x̂))

the usual formula, except that x̂ has not unit variance: σ² is of the spike path, x̄ of the rates.
In evaluation the running statistics make it an affine map, which is linear in the rate.
The result stays pending (`kernels.Norm`): a neuron folds it into its own sweep, forward and backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spikedistill.core.dual import Dual, Static, Unrolled
from spikedistill.core.kernels import Norm
from spikedistill.core.neuron import compute_dtype
from spikedistill.core.signal import Rule, Signal, TorchFunction
from spikedistill.core.trace import user_frame
from spikedistill.errors import InvalidArgument

Buffers = tuple[Tensor | None, Tensor | None]
"""Running mean and variance [C]; None where the layer keeps none."""


def update_running(running: Tensor | None, batch: Tensor, momentum: float) -> None:
    """running ← (1 − momentum)·running + momentum·batch, in place, as nn.BatchNorm does."""
    if running is not None:
        with torch.no_grad():
            running.lerp_(batch.to(running.dtype), momentum)


def _update(mean: Tensor, var: Tensor, count: int, buffers: Buffers, m: float) -> None:
    update_running(buffers[0], mean, m)
    # As in torch: the batch is normalised with the biased variance, and the unbiased one is kept.
    update_running(buffers[1], var * (count / max(count - 1, 1)), m)


def _batch_norm_dual(
    x: Dual, buffers: Buffers, gamma: Tensor, beta: Tensor, training: bool, momentum: float, eps: float
) -> Dual:
    # A norm or a sum that is pending on x is computed here: this norm needs the statistics of its result.
    term = x.computed()
    if not training:
        # Affine with constants, so both paths go through torch's own (method.md §2.3). Batch norm that is frozen while
        # the rest of the network trains comes here.
        rate = F.batch_norm(term.rate, *buffers, gamma, beta, False, momentum, eps)
        with torch.no_grad():
            return x.with_path(F.batch_norm(term.values, *buffers, gamma, beta, False, momentum, eps), rate)
    with torch.no_grad():
        # Behind a convolution the moments are there already, from the sweep for its time mean.
        mean, var = term.moments or x.kernels.moments(term.values, x.timesteps)[1:]
        _update(mean, var, x.timesteps * term.rate.numel() // term.rate.shape[1], buffers, momentum)
        # eps stands inside the root, as in nn.BatchNorm.
        norm = Norm(gamma, beta, mean, torch.rsqrt(var + eps))
    return Dual((term._replace(norm=norm),), x.context)


def _batch_norm_plain(
    tensor: Tensor,
    steps: int,
    buffers: Buffers,
    gamma: Tensor | None,
    beta: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Ordinary batch norm in training, with the running variance unbiased for `steps` times the values."""
    # Torch gets no buffers: it would count the values of a static signal once, though it stands for T steps. Counted T
    # times, they give the running variance that the same input gives where it is repeated.
    out, mean, rstd = torch.native_batch_norm(tensor, gamma, beta, None, None, True, 0.0, eps)
    with torch.no_grad():
        var = rstd.reciprocal().square_().sub_(eps)  # torch gives 1/√(var + eps) instead of the variance
        _update(mean, var, steps * tensor.numel() // tensor.shape[1], buffers, momentum)
    return out


def batch_norm(
    function: TorchFunction,
    input: Static | Unrolled | Dual,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    """Rule of F.batch_norm, whose arguments it has: `input` looks like [N, C, ...], all vectors are [C].

    Raises:
        InvalidArgument: the signal has another number of channels; or with gradient it would be normalised by the
            statistics of one value per channel, whose rate is its own mean.
    """
    x, buffers = input, (running_mean, running_var)
    if weight is not None and x.shape[1] != weight.shape[0]:
        raise InvalidArgument(f"batch_norm of {weight.shape[0]} channels was given {tuple(x.shape)}")
    if training and torch.is_grad_enabled() and not isinstance(x, Unrolled) and x.numel() == x.shape[1]:
        raise InvalidArgument(
            f"batch_norm in training at {user_frame()} needs more than one value per channel; given {tuple(x.shape)}: "
            "the mean of one value is the value, and nothing would be learned. Give batches of two samples or more "
            "(--optimizer.drop_last)"
        )
    if isinstance(x, Dual):
        return _batch_norm_dual(x, buffers, *_affine(x, weight, bias), training, momentum, eps)
    # The values of an unrolled signal are all T·N of them already.
    tensor, steps = (x.rate, x.timesteps) if isinstance(x, Static) else (x.values, 1)
    if training:
        out = _batch_norm_plain(tensor, steps, buffers, weight, bias, momentum, eps)
    else:
        out = F.batch_norm(tensor, running_mean, running_var, weight, bias, False, momentum, eps)
    return x.with_rate(out) if isinstance(x, Static) else Unrolled(out, x.context)


def _affine(x: Dual, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """γ and β [C], 1 and 0 where the layer has none."""
    # In the dtype of the statistics, as a layer's own are under autocast.
    dtype = compute_dtype(x.dtype)
    gamma = torch.ones(x.shape[1], dtype=dtype, device=x.device) if weight is None else weight
    return gamma, torch.zeros(x.shape[1], dtype=dtype, device=x.device) if bias is None else bias


RULES: dict[TorchFunction, Rule] = {F.batch_norm: batch_norm}
