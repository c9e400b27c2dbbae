"""A run as a value, and what is built of it before it trains: learner, optimizer, precision, kernels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikedistill.core.kernels import Kernels, count_eight_bit, in_eight_bits, in_parts
from spikedistill.core.kernels.eight_bit import FEWEST_CHANNELS
from spikedistill.core.learning import Rate
from spikedistill.core.modules import evaluating
from spikedistill.data import Samples, Splits
from spikedistill.data.batches import generator_for
from spikedistill.errors import CheckpointError, InvalidArgument
from spikedistill.machine.load import other_work
from spikedistill.machine.processes import Process, from_all_processes
from spikedistill.models.tensor_train import ranks_of, settled
from spikedistill.report import text
from spikedistill.training.average import MovingAverage
from spikedistill.training.build import Given, example_of, make_learner
from spikedistill.training.checkpoints import CHECKPOINT, apply_state, load_checkpoint, load_weights
from spikedistill.training.fitting import fit_to_spikes
from spikedistill.training.impossible import refuse_impossible
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.loop import Progress, Session, not_finite
from spikedistill.training.optimizers import make_optimizer, restore_optimizer
from spikedistill.training.phases import Phases
from spikedistill.training.precision import choose_precision
from spikedistill.training.pruning import Pruner
from spikedistill.training.recipe import Recipe
from spikedistill.training.recipe_files import RESUMABLE
from spikedistill.training.recipe_values import changed_fields, flat_values
from spikedistill.training.trust import Trust, imports_of
from spikedistill.training.tuning import choose_kernels
from spikedistill.training.whitening import whiten

START_SAMPLES, START_BATCH = 1024, 128


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is, before anything has been trained.

    Attributes:
        recipe: all that decides it; precision and compile are settled when the session is made.
        folder: where it writes; only the first process does.
        splits: the samples.
        network: a module of the user's own; None: the recipe says how to build one.
        own_data: whether the samples were handed over, too.
        process: which of several this is.
        device: where this process computes.
        trust: which networks of teachers may be imported.
        teachers: that were handed over.
    """

    recipe: Recipe
    folder: Path
    splits: Splits
    network: nn.Module | None
    own_data: bool
    process: Process
    device: torch.device
    trust: Trust = False
    teachers: Given = dataclasses.field(default_factory=dict)

    @property
    def resume_by(self) -> str:
        """What to type to go on: what was handed over in Python has to be handed over again."""
        given = ["network=..."] * (self.network is not None) + ["data=..."] * self.own_data
        given += ["teachers=..."] * bool(self.teachers)
        if not given:
            trust = " --trust" if imports_of(self.recipe) else ""
            return f"spikedistill train --resume {self.folder}{trust}"
        return f"spikedistill.resume({str(self.folder)!r}, {', '.join(given)}) in Python"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A session, and how it computes."""

    run: Run
    session: Session
    kernels_reason: str
    precision_reason: str
    start: str | None = None

    @property
    def kernels(self) -> Kernels:
        return self.session.learner.kernels


def prepare(run: Run, resume: bool) -> Prepared:
    """Build what trains, settle precision and kernels, and read the checkpoint of a resumed run."""
    state = load_checkpoint(run.folder / CHECKPOINT) if resume else None
    if state is not None:
        run = _as_it_was(run, state)
    torch.manual_seed(run.recipe.seed)
    # the weights that a run started from are in its checkpoint, and their folder need not be there any more
    built = run.recipe if state is None else dataclasses.replace(run.recipe, init=None, init_fit=False)
    learner = make_learner(built, run.splits.train, run.network, run.trust, run.teachers).to(run.device)
    run = _with_ranks(run, learner)
    refuse_impossible(run.recipe, learner, run.splits.train, run.device, run.process)
    start = _start(run, learner) if state is None else None
    random = torch.get_rng_state()  # measuring must not move what training draws
    precision, precision_reason = _precision(run, learner)
    samples = len(run.splits.train) * run.recipe.optimizer.epochs
    example = example_of(run.splits.train).to(run.device)
    learner.kernels, compile, kernels_reason = choose_kernels(run.recipe.compile, learner, example, samples)
    if run.recipe.convolutions == "8bit":
        kernels_reason += f"; {_in_eight_bits(learner, example)}"
        learner.kernels = in_eight_bits(learner.kernels)
    if run.recipe.parts is not None:
        kernels_reason += f"; in {run.recipe.parts} parts of the batch"
        learner.kernels = in_parts(learner.kernels, run.recipe.parts)
    torch.set_rng_state(random)
    chosen: dict[str, Any] = {"precision": precision, "compile": compile}
    # shares of the epochs are kept as numbers: a run that goes on for more of them goes on with spikes
    recipe = dataclasses.replace(run.recipe, **chosen).counted()
    phases = Phases(recipe.rule, recipe.phases, recipe.optimizer.epochs, recipe.seed)
    run = dataclasses.replace(run, recipe=recipe)
    optimizer = make_optimizer(learner, recipe.optimizer)
    average = None if recipe.optimizer.ema is None else MovingAverage(learner.network, recipe.optimizer.ema)
    pruner = Pruner(recipe.pruning, len(run.splits.train), recipe.seed) if recipe.pruning.share else None
    may_be = frozenset(not_finite(learner))
    session = Session(learner, phases, learner, optimizer, Progress(), average, pruner, may_be)
    if state is not None:
        _restore(session, state, str(run.folder / CHECKPOINT), run.process.is_first)
        _refuse_fewer(session.progress, recipe.optimizer.epochs, run.folder)
    return Prepared(run, session, kernels_reason, precision_reason, start)


def _start(run: Run, learner: SelfDistillation) -> str | None:
    """First weights that come of training samples, where the recipe wants that: what was done, in words.

    Raises:
        InvalidArgument: the weights of `init` are to be fitted to spikes and are of a spiking network; or whitening a
            network that does not begin with a convolution of images.
    """
    if run.recipe.whiten:
        return f"whitened: {whiten(learner.network, _start_inputs(run))} directions in the first layer"
    if not run.recipe.init_fit:
        return None
    assert run.recipe.timesteps is not None
    assert run.recipe.init is not None
    of = load_weights(Path(run.recipe.init))[1].get("timesteps")
    if of is not None:
        raise InvalidArgument(
            f"init_fit is for the weights of an ANN twin, and {run.recipe.init} was trained on spikes with T = {of}; "
            "leave it out"
        )
    return str(fit_to_spikes(learner.network, _start_inputs(run), run.recipe.timesteps))


def _start_inputs(run: Run) -> list[Tensor]:
    return [inputs.to(run.device) for inputs in start_inputs(run.splits.train, run.recipe.seed)]


def start_inputs(samples: Samples, seed: int) -> list[Tensor]:
    """Some training inputs, as they are without augmentation, from which first weights are taken."""
    # drawn, for the rows of a folder are sorted by class
    order = torch.randperm(len(samples), generator=generator_for(seed))[:START_SAMPLES]
    return [samples.batch(index).inputs for index in order.split(START_BATCH)]


def _with_ranks(run: Run, learner: SelfDistillation) -> Run:
    """The run with the ranks that were found for its tensor-train convolutions: they depend on the first weights."""
    settings = run.recipe.tensor_train
    if settings.form is None:
        return run
    settings = dataclasses.replace(settings, rank=settled(settings.rank, learner.network))
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, tensor_train=settings))


def _in_eight_bits(learner: SelfDistillation, example: Tensor) -> str:
    """How many layers are computed in 8 bits.

    Raises:
        InvalidArgument: none.
    """
    images = torch.cat([example, example])

    def forward(kernels: Kernels) -> None:
        with evaluating(learner):
            learner.network.propagate(Rate(1).encode(images, kernels))

    found, of = count_eight_bit(forward)
    if found == 0:
        raise InvalidArgument(
            "no layer of this network would be computed in 8 bits: those are convolutions of spikes with at least "
            f"{FEWEST_CHANNELS} input channels in a group, behind neurons that do not learn; leave out --convolutions"
        )
    return f"{found} of {of} layers on spikes in 8 bits"


def _precision(run: Run, learner: SelfDistillation) -> tuple[str, str]:
    """The precision of all processes, and the reason: what the first one measures."""
    if run.recipe.precision != "auto":  # as in every resumed run: then no batch has to be read for it
        return run.recipe.precision, f"{run.recipe.precision}, as the recipe says"
    size = max(1, min(run.recipe.optimizer.batch_size // run.process.count, len(run.splits.train)))
    size = -(-size // (run.recipe.parts or 1))  # in parts, because a whole batch may not fit
    images = run.splits.train.batch(torch.arange(size)).inputs.to(run.device)
    return from_all_processes(choose_precision("auto", learner, images))[0]


def made_of(run: Run) -> dict[str, Any]:
    """What a checkpoint says of the run that made it, to be compared when it goes on."""
    return {
        "recipe": json.dumps(flat_values(run.recipe), default=str),
        "processes": run.process.count,
        "samples": len(run.splits.train),
        "fed": json.dumps([run.splits.train.description(), dict(run.splits.train.targets.description())], default=str),
    }


CHOSEN = ("precision", "compile")
"""Fields that may be "auto" in a recipe; a run that goes on computes as it did."""


def _as_it_was(run: Run, state: dict[str, Any]) -> Run:
    """The run with what its first start has chosen.

    Raises:
        CheckpointError: it is not the run that made the checkpoint.
    """
    path = run.folder / CHECKPOINT
    try:
        was, processes, samples = json.loads(state["recipe"]), int(state["processes"]), int(state["samples"])
        chosen = {name: str(was[name]) for name in CHOSEN}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say what it is of ({error})") from error
    now = json.loads(json.dumps(flat_values(run.recipe), default=str))
    changed = [
        f"{name} was {was.get(name)!r} and is {now.get(name)!r}"
        for name in changed_fields(was, now, (*RESUMABLE, "claim."))
        if not (name in CHOSEN and now.get(name) == "auto")
    ]
    if changed:
        raise CheckpointError(
            f"{run.folder} was trained by another recipe, or by another version that knew other fields: "
            f"{'; '.join(changed[:4])}. A run that goes on keeps its recipe; to start another one from its weights: "
            f"--init {run.folder}"
        )
    if processes != run.process.count:
        raise CheckpointError(
            f"{run.folder} was trained by {processes} process(es), and this is {run.process.count}: the batches would "
            "be shared in another way. Go on with as many"
        )
    if samples != len(run.splits.train):
        raise CheckpointError(
            f"{run.folder} was trained on {samples} samples, and there are {len(run.splits.train)} now; go on with the "
            "same data"
        )
    if state.get("fed") != made_of(run)["fed"]:
        raise CheckpointError(
            f"{run.folder} was trained on other samples than these: {state.get('fed')!s:.200} then, "
            f"{made_of(run)['fed']:.200} now. Go on with the same, of the same classes in the same order"
        )
    recipe = dataclasses.replace(run.recipe, **chosen)  # type: ignore[arg-type]
    return dataclasses.replace(run, recipe=recipe)


def _restore(session: Session, state: dict[str, Any], source: str, first: bool) -> None:
    """Put a checkpoint into the objects of a run.

    Raises:
        CheckpointError: it does not fit them.
    """
    apply_state(session.learner, state["learner"], source)
    try:
        restore_optimizer(session.optimizer, state["optimizer"])
        if session.average is not None:
            apply_state(session.average, state["average"], source)
        if session.pruner is not None:
            session.pruner.restore(state["pruning"])
        session.progress = Progress.of(state["progress"])
        if not first:  # the first process has what all have measured
            session.progress.samples, session.progress.sums, session.progress.meter = 0, {}, {}
        meter = session.learner.task.training_meter()
        meter.add_state(session.progress.meter or meter.state())
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and session.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], session.device)
    except CheckpointError:
        raise
    except Exception as error:  # plain values of any kind: each part has its own way to refuse them
        raise CheckpointError(f"{source} does not fit this run: {type(error).__name__}: {error}") from error


def _refuse_fewer(progress: Progress, epochs: int, folder: Path) -> None:
    """A run cannot go back: its recipe would say of the weights what is not so.

    Raises:
        CheckpointError: fewer epochs than were begun.
    """
    begun = progress.epoch + bool(progress.step)
    if epochs < begun:
        raise CheckpointError(f"{folder} has begun {begun} epochs, so optimizer.epochs cannot be {epochs}")


def about(prepared: Prepared) -> list[str]:
    """What a run says about itself at its start."""
    run, learner = prepared.run, prepared.session.learner
    ranks = ranks_of(learner.network)
    busy = other_work() if run.device.type == "cpu" else None
    return [
        f"{network_name(prepared)} ({_parameters(learner)}), {run.recipe.rule}, {', '.join(run.recipe.objectives)}",
        f"{'own data' if run.own_data else run.recipe.data.name}: {text.samples_in_words(run.splits)}",
        f"{run.device}, {prepared.precision_reason}",
        f"kernels {prepared.kernels_reason}",
        *([f"tensor-train convolutions, ranks {', '.join(map(str, ranks))}"] if ranks else []),
        *([] if prepared.start is None else [f"start {prepared.start}"]),
        f"folder {run.folder}",
        *([] if busy is None else [f"note: {busy}"]),
    ]


def network_name(prepared: Prepared) -> str:
    """The model's name in the recipe, or the class of a module that was handed over."""
    run, network = prepared.run, prepared.session.learner.network
    return run.recipe.model.name if run.network is None else type(network.body).__name__


def _parameters(learner: SelfDistillation) -> str:
    whole = sum(p.numel() for p in learner.parameters())
    bare = sum(p.numel() for p in learner.strip().parameters())
    return f"{bare:,} parameters" + (f", {whole - bare:,} more in branches" if whole > bare else "")
