"""What a run prints: at its start, and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable

from spikedistill.data import Splits
from spikedistill.machine.output import say
from spikedistill.measure.evaluation import Evaluation
from spikedistill.measure.operations import COSTS, Operations


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


def print_operations(found: Operations, twin: bool) -> None:
    """Operations of a sample by layer and in all, and what they cost by themselves.

    Args:
        twin: whether the network is an ANN, of which only the multiply-accumulates count.
    """
    say(f"\noperations on a sample, in millions, mean of {found.samples} samples; neurons and memory are not counted")
    if twin:
        say(f"  {found.macs / 1e6:,.2f} multiply-accumulates: " + _energies(found.twins_energy))
        return
    width = max(len("all"), *(len(layer.name) for layer in found.layers))
    heads = f"{'ANN: MAC':>10}  {f'T = {found.timesteps}: MAC':>11}  {'AC':>9}"
    say(f"  {'':<{width}}  {heads}  spikes in per input and step")
    for layer in found.layers:
        fed = "not spikes" if layer.spikes is None else f"{layer.spikes:.3f}"
        numbers = f"{layer.macs / 1e6:>10,.2f}  {layer.multiplies / 1e6:>11,.2f}  {layer.accumulates / 1e6:>9,.2f}"
        say(f"  {layer.name:<{width}}  {numbers}  {fed}")
    total = f"{found.macs / 1e6:>10,.2f}  {found.multiplies / 1e6:>11,.2f}  {found.accumulates / 1e6:>9,.2f}"
    say(f"  {'all':<{width}}  {total}")
    say(f"energy of these operations alone, 45 nm: {_energies(found.energy)}; the ANN {_energies(found.twins_energy)}")
    say(f"{found.spikes_per_synapse:.2f} spikes per synapse (SNNs compete from 0.15 to 1.38: Dampfhoffer et al. 2023)")


def _energies(of: Callable[[str], float]) -> str:
    return ", ".join(f"{of(numbers):,.2f} µJ in {numbers}" for numbers in COSTS)
