"""Runs of a few seconds, for tests of what lies around a run; the fixtures that make them are in conftest.py."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

import spikedistill as sd
from spikedistill.training import run

TINY = ["--model.width=2", "--data.train_rows=300", "--data.test_rows=50", "--data.validation_rows=44"]
TINY += ["--optimizer.epochs=3", "--timesteps=2", "--precision=fp32", "--compile=off"]


def same_weights(a, b):
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def start(*words, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    return subprocess.Popen([sys.executable, "-m", "spikedistill", *map(str, words)], text=True, **options)


@contextlib.contextmanager
def stopping_after(count):
    """Within the block a run in this process is stopped after so many steps, as by Ctrl-C."""
    taken = []

    def stops(self, progress, steps):
        taken.append(progress.step)
        if len(taken) == count:
            raise sd.Interrupted("now")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Stoppable, "on_step", stops)
        yield
