"""Settings of the test session: few threads, no GPU noise, one place for what several tests need."""

from __future__ import annotations

import os

# Several processes of pytest-xdist share the cores; their threads would wait for one another. Before torch is imported,
# and for the processes that tests start.
if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
