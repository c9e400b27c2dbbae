"""Which learning rule trains which step: training may begin without spikes, and T may change as it goes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from spikedistill.core.learning import ANN, LearningRule, RateTwin
from spikedistill.data.batches import generator_for
from spikedistill.errors import InvalidArgument


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """What trains before the recipe's rule does, and with how many steps. Evaluation is always by the rule itself.

    The loss keeps the scale of the recipe's rule throughout, and the learning rate its one schedule.

    Args:
        ann: the first so many epochs (below 1: a share of all) train the ANN twin, which costs a fraction of spikes.
        rate_twin: so many after them train the rate twin, which costs little more; or a share.
        noise: standard deviation of currents over time in the rate twin (null: that of `RateTwin`).
        branches: whether branches are trained in those epochs too; they may cost as much as the ANN twin itself.
        drawn: numbers of steps of which one is drawn for each batch, as [1, 2, 4]; null: T of the rule.
        growing: numbers of steps, each for an equal part of the epochs with spikes, as [1, 2, 4]; null: T of the rule.

    Raises:
        InvalidArgument: fewer than 0 epochs or a part of one, noise without a rate twin, or no numbers of steps.
    """

    ann: int | float = 0
    rate_twin: int | float = 0
    noise: float | None = None
    branches: bool = True
    drawn: list[int] | None = None
    growing: list[int] | None = None

    def __post_init__(self) -> None:
        for name in ("ann", "rate_twin"):
            count = getattr(self, name)
            if not (0 <= count < 1 or (count > 0 and float(count).is_integer())):
                raise InvalidArgument(
                    f"phases.{name} is {count}; expected a number of epochs, 0 or more, or a share of them below 1"
                )
        if self.noise is not None and not self.rate_twin:
            raise InvalidArgument(f"phases.noise {self.noise} has no effect without epochs of --phases.rate_twin")
        if not self.branches and not self.without_spikes:
            raise InvalidArgument(
                "phases.branches false has no effect without epochs before the rule's: --phases.ann 10"
            )
        if self.drawn is not None and self.growing is not None:
            raise InvalidArgument("T is either drawn or growing; leave out phases.drawn or phases.growing")
        for name in ("drawn", "growing"):
            numbers = getattr(self, name)
            if numbers is not None and (not numbers or min(numbers) < 1):
                raise InvalidArgument(f"phases.{name} is {numbers}; expected numbers of steps of at least 1")

    @property
    def without_spikes(self) -> bool:
        """Whether training begins so."""
        return bool(self.ann or self.rate_twin)

    def counted(self, epochs: int) -> PhaseSettings:
        """The same with numbers in the place of shares of so many epochs, rounded down."""
        # a hair more: 0.29 of 100 are 29
        ann, twin = (int(n * epochs + 1e-9) if n < 1 else int(n) for n in (self.ann, self.rate_twin))
        # what says how the first epochs are trained goes with them, where a share of few epochs is none
        noise, branches = self.noise if twin else None, self.branches or not (ann or twin)
        return dataclasses.replace(self, ann=ann, rate_twin=twin, noise=noise, branches=branches)


_DRAWS = 20_000_001
"""Apart from what batches draw by (seed, epoch, batch)."""


class Phase(NamedTuple):
    """How a step is taken.

    Attributes:
        rule: the learning rule.
        branches: whether the branches are part of it.
    """

    rule: LearningRule
    branches: bool = True


@dataclasses.dataclass(frozen=True)
class Phases:
    """The phases of one run.

    Args:
        rule: of the recipe.
        settings: what comes before it; kept with numbers of epochs in the place of shares.
        epochs: of the run in all.
        seed: of what is drawn.

    Raises:
        InvalidArgument: a first phase that leaves no epoch for the rule, or steps for a rule that has none.
    """

    rule: LearningRule
    settings: PhaseSettings
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", self.settings.counted(self.epochs))
        before = self.before
        if before and self.epochs <= before:
            raise InvalidArgument(
                f"phases.ann and phases.rate_twin take {before} of {self.epochs} epochs; leave at least one for the "
                "recipe's rule (--optimizer.epochs counts all of them), or train a twin alone: --rule ann"
            )
        if self.settings.rate_twin and isinstance(self.rule, RateTwin):
            raise InvalidArgument("the rule is the rate twin already; leave out phases.rate_twin, or change --rule")
        if self.rule.timesteps is None and self.settings != PhaseSettings():
            raise InvalidArgument("the ANN twin has no spikes, so its training has no phases; choose another --rule")

    @property
    def before(self) -> int:
        """Epochs without spikes."""
        return int(self.settings.ann + self.settings.rate_twin)

    def at(self, epoch: int, step: int, steps: int) -> Phase:
        """How a step is taken, which is number `step` of `steps` in its epoch."""
        if epoch < self.settings.ann:
            return Phase(ANN(self.rule.scale), self.settings.branches)
        if epoch < self.before:
            return Phase(self._rate_twin(), self.settings.branches)
        return Phase(self._rule(epoch, step, steps))

    def _rule(self, epoch: int, step: int, steps: int) -> LearningRule:
        """The recipe's own, with T as it is drawn or has grown."""
        settings, rule = self.settings, self.rule
        if settings.drawn is not None:
            # from where the step stands and not from what was drawn before: a run that goes on draws the same
            generator = generator_for(self.seed, epoch, step, _DRAWS)
            index = int(torch.randint(len(settings.drawn), (), generator=generator))
            return dataclasses.replace(rule, timesteps=settings.drawn[index], loss_scale=rule.scale)  # type: ignore
        if settings.growing is not None:
            done = (epoch - self.before + step / steps) / (self.epochs - self.before)
            index = min(int(done * len(settings.growing)), len(settings.growing) - 1)
            return dataclasses.replace(rule, timesteps=settings.growing[index], loss_scale=rule.scale)  # type: ignore
        return rule

    def _rate_twin(self) -> LearningRule:
        assert self.rule.timesteps is not None
        twin = RateTwin(self.rule.timesteps, self.rule.scale)
        return twin if self.settings.noise is None else dataclasses.replace(twin, noise=self.settings.noise)
