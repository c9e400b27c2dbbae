"""The tables of docs/performance.md, from the bench.json that `spikedistill bench` wrote.

python scripts/performance.py docs/data/bench/RUN/bench.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from spikedistill.bench import Result, Row, ratio

RATIOS: tuple[tuple[str, str, str, Literal["seconds", "peak_bytes"]], ...] = (
    ("self-distillation ÷ explicit two-pass eager fp32, time", "self-distillation", "two-pass", "seconds"),
    ("self-distillation ÷ SpikingJelly's best, time", "self-distillation", "spikingjelly-best", "seconds"),
    ("rate-based alone ÷ SpikingJelly's best, time", "rate", "spikingjelly-best", "seconds"),
    ("our BPTT ÷ SpikingJelly's best, time", "bptt", "spikingjelly-best", "seconds"),
    ("self-distillation ÷ our BPTT, time", "self-distillation", "bptt", "seconds"),
    ("self-distillation ÷ ANN twin, time", "self-distillation", "ann", "seconds"),
    ("self-distillation ÷ snnTorch, time", "self-distillation", "snntorch", "seconds"),
    ("self-distillation ÷ SpikingJelly's best, peak memory", "self-distillation", "spikingjelly-best", "peak_bytes"),
    ("our BPTT ÷ SpikingJelly's best, peak memory", "bptt", "spikingjelly-best", "peak_bytes"),
)
"""What it is, subject, other, quantity."""
GROWING = ("self-distillation", "rate", "bptt", "spikingjelly-best")
"""Subjects whose memory is compared between a small and a large T."""


def growth(result: Result, subject: str, low: int = 2, high: int = 8) -> float | None:
    """Peak memory at T = high ÷ at T = low; None where one of the two is missing."""
    rows = [row for row in result["rows"] if row["subject"] == subject and "failure" not in row]
    peaks = {row["timesteps"]: row["peak_bytes"] for row in rows}
    return peaks[high] / peaks[low] if {low, high} <= peaks.keys() else None


def ratio_table(result: Result, timesteps: int = 6) -> str:
    """The ratios at one T, and the growth of memory with T; pairs that were not measured are left out."""
    lines = [f"| ratio, T = {timesteps} | found |", "|---|---|"]
    for name, subject, other, quantity in RATIOS:
        found = ratio(result, subject, other, timesteps, quantity)
        if found is not None:
            lines.append(f"| {name} | {found:.2f} |")
    for subject in GROWING:
        found = growth(result, subject)
        if found is not None:
            lines.append(f"| {subject}: peak memory at T = 8 ÷ at T = 2 | {found:.2f} |")
    return "\n".join(lines)


def row_table(result: Result) -> str:
    """Every subject at every T."""
    head = [
        "| T | subject | precision | s per step (fastest to slowest) | images/s | peak, MB |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_cells(row) for row in result["rows"]])


def _cells(row: Row) -> str:
    if "failure" in row:
        return f"| {row['timesteps']} | {row['subject']} | | {row['failure']} | | |"
    spread = f"{row['seconds']:.2f} ({row['fastest']:.2f} to {row['slowest']:.2f})"
    rate, memory = f"{row['images_per_second']:.1f}", f"{row['peak_bytes'] / 1e6:.0f}"
    return f"| {row['timesteps']} | {row['subject']} | {row['precision']} | {spread} | {rate} | {memory} |"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    found: Result = json.loads(Path(sys.argv[1]).read_text())
    print(f"{ratio_table(found)}\n\n{row_table(found)}")
