"""Training, validation and test samples of a data set."""

from __future__ import annotations

import dataclasses

import torch

from spikedistill.data.batches import generator_for
from spikedistill.data.datasets import DATASETS
from spikedistill.data.samples import Samples
from spikedistill.data.settings import DataSettings
from spikedistill.errors import DataError


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training, validation and test samples; validation rows are never trained on, test rows read once, at the end.

    Attributes:
        division: what the test rows are, in words, where a data set comes without a test set of its own.
    """

    train: Samples
    validation: Samples | None
    test: Samples
    division: str = ""


def division(settings: DataSettings) -> str:
    """How recordings are divided, in words; "" for data sets that come with a test set."""
    dataset = DATASETS[settings.name]
    return settings.events.of(dataset.recordings).division() if "events" in dataset.settings else ""


def load(settings: DataSettings, timesteps: int | None = None) -> Splits:
    """Load and split a data set; the targets of all parts are numbered as those of the training samples.

    Args:
        timesteps: T, the number of frames of a recording; pictures do not need it.

    Raises:
        DataError: the folder or a file is missing or damaged, there are too few rows, or the test samples have targets
            that the training samples do not know.
    """
    train, test = load_split(settings, True, timesteps), load_split(settings, False, timesteps)
    shapes = [part.description()["shape"] for part in (train, test)]
    if shapes[0] != shapes[1]:
        raise DataError(f"training samples are {shapes[0]} and test samples {shapes[1]}; expected the same of both")
    # Folders are numbered by what lies in them: without this, a class that the test lacks would shift all later ones.
    test = test.with_targets(test.targets.matched(train.targets.description()))
    held_out = settings.validation_rows
    if held_out == 0:
        return Splits(train, None, test, division(settings))
    if held_out >= len(train):
        raise DataError(f"data.validation_rows={held_out} leaves nothing of {len(train)} training rows")
    # Both parts keep the order of the data set, so that they depend on the seed by their members only.
    order = torch.randperm(len(train), generator=generator_for(settings.split_seed))
    trained, validation = train.rows(order[held_out:].sort()[0]), train.rows(order[:held_out].sort()[0])
    return Splits(trained, validation, test, division(settings))


def load_split(settings: DataSettings, train: bool, timesteps: int | None = None) -> Samples:
    """The training or the test samples of a data set, with targets in their own numbering; see `load`.

    Raises:
        DataError: as `load`, but for targets that do not fit those of the other part.
    """
    request = settings.request(train, timesteps)
    # The one place where the table is asked; everything else about a data set is in its row and its reader.
    data = DATASETS[settings.name].read(request)
    if request.rows is None:
        return data
    # Fewer rows than asked for would change a comparison without a word.
    if request.rows > len(data):
        field = "train_rows" if train else "test_rows"
        raise DataError(f"data.{field}={request.rows}, but there are only {len(data)} rows")
    return data.rows(data.targets.some(request.rows))
