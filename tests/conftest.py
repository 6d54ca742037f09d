"""What every test can count on: one torch thread, fixed seeds, and the real data where it is at hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

SHARED_DATA = Path(os.environ.get("NETGRAFT_DATA", Path(__file__).parents[2] / "shared" / "data"))

# Test workers share the cores already; processes started by a test inherit the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# The same examples on every run, and no verdict that depends on how busy the machine is.
settings.register_profile("netgraft", derandomize=True, deadline=None)
settings.load_profile("netgraft")


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data sets; a test that asks for it is marked ``shared_data``."""
    return SHARED_DATA


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test trains on by itself is the CPU on every machine, but for tests that are for a graphics card."""
    if torch.cuda.is_available() and not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr("netgraft.tasks.device._automatic", lambda: torch.device("cpu"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the real data sets, and skip them where there are none; likewise those for a GPU."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch finds no CUDA here"))
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared_data)
        if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
            item.add_marker(
                pytest.mark.skip(reason=f"no data sets at {SHARED_DATA}; set NETGRAFT_DATA to their folder")
            )
