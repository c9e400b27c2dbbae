"""The gradients of a batch as one compiled function.

torch.compile cannot follow signals: at every layer it would go back to Python. So a step is first run once and written
down below them (`make_fx`), as a plain list of what happens to tensors: forward, loss and backward. In it there are no
signals, no modules and no autograd any more, and torch.compile fuses across layers. Fixed in it is all that Python
decides: the learning rule, branches, shapes, and which modules train.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from spikedistill.core.kernels import Curve, Kernels
from spikedistill.core.learning import LearningRule
from spikedistill.core.modules import evaluating
from spikedistill.core.output import Batch
from spikedistill.errors import InvalidArgument
from spikedistill.machine.device import autocast
from spikedistill.objectives import Objective
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

    Compiled anew, where they change: form of the batch, learning rule, branches, objectives, which parameters learn and
    which modules train. Whatever else Python decides (a counter, a share of dropout, `random.random()`, a hook) stays
    as it was at the first batch.

    Args:
        learner: what is trained.
        precision: "fp32" or "bf16".
    """

    def __init__(self, learner: SelfDistillation, precision: str) -> None:
        self.learner, self.precision = learner, precision
        self._whole = _Whole(learner, precision)
        self._compiled: dict[Hashable, _Compiled] = {}

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
            InvalidArgument: a step that looks at its numbers, or gives its modules other buffers, cannot be compiled as
                one; or as `loss`.
        """
        rule = self.learner.rule if rule is None else rule
        leaves, form = tree_flatten(batch.targets)
        weights = [] if batch.weights is None else [batch.weights]
        tensors = (batch.inputs, *leaves, *weights)
        if others := [type(each).__name__ for each in tensors if not isinstance(each, Tensor)]:
            raise InvalidArgument(f"a batch is of tensors, inputs and targets; given {', '.join(others)}")
        tensors_of = _tensors(self._whole)
        learning = {name: tensor for name, tensor in tensors_of.items() if tensor.requires_grad}
        # a parameter that does not learn is read, as a buffer is
        state = {name: tensor for name, tensor in tensors_of.items() if not tensor.requires_grad}
        objectives = tuple(self.learner.objectives.values())
        key = (rule, branches, self.learner.rule, tuple(learning), form, tuple(map(id, objectives)))
        key += tuple(module.training for module in self._whole.modules())
        key += (len(weights), *((each.shape, each.dtype, each.stride(), each.device) for each in tensors))
        if key not in self._compiled:
            answer = self._answered(rule, batch.inputs)
            self.learner.task.check(answer, batch.targets)
            step = functools.partial(_gradients, self._whole, rule, branches, lambda flat: tree_unflatten(flat, form))
            function = _compiled(step, self.learner, learning, state, batch.inputs, leaves, weights)
            self._compiled[key] = _Compiled(function, answer, objectives)
        compiled = self._compiled[key]
        # before: compiled code may read any memory by a label
        self.learner.task.check(compiled.answer, batch.targets)
        with torch.no_grad():
            terms, logits, gradients = compiled.function(learning, state, batch.inputs, leaves, weights)
            taken: set[int] = set()
            for parameter, gradient in zip(learning.values(), gradients, strict=True):
                if gradient is None:
                    continue
                gradient = _laid_out_as(parameter, gradient if share == 1 else gradient * share)
                place = gradient.untyped_storage().data_ptr()
                if place in taken:  # of a sum of two parameters: what is done to one in place is not for the other
                    gradient = gradient.clone()
                taken.add(place)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return terms, logits

    def _answered(self, rule: LearningRule, inputs: Tensor) -> Tensor:
        """Something in the shape of the network's answers to inputs, without memory of its own."""
        copied = {name: tensor.detach().clone() for name, tensor in _tensors(self.learner).items()}
        with torch.no_grad(), _nothing_drawn(inputs), evaluating(self.learner):
            output = torch.func.functional_call(self.learner, copied, (inputs.clone(), rule, False))
        logits = output.logits
        return logits.new_empty(1).expand(logits.shape)


class _Compiled(NamedTuple):
    """A step of one form.

    Attributes:
        answer: in the shape of its logits, to check targets by.
        objectives: kept, or others could get their ids, which are in the key.
    """

    function: Callable[..., Any]
    answer: Tensor
    objectives: tuple[Objective, ...]


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
        self, rule: LearningRule, branches: bool, inputs: Tensor, targets: Any, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        # the loss, its terms, and the logits
        before = dict(self.named_buffers())
        with autocast(self.precision, inputs.device):
            output = self.learner(inputs, rule, branches)
        replaced = [name for name, buffer in self.named_buffers() if buffer is not before.get(name)]
        if replaced:  # a compiled function changes tensors in place, and cannot give a module others
            raise InvalidArgument(
                f"the buffers {', '.join(replaced[:4])} are replaced in a forward pass, so the step cannot be compiled "
                "as a whole; change them in place (add_, copy_), or train with --compile on"
            )
        terms = self.learner.objective(output, targets, inputs, weights)
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
    weights: list[Tensor],
) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor | None, ...]]:
    # a list of one or none: what is written down takes lists of tensors
    arguments = (rule, branches, inputs, targets_of(targets), weights[0] if weights else None)
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
    weights: list[Tensor],
) -> Callable[..., Any]:
    """A step, written down and compiled.

    Raises:
        InvalidArgument: it looks at its numbers in Python.
    """
    kernels, learner.kernels = learner.kernels, TRACED
    try:
        with _nothing_drawn(inputs):  # writing down computes: what it counts must not stay either
            copied = {name: tensor.detach().clone() for name, tensor in state.items()}
            given = [target.clone() for target in targets], [each.clone() for each in weights]
            graph = make_fx(step)(learning, copied, inputs.clone(), *given)
    except RuntimeError as error:
        if "data-dependent" not in str(error):
            raise
        raise InvalidArgument(
            f"this training step cannot be compiled as a whole, for it looks at its numbers ({error}); train with "
            "--compile on"
        ) from error
    finally:
        learner.kernels = kernels
    if looks := [str(node.target) for node in graph.graph.nodes if _looks_at_numbers(node)]:
        raise InvalidArgument(
            f"this training step cannot be compiled as a whole, for it looks at its numbers ({looks[0]}: how much it "
            "selects is another thing in each batch; multiply with a mask, or use torch.where); train with --compile on"
        )
    # a function of what it is given alone; `dynamic` would make one for all sizes, and slower
    return torch.compile(graph, fullgraph=True, dynamic=False)


def _nothing_drawn(inputs: Tensor) -> contextlib.AbstractContextManager[None]:
    """Within the block random numbers may be drawn, and afterwards none was."""
    return torch.random.fork_rng([inputs.device] if inputs.device.type == "cuda" else [])


def _looks_at_numbers(node: Node) -> bool:
    """Whether the shape of what an operation gives depends on numbers: it would stay that of the first batch."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.dynamic_output_shape not in tags and torch.Tag.data_dependent_output not in tags:
        return False
    if node.target is not torch.ops.aten.index.Tensor:
        return True
    # a tensor indexed by whole numbers has a shape that is known
    chosen: Any = node.args[1]
    return any(each is not None and each.meta["val"].dtype in (torch.bool, torch.uint8) for each in chosen)
