"""One training step: gradients of a batch, and what the optimizer makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from spikedistill.core.learning import LearningRule
from spikedistill.core.lif import LIF
from spikedistill.core.output import Batch, Output
from spikedistill.machine.device import autocast
from spikedistill.machine.graphs import Recorder, Replayed
from spikedistill.machine.output import say
from spikedistill.machine.processes import from_all_processes
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.optimizers import OptimizerSettings, set_learning_rate
from spikedistill.training.phases import Phase
from spikedistill.training.resizing import resized


class Part(NamedTuple):
    """What was measured on a part of a batch.

    Attributes:
        terms: each loss term.
        logits: [N, ...].
    """

    terms: dict[str, Tensor]
    logits: Tensor


class Taken(NamedTuple):
    """What a step has measured.

    Attributes:
        parts: of the batch; one, where it is not computed in several.
        norm: of the whole gradient.
    """

    parts: list[Part]
    norm: Tensor


Look = Callable[[Taken], None]
"""Is shown what a step measured before the weights are touched, and may raise an error. (Of a recorded step, after.)"""


@dataclasses.dataclass
class Step:
    """The training step of a run.

    Args:
        learner: what is trained.
        forward: it, or its distributed wrapper.
        optimizer: of its parameters.
        settings: of the optimizer.
        precision: "fp32" or "bf16".
        recorder: records the step and plays it again (null: it is computed anew each time).
        compiled: computes gradients of whole batches (null: PyTorch does).
    """

    learner: SelfDistillation
    forward: Callable[[Tensor, LearningRule, bool], Output]
    optimizer: torch.optim.Optimizer
    settings: OptimizerSettings
    precision: str
    recorder: Recorder | None = None
    compiled: CompiledStep | None = None

    def __post_init__(self) -> None:
        self._looked_at = set[type]()
        self._replayed = None if self.recorder is None else Replayed(self._whole, self.recorder)
        if self.recorder is not None:
            for group in self.optimizer.param_groups:
                # a number would be recorded with the step, and stay as it is
                group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
                if "capturable" in group:
                    group["capturable"] = True

    @property
    def device(self) -> torch.device:
        return next(self.learner.parameters()).device

    def __call__(self, batch: Batch, phase: Phase, lr: float, look: Look) -> Taken:
        """Take a step.

        Args:
            look: is shown what was measured.
        """
        set_learning_rate(self.optimizer, lr)
        batch = dataclasses.replace(batch, inputs=resized(batch.inputs, phase.resolution))
        if self._replayed is not None:
            weights = [] if batch.weights is None else [batch.weights]  # it takes trees of tensors
            taken = self._replayed(phase, batch.inputs, batch.targets, weights)
            look(taken)
            return taken
        taken = self._gradients(phase, batch)
        look(taken)
        self._update(taken.norm)
        return taken

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """A batch in `settings.accumulate` parts along its samples, so that only one is in memory at a time."""
        yield from (part for part, _ in self._shares(batch))

    def _shares(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """The parts of a batch, and which share of it each is, in all processes together."""
        if self.settings.accumulate == 1:
            yield batch, 1.0
            return
        # The shares of processes may differ by a sample, but all have as many parts: each talks to the others in each.
        lengths = from_all_processes(len(batch))
        count, smallest = self.settings.accumulate, min(lengths)
        if smallest < self.settings.batch_size // len(lengths):  # the last of an epoch: no part of a single sample
            count = min(count, max(1, smallest // 2))
        dimension = int(self.learner.network.is_over_time(batch.inputs))
        inputs = batch.inputs.tensor_split(count, dimension)
        leaves, form = tree_flatten(batch.targets)
        targets = zip(*(leaf.tensor_split(count) for leaf in leaves), strict=True)
        weights = [None] * count if batch.weights is None else batch.weights.tensor_split(count)
        for k, (part, target, weight) in enumerate(zip(inputs, targets, weights, strict=True)):
            # tensor_split gives the first parts what is left over
            samples = sum(length // count + (k < length % count) for length in lengths)
            yield Batch(part, tree_unflatten(list(target), form), weights=weight), samples / sum(lengths)

    def _whole(self, phase: Phase, inputs: Tensor, targets: Any, weights: list[Tensor]) -> Taken:
        taken = self._gradients(phase, Batch(inputs, targets, weights=weights[0] if weights else None))
        self._update(taken.norm)
        return taken

    def _gradients(self, phase: Phase, batch: Batch) -> Taken:
        self.optimizer.zero_grad(set_to_none=True)
        parts = []
        for part, share in self._shares(batch):
            if self.compiled is not None and self._is_whole(part):
                parts.append(Part(*self.compiled(part, phase.rule, phase.branches, share)))
            else:
                parts.append(self._backward(phase, part, share))
        self._name_unreached(phase)
        gradients = [p.grad for p in self.learner.parameters() if p.grad is not None]
        # a NaN membrane never fires, so NaN weights leave the loss finite: the gradient shows them
        return Taken(parts, nn.utils.get_total_norm(gradients))

    def _name_unreached(self, phase: Phase) -> None:
        """Say once, of the first step by each kind of rule, which parameters of the network no gradient came to."""
        kind = type(phase.rule)
        if kind in self._looked_at:
            return
        self._looked_at.add(kind)
        network = self.learner.network
        # constants of neurons learn by spikes alone
        neurons = {id(p) for module in network.modules() if isinstance(module, LIF) for p in module.parameters()}
        wanted = [(name, p) for name, p in network.named_parameters() if p.requires_grad and id(p) not in neurons]
        found = [name for name, p in wanted if p.grad is None]
        if found:
            say(
                f"warning: no gradient came to {len(found)} parameters of the network in the first step of "
                f"{kind.__name__}: {', '.join(found[:4])}. They are not used, or stand before a "
                "torch.autograd.Function, through which no signal has a gradient (docs/your-own.md)",
                "stderr",
            )

    def _is_whole(self, part: Batch) -> bool:
        """Whether it is no rest of an epoch, for which nothing is compiled."""
        whole, parts = self.settings.batch_size, self.settings.accumulate
        return whole // parts <= len(part) <= -(-whole // parts)

    def _backward(self, phase: Phase, part: Batch, share: float) -> Part:
        with autocast(self.precision, self.device):
            output = self.forward(part.inputs, phase.rule, phase.branches)
        terms = self.learner.loss(output, part.targets, part.inputs, part.weights)
        total = terms.total
        if isinstance(self.forward, nn.parallel.DistributedDataParallel):
            # it waits for the gradient of all that took part, also of branches that no objective looks at
            total = total + sum(branch.flatten()[:0].sum() for branch in output.branches.values())
        # a mean over the batch is the mean of those over its parts, by their sizes
        (total if share == 1 else total * share).backward()
        return Part(terms.named(), output.logits.detach())

    def _update(self, norm: Tensor) -> None:
        if self.settings.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.learner.parameters(), self.settings.clip_norm, norm)
        self.optimizer.step()
