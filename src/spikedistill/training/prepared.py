"""A run as a value, and what is built of it before it trains: learner, optimizer, precision, kernels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from spikedistill.core.kernels import Kernels
from spikedistill.data import Splits
from spikedistill.machine.processes import Process, from_all_processes
from spikedistill.report import text
from spikedistill.training.build import example_of, make_learner
from spikedistill.training.checkpoints import apply_state, load_checkpoint
from spikedistill.training.learner import SelfDistillation
from spikedistill.training.loop import Progress, Session
from spikedistill.training.networks import is_imported
from spikedistill.training.optimizers import make_optimizer
from spikedistill.training.precision import choose_precision
from spikedistill.training.recipe import Recipe
from spikedistill.training.recipe_parsing import Trust
from spikedistill.training.tuning import choose_kernels

CHECKPOINT = "checkpoint.pt"
Tensors = tuple[Tensor, ...] | list[Tensor]


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
    """

    recipe: Recipe
    folder: Path
    splits: Splits
    network: nn.Module | None
    own_data: bool
    process: Process
    device: torch.device
    trust: Trust = False

    @property
    def resume_by(self) -> str:
        """What to type to go on: what was handed over in Python has to be handed over again."""
        given = ["network=..."] * (self.network is not None) + ["data=..."] * self.own_data
        if not given:
            trust = " --trust" if is_imported(self.recipe.model.name) else ""
            return f"spikedistill train --resume {self.folder}{trust}"
        return f"spikedistill.resume({str(self.folder)!r}, {', '.join(given)}) in Python"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A session, and how it computes."""

    run: Run
    session: Session
    kernels_reason: str
    precision_reason: str

    @property
    def kernels(self) -> Kernels:
        return self.session.learner.kernels


def prepare(run: Run, resume: bool) -> Prepared:
    """Build what trains, settle precision and kernels, and read the checkpoint of a resumed run."""
    torch.manual_seed(run.recipe.seed)
    learner = make_learner(run.recipe, run.splits.train, run.network, run.trust).to(run.device)
    random = torch.get_rng_state()  # measuring must not move what training draws
    precision, precision_reason = _precision(run, learner)
    samples = len(run.splits.train) * run.recipe.optimizer.epochs
    example = example_of(run.splits.train).to(run.device)
    learner.kernels, kernels_reason = choose_kernels(run.recipe.compile, learner, example, samples)
    torch.set_rng_state(random)
    compile = "off" if kernels_reason.startswith("eager") else "on"
    recipe = dataclasses.replace(run.recipe, precision=precision, compile=compile)  # type: ignore[arg-type]
    run = dataclasses.replace(run, recipe=recipe)
    optimizer = make_optimizer(learner, recipe.optimizer)
    session = Session(learner, learner, optimizer, Progress(), _average(learner, recipe.optimizer.ema))
    if resume:
        _restore(session, run.folder)
    return Prepared(run, session, kernels_reason, precision_reason)


def _precision(run: Run, learner: SelfDistillation) -> tuple[str, str]:
    """The precision of all processes, and the reason: what the first one measures."""
    if run.recipe.precision != "auto":  # as in every resumed run: then no batch has to be read for it
        return run.recipe.precision, f"{run.recipe.precision}, as the recipe says"
    size = max(1, min(run.recipe.optimizer.batch_size // run.process.count, len(run.splits.train)))
    images = run.splits.train.batch(torch.arange(size)).inputs.to(run.device)
    return from_all_processes(choose_precision("auto", learner, images))[0]


def _average(learner: SelfDistillation, decay: float | None) -> AveragedModel | None:
    """The moving average of the network's weights and of batch norm's statistics.

    Its decay rises to `decay`, as (1 + n)/(10 + n) after n steps: else a short run would keep its first weights.
    """
    if decay is None:
        return None

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        # a tensor, so that a GPU is not waited for
        share = 1 - torch.as_tensor((1 + count) / (10 + count)).clamp(max=decay)
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new.detach(), share.to(old))
            else:  # the number of batches that batch norm has seen
                old.copy_(new)

    return AveragedModel(learner.network, multi_avg_fn=average, use_buffers=True)


def _restore(session: Session, folder: Path) -> None:
    path = folder / CHECKPOINT
    state = load_checkpoint(path)
    apply_state(session.learner, state["learner"], str(path))
    session.optimizer.load_state_dict(state["optimizer"])
    if session.average is not None:
        apply_state(session.average, state["average"], str(path))
    for name, value in state["progress"].items():
        setattr(session.progress, name, value)
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])


def about(prepared: Prepared) -> list[str]:
    """What a run says about itself at its start."""
    run, learner = prepared.run, prepared.session.learner
    return [
        f"{network_name(prepared)} ({_parameters(learner)}), {run.recipe.rule}, {', '.join(run.recipe.objectives)}",
        f"{'own data' if run.own_data else run.recipe.data.name}: {text.samples_in_words(run.splits)}",
        f"{run.device}, {prepared.precision_reason}",
        f"kernels {prepared.kernels_reason}",
        f"folder {run.folder}",
    ]


def network_name(prepared: Prepared) -> str:
    """The model's name in the recipe, or the class of a module that was handed over."""
    run, network = prepared.run, prepared.session.learner.network
    return run.recipe.model.name if run.network is None else type(network.body).__name__


def _parameters(learner: SelfDistillation) -> str:
    whole = sum(p.numel() for p in learner.parameters())
    bare = sum(p.numel() for p in learner.strip().parameters())
    return f"{bare:,} parameters" + (f", {whole - bare:,} more in branches" if whole > bare else "")
