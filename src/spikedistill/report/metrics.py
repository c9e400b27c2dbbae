"""`metrics.csv`: one row per epoch."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from spikedistill.errors import DataError, WriteError
from spikedistill.machine.files import write_text
from spikedistill.machine.output import say
from spikedistill.machine.reading import ReadError, text_of

Row = dict[str, float]


class MetricsFile:
    """The rows of a run, in a file that is always whole. It shows the run and is not needed to go on with it.

    Args:
        path: of the file; it is written anew with each row.
        rows: of the epochs before, as the checkpoint has them.
    """

    def __init__(self, path: Path, rows: list[Row]) -> None:
        self.path, self.rows = path, list(rows)
        self._write()

    def add(self, row: Row) -> None:
        """Add the row of an epoch; what another epoch did not measure stays empty there."""
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        # Nothing yet: an empty file would have no header and could not be read again.
        if not self.rows:
            self.path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        columns = dict.fromkeys(name for row in self.rows for name in row)  # the phases of a run differ in theirs
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            write_text(self.path, text.getvalue())
        except WriteError as error:  # the rows are in the checkpoint: the next epoch writes them all
            say(f"warning: {error}", "stderr")


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics file; epochs are whole numbers.

    Raises:
        DataError: half a row, or something else than numbers; says where.
    """
    rows: list[Row] = []
    try:
        reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
    except ReadError as error:
        raise DataError(str(error)) from error
    try:
        for row in reader:
            measured = {name: float(value) for name, value in row.items() if value != ""}
            rows.append(measured | {"epoch": int(row["epoch"])})
    except (TypeError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise DataError(f"{path}, line {reader.line_num}, is no row of numbers ({error})") from error
    return rows
