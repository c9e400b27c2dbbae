"""`metrics.csv`: one row per epoch."""

from __future__ import annotations

import csv
from pathlib import Path

Row = dict[str, float]


class MetricsFile:
    """The rows so far; those after the checkpoint that a run is resumed from are dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["epoch"] <= done] if path.exists() else []
        self._write()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; epochs are whole numbers."""
    with path.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]
