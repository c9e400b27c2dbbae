"""SpikingJelly's BPTT on a recipe's network, data and schedule: accuracy, and seconds of training by epoch.

    python scripts/peer_accuracy.py TABLE.csv RECIPE --precision bf16 [--FIELD VALUE ...]

The recipe says all but the learning rule: network, first weights, batches, augmentation, optimizer, learning rates, T,
precision. What SpikingJelly would not do of it (phases, branches, other objectives, ...) is refused. TABLE.csv is new:
hours of work are not written over.
SpikingJelly computes in its best setting here: its own layers, its neuron as a function, the whole network compiled,
channels_last. Seconds count from when everything is imported, compiling and data included, without evaluations.
Validation rows, where the recipe holds some out, are evaluated after each epoch, test rows after the last one.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import spikedistill as sd
from spikedistill.bench.peers import SpikingJelly
from spikedistill.data import Samples, in_order, load
from spikedistill.data.samples import is_over_time
from spikedistill.machine.device import autocast
from spikedistill.tasks import Classification
from spikedistill.training.build import make_network
from spikedistill.training.optimizers import decay_groups, learning_rate, set_learning_rate
from spikedistill.training.phases import PhaseSettings
from spikedistill.training.prepared import start_inputs


def refuse_what_is_ignored(recipe: sd.Recipe) -> None:
    settings = recipe.optimizer
    ignored = {
        "optimizer.ema": settings.ema is not None,
        "optimizer.clip_norm": settings.clip_norm is not None,
        "optimizer.accumulate": settings.accumulate != 1,
        "learned": recipe.learned.decay is not None or recipe.learned.threshold is not None,
        "precision auto": recipe.precision not in ("fp32", "bf16"),
        "phases": recipe.phases != PhaseSettings(),
        "branches": recipe.branches.enabled,
        "objectives": set(recipe.objectives) != {"self_distillation"},
        "task": not isinstance(recipe.task, Classification),
        "init_fit": recipe.init_fit,
        "convolutions": recipe.convolutions != "full",
        "parts": recipe.parts is not None,
        "tensor_train htt": recipe.tensor_train.form == "htt",
    }
    if any(ignored.values()):
        sys.exit(f"not for SpikingJelly here: {', '.join(name for name, given in ignored.items() if given)}")


def logits_of(module: nn.Module, inputs: Tensor, precision: str) -> Tensor:
    with autocast(precision, inputs.device):
        return module(inputs.contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def accuracy(module: nn.Module, samples: Samples, size: int, precision: str) -> float:
    module.eval()
    right = seen = 0
    for batch in in_order(samples, size):
        answers = logits_of(module, batch.inputs, precision).argmax(1)
        right, seen = right + int((answers == batch.targets).sum()), seen + len(answers)
    module.train()
    return right / seen


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    begin = time.perf_counter()
    recipe = sd.load_recipe(sys.argv[2], sys.argv[3:])
    refuse_what_is_ignored(recipe)
    splits = load(recipe.data)
    if is_over_time(splits.train, splits.train.batch(torch.zeros(1, dtype=torch.long)).inputs):
        sys.exit("not for SpikingJelly here: samples with time; give images")
    assert recipe.timesteps is not None
    torch.manual_seed(recipe.seed)
    network = make_network(recipe, splits.train)
    if recipe.whiten:
        sd.whiten(network, start_inputs(splits.train, recipe.seed))
    peer = SpikingJelly(network.body, recipe.timesteps, functional_neurons=True).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    peer.compile(fullgraph=True)
    settings = recipe.optimizer
    optimizer = settings.make(decay_groups(peer.modules(), settings.weight_decay, settings.decayed))
    batches = sd.Batches(
        splits.train, settings.batch_size, recipe.data.augmentation, seed=recipe.seed, drop_last=settings.drop_last
    )
    smoothing = recipe.objectives["self_distillation"].label_smoothing  # pyright: ignore[reportAttributeAccessIssue]

    def scored(samples: Samples) -> float:
        return accuracy(peer, samples, settings.batch_size, recipe.precision)

    evaluating = 0.0
    with Path(sys.argv[1]).open("x", newline="") as file:
        table = csv.writer(file)
        table.writerow(("epoch", "lr", "loss", "seconds", "validation", "test"))
        for epoch in range(settings.epochs):
            losses = []
            steps = len(batches)
            for step, batch in enumerate(batches.epoch(epoch)):
                set_learning_rate(optimizer, learning_rate(settings, epoch, step, steps))
                logits = logits_of(peer, batch.inputs, recipe.precision)
                loss = F.cross_entropy(logits.float(), batch.targets, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            seconds = time.perf_counter() - begin - evaluating
            start = time.perf_counter()
            held_out = "" if splits.validation is None else scored(splits.validation)
            test = scored(splits.test) if epoch == settings.epochs - 1 else ""
            evaluating += time.perf_counter() - start
            lr = optimizer.param_groups[0]["lr"]
            row = (epoch + 1, lr, sum(losses) / len(losses), round(seconds, 1), held_out, test)
            table.writerow(row)
            file.flush()
            print(*row, flush=True)


if __name__ == "__main__":
    main()
