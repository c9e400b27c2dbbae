"""Tasks by name: what a head looks like, which targets fit, how the answers are scored."""

from spikedistill.tasks.classification import Classification, Labels
from spikedistill.tasks.task import Description, Grid, Inspector, Meter, Targets, Task

# Recipes and weight files name a task; everything else gets it as a value.
TASKS: dict[str, type[Task]] = {"classification": Classification}

__all__ = ["TASKS", "Classification", "Description", "Grid", "Inspector", "Labels", "Meter", "Targets", "Task"]
