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
from spikedistill.core.output import Batch
from spikedistill.data import Samples, Splits, in_order, load
from spikedistill.data.samples import is_over_time
from spikedistill.machine.allocator import keep_memory
from spikedistill.machine.device import autocast
from spikedistill.tasks import Classification
from spikedistill.training.build import make_network
from spikedistill.training.optimizers import decay_groups, learning_rate, set_learning_rate
from spikedistill.training.phases import PhaseSettings
from spikedistill.training.prepared import start_inputs


def left_out(recipe: sd.Recipe, splits: Splits) -> list[str]:
    """What the recipe and its data ask for that SpikingJelly would not do here."""
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
        "samples with time": is_over_time(splits.train, splits.train.batch(torch.zeros(1, dtype=torch.long)).inputs),
    }
    return [name for name, given in ignored.items() if given]


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


class Training:
    """SpikingJelly's side of a recipe: its network, what feeds it, and a step.

    Attributes:
        peer: the network in SpikingJelly's layers, compiled.
        batches: as the trainer's.
        optimizer: as the trainer's.
    """

    def __init__(self, recipe: sd.Recipe, splits: Splits) -> None:
        if ignored := left_out(recipe, splits):
            sys.exit(f"not for SpikingJelly here: {', '.join(ignored)}")
        assert recipe.timesteps is not None
        torch.manual_seed(recipe.seed)
        network = make_network(recipe, splits.train)
        if recipe.whiten:
            sd.whiten(network, start_inputs(splits.train, recipe.seed))
        settings = recipe.optimizer
        peer = SpikingJelly(network.body, recipe.timesteps, functional_neurons=True)  # pyright: ignore[reportCallIssue]
        self.peer = peer.to(memory_format=torch.channels_last)
        self.peer.compile(fullgraph=True)
        self.optimizer = settings.make(decay_groups(self.peer.modules(), settings.weight_decay, settings.decayed))
        self.batches = sd.Batches(
            splits.train, settings.batch_size, recipe.data.augmentation, seed=recipe.seed, drop_last=settings.drop_last
        )
        self._precision = recipe.precision
        self._smoothing = recipe.objectives["self_distillation"].label_smoothing  # pyright: ignore[reportAttributeAccessIssue]

    def take(self, batch: Batch) -> float:
        """A step on a batch; the loss."""
        logits = logits_of(self.peer, batch.inputs, self._precision)
        loss = F.cross_entropy(logits.float(), batch.targets, label_smoothing=self._smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    begin = time.perf_counter()
    keep_memory()  # as our training does
    recipe = sd.load_recipe(sys.argv[2], sys.argv[3:])
    splits = load(recipe.data)
    training = Training(recipe, splits)
    settings, optimizer = recipe.optimizer, training.optimizer

    def scored(samples: Samples) -> float:
        return accuracy(training.peer, samples, settings.batch_size, recipe.precision)

    evaluating = 0.0
    with Path(sys.argv[1]).open("x", newline="") as file:
        table = csv.writer(file)
        table.writerow(("epoch", "lr", "loss", "seconds", "validation", "test"))
        for epoch in range(settings.epochs):
            losses = []
            steps = len(training.batches)
            for step, batch in enumerate(training.batches.epoch(epoch)):
                set_learning_rate(optimizer, learning_rate(settings, epoch, step, steps))
                losses.append(training.take(batch))
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
