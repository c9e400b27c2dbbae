"""spikedistill compare"""

from __future__ import annotations

import argparse
from pathlib import Path

from spikedistill.cli.parser import check_picture


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    parser.description = "Finished runs side by side; those that differ in their seeds only are one row."
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or folders that hold some")
    parser.add_argument("--figure", type=Path, default=None, help="draw seeds and means into this file, too")
    help = "draw the score over the spikes of a sample into this file, too"
    parser.add_argument("--spikes", type=Path, default=None, metavar="FIGURE", help=help)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    from spikedistill.comparison.records import find_runs
    from spikedistill.comparison.rows import rows_of
    from spikedistill.comparison.table import draw, draw_spikes, table

    for option, path in (("--figure", given.figure), ("--spikes", given.spikes)):
        check_picture(option, path)
    rows = rows_of(find_runs(given.runs))
    print(table(rows))
    if len(rows) > 1:
        print("\nwhere they differ:")
        for row in rows:
            print(f"  {row.name}: {row.differs}")
    for drawn, path in ((draw, given.figure), (draw_spikes, given.spikes)):
        if path is not None:
            drawn(rows, path)
            print(f"\ndrawn: {path}")
