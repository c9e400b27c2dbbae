"""A run: from a recipe to trained weights and their score."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikedistill.data import Batches, DataSettings, Samples, Splits, load
from spikedistill.data.datasets import GIVEN as DATA_GIVEN
from spikedistill.data.samples import refuse_other_input
from spikedistill.errors import CheckpointError, DataError, Interrupted, InvalidArgument, NonFiniteLoss
from spikedistill.machine.allocator import keep_memory
from spikedistill.machine.device import find_device
from spikedistill.machine.environment import environment
from spikedistill.machine.files import write_json
from spikedistill.machine.graphs import CudaRecorder
from spikedistill.machine.output import say
from spikedistill.machine.processes import Process, process_group
from spikedistill.measure.evaluation import Evaluation
from spikedistill.models.learning_neurons import neurons_learn
from spikedistill.report import text
from spikedistill.report.curves import draw_curves
from spikedistill.report.display import Display, Silence
from spikedistill.training.build import Given
from spikedistill.training.checkpoints import CHECKPOINT, has_begun, save_checkpoint, save_weights
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.folders import new_folder, owned
from spikedistill.training.loop import fit
from spikedistill.training.networks import GIVEN
from spikedistill.training.prepared import Prepared, Run, about, made_of, network_name, prepare
from spikedistill.training.recipe import ModelSettings, Recipe
from spikedistill.training.recipe_files import load_recipe, save_recipe, saved_recipe
from spikedistill.training.scoring import score
from spikedistill.training.stopping import Stoppable, stop_signals
from spikedistill.training.trained import describe_network
from spikedistill.training.trust import Trust


def train(
    recipe: Recipe | str,
    folder: str | Path | None = None,
    *,
    name: str | None = None,
    network: nn.Module | None = None,
    data: Splits | None = None,
    teachers: Given | None = None,
    resume: bool = False,
    trust: Trust = False,
) -> Evaluation:
    """Train, evaluate and report, in a folder of the run's own.

    A resumed run goes on where its last checkpoint stands, and ends with the same bits on the CPU.

    Args:
        recipe: or the name of one, or a YAML file.
        folder: a new or empty one (None: the first free of runs/NAME, runs/NAME-2, ...); with `resume` that of the run.
        name: NAME of that (None: the recipe's, or "run").
        network: a module of your own in place of the model that the recipe names: with `LIF` neurons, or with ReLUs,
            which become neurons. It is trained itself, not a copy, unless it had to be converted or the recipe asks for
            tensor-train convolutions.
        data: samples of your own in place of those that the recipe names; of its `data` fields, augmentation and
            workers count.
        teachers: trained networks for the objectives that ask for one, by the name that they ask for: what `load`
            gives, or any module that takes what the network takes (a `Network` is run as its ANN twin, a learner by its
            own learning rule). Each is copied.
        trust: whether teachers may be imported that were trained with a model "package.module:function"; the model of
            the recipe itself may.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is saved.
        NonFiniteLoss, DataError, CheckpointError, InvalidArgument
    """
    name = name or (Path(recipe).stem if isinstance(recipe, str) else "run")
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if network is not None:
        recipe = dataclasses.replace(recipe, model=ModelSettings(GIVEN))
    if data is not None:
        # of samples that are there, only what is done to them is left to say
        kept = DataSettings(DATA_GIVEN, augmentation=recipe.data.augmentation, workers=recipe.data.workers)
        recipe = dataclasses.replace(recipe, data=kept)
    process = Process.find()
    device = find_device(recipe.device)
    if device.type == "cuda" and process.count > 1:
        device = torch.device("cuda", process.local_rank)
        torch.cuda.set_device(device)  # what processes tell each other goes over the current one
    keep_memory()
    with _folder_of(folder, name, resume, process) as folder, process_group(process, device):
        splits = load(recipe.data, recipe.timesteps) if data is None else _matched(data)
        for part, samples in (("test", splits.test), ("validation", splits.validation)):
            if samples is not None:
                recipe.task.refuse_unscorable(samples.targets, part)
        run = Run(
            recipe,
            folder,
            splits,
            network,
            data is not None,
            process,
            device,
            trust or recipe.model.name,
            teachers or {},
        )
        return _train(run, resume)


def _matched(data: Splits) -> Splits:
    """Samples that were handed over, with all targets in the numbering of the training samples.

    Raises:
        DataError: answers that the training samples do not have.
    """
    if not isinstance(data, Splits) or data.train is None or data.test is None:
        raise InvalidArgument(
            f"data is {type(data).__name__}; expected Splits(train, validation, test), each samples (sd.samples_of, "
            "sd.frames_of); only validation may be None"
        )
    known, fed = data.train.targets.description(), data.train.description()
    for name in ("train", "validation", "test"):
        samples = getattr(data, name)
        if samples is not None and len(samples) == 0:
            raise DataError(f"the {name} samples are none; give some, or None for no validation")

    def renumbered(samples: Samples) -> Samples:
        refuse_other_input(samples.description(), fed)
        return samples.with_targets(samples.targets.matched(known))

    validation = None if data.validation is None else renumbered(data.validation)
    return dataclasses.replace(data, validation=validation, test=renumbered(data.test))


def resume(
    folder: str | Path,
    overrides: list[str] | None = None,
    *,
    network: nn.Module | None = None,
    data: Splits | None = None,
    teachers: Given | None = None,
    trust: Trust = False,
) -> Evaluation:
    """Go on with a run by its own recipe.

    Args and errors: as `train`.
        overrides: command-line words that replace what may change: more epochs, where the data lie, the device.
        trust: whether a network "package.module:function" may be imported, which runs its code.
    """
    recipe = saved_recipe(Path(folder), trust, overrides)
    return train(recipe, folder, network=network, data=data, teachers=teachers, resume=True, trust=trust)


def _folder_of(
    folder: str | Path | None, name: str, resume: bool, process: Process
) -> contextlib.AbstractContextManager[Path]:
    if resume and folder is None:
        raise CheckpointError("to resume a run, give its folder")
    if not process.is_first:  # the other processes never write, and have a name only
        return contextlib.nullcontext(Path(folder or "runs"))
    if resume:
        path = Path(str(folder))
        if path.is_dir() and not has_begun(path):  # before anything is touched: it may be no run at all
            raise CheckpointError(f"there is no checkpoint in {path}; start the run anew: spikedistill train")
        return owned(path)
    return new_folder(folder, name)


def _batches(run: Run) -> Batches:
    return Batches(
        run.splits.train.to(run.device),
        run.recipe.optimizer.batch_size,
        run.recipe.data.augmentation,
        run.recipe.seed,
        run.recipe.optimizer.drop_last,
        run.process.rank,
        run.process.count,
        run.recipe.data.workers,
    )


def _train(run: Run, resume: bool) -> Evaluation:
    prepared = prepare(run, resume)
    run, session = prepared.run, prepared.session
    _write_start(prepared, resume)
    if run.process.count > 1:
        ids = [run.device] if run.device.type == "cuda" else None
        # where a phase leaves branches or what neurons learn out, their gradients must be looked for
        phases = run.recipe.phases
        unused = phases.without_spikes and (not phases.branches or neurons_learn(session.learner.network))
        session.forward = nn.parallel.DistributedDataParallel(
            session.learner, device_ids=ids, find_unused_parameters=unused
        )
    display = _display(prepared)
    try:
        # Before this Ctrl-C ends the program at once, for there is nothing to lose; so it does again afterwards.
        with stop_signals() as received:
            fit(
                session,
                _batches(run),
                run.recipe.optimizer,
                precision=run.recipe.precision,
                compiled=CompiledStep(session.learner, run.recipe.precision) if run.recipe.compile == "step" else None,
                recorder=CudaRecorder(run.device) if run.recipe.graphs else None,
                watcher=Stoppable(display, received, run.device),
                validate=functools.partial(_validate, prepared),
                save=functools.partial(_save, prepared),
            )
    except Interrupted:
        _save(prepared)
        raise Interrupted(
            f"stopped after epoch {session.progress.epoch}, step {session.progress.step}; everything is saved. Go on "
            f"with: {run.resume_by}"
        ) from None
    except NonFiniteLoss:  # what is left shows how it began
        raise
    except Exception:  # an input that does not fit, or too little memory: the remedy is another start
        if not resume and (session.progress.epoch, session.progress.step) == (0, 0):
            _forget(run)
        raise
    finally:
        display.close()
    try:
        return _finish(prepared, display)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped in the final evaluation; the training is done and saved. Evaluate with: {run.resume_by}"
        ) from None


def _write_start(prepared: Prepared, resume: bool) -> None:
    """What a folder holds before the first step: from here on the run can be resumed, whatever happens."""
    run = prepared.run
    state = prepared.session.state()
    if not run.process.is_first:
        return
    progress, epochs = prepared.session.progress, run.recipe.optimizer.epochs
    if resume and progress.epoch < epochs:  # the results of the shorter run would be taken for those of this one
        (run.folder / "result.json").unlink(missing_ok=True)
    save_recipe(run.recipe, run.folder / "recipe.yaml")  # a resumed run may have more epochs now
    if not resume:
        write_json(run.folder / "environment.json", environment())
        save_checkpoint(run.folder / CHECKPOINT, state | made_of(run))
    text.print_start(about(prepared))


def _display(prepared: Prepared) -> Display | Silence:
    run, progress = prepared.run, prepared.session.progress
    if not run.process.is_first:
        return Silence()
    begun = (progress.epoch, progress.step)
    return Display(run.folder, run.recipe.optimizer.epochs, progress.rows, run.recipe.task.score, begun)


def _save(prepared: Prepared) -> None:
    """Write the checkpoint; called by all processes, which add up what each has measured."""
    run, session = prepared.run, prepared.session
    session.check_finite()
    state = session.state()
    if run.process.is_first:
        save_checkpoint(run.folder / CHECKPOINT, state | made_of(run))


def _validate(prepared: Prepared) -> dict[str, float]:
    """The columns of the validation samples; the best epoch is kept."""
    run = prepared.run
    if run.splits.validation is None:
        return {}
    held_out = run.splits.validation.to(run.device)
    found = score(run.recipe, prepared.session.network, held_out, None, prepared.kernels, run.process)
    _keep_best(prepared, found)
    return {f"validation_{name}": value for name, value in found.columns[run.recipe.timesteps].items()}


def _keep_best(prepared: Prepared, found: Evaluation) -> None:
    """Keep the weights of the epoch that is best on the validation samples, in a folder of their own."""
    run, progress = prepared.run, prepared.session.progress
    value = found.score[run.recipe.timesteps]
    if progress.best is not None and value <= progress.best:
        return
    progress.best = value
    if run.process.is_first:
        config = describe_network(run.recipe, run.splits.train) | {"epoch": progress.epoch + 1, "validation": value}
        (run.folder / "best").mkdir(exist_ok=True)
        save_weights(run.folder / "best", prepared.session.network.state_dict(), config)


def _forget(run: Run) -> None:
    """Take back what a run wrote that could not take one step, so that it can be started again with the same words."""
    if run.process.is_first:
        for name in ("recipe.yaml", "environment.json", CHECKPOINT):
            (run.folder / name).unlink(missing_ok=True)
        shutil.rmtree(run.folder / "tensorboard", ignore_errors=True)


def _finish(prepared: Prepared, display: Display | Silence) -> Evaluation:
    """Score, write and print. The test rows are read here, once."""
    run, network = prepared.run, prepared.session.network
    steps = run.recipe.timesteps  # more than these the network was not trained for, and frames do not have
    by_time = None if steps is None else sorted({1, min(2, steps), steps})
    test = run.splits.test.to(run.device)
    found = score(run.recipe, network, test, by_time, prepared.kernels, run.process)
    if isinstance(display, Display):
        save_weights(run.folder, network.state_dict(), describe_network(run.recipe, run.splits.train))
        write_json(run.folder / "result.json", _result(found, run))
        files = ["model.safetensors", "config.json", "metrics.csv", "result.json", "curves.png"]
        try:
            draw_curves(_title(prepared), display.metrics.rows, found, run.folder / "curves.png")
        except Exception as error:  # a broken matplotlib must not cost the hours before it
            files.remove("curves.png")
            say(f"warning: curves.png could not be drawn ({type(error).__name__}: {error})", "stderr")
        text.print_evaluation(found, run.splits.division, run.recipe.precision)
        say(f"written to {run.folder}: {', '.join(files)}")
    return found


def _title(prepared: Prepared) -> str:
    """What was trained: folder, network, learning rule, seed."""
    run = prepared.run
    rule = type(run.recipe.rule).__name__ + (
        "" if run.recipe.timesteps is None else f" with T = {run.recipe.timesteps}"
    )
    return f"{run.folder.name}: {network_name(prepared)}, {rule}, seed {run.recipe.seed}"


def _result(found: Evaluation, run: Run) -> dict[str, Any]:
    """`result.json`: the score by timesteps, the firing rates, and what they were measured on."""
    by_time = {"ann" if t is None else str(t): value for t, value in found.score.items()}
    return {
        "test_samples": found.samples,
        **({"split": run.splits.division} if run.splits.division else {}),
        "precision": run.recipe.precision,
        f"test_{found.score_name}": by_time,
        "firing_rates": found.firing_rates,
        **({} if found.spikes_per_sample is None else {"spikes_per_sample": found.spikes_per_sample}),
        "spikes": found.spikes,
    }
