"""The CIFAR-10 protocol of docs/results.md by a loop as in docs/your-own.md, with no trainer: accuracy and seconds.

    python scripts/own_loop.py FOLDER SEED [RUN]     FOLDER: with CIFAR-10; RUN: the trainer's, whose weights to compare

The same protocol by the trainer: spikedistill train cifar10-foundation --data.root FOLDER --seed SEED --out RUN
"""

from __future__ import annotations

import math
import sys
import time

import torch

import spikedistill as sd
from spikedistill.data import in_order, load

EPOCHS = 10


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    root, seed = sys.argv[1], int(sys.argv[2])
    recipe = sd.load_recipe("cifar10-foundation", ["--data.root", root])
    splits = load(recipe.data)
    torch.manual_seed(seed)
    net = sd.create_model("resnet18", num_classes=10, width=16)
    learner = sd.SelfDistillation(net, timesteps=4)
    batches = sd.Batches(splits.train, 128, recipe.data.augmentation, seed=seed, drop_last=True)
    tuning = sd.tune(learner, next(batches.epoch(0)).inputs, samples=EPOCHS * len(splits.train))
    print(tuning)
    groups = [[p for p in learner.parameters() if (p.dim() > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.SGD(
        [{"params": groups[0], "weight_decay": 5e-4}, {"params": groups[1]}], lr=0.1, momentum=0.9, fused=True
    )
    for epoch in range(EPOCHS):
        start, loss = time.perf_counter(), math.nan
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * epoch / EPOCHS))
        for batch in batches.epoch(epoch):
            with tuning.autocast():
                output = learner(batch.inputs)
            terms = learner.loss(output, batch.targets)
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
            loss = terms.total.detach()
        print(f"epoch {epoch + 1}: loss {float(loss):.3f}, {time.perf_counter() - start:.1f} s", flush=True)
    with tuning.autocast():
        found = sd.evaluate(net, in_order(splits.test, 128), timesteps=[1, 2, 4])
    print(f"test accuracy {found.score[4]:.2%}")
    if len(sys.argv) > 3:
        other = sd.load(sys.argv[3]).network.state_dict()
        same = all(torch.equal(value, other[name]) for name, value in net.state_dict().items())
        print(f"weights {'are bit-identical to' if same else 'differ from'} those of {sys.argv[3]}")


if __name__ == "__main__":
    main()
