"""Settings of the test session: few threads, no GPU noise, one place for what several tests need."""

from __future__ import annotations

import os

# Several processes of pytest-xdist share the cores; their threads would wait for one another. Before torch is imported,
# and for the processes that tests start.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

import shutil

import pytest
import torch
from hypothesis import settings
from tiny_runs import TINY, stopping_after

from spikedistill.cli import main
from spikedistill.training import run

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _curves_are_not_drawn(request):
    """Drawing them takes as long as a tiny run; test_training looks at one, and what it is not for needs none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ != "test_training":
            patch.setattr(run, "draw_curves", lambda title, rows, found, path: path.write_bytes(b"not drawn"))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of few seconds."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    torch.set_num_threads(1)
    assert main(["train", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def stopped(finished, tmp_path_factory):
    """A run that was stopped in the middle."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with stopping_after(4):
        assert main(["train", *TINY, "--out", str(folder)]) == 130
    return folder


@pytest.fixture
def halfway(stopped, tmp_path):
    """A copy of it to do things to."""
    return shutil.copytree(stopped, tmp_path / "halfway")
