"""How near is the gradient of rate-based backpropagation to that of BPTT, layer by layer?

python scripts/gradient_study.py OUT DATA [RUN ...]

OUT: folder for gradients.csv and products.csv. DATA: a folder with CIFAR-10. RUN: folders of finished runs, whose
weights are looked at beside those of a start. Both gradients are of one batch, in training mode, in float64: in float32
rounding alone gives other spikes in deep networks. How much is the last cosine, of the rates' gradient in float32 and
float64.
"""

from __future__ import annotations

import copy
import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

import spikedistill as sd
from spikedistill.data import DataSettings, load_split
from spikedistill.measure.products import product_covariance

NETWORKS = {
    "resnet18": {"width": 16},
    "spikformer": {},
    "qkformer": {},
    "spike_driven_transformer": {},
    "spike_driven_transformer, linear": {"attention": "linear"},
}
STEPS = (2, 4, 8)
HEADER = ("network", "weights", "timesteps", "layer", "cosine", "ratio", "rounding")
BATCH, SETTLING = 64, 5
"""Images of a batch, and batches that batch norm's statistics see before products are looked at."""


def main(out: Path, data: str, runs: list[Path]) -> None:
    samples = load_split(DataSettings("cifar10", data, train_rows=BATCH * (SETTLING + 1)), True)
    batches = [in_float64(samples.batch(rows)) for rows in torch.arange(len(samples)).split(BATCH)]
    out.mkdir(parents=True, exist_ok=True)
    gradients, products = [], []
    for name, weights, network in [*starts(), *of_runs(runs)]:
        for timesteps in STEPS:
            found = compared(network.double(), batches[0], timesteps)
            settled(network, [batch.inputs for batch in batches[1:]], timesteps)
            gradients += [(name, weights, timesteps, *row) for row in found]
            covariances = product_covariance(network, batches[0].inputs, timesteps)
            products += [(name, weights, timesteps, each.where.split(" at ")[0], each.relative) for each in covariances]
            print(line(name, weights, timesteps, found, [each.relative for each in covariances]), flush=True)
            write(out / "gradients.csv", HEADER, gradients)
            write(out / "products.csv", ("network", "weights", "timesteps", "product", "covariance"), products)


def in_float64(batch: sd.Batch) -> sd.Batch:
    return sd.Batch(batch.inputs.double(), batch.targets)


def starts() -> list[tuple[str, str, sd.Network]]:
    made = []
    for name, options in NETWORKS.items():
        torch.manual_seed(0)
        made.append((name, "start", sd.create_model(name.split(",")[0], 10, **options)))
    return made


def of_runs(runs: list[Path]) -> list[tuple[str, str, sd.Network]]:
    found = []
    for run in runs:
        trained = sd.load(run)
        found.append((trained.config["model"]["name"], run.name, trained.network))
    return found


@torch.no_grad()
def settled(network: sd.Network, inputs: list[Tensor], timesteps: int) -> None:
    """Batch norm's statistics at this T, for the products, which are looked at in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.train()
    for batch in inputs:
        network(batch, timesteps=timesteps)


Found = tuple[str, float, float, float]


def compared(network: sd.Network, batch: sd.Batch, timesteps: int) -> list[Found]:
    """Of each layer with weights: its name, the cosine of both gradients, the norm of the rates' by that of BPTT's, and
    the cosine of the rates' in float64 and float32."""
    rate, bptt = (gradients(network, rule, batch) for rule in (sd.Rate(timesteps), sd.BPTT(timesteps)))
    single = sd.Batch(batch.inputs.float(), batch.targets)
    rounded = gradients(copy.deepcopy(network).float(), sd.Rate(timesteps), single)
    return [
        (name, cosine(ours, bptt[name]), float(ours.norm() / bptt[name].norm()), cosine(ours, rounded[name].double()))
        for name, ours in rate.items()
    ]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one, other, 0))


def gradients(network: sd.Network, rule: sd.LearningRule, batch: sd.Batch) -> dict[str, Tensor]:
    """The gradients of convolutions and linear layers, flat, in the order of the network."""
    learner = sd.SelfDistillation(network, rule, branches=())
    learner.train().zero_grad()
    learner.loss(learner(batch.inputs), batch.targets).total.backward()
    layers = {name: m for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    return {name: m.weight.grad.flatten().clone() for name, m in layers.items() if m.weight.grad is not None}


def line(name: str, weights: str, timesteps: int, found: list[Found], products: list[float]) -> str:
    """A row of a table in Markdown."""
    cosines, ratios = [row[1] for row in found], [row[2] for row in found]
    third = max(1, len(cosines) // 3)
    parts = [cosines[:third], cosines[third:-third] or cosines, cosines[-third:]]
    shown = [f"{statistics.median(part):.3f}" for part in parts]
    covariance = f"{statistics.mean(products):.2f}, {max(products):.2f}" if products else ""
    return (
        f"| {name} | {weights} | {timesteps} | {' | '.join(shown)} | {min(cosines):.3f} | "
        f"{statistics.median(ratios):.2f} | {covariance} | {statistics.median(row[3] for row in found):.3f} |"
    )


def write(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows])


def by_attention(path: Path) -> dict[str, list[float]]:
    """Cosines of gradients.csv by network, of the layers of queries and keys alone: where products are between."""
    found = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            if any(f".{part}." in row["layer"] for part in ("q", "k")):
                found[f"{row['network']} {row['weights']} T = {row['timesteps']}"].append(float(row["cosine"]))
    return dict(found)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    if tables := sorted(Path(sys.argv[1]).glob("*.csv")):
        sys.exit(f"{tables[0]} is there already; name another OUT")
    main(Path(sys.argv[1]), sys.argv[2], [Path(word) for word in sys.argv[3:]])
    for title, cosines in by_attention(Path(sys.argv[1]) / "gradients.csv").items():
        print(f"queries and keys, {title}: {statistics.median(cosines):.3f} ({min(cosines):.3f} to {max(cosines):.3f})")
