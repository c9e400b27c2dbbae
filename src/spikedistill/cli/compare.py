"""spikedistill compare"""

from __future__ import annotations

import argparse
from pathlib import Path

from spikedistill.cli.parser import check_picture


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "Finished runs side by side; those that differ in their seeds only are one row."
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or folders that hold some")
    parser.add_argument("--figure", type=Path, default=None, help="draw seeds and means into this file, too")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.report.compare import draw, find_runs, rows_of, table

    check_picture("--figure", given.figure)
    rows = rows_of(find_runs(given.runs))
    print(table(rows))
    if len(rows) > 1:
        print("\nwhere they differ:")
        for row in rows:
            print(f"  {row.name}: {row.differs}")
    if given.figure is not None:
        draw(rows, given.figure)
        print(f"\ndrawn: {given.figure}")
