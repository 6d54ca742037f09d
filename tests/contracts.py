"""What every part of a kind has to keep to, as functions that the tests of each part call."""

from __future__ import annotations

import json
import warnings
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.ir import Edit, Graph, Model, apply, inherit, parse, render
from netgraft.ir.text import edit_from_data, edit_to_data
from netgraft.mutations import Mutation

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_NAMES = tuple(sorted(path.stem for path in GOLDEN.glob("*.txt")))

# One of each kind, the quick ones.
ZOO_NAMES = ("resnet18", "mobilenet_v2", "densenet40", "shufflenet_v2", "unet", "vit_tiny")


@cache
def zoo_model(name: str) -> Model:
    """A narrow network of the zoo as it is read from torch, for images of at most 64x64, with sane weights."""
    module, size = zoo.build(name, width=0.25), zoo.entry(name).input_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = from_module(module, torch.zeros(2, size[0], min(size[1], 64), min(size[2], 64)), name=name)
    return sane_model(model.graph, name=name)


def golden(name: str) -> Graph:
    """The graph of ``tests/golden/{name}.txt``."""
    return parse((GOLDEN / f"{name}.txt").read_text(encoding="utf-8"))


def sane_model(graph: Graph, seed: int = 0, name: str = "network") -> Model:
    """A network whose outputs depend on all of it: He-scaled kernels, no scale, shift or statistic at its default."""
    rng = np.random.default_rng(seed)
    weights = {}
    for node in graph:
        for role, key in node.weights.items():
            shape = graph.weight_types[key].concrete()
            if role == "num_batches_tracked":
                weights[key] = np.array(3)
            elif len(shape) > 1:
                spread = np.sqrt(2 / np.prod(shape[1:]))
                weights[key] = (spread * rng.standard_normal(shape)).astype(np.float32)
            elif role in ("bias", "running_mean"):
                weights[key] = rng.normal(0, 0.2, shape).astype(np.float32)
            else:
                weights[key] = rng.uniform(0.6, 1.4, shape).astype(np.float32)
    return Model(graph, weights, name)


def random_inputs(graph: Graph, batch: int = 2) -> list[torch.Tensor]:
    """Inputs of a graph, normally distributed, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(given.type.concrete(batch), generator=generator) for given in graph.inputs]


def outputs(model: Model, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the network gives in eval mode."""
    with torch.no_grad():
        result = to_module(model).eval()(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def child_of(model: Model, edit: Edit, seed: int = 0) -> Model:
    """The network after an edit, with the weights that it inherits."""
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(seed))
    return Model(apply(model.graph, edit), weights)


def check_mutation(mutation: Mutation, model: Model, seeds: tuple[int, ...] = (0, 1), limit: int = 40) -> list[Edit]:
    """Every promise of a mutation, on the first ``limit`` edits for each seed; returns those of the last seed.

    Each edit applies, keeps the graph's signature, changes the graph, comes once, survives JSON, gives weights that are
    finite and fit, builds and runs, and computes the same function if it says that it is exact. The parent is left as
    it was, and a seed gives the same edits twice.
    """
    before = {key: np.array(tensor) for key, tensor in model.weights.items()}
    inputs = random_inputs(model.graph)
    expected = outputs(model, inputs)
    edits: list[Edit] = []
    for seed in seeds:
        edits = _draw(mutation, model, seed, limit)
        assert [edit_to_data(e) for e in edits] == [edit_to_data(e) for e in _draw(mutation, model, seed, limit)]
        children = [apply(model.graph, edit).digest for edit in edits]
        assert len(set(children)) == len(children), f"{mutation.name} proposes a child twice"
        for edit in edits:
            check_edit(edit, model, inputs, expected)
            assert edit.origin.split(".")[0] == mutation.name or mutation.name == "mix"
    assert all(np.array_equal(model.weights[key], tensor) for key, tensor in before.items())
    return edits


def check_edit(edit: Edit, model: Model, inputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """What one edit of ``model`` promises; ``expected`` is what the model gives for ``inputs`` in eval mode."""
    graph = apply(model.graph, edit)
    assert graph.signature == model.graph.signature, edit.origin
    assert graph.digest != model.graph.digest, f"{edit.origin} changes nothing"
    data = edit_to_data(edit)
    again = edit_from_data(json.loads(json.dumps(data)))
    assert edit_to_data(again) == data
    assert render(apply(model.graph, again)) == render(graph)

    weights, inheritance = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    assert 0 <= inheritance.share <= 1
    assert all(np.isfinite(tensor).all() for tensor in weights.values()), edit.origin
    got = outputs(Model(graph, weights), inputs)  # Model checks the shapes
    assert [tuple(o.shape) for o in got] == [tuple(o.shape) for o in expected]
    assert all(torch.isfinite(o).all() for o in got), edit.origin
    if edit.exact:
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def _draw(mutation: Mutation, model: Model, seed: int, limit: int) -> list[Edit]:
    return list(islice(mutation.edits(model.graph, model.weights, np.random.default_rng(seed)), limit))
