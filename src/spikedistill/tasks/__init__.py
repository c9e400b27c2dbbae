"""Tasks by name: what a head looks like, which targets fit, how the answers are scored."""

from spikedistill.tasks.boxes import Boxes
from spikedistill.tasks.classification import Classification, Labels
from spikedistill.tasks.detection import Detection
from spikedistill.tasks.task import Description, Grid, Inspector, Mark, Meter, Motion, Targets, Task

# Recipes and weight files name a task; everything else gets it as a value.
TASKS: dict[str, type[Task]] = {"classification": Classification, "detection": Detection}

__all__ = [
    "TASKS",
    "Boxes",
    "Classification",
    "Description",
    "Detection",
    "Grid",
    "Inspector",
    "Labels",
    "Mark",
    "Meter",
    "Motion",
    "Targets",
    "Task",
]
