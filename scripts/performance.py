"""The ratio table of docs/performance.md, from the bench.json that `spikedistill bench` wrote.

python scripts/performance.py docs/data/bench/RUN/bench.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from spikedistill.bench import ratio

RATIOS = (
    ("self-distillation ÷ explicit two-pass eager fp32, time", "self-distillation", "two-pass", "seconds", 0.25),
    ("self-distillation ÷ SpikingJelly's best, time", "self-distillation", "spikingjelly-best", "seconds", 0.53),
    ("rate-based alone ÷ SpikingJelly's best, time", "rate", "spikingjelly-best", "seconds", 0.45),
    ("self-distillation ÷ SpikingJelly's best, memory", "self-distillation", "spikingjelly-best", "peak_bytes", 0.40),
    ("our BPTT ÷ SpikingJelly's best, time", "bptt", "spikingjelly-best", "seconds", None),
    ("our BPTT ÷ SpikingJelly's best, peak memory", "bptt", "spikingjelly-best", "peak_bytes", None),
    ("self-distillation ÷ our BPTT, time", "self-distillation", "bptt", "seconds", None),
    ("self-distillation ÷ ANN twin, time", "self-distillation", "ann", "seconds", None),
    ("self-distillation ÷ snnTorch, time", "self-distillation", "snntorch", "seconds", None),
)


def growth(result: dict[str, Any], subject: str, low: int = 2, high: int = 8) -> float | None:
    """Peak memory at T = high ÷ at T = low."""
    peaks = {row["timesteps"]: row["peak_bytes"] for row in result["rows"] if row["subject"] == subject}
    return peaks[high] / peaks[low] if {low, high} <= peaks.keys() else None


def table(result: dict[str, Any], timesteps: int = 6) -> str:
    lines = ["| ratio, T = 6 | asked | found |", "|---|---|---|"]
    for name, subject, other, what, asked in RATIOS:
        found = ratio(result, subject, other, timesteps, what)
        if found is not None:
            lines.append(f"| {name} | {'' if asked is None else f'≤ {asked:.2f}'} | {found:.2f} |")
    for subject, asked in (("self-distillation", "≤ 1.50"), ("rate", ""), ("bptt", ""), ("spikingjelly-best", "")):
        found = growth(result, subject)
        if found is not None:
            lines.append(f"| {subject}: peak memory at T = 8 ÷ at T = 2 | {asked} | {found:.2f} |")
    return "\n".join(lines)


def rows(result: dict[str, Any]) -> str:
    lines = ["| T | subject | s per step (fastest to slowest) | images/s | peak, MB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        if "seconds" not in row:
            lines.append(f"| {row['timesteps']} | {row['subject']} | {row['failure']} | | |")
            continue
        spread = f"{row['seconds']:.2f} ({row['fastest']:.2f} to {row['slowest']:.2f})"
        memory = f"{row['peak_bytes'] / 1e6:.0f}"
        rate = f"{row['images_per_second']:.1f}"
        lines.append(f"| {row['timesteps']} | {row['subject']} | {spread} | {rate} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    print(f"{table(found)}\n\n{rows(found)}")
