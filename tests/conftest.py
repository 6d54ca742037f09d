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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the real data sets, and skip them where there are none."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared_data)
        if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
            item.add_marker(
                pytest.mark.skip(reason=f"no data sets at {SHARED_DATA}; set NETGRAFT_DATA to their folder")
            )
