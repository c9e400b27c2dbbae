"""spikedistill compare"""

from __future__ import annotations

import argparse
from pathlib import Path

from spikedistill.errors import InvalidArgument


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "Finished runs side by side; those that differ in their seeds only are one row."
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or folders that hold some")
    parser.add_argument("--figure", type=Path, default=None, help="draw seeds and means into this file, too")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.report.compare import draw, find_runs, rows_of, table
    from spikedistill.report.figure import FORMATS

    if given.figure is not None and (given.figure.suffix not in FORMATS or not given.figure.parent.is_dir()):
        raise InvalidArgument(f"--figure takes a {', '.join(FORMATS)} in a folder that exists; given {given.figure}")
    rows = rows_of(find_runs(given.runs))
    print(table(rows))
    if len(rows) > 1:
        print("\nwhere they differ:")
        for row in rows:
            print(f"  {row.name}: {row.differs}")
    if given.figure is not None:
        draw(rows, given.figure)
        print(f"\ndrawn: {given.figure}")
