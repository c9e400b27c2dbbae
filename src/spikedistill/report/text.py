"""What a run prints: at its start, and of an evaluation."""

from __future__ import annotations

from spikedistill.data import Splits
from spikedistill.machine.output import say
from spikedistill.measure.evaluation import Evaluation


def print_start(lines: list[str]) -> None:
    """To stderr: results alone go to stdout."""
    say("\n".join(lines), "stderr")


def samples_in_words(splits: Splits) -> str:
    """How many samples each split has, and how they were divided."""
    held_out = f", {len(splits.validation)} held out" if splits.validation else ""
    division = f"; {splits.division}" if splits.division else ""
    return f"{len(splits.train)} training samples{held_out}, {len(splits.test)} for the test{division}"


def print_evaluation(found: Evaluation, division: str, precision: str) -> None:
    """Score by timesteps, firing rates and warnings.

    Args:
        division: what the test samples are, in words; "" for a test set of its own.
        precision: in which the network computed.
    """
    # This is the result of a command, so it goes to stdout, where it can be piped.
    of_what = f" ({division})" if division else ""
    say(f"\ntest {found.score_name} on {found.samples} samples{of_what}, computed in {precision}")
    for t, value in found.score.items():
        say(f"  {'ANN twin' if t is None else f'T = {t}':<10} {value:.2%}")
    if found.firing_rates:
        say(f"{found.spikes_per_sample:,.0f} spikes per sample; by layer, with the firing rate (per neuron and step)")
        width = max(map(len, found.firing_rates))
        # 40 signs are one spike in every step.
        for name, fired in found.firing_rates.items():
            say(f"  {name:<{width}}  {found.spikes[name]:>9,.0f}  {fired:.3f}  {'#' * round(40 * fired)}")
    for warning in found.warnings():
        say(f"warning: {warning}")
