"""Networks of finished runs: what is written beside the weights, and building them again."""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikedistill.core.network import Network
from spikedistill.data import Framing, ImageSet, Samples, in_order
from spikedistill.data.events.frames import fed
from spikedistill.data.events.recordings import frames_of_file
from spikedistill.data.pictures.prepare import prepared_picture
from spikedistill.data.pictures.shifts import shifted_picture
from spikedistill.data.samples import refuse_other_input
from spikedistill.data.scenes.settings import Windowing
from spikedistill.data.scenes.windows import last_window
from spikedistill.data.tensors import read_values
from spikedistill.errors import CheckpointError, InvalidArgument
from spikedistill.machine.device import autocast
from spikedistill.machine.files import write_text
from spikedistill.measure.evaluation import EVALUATION_BATCH, Evaluation, evaluate
from spikedistill.models.learning_neurons import learn_neurons
from spikedistill.models.tensor_train import tensor_train
from spikedistill.tasks import Mark, Task
from spikedistill.training.checkpoints import apply_state, load_weights, save_weights
from spikedistill.training.config import FORMAT, check_config
from spikedistill.training.hub import HUB, fetched, hugging_face, model_card
from spikedistill.training.networks import as_spiking, build_network, fed_with
from spikedistill.training.recipe import Recipe
from spikedistill.training.recipe_parsing import recipe_of
from spikedistill.training.recipe_values import values_of
from spikedistill.training.trust import Trust


