"""Which learning rule trains which step: training may begin without spikes, and T may change as it goes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

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
        resolutions: progressive resizing in those epochs: shares of the inputs' height and width, each for an equal
            part of them, as [0.625, 0.75, 1]; null: whole inputs. The recipe's rule always trains on whole ones.
        drawn: numbers of steps of which one is drawn for each batch, as [1, 2, 4]; null: T of the rule.
        growing: numbers of steps, each for an equal part of the epochs with spikes, as [1, 2, 4]; null: T of the rule.

    Raises:
        InvalidArgument: fewer than 0 epochs or a part of one, noise without a rate twin, resolutions not above 0 or
            above 1, or no numbers of steps.
    """

    ann: int | float = 0
    rate_twin: int | float = 0
    noise: float | None = None
    branches: bool = True
    resolutions: list[float] | None = None
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
        if self.resolutions is not None:
            if not self.resolutions or not all(0 < share <= 1 for share in self.resolutions):
                raise InvalidArgument(
                    f"phases.resolutions is {self.resolutions}; expected shares of the inputs' height and width, "
                    "above 0 and at most 1"
                )
            if not self.without_spikes:
                raise InvalidArgument(
                    "phases.resolutions has no effect without epochs before the rule's: --phases.ann 10"
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
        resolutions = self.resolutions if ann or twin else None
        counts: dict[str, Any] = {"ann": ann, "rate_twin": twin}
        return dataclasses.replace(self, **counts, noise=noise, branches=branches, resolutions=resolutions)


_DRAWS = 20_000_001
"""Apart from what batches draw by (seed, epoch, batch)."""


class Phase(NamedTuple):
    """How a step is taken.

    Attributes:
        rule: the learning rule.
        branches: whether the branches are part of it.
        resolution: share of the inputs' height and width that is shown.
    """

    rule: LearningRule
    branches: bool = True
    resolution: float = 1.0


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
        if epoch >= self.before:
            return Phase(self._rule(epoch, step, steps))
        rule = ANN(self.rule.scale) if epoch < self.settings.ann else self._rate_twin()
        shares = self.settings.resolutions or [1.0]
        return Phase(rule, self.settings.branches, shares[self._part(epoch, step, steps, 0, self.before, len(shares))])

    def _rule(self, epoch: int, step: int, steps: int) -> LearningRule:
        """The recipe's own, with T as it is drawn or has grown."""
        settings, rule = self.settings, self.rule
        if settings.drawn is not None:
            # from where the step stands and not from what was drawn before: a run that goes on draws the same
            generator = generator_for(self.seed, epoch, step, _DRAWS)
            index = int(torch.randint(len(settings.drawn), (), generator=generator))
            return dataclasses.replace(rule, timesteps=settings.drawn[index], loss_scale=rule.scale)  # type: ignore
        if settings.growing is not None:
            index = self._part(epoch, step, steps, self.before, self.epochs, len(settings.growing))
            return dataclasses.replace(rule, timesteps=settings.growing[index], loss_scale=rule.scale)  # type: ignore
        return rule

    @staticmethod
    def _part(epoch: int, step: int, steps: int, begin: int, end: int, parts: int) -> int:
        """In which of so many equal parts of the epochs from `begin` to `end` a step stands."""
        return min(int((epoch - begin + step / steps) / (end - begin) * parts), parts - 1)

    def _rate_twin(self) -> LearningRule:
        assert self.rule.timesteps is not None
        twin = RateTwin(self.rule.timesteps, self.rule.scale)
        return twin if self.settings.noise is None else dataclasses.replace(twin, noise=self.settings.noise)
