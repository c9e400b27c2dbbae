"""The gradients of a batch as one compiled function.

torch.compile cannot follow signals: at every layer it would go back to Python. So a step is first run once and written
down below them (`make_fx`), as a plain list of what happens to tensors: forward, loss and backward. In it there are no
signals, no modules and no autograd any more, and torch.compile fuses across layers. Fixed in it is all that Python
decides: the learning rule, branches, shapes, and which modules train.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from spikedistill.core.kernels import Curve, Kernels
from spikedistill.core.learning import LearningRule
from spikedistill.core.modules import evaluating
from spikedistill.core.output import Batch
from spikedistill.errors import InvalidArgument
from spikedistill.machine.device import autocast
from spikedistill.training.learner import SelfDistillation


class Traced(Kernels):
    """The eager kernels where they do not look at numbers."""

    def curve_response(self, current: Tensor, curve: Curve, timesteps: int) -> tuple[Tensor, Tensor]:
        # compiled, random numbers are drawn in the sweep that reads them: no table is needed
        return curve.at(current, torch.rand_like(current, dtype=torch.float32), timesteps)


TRACED = Traced()


class CompiledStep:
    """The gradients of batches, compiled for each form of a batch and each way to learn when it first comes.

    It computes what `learner.loss(learner(inputs), targets, inputs).total.backward()` does. Numbers are those of the
    eager kernels but for rounding, and for random ones (dropout), which are other ones of the same generator.

    Args:
        learner: what is trained.
        precision: "fp32" or "bf16".
    """

    def __init__(self, learner: SelfDistillation, precision: str) -> None:
        self.learner, self.precision = learner, precision
        self._whole = _Whole(learner, precision)
        self._answers: dict[Hashable, Tensor] = {}
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __call__(
        self, batch: Batch, rule: LearningRule | None = None, branches: bool = True, share: float = 1.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Loss and gradients of a batch, which are added to the parameters' `grad`, as `backward` does.

        Args:
            rule: the learning rule (None: the learner's).
            branches: whether the branches take part.
            share: what the gradients are multiplied with.

        Returns:
            Each loss term, with the one that is minimised first, as "loss"; and the logits [N, ...].

        Raises:
            InvalidArgument: a step that looks at its numbers in Python cannot be compiled as one; or as `loss`.
        """
        rule = self.learner.rule if rule is None else rule
        leaves, form = tree_flatten(batch.targets)
        tensors = (batch.inputs, *leaves)
        key = (rule, branches, form, *((each.shape, each.dtype, each.stride(), each.device) for each in tensors))
        learning: dict[str, Tensor] = {name: p for name, p in self._whole.named_parameters() if p.requires_grad}
        # a parameter that does not learn is read, as a buffer is
        state = {name: tensor for name, tensor in _tensors(self._whole).items() if name not in learning}
        if key not in self._answers:
            self._answers[key] = self._answered(batch.inputs, rule)
        # before: compiled code may read any memory by a label
        self.learner.task.check(self._answers[key], batch.targets)
        if key not in self._compiled:
            step = functools.partial(_gradients, self._whole, rule, branches, lambda flat: tree_unflatten(flat, form))
            self._compiled[key] = _compiled(step, self.learner, learning, state, batch.inputs, leaves)
        with torch.no_grad():
            terms, logits, gradients = self._compiled[key](learning, state, batch.inputs, leaves)
            for parameter, gradient in zip(learning.values(), gradients, strict=True):
                if gradient is not None:
                    gradient = _laid_out_as(parameter, gradient if share == 1 else gradient * share)
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return terms, logits

    def _answered(self, inputs: Tensor, rule: LearningRule) -> Tensor:
        """Something in the shape of the network's answers to inputs, without memory of its own."""
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), evaluating(self.learner):
            logits = self.learner(inputs, rule, False).logits
        return logits.new_empty(1).expand(logits.shape)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the memory layout of its parameter, as autograd gives it: fused optimizers go by memory alone."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class _Whole(nn.Module):
    """A learner and its loss as one forward pass, for torch puts other tensors into a module for one call alone."""

    def __init__(self, learner: SelfDistillation, precision: str) -> None:
        super().__init__()
        self.learner, self.precision = learner, precision

    def forward(
        self, rule: LearningRule, branches: bool, inputs: Tensor, targets: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        # the loss, its terms, and the logits
        with autocast(self.precision, inputs.device):
            output = self.learner(inputs, rule, branches)
        terms = self.learner.objective(output, targets, inputs)
        return terms.total, terms.named(), output.logits.detach()


def _gradients(
    whole: _Whole,
    rule: LearningRule,
    branches: bool,
    targets_of: Callable[[list[Tensor]], Any],
    learning: dict[str, Tensor],
    state: dict[str, Tensor],
    inputs: Tensor,
    targets: list[Tensor],
) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor | None, ...]]:
    arguments = (rule, branches, inputs, targets_of(targets))
    total, terms, logits = torch.func.functional_call(whole, {**learning, **state}, arguments)
    found = torch.autograd.grad(total, list(learning.values()), allow_unused=True)
    return terms, logits, found


def _compiled(
    step: Callable[..., Any],
    learner: SelfDistillation,
    learning: dict[str, Tensor],
    state: dict[str, Tensor],
    inputs: Tensor,
    targets: list[Tensor],
) -> Callable[..., Any]:
    """A step, written down and compiled.

    Raises:
        InvalidArgument: it looks at its numbers in Python.
    """
    kernels, learner.kernels = learner.kernels, TRACED
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):  # writing down computes: what it draws and counts must not stay
            copied = {name: tensor.detach().clone() for name, tensor in state.items()}
            graph = make_fx(step)(learning, copied, inputs, targets)
    except RuntimeError as error:
        if "data-dependent" not in str(error):
            raise
        raise InvalidArgument(
            f"this training step cannot be compiled as a whole, for it looks at its numbers ({error}); train with "
            "--compile on"
        ) from error
    finally:
        learner.kernels = kernels
    # a function of what it is given alone; `dynamic` would make one for all sizes, and slower
    return torch.compile(graph, fullgraph=True, dynamic=False)
