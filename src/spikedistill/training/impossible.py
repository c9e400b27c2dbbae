"""What a recipe may say and this run cannot do: refused before anything is trained, with what to leave out."""

from __future__ import annotations

import torch

from spikedistill.core.kernels import missing_eight_bit
from spikedistill.core.learning import Rate, RateTwin
from spikedistill.core.modules import evaluating
from spikedistill.core.rate_twin import NO_LEARNED
from spikedistill.data import Samples
from spikedistill.data.samples import is_over_time
from spikedistill.errors import InvalidArgument
from spikedistill.machine.processes import Process
from spikedistill.models.learning_neurons import neurons_learn
from spikedistill.training.build import example_of
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.recipe import Recipe
from spikedistill.training.resizing import refuse_resolutions


def refuse_impossible(
    recipe: Recipe, learner: SelfDistillation, samples: Samples, device: torch.device, process: Process
) -> None:
    """
    Raises:
        InvalidArgument: a setting that does not go with these samples, this network, this device or these processes.
    """
    _other_steps(recipe, samples)
    _graphs(recipe, device, process)
    _spike_path(recipe, learner, device)
    _compiled_step(recipe, process)
    _pruning(recipe, learner, samples, device)
    if recipe.phases.resolutions is not None:
        refuse_resolutions(learner, example_of(samples).to(device), recipe.phases.resolutions)
    # the rate twin would say so only when its phase begins
    if (recipe.phases.rate_twin or isinstance(recipe.rule, RateTwin)) and neurons_learn(learner.network):
        raise InvalidArgument(NO_LEARNED)


def _other_steps(recipe: Recipe, samples: Samples) -> None:
    """T of frames is how many there are; showing some of them would be another input."""
    if not (recipe.phases.drawn or recipe.phases.growing):
        return
    inputs = samples.batch(torch.zeros(1, dtype=torch.long)).inputs
    if is_over_time(samples, inputs):
        raise InvalidArgument(
            f"these samples have {len(inputs)} steps of their own, so T can neither be drawn nor grow; leave out "
            "phases.drawn and phases.growing"
        )


def _graphs(recipe: Recipe, device: torch.device, process: Process) -> None:
    """A graph is of one GPU: what processes tell each other is not recorded."""
    if recipe.graphs and (device.type != "cuda" or process.count > 1):
        where = f"{process.count} processes" if process.count > 1 else f"the device {device}"
        raise InvalidArgument(f"graphs records steps of one process on a GPU, and this is {where}; leave out --graphs")


def _pruning(recipe: Recipe, learner: SelfDistillation, samples: Samples, device: torch.device) -> None:
    """Which samples are easy is said by the losses of each, and each has one weight."""
    if not recipe.pruning.share:
        return
    if recipe.data.augmentation.mixes:
        raise InvalidArgument(
            "pruning gives each sample a weight by its own loss, and mixup and cutmix make one sample of two; leave "
            "out --pruning.share, or switch them off: --data.augmentation.mixup 0 --data.augmentation.cutmix 0"
        )
    batch = samples.batch(torch.zeros(1, dtype=torch.long))
    with torch.no_grad(), evaluating(learner):
        logits = learner(batch.inputs.to(device), branches=False).logits.to(batch.inputs.device)
    if learner.task.sample_losses(logits, batch.targets) is None:
        raise InvalidArgument(
            f"pruning leaves out samples of a small loss, and {type(learner.task).__name__} has no loss of a single "
            "sample (Task.sample_losses); leave out --pruning.share"
        )


def _compiled_step(recipe: Recipe, process: Process) -> None:
    """A compiled step is of one process, has its own kernels, and is not recorded on top."""
    if recipe.compile != "step":
        return
    others = ["--parts"] * (recipe.parts is not None) + ["--convolutions 8bit"] * (recipe.convolutions != "full")
    others += ["--graphs"] * recipe.graphs + [f"{process.count} processes"] * (process.count > 1)
    if others:
        raise InvalidArgument(f"--compile step does not go with {' and '.join(others)}; train with --compile on")


def _spike_path(recipe: Recipe, learner: SelfDistillation, device: torch.device) -> None:
    """Only rate-based backpropagation has a spike path that is kept without gradient."""
    missing = None if recipe.convolutions == "full" else missing_eight_bit(device)
    if missing is not None:
        raise InvalidArgument(f"no 8-bit convolutions: {missing}; leave out --convolutions")
    options = ["--convolutions 8bit"] * (recipe.convolutions != "full") + ["--parts"] * (recipe.parts is not None)
    if options and not isinstance(recipe.rule, Rate):
        raise InvalidArgument(f"{' and '.join(options)} is for --rule rate, and this is {recipe.rule}; leave it out")
    if recipe.parts is not None and neurons_learn(learner.network):
        raise InvalidArgument("--parts has no effect on neurons that learn, which read all currents; leave it out")
