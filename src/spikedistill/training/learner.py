"""A network, its branches, its learning rule and its objectives: what a training loop needs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.core.kernels import EAGER, Kernels
from spikedistill.core.learning import LearningRule, Rate
from spikedistill.core.modules import evaluating
from spikedistill.core.network import Network, NetworkWrapper, as_network, firing, rate
from spikedistill.core.output import Batch, Output
from spikedistill.errors import InvalidArgument, SpikedistillError, choose
from spikedistill.models.branches import LAYERS, Branch, MapBranch
from spikedistill.objectives import Needs, Objective, SelfDistillationLoss, Terms
from spikedistill.tasks import Classification, Task
from spikedistill.training.teachers import FrozenTeacher, answer


@dataclasses.dataclass(frozen=True)
class Plain(Objective):
    """A function (output, batch) -> Terms as an objective."""

    function: Callable[[Output, Batch], Terms]

    def __call__(self, output: Output, batch: Batch) -> Terms:
        return self.function(output, batch)


Objectives = Mapping[str, Objective] | Iterable[Objective] | Objective | Callable[[Output, Batch], Terms]


class SelfDistillation(NetworkWrapper):
    """Train a network by rate-based self-distillation [ESD]; by its arguments also in any other way.

    Args:
        network: a `Network` (from `create_model` or `to_spiking`), or any module of standard layers and `LIF` neurons.
        rule: the learning rule: `Rate(T)`, `BPTT(T)` or `ANN()`.
        timesteps: short for rule=Rate(timesteps).
        branches: stages to attach branches to; None: every stage of the network but the last, (): no branches.
        objectives: what is minimised: one objective, several, or several by name; None: the paper's loss. Their sum is
            multiplied with the rule's `scale`.
        task: what targets and heads are.
        branch_block: "light", or "light+residual" as the paper uses on ImageNet.
        example: [N, C, H, W], images to infer shapes from (sequences: [N, C, L]); None: zeros, 32×32 (or 32).
        kernels: how spike paths are computed, `EAGER` or `compiled()`.
        teachers: networks for objectives that need one, by the name they ask for. Each is copied and stays frozen.

    Raises:
        InvalidArgument: no rule or two, an unknown stage or block, branches on a network without stages, or a teacher
            that is missing or that nobody asked for.
    """

    def __init__(
        self,
        network: nn.Module,
        rule: LearningRule | None = None,
        *,
        timesteps: int | None = None,
        branches: Iterable[str] | None = None,
        objectives: Objectives | None = None,
        task: Task | None = None,
        branch_block: str = "light",
        example: Tensor | None = None,
        kernels: Kernels = EAGER,
        teachers: Mapping[str, nn.Module | FrozenTeacher] | None = None,
    ) -> None:
        super().__init__()
        self.network = as_network(network)
        self.rule, self.kernels = _one_rule(rule, timesteps), kernels
        self.task: Task = Classification() if task is None else task
        self.objectives = _by_name(SelfDistillationLoss() if objectives is None else objectives)
        needs = [objective.needs() for objective in self.objectives.values()]
        wanted = {name: self.network.module_name(name) for n in needs for name in n.features}
        self._features = tuple(dict.fromkeys([*self.network.stages, *wanted.values()]))
        # what objectives call "first" and "last", and the stage that it is
        self._aliases = {name: module for name, module in wanted.items() if name != module}
        self._needs_neurons = any(n.neurons for n in needs)
        if self._needs_neurons and self.rule.timesteps is None:
            raise InvalidArgument("an objective counts spikes, and the ANN twin has none; leave it out (spike_penalty)")
        self._teachers = _frozen(teachers or {}, needs)
        self._needs_inputs = any(n.inputs or n.teachers for n in needs)

        taps = self._taps(branches)
        self.branches, self.adapters = nn.ModuleDict(), nn.ModuleDict()
        shapes = _DryRun(self.network, self._features, example)
        for name in self._teachers:  # what does not fit is said now, and not after the first batch was read
            self._answer(name, shapes)
        if not taps and any(n.branches for n in needs):
            raise InvalidArgument(
                "an objective wants several heads to teach each other, and there are no branches; leave out weighting, "
                "others_only and fallback of self_distillation, or train with branches"
            )
        if taps:
            self.branches = _make_branches(self.network, taps, branch_block, shapes, self.rule.timesteps)
        for name, objective in self.objectives.items():
            if type(objective).adapter is not Objective.adapter:  # most have none, and need no dry run
                self._add_adapter(name, objective, shapes)

    def _add_adapter(self, name: str, objective: Objective, shapes: _DryRun) -> None:
        answers = {name: self._answer(name, shapes) for name in objective.needs().teachers}
        adapter = objective.adapter(shapes(), answers)
        if adapter is not None:
            self.adapters[name] = adapter.to(next(self.network.parameters()))

    def _answer(self, name: str, shapes: _DryRun) -> Output:
        return answer(self._teachers[name], name, shapes.example, shapes().logits.shape)

    def _taps(self, branches: Iterable[str] | None) -> list[str]:
        stages = self.network.stages
        if branches is None:
            if not stages:
                names = [name for name, _ in self.network.body.named_children()]
                raise InvalidArgument(
                    "this network does not say where its stages end; pass Network(body, stages=[...]) with names from "
                    f"{names}, or branches=() to train without branches (in a recipe: --branches.stages '[a, b]' or "
                    "--branches.enabled false)"
                )
            _refuse_one_stage(stages)
            return list(stages[:-1])
        if branches := list(branches):
            _refuse_one_stage(stages)
        return [choose("stage for a branch", tap, stages[:-1]) for tap in branches]

    @property
    def timesteps(self) -> int | None:
        """T; None for the ANN twin."""
        return self.rule.timesteps

    @property
    def teachers(self) -> Mapping[str, FrozenTeacher]:
        """The frozen teachers, by the name that objectives ask for."""
        return self._teachers

    def forward(self, images: Tensor, rule: LearningRule | None = None, branches: bool = True) -> Output:
        """
        Args:
            images: [N, C, H, W], event frames [T, N, C, H, W], or other samples [N, ...] or [T, N, ...].
            rule: another learning rule for this batch (None: the learner's); the loss keeps the scale of the learner's.
            branches: whether the branches take part.
        """
        rule = self.rule if rule is None else rule
        signal = rule.encode(images, self.kernels, self.network.is_over_time(images))
        with firing(self.network.body) if self._needs_neurons else contextlib.nullcontext({}) as neurons:
            logits, features = self.network.propagate(signal, self._features)
        taps = [name for name in features if branches and _key(name) in self.branches]
        answered = rate(logits)
        heads = {name: self.branches[_key(name)](features[name], answered.shape[2:]) for name in taps}
        features |= {alias: features[name] for alias, name in self._aliases.items()}
        output = Output(answered, heads, features, neurons=neurons, timesteps=rule.timesteps)
        adapted = {name: adapter(output) for name, adapter in self.adapters.items()}
        return dataclasses.replace(output, adapted=adapted) if adapted else output

    def loss(self, output: Output, targets: Any, inputs: Tensor | None = None, weights: Tensor | None = None) -> Terms:
        """The sum of the objectives, multiplied with the rule's scale; its parts as they are.

        Args:
            targets: of the task; class indices [N] in classification.
            inputs: the images, for objectives that need them (those with a teacher do).
            weights: what the gradient of each sample is multiplied with, [N] (None: 1). The terms stay as they are.

        Raises:
            InvalidArgument: targets or weights that do not fit, or inputs that are missing.
        """
        self.task.check(output.logits, targets)
        return self.objective(output, targets, inputs, weights)

    def objective(
        self, output: Output, targets: Any, inputs: Tensor | None = None, weights: Tensor | None = None
    ) -> Terms:
        """`loss` of targets that are known to fit: nothing here looks at a number, so that it can be written down."""
        if inputs is None and self._needs_inputs:
            raise InvalidArgument("an objective needs the images too: loss(output, targets, images)")
        images = torch.empty(0) if inputs is None else inputs
        over_time = bool(self._teachers) and self.network.is_over_time(images)
        answers = {name: teacher(images, over_time) for name, teacher in self._teachers.items()}
        batch = Batch(images, targets, answers)  # without weights: they have their effect here, and once
        output = output if weights is None else output.weighted(weights)
        total, parts = 0.0, {}
        for name, objective in self.objectives.items():
            terms = objective(output, batch)
            if not isinstance(terms, Terms):
                raise InvalidArgument(
                    f"the objective {name} returned a {type(terms).__name__}; expected Terms(total, parts), as "
                    "sd.Terms(loss, {'loss': loss.detach()})"
                )
            total = total + terms.total
            # two objectives may use one word; the first keeps it
            parts |= {f"{name}.{part}" if part in parts else part: value for part, value in terms.parts.items()}
        return Terms(self.rule.scale * total, parts)  # type: ignore[arg-type]

    def strip(self) -> Network:
        """The bare network, without branches and adapters."""
        return self.network


def _one_rule(rule: LearningRule | None, timesteps: int | None) -> LearningRule:
    if (rule is None) == (timesteps is None):
        given = "both" if rule is not None else "neither"
        raise InvalidArgument(
            f"SelfDistillation takes a learning rule, as Rate(4), BPTT(4) or ANN(), or timesteps=4; given {given}"
        )
    if isinstance(rule, str) or (rule is not None and not callable(getattr(rule, "encode", None))):
        raise InvalidArgument(f"the learning rule is {rule!r}; expected Rate(T), BPTT(T) or ANN()")
    return Rate(timesteps) if rule is None else rule  # type: ignore[arg-type]


def _refuse_one_stage(stages: tuple[str, ...]) -> None:
    if len(stages) == 1:
        raise InvalidArgument(
            f"this network has one stage, {stages[0]}, and the last stage gets no branch: the network's own head is "
            "there. Name two stages or more, or train without branches: branches=(), in a recipe "
            "--branches.enabled false"
        )


def _by_name(objectives: Objectives) -> dict[str, Objective]:
    if isinstance(objectives, Mapping):
        return {str(name): each for name, each in objectives.items()}
    several = [objectives] if isinstance(objectives, Objective) or callable(objectives) else list(objectives)
    made = [each if isinstance(each, Objective) else Plain(each) for each in several]
    names = [type(each).__name__ if not isinstance(each, Plain) else "objective" for each in made]
    return {name if names.count(name) == 1 else f"{name}{k}": made[k] for k, name in enumerate(names)}


def _frozen(teachers: Mapping[str, nn.Module | FrozenTeacher], needs: list[Needs]) -> dict[str, FrozenTeacher]:
    wanted = {name for need in needs for name in need.teachers}
    if wanted != set(teachers):
        missing, extra = sorted(wanted - set(teachers)), sorted(set(teachers) - wanted)
        raise InvalidArgument(
            f"the objectives ask for the teachers {sorted(wanted)}; missing: {missing}, not asked for: {extra}. Pass "
            "teachers={name: network}"
        )
    frozen = {
        name: teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher, name=name)
        for name, teacher in teachers.items()
    }
    return {name: each.asked(need for need in needs if name in need.teachers) for name, each in frozen.items()}


# ---------------------------------------------------------------- branches


def _key(stage: str) -> str:
    """A stage's name as a key of a ModuleDict, which must not have dots."""
    return stage.replace(".", "-")


class _DryRun:
    """What the ANN twin gives on an example, for its shapes; run when first asked for."""

    def __init__(self, network: Network, features: tuple[str, ...], example: Tensor | None) -> None:
        self.network, self.features, self._given = network, features, example
        self._output: Output | None = None

    @property
    def example(self) -> Tensor:
        if self._given is not None:
            return self._given[:1]
        kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
        first = next((m for m in self.network.modules() if isinstance(m, kinds)), None)
        if first is None:
            raise InvalidArgument("the network's input cannot be told; pass example= one batch of it")
        if isinstance(first, nn.Linear):
            return torch.zeros(1, first.in_features)
        return torch.zeros(1, first.in_channels, *[32] * (1 if isinstance(first, nn.Conv1d) else 2))

    def __call__(self) -> Output:
        if self._output is None:
            example = self.example.to(next(self.network.parameters()))
            try:
                with torch.no_grad(), evaluating(self.network):
                    logits, features = self.network.propagate(example, self.features)
            except (RuntimeError, ValueError, TypeError) as error:
                if self._given is not None or isinstance(error, SpikedistillError):
                    raise
                raise InvalidArgument(
                    f"the network cannot be tried with an input of {tuple(example.shape)} ({error}); pass example= one "
                    "batch as you will train on"
                ) from error
            self._output = Output(logits, {}, features)
        return self._output

    def said(self, timesteps: int | None) -> Tensor:
        """What the network says of a place at first, [outputs]; over T, for trained spikes say anything as an ANN."""
        example = self.example.to(next(self.network.parameters()))
        with torch.no_grad(), evaluating(self.network):
            return self.network(example, timesteps=timesteps).logits.mean((0, 2, 3))


def _branch_dims(network: Network, taps: list[str], output: Output) -> int:
    """The dimensions of the features that branches stand on.

    Raises:
        InvalidArgument: a stage gives vectors or tokens; a branch needs channels and positions, in that order.
    """
    for tap in taps:
        shape = tuple(output.features[tap].shape)
        # what a pictures' network gives as [N, ., .] are tokens [N, L, C], whose channels stand last
        if len(shape) != 2 and (len(shape) not in LAYERS or len(shape) - 1 != (network.sample_dims or 3)):
            raise InvalidArgument(
                f"the stage {tap} gives {shape} for one sample; a branch needs [N, C, H, W] of pictures, [N, C, L] of "
                "sequences or [N, C]. Name other stages, or train without branches: branches=(), in a recipe "
                "--branches.enabled false"
            )
    dims = {output.features[tap].dim() for tap in taps}
    if len(dims) > 1:
        shapes = ", ".join(f"{tap} {tuple(output.features[tap].shape)}" for tap in taps)
        raise InvalidArgument(f"branches stand on stages of one form; these are {shapes}. Name others")
    return dims.pop()


def _make_branches(
    network: Network, taps: list[str], block: str, shapes: _DryRun, timesteps: int | None
) -> nn.ModuleDict:
    """A branch for each stage in `taps`, as wide as the stages after it."""
    output = shapes()
    start = shapes.said(timesteps) if output.logits.dim() == 4 else None
    channels = [output.features[stage].shape[1] for stage in network.stages]
    dims, outputs = _branch_dims(network, taps, output), output.logits.shape[1]
    branches = nn.ModuleDict()
    for tap in taps:
        later = channels[network.stages.index(tap) :]
        if start is not None:  # the network says something of every place
            branches[_key(tap)] = MapBranch(later[0], start)
        else:
            branches[_key(tap)] = Branch(later, outputs, block, dims)
    return branches.to(next(network.parameters()))
