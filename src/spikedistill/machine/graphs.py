"""CUDA graphs: work on the GPU is recorded once and replayed as a whole, so that the host has next to nothing to do.

A graph replays the same kernels on the same memory. So what is recorded has to have fixed shapes, and must neither wait
for the GPU nor read memory of the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

WARM_UP = 3
"""Calls before a recording: libraries choose their algorithms in them, kernels are compiled, and momenta are made."""


class Recorder(Protocol):
    """What can record work and play it again."""

    def warm(self, work: Callable[[], Any]) -> Any:
        """Do the work once, in the way in which it will be recorded."""
        ...

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """What plays the work again, and gives its results; whether the work is done by recording does not matter."""
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory, for no two of them run at once.

    Args:
        device: the GPU on which the work is done; a stream of another one would record nothing of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream(device)
            self.pool = torch.cuda.graph_pool_handle()

    def warm(self, work: Callable[[], Any]) -> Any:
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                results = work()
            current.wait_stream(self.stream)
        return results

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), warnings.catch_warnings():
            # An empty graph would train nothing, and say the losses of its recording for ever.
            warnings.filterwarnings("error", message=".*CUDA Graph is empty.*")
            # "thread_local": a loader's thread pins memory meanwhile, which has nothing to do with what is recorded.
            recording = torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local")
            with recording:  # computes nothing
                results = work()

        def play() -> Any:
            with torch.cuda.device(self.device):
                graph.replay()
            return results

        return play


class Replayed:
    """A function of tensors whose work is recorded after a few calls, for each form of its arguments apart.

    Args:
        function: of trees of tensors, and of a key; called as function(key, *arguments), it gives a tree of tensors.
        recorder: what records.
    """

    def __init__(self, function: Callable[..., Any], recorder: Recorder) -> None:
        self.function, self.recorder = function, recorder
        self.calls: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, tuple[list[Tensor], Callable[[], Any]]] = {}

    def __call__(self, key: Hashable, *arguments: Any) -> Any:
        """What the function gives, in tensors of its own.

        Args:
            key: what decides the work beside the form of the arguments.
        """
        given, tree = tree_flatten(arguments)
        form = (key, tree, *((each.shape, each.dtype, each.stride()) for each in given))
        self.calls[form] = self.calls.get(form, 0) + 1
        if self.calls[form] <= WARM_UP:
            return self.recorder.warm(lambda: self.function(key, *arguments))
        if form not in self.recordings:
            # `clone` keeps the memory layout, which decides the kernels
            own = [each.clone() for each in given]
            again = tree_unflatten(own, tree)
            self.recordings[form] = own, self.recorder.record(lambda: self.function(key, *again))
        own, play = self.recordings[form]
        for mine, each in zip(own, given, strict=True):
            mine.copy_(each)
        # the next replay writes over the results, and losses are looked at only now and then
        return tree_map(torch.clone, play())
