"""Events of a dynamic vision sensor: recordings in the forms in which people have them, and frames made of them."""

from spikedistill.data.events.aedat import read_aedat2, read_aedat4, write_aedat2
from spikedistill.data.events.event import SENSOR, Events
from spikedistill.data.events.frames import Framing, read_frames_npz, to_frames
from spikedistill.data.events.frameset import FrameSet, frames_of
from spikedistill.data.events.recordings import frames_of_file, read_events_npz

__all__ = [
    "SENSOR",
    "Events",
    "FrameSet",
    "Framing",
    "frames_of",
    "frames_of_file",
    "read_aedat2",
    "read_aedat4",
    "read_events_npz",
    "read_frames_npz",
    "to_frames",
    "write_aedat2",
]
