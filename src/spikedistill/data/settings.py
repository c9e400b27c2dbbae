"""What a user may say about the data of a run."""

from __future__ import annotations

import dataclasses

from spikedistill.data.augmentation import Augmentation
from spikedistill.data.dataset import Request
from spikedistill.data.datasets import DATASETS
from spikedistill.data.events.layouts import Layout
from spikedistill.data.events.settings import EventSettings
from spikedistill.data.scenes.settings import SceneSettings
from spikedistill.errors import InvalidArgument, choose

ONLY_SOME_KNOW = ("root", "download", "size", "events", "scenes")
"""Settings that not every data set knows; see `DataSet.settings`."""
LEAST = {"train_rows": 1, "test_rows": 1, "size": 1, "validation_rows": 0, "workers": 0}


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which samples to train and test on.

    Args:
        name: a key of `DATASETS`.
        root: folder that holds the data (torchvision's files, parquet files, pictures or recordings), or "hub:NAME" of
            the Hugging Face hub; not for the embedded set.
        download: let torchvision download what is missing.
        size: rows and columns of what the network sees, for folders of pictures (null: 224).
        train_rows: use only so many rows of the training set (null: all): the first, or of data that come class by
            class, as folders do, as many of each class as there are.
        test_rows: the same of the test set.
        validation_rows: held out from the training rows, at random by `split_seed`.
        split_seed: seed of that split.
        augmentation: random changes of the training samples.
        workers: processes that prepare batches ahead (0: none; folders of pictures want some).
        events: how recordings become samples.
        scenes: how recordings with boxes do.

    Raises:
        InvalidArgument: an unknown name, a number out of range, or a setting that this data set does not know.
    """

    name: str = "fashion-small"
    root: str | None = None
    download: bool = False
    size: int | None = None
    train_rows: int | None = None
    test_rows: int | None = None
    validation_rows: int = 0
    split_seed: int = 0
    augmentation: Augmentation = Augmentation()
    workers: int = 0
    events: EventSettings = EventSettings()
    scenes: SceneSettings = SceneSettings()

    def __post_init__(self) -> None:
        # All of this is checked when a recipe is read, before any file is opened.
        choose("dataset", self.name, DATASETS)
        for field in dataclasses.fields(self):
            # A setting without an effect is refused: whoever gave it expects one.
            given, default = getattr(self, field.name), field.default
            if isinstance(given, EventSettings):  # earlier versions wrote the usual values out
                given, default = given.of(Layout()), EventSettings().of(Layout())
            if field.name in ONLY_SOME_KNOW and given != default:
                self._check_known(field.name)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                or_null = ", or null" if name in ("train_rows", "test_rows", "size") else ""
                raise InvalidArgument(f"data.{name} is {value}; expected at least {least}{or_null}")

    @staticmethod
    def unknown_to(name: str) -> set[str]:
        """The settings of which a data set knows nothing."""
        known = DATASETS[choose("dataset", name, DATASETS)].settings
        return {setting for setting in ONLY_SOME_KNOW if setting not in known}

    def _check_known(self, setting: str) -> None:
        if setting not in self.unknown_to(self.name):
            return
        # The error names the data sets for which the setting is meant; often the name is what was forgotten.
        others = [name for name, dataset in DATASETS.items() if setting in dataset.settings]
        raise InvalidArgument(
            f"data.{setting} has no effect on {self.name!r} ({DATASETS[self.name].summary}); it is for "
            f"{', '.join(others)}"
        )

    def request(self, train: bool, timesteps: int | None) -> Request:
        """What a reader needs to know to read the training or the test part."""
        return Request(
            name=self.name,
            train=train,
            root=self.root,
            rows=self.train_rows if train else self.test_rows,
            timesteps=timesteps,
            size=self.size,
            download=self.download,
            split_seed=self.split_seed,
            events=self.events,
            scenes=self.scenes,
        )
