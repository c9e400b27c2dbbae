"""A training step of a subject, on random images: forward, loss, backward, optimizer."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from spikedistill.bench.point import Point
from spikedistill.bench.subjects import SUBJECTS
from spikedistill.core.output import Batch
from spikedistill.errors import choose
from spikedistill.machine.allocator import keep_memory
from spikedistill.machine.compiler import automatic
from spikedistill.machine.device import PRECISIONS, autocast, computes_in_bf16, find_device, wait_for
from spikedistill.machine.graphs import WARM_UP, CudaRecorder, Replayed
from spikedistill.training.compiled_step import CompiledStep
from spikedistill.training.precision import choose_precision

REPEATS = 3
FEW = 2
"""Images of a step that only warms up."""


class Step:
    """A training step that can be taken again and again, with SGD on random images and labels.

    Args:
        name: a key of `SUBJECTS`.

    Attributes:
        precision: "fp32" or "bf16".
        setting: how the subject computes, and why in this precision, in words.

    Raises:
        InvalidArgument: an unknown subject, model or device, or a package that is not installed.
    """

    def __init__(self, name: str, point: Point) -> None:
        self.subject = SUBJECTS[choose("subject", name, SUBJECTS)]
        self.subject.check_installed()
        self.device, self.point = find_device(point.device), point
        self.subject.check_device(self.device)
        # Before anything is allocated: it changes where the C library takes memory from.
        if self.subject.tuned:
            keep_memory()
        # The same weights for every subject; peers copy those of our network.
        torch.manual_seed(0)
        self.trainee = self.subject.build(point.network(), point, self.device)
        self.module = self.trainee.module.to(self.device).train()
        if self.trainee.channels_last:
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # None lets PyTorch choose, which is what an example that does not think about it gets.
        fused = True if self.subject.tuned else None
        self.optimizer = torch.optim.SGD(self.module.parameters(), 1e-3, momentum=0.9, fused=fused)
        self.images, self.labels = self._input(point.batch)
        self.precision, reason = self._choose_precision()
        self.setting = f"{self.trainee.setting}; {reason}"
        self._compiled = None
        if self.subject.compiled:
            assert self.trainee.learner is not None
            self._compiled = CompiledStep(self.trainee.learner, self.precision)
        self._replayed = Replayed(self._work, CudaRecorder(self.device)) if self.subject.graphs else None

    def _input(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` images and labels, the same ones for every subject."""
        # A generator of its own: building a peer's layers draws random numbers too.
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(count, 3, self.point.size, self.point.size, generator=generator).to(self.device)
        if self.trainee.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.randint(0, self.point.classes, (count,), generator=generator).to(self.device)

    def _choose_precision(self) -> tuple[str, str]:
        """The precision, and the reason in words: for ours as in a training run, for peers by their own steps."""
        if not self.subject.tuned:
            return "fp32", "fp32, PyTorch's default"
        # Ours must not look better here than in a training run, so the same function chooses.
        if self.trainee.learner is not None:
            return choose_precision("auto", self.trainee.learner, self.images)
        wish = automatic("precision", PRECISIONS)
        if wish is not None:
            return wish, f"{wish}, as SPIKEDISTILL_PRECISION says"
        if not computes_in_bf16(self.device):
            return "fp32", "fp32: this processor has no units for bf16"
        seconds = self._seconds_by_precision()
        # The faster one, however little: a peer gets the benefit of the doubt.
        best, other = sorted(PRECISIONS, key=seconds.__getitem__)
        return best, f"{best}: {seconds[best]:.3f} s against {seconds[other]:.3f} s in {other} for a step"

    def _seconds_by_precision(self) -> dict[str, float]:
        """Seconds of the fastest forward and backward in each precision, taken in turn.

        Not compiled, for compiling in both precisions takes minutes; the convolutions decide, and they are the same.
        """
        found: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        with torch.compiler.set_stance("force_eager"):
            for repeat in range(REPEATS + 1):
                for precision in PRECISIONS:
                    start = time.perf_counter()
                    self._gradients(self.images, self.labels, precision)
                    wait_for(self.device)
                    if repeat:  # the first warms up
                        found[precision].append(time.perf_counter() - start)
        # Gradients would be memory that the first step finds already there.
        self.optimizer.zero_grad(set_to_none=True)
        # The fastest: on a busy machine the median of a few can be many times the true time, in one precision only.
        return {precision: min(times) for precision, times in found.items()}

    def warm(self) -> None:
        """A step before the first one that counts: compiles and allocates what is not the step's own memory."""
        # Few images where that is possible: what they leave behind in the allocator is small.
        images, labels = (self.images, self.labels) if self.trainee.one_batch_size else self._input(FEW)
        self._take(images, labels)
        self.optimizer.zero_grad(set_to_none=True)

    def record(self) -> None:
        """Record the step, where it is replayed: what it needs of memory it takes now."""
        if self._replayed is not None:
            for _ in range(WARM_UP + 1):
                self._take(self.images, self.labels)

    def __call__(self) -> None:
        self._take(self.images, self.labels)

    def _take(self, images: Tensor, labels: Tensor) -> None:
        if self._replayed is None:
            self._work(None, images, labels)
        else:
            self._replayed(None, images, labels)
        wait_for(self.device)

    def _work(self, _key: None, images: Tensor, labels: Tensor) -> Tensor:
        """A whole step, and its loss."""
        if self._compiled is None:
            loss = self._gradients(images, labels, self.precision)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._compiled(Batch(images, labels))[0]["loss"]
        self.optimizer.step()
        return loss

    def _gradients(self, images: Tensor, labels: Tensor, precision: str) -> Tensor:
        """Forward and backward; gives the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        # The backward runs outside: it repeats the types of the forward by itself.
        with autocast(precision, self.device):
            loss = self.trainee.loss(images, labels)
        loss.backward()
        return loss.detach()
