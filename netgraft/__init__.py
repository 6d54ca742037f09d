"""netgraft: give it the network you already have, get back a Pareto front of better ones.

.. code-block:: python

    import netgraft as ng

    model = ng.load(torch_module, example_inputs=x)
    task = ng.task("digits", model)
    front = ng.optimize(model, task, goals=("quality", "latency"), budget="10m", out="runs/first")
    front.knee().export("better/")
"""

from __future__ import annotations

import os

# Torch's threads wait for each other spinning, for a millisecond and more, which holds up a training of two threads
# where other programs want the cores. They are to spin for microseconds, and then sleep. It counts only where netgraft
# is imported before torch, as the command line does.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from netgraft import predictor
from netgraft.data import task
from netgraft.errors import NetgraftError
from netgraft.front import Front, Pick
from netgraft.ir import Model
from netgraft.recipes import Plan, optimize
from netgraft.sources import load
from netgraft.spaces.tabular import tabular
from netgraft.study import Study
from netgraft.tasks import Task

__version__ = "0.1.0"

__all__ = [
    "Front",
    "Model",
    "NetgraftError",
    "Pick",
    "Plan",
    "Study",
    "Task",
    "load",
    "optimize",
    "predictor",
    "tabular",
    "task",
]
