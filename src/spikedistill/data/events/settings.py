"""What a user may say about recordings of events."""

from __future__ import annotations

import dataclasses

from spikedistill.data.events.frames import BINNINGS, Framing
from spikedistill.data.events.splits import FOLDERS, SPLITS
from spikedistill.errors import InvalidArgument, choose


@dataclasses.dataclass(frozen=True)
class EventSettings:
    """How recordings become samples.

    Args:
        by: frames of equal "number" of events or of equal "time"; there are T of them.
        size: rows and columns that frames are resized to.
        split: a key of `SPLITS`, or "folders" for recordings that lie in train/ and test/.
        cache: folder that keeps the prepared frames (null: ~/.cache/spikedistill).
        repair: leave out impossible events and sort by time, instead of refusing the file.
    """

    by: str = "number"
    size: int = 48
    split: str = "stratified-90-10"
    cache: str | None = None
    repair: bool = False

    def __post_init__(self) -> None:
        choose("split", self.split, [*SPLITS, FOLDERS])
        choose("way to cut frames", self.by, BINNINGS)

    def framing(self, timesteps: int | None) -> Framing:
        """Frames for a network of T time steps.

        Raises:
            InvalidArgument: T is None (a network without time), or not possible.
        """
        if timesteps is None:
            raise InvalidArgument("event frames are as many as time steps; the ANN twin has none, so it needs pictures")
        return Framing(timesteps, self.by, self.size)

    def division(self) -> str:
        """How recordings are divided into training and test, in words."""
        return f"split {self.split}: {SPLITS[self.split][0] if self.split in SPLITS else 'train/ and test/'}"
