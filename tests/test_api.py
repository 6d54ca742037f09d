"""The public API is what it says, no more: a name that comes or goes must be meant to."""

from __future__ import annotations

import inspect

import netgraft as ng


def test_public_names() -> None:
    assert sorted(ng.__all__) == [
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


def test_signatures() -> None:
    def parameters(function: object) -> list[str]:
        assert callable(function)
        return list(inspect.signature(function).parameters)

    assert parameters(ng.load) == ["source", "example_inputs", "input_shape"]
    assert parameters(ng.task) == ["data", "model", "seed", "subset", "normalize"]
    assert parameters(ng.optimize) == [
        "model",
        "task",
        "goals",
        "limits",
        "budget",
        "out",
        "seed",
        "resume",
        "plan",
        "mutation",
        "multiple",
        "freeze",
        "only",
        "engine",
        "predictor",
        "table",
        "on",
        "device",
        "settings",
        "on_event",
    ]
    assert parameters(ng.Pick.export) == ["self", "directory"]
    assert {"knee", "fastest", "best", "summary", "path"} <= set(dir(ng.Front))


def test_everything_public_is_documented() -> None:
    assert all(inspect.getdoc(getattr(ng, name)) for name in ng.__all__)
