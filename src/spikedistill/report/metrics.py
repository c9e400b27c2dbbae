"""`metrics.csv`: one row per epoch."""

from __future__ import annotations

import csv
from pathlib import Path

Row = dict[str, float]


class MetricsFile:
    """The rows so far; those after the checkpoint that a run is resumed from are dropped.

    Args:
        path: of the file; it is written anew with each row.
        done: epochs that the checkpoint has finished, 0 for a new run.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        # A run that died after an epoch, before its checkpoint was written, makes that epoch again.
        self.rows = [row for row in read_metrics(path) if row["epoch"] <= done] if path.exists() else []
        self._write()

    def add(self, row: Row) -> None:
        """Add the row of an epoch; its columns are those of the first."""
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        # Nothing yet: an empty file would have no header and could not be read again.
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        # The csv module writes line ends itself: newline="" keeps Python from changing them.
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; epochs are whole numbers."""
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]
