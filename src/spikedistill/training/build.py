"""From a recipe to the objects of a run: learner, kernels, teachers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from spikedistill.core.network import Network
from spikedistill.data import Samples
from spikedistill.data.samples import is_over_time
from spikedistill.errors import InvalidArgument
from spikedistill.models import MODELS
from spikedistill.models.learning_neurons import learn_neurons
from spikedistill.training.checkpoints import apply_state, load_weights
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.networks import as_spiking, build_network, check_head, fed_with
from spikedistill.training.recipe import Recipe
from spikedistill.training.recipe_parsing import Trust
from spikedistill.training.teachers import FrozenTeacher
from spikedistill.training.trained import Trained


def example_of(data: Samples) -> torch.Tensor:
    """One sample at one step as a batch, as [1, C, H, W]: what shapes are inferred from."""
    inputs = data.batch(torch.zeros(1, dtype=torch.long)).inputs
    return inputs[0] if is_over_time(data, inputs) else inputs


def make_network(recipe: Recipe, data: Samples, given: nn.Module | None = None) -> Network:
    """The bare network of a recipe, with a head and an input that fit the samples.

    Args:
        given: a module of the user's instead.

    Raises:
        InvalidArgument: a network of the user's whose head does not fit, or without the stages that were named.
        CheckpointError: `init` has other weights than this network.
    """
    outputs, example = recipe.task.head_size(data.targets.description()), example_of(data)
    if given is None:
        network = build_network(recipe.model.name, recipe.model.options, outputs, example.shape[1])
    else:
        network = as_spiking(given)
    network = fed_with(network, example.dim() - 1)
    if recipe.model.name not in MODELS:  # ours are built for the data
        check_head(network, example, outputs)
    learned = (recipe.learned.decay, recipe.learned.threshold)
    weights = None if recipe.init is None else load_weights(Path(recipe.init))[0]
    if weights is not None and not any(name.endswith(LEARNT) for name in weights):
        # weights of constant neurons: they learn from there on
        apply_state(network, weights, f"the run {recipe.init}")
        weights = None
    learn_neurons(network, *learned, example)
    if weights is not None:
        # every weight and buffer is accounted for: nothing is loaded in part
        apply_state(network, weights, f"the run {recipe.init}")
    if recipe.branches.stages is not None:
        network = Network(network.body, map(str, recipe.branches.stages), network.notes, network.sample_dims)
    return network


LEARNT = (".decay", ".threshold")
"""How the parameters of learned neurons end."""


def make_learner(
    recipe: Recipe, data: Samples, given: nn.Module | None = None, trust: Trust = False
) -> SelfDistillation:
    """The learner of a recipe, or of a module of the user's, on the CPU, channels_last."""
    learner = SelfDistillation(
        make_network(recipe, data, given),
        recipe.rule,
        branches=None if recipe.branches.enabled else (),
        objectives=recipe.objectives,
        task=recipe.task,
        branch_block=recipe.branches.block,
        example=example_of(data),
        teachers=_teachers(recipe, data, trust),
    )
    return learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _teachers(recipe: Recipe, data: Samples, trust: Trust) -> dict[str, FrozenTeacher]:
    """The finished runs that the objectives name, frozen."""
    needs = [objective.needs() for objective in recipe.objectives.values()]
    features = tuple(dict.fromkeys(name for need in needs for name in need.teacher_features))
    found = {}
    for folder in dict.fromkeys(name for need in needs for name in need.teachers):
        teacher = Trained.load(folder, trust=trust)
        if dict(teacher.config["targets"]) != dict(data.targets.description()):
            raise InvalidArgument(
                f"the teacher {folder} was trained for {_shown(teacher.config['targets'])}, this run is for "
                f"{_shown(data.targets.description())}; train a teacher on the same data"
            )
        found[folder] = FrozenTeacher(teacher.network, teacher.timesteps, features)
    return found


def _shown(description: object) -> str:
    text = str(description)
    return text if len(text) < 120 else f"{text[:117]}..."
