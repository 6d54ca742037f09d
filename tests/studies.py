"""Small runs with real graphs and edits, made without training or measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.candidate import Trial, TrialState
from netgraft.ir import Batch, Builder, Edit, Graph, Model, TensorType, Value, apply, inherit
from netgraft.mutations.program import Program
from netgraft.mutations.swap import Swap
from netgraft.study import Finalist, Study

SETTINGS: dict[str, Any] = {
    "command": "netgraft optimize zoo:resnet20 --data digits --goal quality --goal latency --out runs/first",
    "source": "zoo:resnet20",
    "data": "digits",
    "goals": ["quality", "latency"],
    "limits": ["flops<=0.9x"],
    "budget": "10m",
    "seed": 0,
    "versions": {"netgraft": "0.1.0", "torch": "2.13.0"},
    "created": "2026-11-03T10:00:00+00:00",
    "recipe": {"population": 16, "keep": 4},
    "task": {
        "name": "digits",
        "quality": {"name": "accuracy", "unit": "%", "higher_is_better": True},
        "notes": ["8x8 images were enlarged to 32x32."],
        "classes": [str(n) for n in range(10)],
    },
}


def resnet(blocks: int = 3, width: int = 8) -> Graph:
    """A residual network of three stages with ``blocks`` blocks each: 7 nodes a block, about 70 with three."""
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 32, 32)))

    def conv(x: Value, name: str, channels: int, kernel: int = 3, stride: int = 1) -> Value:
        pad, step, size = (kernel // 2,) * 2, (stride, stride), (kernel, kernel)
        x = b.add("conv2d", x, id=name, out_channels=channels, kernel=size, stride=step, padding=pad, bias=False)
        return b.add("batch_norm", x, id=name.replace("conv", "bn"))

    x = b.add("relu", conv(x, "stem.conv", width), id="stem.relu")
    for stage in range(3):
        for block in range(blocks):
            name, channels, stride = f"stages.{stage}.{block}", width << stage, 2 if stage and not block else 1
            y = b.add("relu", conv(x, f"{name}.conv1", channels, stride=stride), id=f"{name}.relu1")
            y = conv(y, f"{name}.conv2", channels)
            if stride == 2:
                x = conv(x, f"{name}.shortcut.conv", channels, kernel=1, stride=2)
            x = b.add("relu", b.add("add", y, x, id=f"{name}.add"), id=f"{name}.relu2")
    x = b.add("flatten", b.add("adaptive_avg_pool2d", x, id="pool"), id="flat")
    return b.build(b.add("linear", x, id="head", out_features=10))


def model_of(graph: Graph, seed: int = 0) -> Model:
    """The graph with random weights."""
    rng = np.random.default_rng(seed)
    weights = {
        key: rng.standard_normal(type_.concrete()).astype(np.int64 if type_.dtype == "i64" else np.float32)
        for key, type_ in graph.weight_types.items()
    }
    return Model(graph, weights, "a small network")


def swapped(model: Model, kind: str, at: str) -> tuple[Edit, Model]:
    """The first edit of a kind (``swap.block``) that replaces the node ``at``: the edit and the child."""
    mutation, _, variant = kind.partition(".")
    made = Program((variant,)) if mutation == "program" else Swap((variant,))
    found = made.edits(model.graph, model.weights, np.random.default_rng(0))
    edit = next(edit for edit in found if at in edit.region.nodes)
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    return edit, replace(model, graph=apply(model.graph, edit), weights=weights)


STEPS = (
    ("program.separable", "stages.2.1.conv2", 0),
    ("swap.block", "stages.1.1.add", 1),
    ("swap.kernel", "stages.0.0.conv1", 0),
)
"""The trials 1, 2, 3: a kind of edit, where, and the parent."""


def begun(path: Path, settings: dict[str, Any] = SETTINGS, graph: Graph | None = None) -> Study:
    """A run with its original only, open."""
    study = Study.create(path, settings)
    original = model_of(graph or resnet())
    scores = {"flops": 4e7, "parameters": 7e4, "memory": 3e5, "latency": 1.0, "quality": 91.0, "quality_error": 0.4}
    study.add_trial(
        Trial(0, 0, original.graph.digest, TrialState.COMPLETE, scores=scores, model=study.save_model(original))
    )
    return study


def searched(path: Path, settings: dict[str, Any] = SETTINGS, graph: Graph | None = None) -> Study:
    """A run with the original, a few complete trials, a dropped, an infeasible and a failed one; no finalists; open."""
    study = begun(path, settings, graph)
    models = {0: study.load_model(study.trials[0].model or "")}
    for number, (kind, at, parent) in enumerate(STEPS, 1):
        edit, models[number] = swapped(models[parent], kind, at)
        scores = {
            "flops": 4e7 - 5e6 * number,
            "parameters": 7e4 - 4e3 * number,
            "memory": 3e5,
            "latency": 1.0 - 0.12 * number,
            "agreement": 0.3,
            "quality_before": 60.0 + number,
            "quality": 91.5 - 0.5 * number,
            "quality_error": 0.4,
        }
        trial = Trial(number, 1, models[number].graph.digest, TrialState.COMPLETE, parent, (edit,), scores)
        study.add_trial(
            replace(trial, model=study.save_model(models[number]), inherited=1 - 0.1 * number, epochs=1.5, seconds=20.0)
        )
    study.add_trial(Trial(4, 1, "d" * 16, TrialState.DROPPED, 0, scores={"latency": 0.9, "agreement": 2.0}))
    study.add_trial(Trial(5, 1, "e" * 16, TrialState.INFEASIBLE, 0, reason="flops 4e7 breaks flops<=0.9x"))
    study.add_trial(Trial(6, 1, "f" * 16, TrialState.FAILED, 0, reason="training diverged"))
    return study


TIMES = {0: (1.0, 0.995, 1.005), 1: (0.98, 0.94, 1.02), 2: (0.617, 0.602, 0.633), 3: (0.55, 0.54, 0.56)}
TESTS = {0: 91.4, 1: 91.6, 2: 91.2, 3: 88.0}


def finished(
    path: Path,
    settings: dict[str, Any] = SETTINGS,
    *,
    graph: Graph | None = None,
    numbers: Sequence[int] = (0, 1, 2, 3),
    times: dict[int, tuple[float, float, float]] = TIMES,
    tests: dict[int, float] = TESTS,
    paired: float | None = None,
) -> Study:
    """A run with finalists, open; validation quality is that of the test split plus 0.1. ``paired`` is the standard
    error of all differences from the original, on either split.
    """
    study = searched(path, settings, graph)
    for number in numbers:
        trial, (time, low, high), test = study.trials[number], times[number], tests[number]
        costs = [int(trial.scores[name]) for name in ("flops", "parameters", "memory")]
        measured = (test + 0.1, 0.4, test, 0.28, time, low, high, 0.8 * time)
        errors = (paired, paired) if number else (None, None)
        study.add_finalists([Finalist(number, trial.digest, *measured, *costs, 7.5, trial.model or "", "", *errors)])
    return study