def describe_network(recipe: Recipe, data: Samples) -> dict[str, Any]:
    """`config.json`: what is needed to build the network again and to feed it."""
    values = values_of(recipe)
    return {
        "format": FORMAT,
        "model": values["model"],
        "tensor_train": values["tensor_train"],
        "learned": values["learned"],
        "task": values["task"],
        "timesteps": recipe.timesteps,
        "precision": recipe.precision,
        "input": data.description(),
        "targets": dict(data.targets.description()),
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: the network in evaluation mode, and how to feed it.

    Attributes:
        network: on the CPU.
        task: what it answers.
        config: what `describe_network` wrote.
    """

    network: Network
    task: Task
    config: dict[str, Any]

    @property
    def timesteps(self) -> int | None:
        """T that it was trained for; None for the ANN twin."""
        return self.config["timesteps"]

    @classmethod
    def load(cls, folder: str | Path, *, network: nn.Module | None = None, trust: Trust = False) -> Trained:
        """Build the network of a finished run.

        Args:
            network: of a run whose network was handed over in Python: the same module again, with any weights. It is
                copied, and left as it is.
            trust: whether a network "package.module:function" may be imported, which runs its code.

        Raises:
            CheckpointError: files are missing, damaged or foreign.
            InvalidArgument: the network has to be handed over, or would be imported without trust.
        """
        folder = Path(folder)
        tensors, config = load_weights(folder)
        check_config(config, str(folder / "config.json"))
        wanted = {key: config[key] for key in ("task", "model", "learned", "tensor_train") if key in config}
        recipe = recipe_of(wanted, str(folder / "config.json"), trust)
        outputs, in_channels = recipe.task.head_size(config["targets"]), config["input"]["shape"][0]
        if network is None:
            built = build_network(recipe.model.name, recipe.model.options, outputs, in_channels)
        else:
            built = as_spiking(copy.deepcopy(network)).cpu()
        built = fed_with(built, len(config["input"]["shape"]))
        if recipe.tensor_train.form is not None:
            built = tensor_train(built, recipe.tensor_train.rank, recipe.tensor_train.form, decompose=False)
        example = torch.zeros(1, *config["input"]["shape"])
        learn_neurons(built, recipe.learned.decay, recipe.learned.threshold, example)
        apply_state(built, tensors, str(folder / "model.safetensors"))
        _refuse_nan(built, str(folder))
        return cls(built.eval(), recipe.task, config)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, ...] of inputs as the network was trained on (normalised pictures, frames [T, N, ...]).

        Computed in the precision that it was trained in, as the run was scored.
        """
        with autocast(self.precision, inputs.device):
            logits = self.network(inputs, timesteps=self.timesteps).logits
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    @property
    def precision(self) -> str:
        """ "fp32" or "bf16": what it was trained and scored in."""
        return self.config["precision"]

    def evaluate(self, samples: Samples, timesteps: int | Sequence[int] | None = None) -> Evaluation:
        """The score on samples, and the firing rates.

        Args:
            samples: of the same classes as it was trained on, in any order of them. Computed in the precision that the
                network was trained in.
            timesteps: numbers of steps (None: T that it was trained for).

        Raises:
            DataError: answers that the network cannot give.
        """
        if isinstance(samples, ImageSet):  # pixels as they are: normalised here as in training
            described = self.config["input"]
            mean, std = tuple(described.get("mean", ())), tuple(described.get("std", ()))
            samples = dataclasses.replace(samples, mean=mean, std=std)
        try:
            targets = samples.targets
        except AttributeError as error:
            raise InvalidArgument(
                f"evaluate takes samples (sd.samples_of, splits.test), and was given a {type(samples).__name__}; for "
                "batches: sd.evaluate(trained.network, batches, timesteps)"
            ) from error
        refuse_other_input(samples.description(), self.config["input"])
        samples = samples.with_targets(targets.matched(self.config["targets"]))
        batches = in_order(samples, EVALUATION_BATCH)
        steps = self.timesteps if timesteps is None else timesteps
        inspect = functools.partial(self.task.inspector, self.config["targets"])
        described = samples.targets.description()
        with autocast(self.precision, next(self.network.parameters()).device):
            return evaluate(self.network, batches, steps, task=self.task, description=described, inspect=inspect)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Trained:
        """As `load`, where a name that is no folder is one of the hub: "user/name"."""
        return load(source if Path(source).is_dir() or str(source).startswith(HUB) else f"{HUB}{source}", **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, config and a model card into a folder, to be read by `load` or put on the hub.

        Raises:
            CheckpointError: the folder holds another network; nothing is overwritten.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("model.safetensors", "config.json", "README.md"):
            if (folder / name).exists():
                raise CheckpointError(f"{folder / name} exists already; name another folder")
        save_weights(folder, self.network.state_dict(), self.config)
        write_text(folder / "README.md", model_card(self.config, sum(p.numel() for p in self.network.parameters())))

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Put the network on the Hugging Face hub.

        Args:
            repository: as "user/name"; made if it is not there.
            token: of the hub (None: that of `huggingface-cli login`).

        Returns:
            The address of the commit.

        Raises:
            InvalidArgument: huggingface_hub is not installed.
        """
        api = hugging_face().HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "network")
            return str(api.upload_folder(repo_id=repository, folder_path=Path(folder) / "network"))

    def prepared(self, file: str | Path, repair: bool = False) -> torch.Tensor:
        """A file as input, as in evaluation.

        Args:
            repair: of recordings, leave out impossible events and mend the order of times instead of refusing the file.

        Returns:
            A picture [1, C, H, W], grey or colour, or its events [T, 1, 2, H, W]; a recording's frames [T, 1, 2, H, W],
            of scenes those of its last window, or their mean [1, 2, H, W]; or the numbers of a .npy file.

        Raises:
            DataError: not a readable picture, recording or .npy file of the shape that was learned.
        """
        if self.config["input"]["kind"] == "tensor":
            return read_values(file, self.config["input"])
        if self.config["input"]["kind"] == "events":
            framing = Framing(**self.config["input"]["framing"])
            return fed(torch.from_numpy(frames_of_file(file, framing, repair)).unsqueeze(1), framing.shown)
        if self.config["input"]["kind"] == "scenes":
            windowing = Windowing(**self.config["input"]["framing"])
            return fed(torch.from_numpy(last_window(file, windowing, repair)).unsqueeze(1), windowing.shown)
        if self.config["input"]["kind"] == "shifts":
            return shifted_picture(file, self.config["input"])
        return prepared_picture(Path(file), self.config["input"])

    def answer(self, file: str | Path, precision: str = "fp32") -> str:
        """What the network says about a file, in words."""
        return self.said(self.prepared(file), precision)[0]

    @torch.no_grad()
    def said(self, inputs: torch.Tensor, precision: str = "fp32") -> tuple[str, list[Mark]]:
        """What the network says about one sample (`prepared`), in words and to be drawn on it."""
        with autocast(precision, inputs.device):
            logits = self.network(inputs, timesteps=self.timesteps).logits[0]
        described = self.config["targets"]
        return self.task.answer(logits, described), self.task.marks(logits, described)


def _refuse_nan(network: Network, source: str) -> None:
    """A NaN membrane never fires: a network of NaN answers as any other does."""
    bad = [name for name, value in network.named_parameters() if not value.isfinite().all()]
    bad += [name for name, value in network.named_buffers() if value.is_floating_point() and value.isnan().any()]
    if bad:
        raise CheckpointError(f"{source}: {len(bad)} weights are NaN or infinite, first {bad[0]}; take another epoch")


def load(
    source: str | Path,
    *,
    network: nn.Module | None = None,
    trust: Trust = False,
    revision: str | None = None,
    token: str | None = None,
) -> Trained:
    """The network of a finished run, ready to answer.

    Args:
        source: the folder of a run; or "hub:user/name", of the Hugging Face hub.
        network, trust: as `Trained.load`.
        revision: branch, tag or commit on the hub.
        token: for a private repository.

    Raises:
        CheckpointError: files are missing, damaged or foreign, or the hub does not give them.
        InvalidArgument: the network has to be handed over, or would be imported without trust.
    """
    name = str(source)
    if not name.startswith(HUB) and (revision or token):
        raise InvalidArgument(f"{source} is a folder: revision and token are for the hub, as hub:user/name")
    folder = fetched(name.removeprefix(HUB), revision, token) if name.startswith(HUB) else Path(source)
    return Trained.load(folder, network=network, trust=trust)
