"""From a recipe to the objects of a run: learner, kernels, teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikedistill.core.network import Network
from spikedistill.data import Samples
from spikedistill.data.samples import is_over_time, refuse_other_input
from spikedistill.errors import CheckpointError, DataError, InvalidArgument, SpikedistillError
from spikedistill.machine.device import to_channels_last
from spikedistill.models.learning_neurons import learn_neurons
from spikedistill.models.tensor_train import ranks_of, tensor_train
from spikedistill.training.checkpoints import apply_state, load_weights
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.networks import as_spiking, build_network, builder_of, check_network, fed_with, is_function
from spikedistill.training.recipe import Recipe
from spikedistill.training.teachers import FrozenTeacher
from spikedistill.training.trained import Trained, load
from spikedistill.training.trust import Trust


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
    check_network(network, example, outputs, spikes=recipe.timesteps is not None)
    learned = (recipe.learned.decay, recipe.learned.threshold)
    weights, origin = (None, {}) if recipe.init is None else load_weights(Path(recipe.init))
    if recipe.tensor_train.form is not None:
        network, weights = _thin(network, recipe, weights, origin)
    if weights is not None and not any((origin.get("learned") or {}).values()):
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


def _thin(
    network: Network, recipe: Recipe, weights: dict[str, torch.Tensor] | None, origin: dict[str, Any]
) -> tuple[Network, dict[str, torch.Tensor] | None]:
    """A network with tensor-train convolutions, and the weights of `init` that are still to be taken.

    Args:
        origin: what the run says of its network that the weights are of.

    Raises:
        CheckpointError: weights of a network without such convolutions that do not fit, or of another form.
        InvalidArgument: a network of the user's that has such convolutions already.
    """
    settings = recipe.tensor_train
    rank, thin = settings.rank, origin.get("tensor_train") or {}
    if ranks_of(network):
        raise InvalidArgument("this network has tensor-train convolutions already; leave out --tensor_train.form")
    if weights is not None and not thin.get("form"):
        apply_state(network, weights, f"the run {recipe.init}")
        weights = None
    if weights is not None and thin["form"] != settings.form:
        raise CheckpointError(
            f"the run {recipe.init} has tensor-train convolutions of form {thin['form']}, whose weights mean another "
            f"function in form {settings.form}; give --tensor_train.form {thin['form']}"
        )
    if weights is not None and rank == "evbmf":  # found when that run began
        rank = thin["rank"]
    assert settings.form is not None
    return tensor_train(network, rank, settings.form, decompose=settings.decompose), weights


def make_learner(
    recipe: Recipe,
    data: Samples,
    given: nn.Module | None = None,
    trust: Trust = False,
    teachers: Given | None = None,
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
        teachers=_teachers(recipe, data, trust, teachers or {}),
    )
    return to_channels_last(learner)


Given = Mapping[str, nn.Module | Trained | FrozenTeacher]
"""Teachers that were handed over in Python, by the name that objectives ask for."""


def _teachers(recipe: Recipe, data: Samples, trust: Trust, given: Given) -> dict[str, FrozenTeacher]:
    """The teachers that the objectives name, frozen.

    Raises:
        InvalidArgument: one that was handed over and that nobody asks for, or that was trained for something else.
        CheckpointError: a folder that holds no finished run.
    """
    wanted = dict.fromkeys(name for objective in recipe.objectives.values() for name in objective.needs().teachers)
    extra = sorted(set(given) - set(wanted))
    if extra:
        raise InvalidArgument(
            f"no objective asks for the teacher {', '.join(extra)}; they ask for {', '.join(wanted) or 'none'}. Name "
            "it in one, as Distillation(teacher='ann')"
        )
    return {name: _frozen(name, given[name] if name in given else _found(name, trust), data) for name in wanted}


def _found(name: str, trust: Trust) -> nn.Module | Trained:
    """The teacher behind a name in a recipe."""
    if not is_function(name):
        return load(name, trust=trust)
    try:
        return builder_of(name)()
    except (TypeError, ValueError, RuntimeError, OSError, ImportError) as error:
        if isinstance(error, SpikedistillError):
            raise
        raise InvalidArgument(
            f"the teacher {name} could not be built: {error}; it must be a function without arguments that gives a "
            "trained network"
        ) from error


def _frozen(name: str, teacher: nn.Module | Trained | FrozenTeacher, data: Samples) -> FrozenTeacher:
    if isinstance(teacher, FrozenTeacher):
        return teacher
    if not isinstance(teacher, Trained):
        return FrozenTeacher(teacher, name=name)
    learned, ours = teacher.config["targets"], dict(data.targets.description())
    if dict(learned) != ours:
        raise InvalidArgument(
            f"the teacher {name} was trained for {_shown(learned)}, this run is for {_shown(ours)}; train a teacher on "
            "the same data"
        )
    try:
        refuse_other_input(data.description(), teacher.config["input"])
    except DataError as error:
        raise InvalidArgument(
            f"the teacher {name} was fed otherwise: {error}. Train a teacher on samples prepared as these are"
        ) from error
    return FrozenTeacher(teacher.network, teacher.timesteps, teacher.precision, name)


def _shown(description: object) -> str:
    text = str(description)
    return text if len(text) < 120 else f"{text[:117]}..."
