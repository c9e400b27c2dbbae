"""A run: its folder, from the recipe to the report."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from spikedistill.data import Batches, Samples, Splits, in_order, load
from spikedistill.objectives.self_distillation import mean_over_processes
from spikedistill.machine.environment import environment
from spikedistill.errors import Interrupted, InvalidArgument
from spikedistill.measure.evaluation import Evaluation, evaluate
from spikedistill.machine.files import write_json
from spikedistill.core.kernels import Kernels
from spikedistill.core.network import Network
from spikedistill.training.trained import describe_network
from spikedistill.training import setup
from spikedistill.training.checkpoints import (
    apply_state,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from spikedistill.training.loop import Progress, Session, fit
from spikedistill.machine.processes import Place, Stoppable, process_group, stop_signals
from spikedistill.training.recipe import Recipe
from spikedistill.report.display import Display, Silence, draw_curves

EVALUATION_BATCH = 250


# ---------------------------------------------------------------- folders


def new_folder(out: str | None, name: str) -> Path:
    """A folder for a new run, not yet made: `out`, or the first free runs/NAME, runs/NAME-2, ...

    Raises:
        InvalidArgument: `out` exists and holds something.
    """
    if out is None:
        numbers = (f"runs/{name}" if k == 1 else f"runs/{name}-{k}" for k in range(1, 10_000))
        out = next(path for path in numbers if not Path(path).exists())
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidArgument(
            f"{folder} exists already and is not overwritten; go on with: spikedistill train --resume {folder}, or "
            "choose another --out"
        )
    return folder


def shared_folder(out: str | None, name: str) -> Path:
    """`new_folder` for the first process of a run; the others never write, and get a name only."""
    return new_folder(out, name) if Place.find().rank == 0 else Path(out or "runs")


# ---------------------------------------------------------------- the run


def train(recipe: Recipe, folder: Path, resume: bool = False, splits: Splits | None = None) -> Evaluation:
    """Train, evaluate and report, in `folder`.

    A resumed run goes on where its last checkpoint stands, and ends with the same bits on the CPU.

    Args:
        splits: samples of your own in place of those that the recipe names.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is saved.
        NonFiniteLoss, DataError, CheckpointError, InvalidArgument
    """
    place = Place.find()
    device = setup.find_device(recipe.device)
    if device.type == "cuda" and place.processes > 1:
        device = torch.device("cuda", place.local_rank)
    setup.keep_memory()
    with process_group(place, device), stop_signals() as received:
        return _train(recipe, folder, resume, splits or load(recipe.data, recipe.timesteps), place, device, received)


def _train(
    recipe: Recipe,
    folder: Path,
    resume: bool,
    splits: Splits,
    place: Place,
    device: torch.device,
    received: list[int],
) -> Evaluation:
    torch.manual_seed(recipe.seed)
    learner = setup.make_learner(recipe, splits.train).to(device)
    precision = setup.find_precision(recipe.precision, device)
    samples = len(splits.train) * recipe.optimizer.epochs
    example = setup.example_of(splits.train).to(device)
    learner.kernels, reason = setup.choose_kernels(recipe.compile, learner, example, samples)
    recipe = dataclasses.replace(recipe, precision=precision, compile="off" if reason.startswith("eager") else "on")
    session = Session(learner, learner, setup.make_optimizer(learner, recipe.optimizer), Progress())
    if resume:
        _restore(session, folder)
    first = place.rank == 0
    if first:
        _describe(recipe, folder, splits, learner, device, reason, resume)
    if place.processes > 1:
        ids = [device] if device.type == "cuda" else None
        session.forward = nn.parallel.DistributedDataParallel(learner, device_ids=ids)
    batches = Batches(
        splits.train.to(device),
        recipe.optimizer.batch_size,
        recipe.data.augmentation,
        recipe.seed,
        recipe.optimizer.drop_last,
        place.rank,
        place.processes,
        recipe.data.workers,
    )
    display = Display(folder, recipe.optimizer.epochs, session.progress.epoch) if first else Silence()

    def save() -> None:
        if first:
            save_checkpoint(folder / "checkpoint.pt", session.state())

    def validate() -> dict[str, float]:
        if splits.validation is None:
            return {}
        found = measure(learner.network, splits.validation.to(device), recipe, learner.kernels, place=place)
        return {"validation_accuracy": found.accuracy[recipe.timesteps]}

    try:
        fit(
            session,
            batches,
            recipe.optimizer,
            precision=precision,
            watcher=Stoppable(display, received, device),
            validate=validate,
            save=save,
        )
    except Interrupted:
        save()
        raise Interrupted(
            f"stopped after epoch {session.progress.epoch}, step {session.progress.step}; everything is saved. Go on "
            f"with: spikedistill train --resume {folder}"
        ) from None
    finally:
        display.close()
    return _finish(recipe, folder, splits, session, device, display, place)


def measure(
    network: Network,
    data: Samples,
    recipe: Recipe,
    kernels: Kernels,
    timesteps: list[int] | None = None,
    place: Place | None = None,
) -> Evaluation:
    """Evaluate at `timesteps` (None: those of the recipe) with the recipe's precision.

    The processes of a distributed run evaluate a share each, all with the buffers of the first: batch norm's running
    statistics differ between them, and those of the first are saved.
    """
    place = place or Place()
    steps = None if recipe.timesteps is None else timesteps or [recipe.timesteps]
    shared = 1 < place.processes <= len(data)
    if shared:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)
    share = (place.rank, place.processes) if shared else (0, 1)
    batch = max(1, min(EVALUATION_BATCH, recipe.optimizer.batch_size // place.processes))
    batches = in_order(data, batch, recipe.data.workers, *share)

    def together(sums: Tensor) -> Tensor:
        return mean_over_processes(sums.to(data.device)) * place.processes if shared else sums

    with setup.autocast(recipe.precision, data.device):
        return evaluate(network, batches, steps, kernels, together)


def _finish(
    recipe: Recipe,
    folder: Path,
    splits: Splits,
    session: Session,
    device: torch.device,
    display: Display | Silence,
    place: Place,
) -> Evaluation:
    """The test rows are read here, once."""
    by_time = None if recipe.timesteps is None else sorted({1, 2, recipe.timesteps})
    learner = session.learner
    found = measure(learner.network, splits.test.to(device), recipe, learner.kernels, by_time, place)
    if isinstance(display, Silence):
        return found
    save_weights(folder, learner.strip().state_dict(), describe_network(recipe, splits.train))
    result = {
        "test_samples": found.samples,
        **({"split": splits.division} if splits.division else {}),
        "test_accuracy": {"ann" if t is None else str(t): value for t, value in found.accuracy.items()},
        "firing_rates": found.firing_rates,
    }
    write_json(folder / "result.json", result)
    draw_curves(display.metrics.rows, found, folder / "curves.png")
    report(found, splits.division)
    print(f"written to {folder}: model.safetensors, config.json, metrics.csv, result.json, curves.png")
    return found


def report(found: Evaluation, division: str = "") -> None:
    """Print accuracy by timesteps, firing rates and warnings."""
    print(f"\ntest accuracy on {found.samples} samples" + (f" ({division})" if division else ""))
    for t, value in found.accuracy.items():
        print(f"  {'ANN twin' if t is None else f'T = {t}':<10} {value:.2%}")
    if found.firing_rates:
        print("firing rate (spikes per neuron and step)")
        width = max(map(len, found.firing_rates))
        for name, fired in found.firing_rates.items():
            print(f"  {name:<{width}}  {fired:.3f}  {'#' * round(40 * fired)}")
    for warning in found.warnings():
        print(f"warning: {warning}")


def _restore(session: Session, folder: Path) -> None:
    path = folder / "checkpoint.pt"
    state = load_checkpoint(path)
    apply_state(session.learner, state["learner"], str(path))
    session.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["progress"].items():
        setattr(session.progress, name, value)
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])


def _describe(
    recipe: Recipe,
    folder: Path,
    splits: Splits,
    learner: nn.Module,
    device: torch.device,
    reason: str,
    resume: bool,
) -> None:
    from spikedistill.training.recipe_files import save_recipe

    if not resume:
        folder.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder / "recipe.yaml")
        write_json(folder / "environment.json", environment())
    parameters = sum(p.numel() for p in learner.parameters())
    held_out = f", {len(splits.validation)} held out" if splits.validation else ""
    division = f"; {splits.division}" if splits.division else ""
    print(
        f"{recipe.model.name} ({parameters:,} parameters with branches), {recipe.propagation}, T={recipe.timesteps}\n"
        f"{recipe.data.name}: {len(splits.train)} training samples{held_out}, "
        f"{len(splits.test)} for the test{division}\n"
        f"{device}, {recipe.precision}, kernels {reason}\nfolder {folder}",
        file=sys.stderr,
    )
