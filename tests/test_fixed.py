"""What no mutation may change: by its place, and by the user's word."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from contracts import check_mutation, golden, sane_model
from torch import nn

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.errors import OptionError
from netgraft.ir import Batch, Builder, Edit, Graph, Model, TensorType, apply, inherit
from netgraft.mutations import Mix, Mutation
from netgraft.mutations.fixed import fixed_by, untouchable
from netgraft.mutations.graft import Graft
from netgraft.mutations.program import Program
from netgraft.mutations.sparing import Sparing, changed, sparing
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.recipes.optimize import default_mutations


def small() -> Graph:
    return golden("residual")


def detector() -> Graph:
    """Normalises its input, has a short body, and decodes what its last layer says."""
    b = Builder()
    x = b.input("image", TensorType((Batch(), 3, 16, 16)))
    y = b.add("mul_scalar", b.add("add_scalar", x, id="mean", value=-0.5), id="deviation", value=4.0)
    for i in range(4):
        y = b.add("relu", b.add("conv2d", y, id=f"body.{i}.conv", out_channels=16, kernel=(3, 3), padding=(1, 1)))
    y = b.add("conv2d", y, id="head.conv", out_channels=6, kernel=(1, 1))
    boxes = b.add("exp", b.add("slice", y, id="cut", dim=1, start=0, stop=4), id="sizes")
    return b.build(boxes, b.add("softmax", y, id="classes", dim=1))


def edits(mutation: Mutation, graph: Graph, most: int = 60, seed: int = 0) -> list[Edit]:
    return list(islice(mutation.edits(graph, sane_model(graph).weights, np.random.default_rng(seed)), most))


def test_the_ends_of_a_network_are_untouchable() -> None:
    assert untouchable(detector()) == {
        "mean": "prepares the inputs",
        "deviation": "prepares the inputs",
        "cut": "comes after the last layer",
        "sizes": "comes after the last layer",
        "classes": "comes after the last layer",
    }


def test_no_mutation_changes_the_ends_of_a_network() -> None:
    graph = detector()
    for mutation in (Graft(), Swap(), Trim(), Program()):
        found = edits(sparing(mutation), graph)
        assert found
        for edit in found:
            assert not changed(graph, edit) & untouchable(graph).keys()
            child = apply(graph, edit)
            assert child["mean"] == graph["mean"] and child["classes"].attrs == graph["classes"].attrs


def test_patterns_name_modules_and_operations() -> None:
    graph = detector()
    assert fixed_by(graph, ["head"]) == fixed_by(graph, ["head.*"]) == {"head.conv"}
    assert fixed_by(graph, ["body.[01]"]) == {"body.0.conv", "body.1.conv"}
    assert fixed_by(graph, only=["body.2.*"]) == {node.id for node in graph} - {"body.2.conv"}
    assert fixed_by(graph, ["body.2"], ["body"]) == {n.id for n in graph} - {f"body.{i}.conv" for i in (0, 1, 3)}
    assert fixed_by(graph) == frozenset()


@pytest.mark.parametrize(("freeze", "only"), [(["haed.*"], []), ([], ["heads.conv.*"])])
def test_a_pattern_that_matches_nothing_is_one_error_with_near_names(freeze: list[str], only: list[str]) -> None:
    with pytest.raises(OptionError, match=r"matches no operation of the network; near are .*head"):
        fixed_by(detector(), freeze, only)


def test_nothing_left_to_change_is_said() -> None:
    with pytest.raises(OptionError, match="--freeze \\*: that leaves no operation to change"):
        fixed_by(detector(), ["*"])


@pytest.mark.parametrize("mutation", [Graft(), Swap(), Trim(), Program(), default_mutations()], ids=lambda m: m.name)
def test_what_is_fixed_stays_as_it_is_over_generations(mutation: Mutation) -> None:
    """Its operations, their attributes and their weights, whatever happens around them."""
    original = sane_model(small())
    fixed = fixed_by(original.graph, only=["two", "pool"])
    assert 0 < len(fixed) < len(original.graph)
    kept = sparing(mutation, fixed)
    free = {id for edit in edits(mutation, original.graph) for id in changed(original.graph, edit)}
    assert free & fixed, "otherwise this says nothing"
    model, rng = original, np.random.default_rng(1)
    for _ in range(4):
        edit = next(iter(kept.edits(model.graph, model.weights, rng)), None)
        if edit is None:
            break
        graph = apply(model.graph, edit)
        weights, _ = inherit(model.graph, edit, model.weights, rng)
        model = Model(graph, weights, "child")
        for id in fixed:
            old, new = original.graph[id], graph[id]
            assert (old.op, old.attrs, old.weights) == (new.op, new.attrs, new.weights)
            assert all(np.array_equal(weights[key], original.weights[key]) for key in old.weights.values())
    assert model is not original


def test_edits_of_a_sparing_mutation_keep_the_promises_of_every_mutation() -> None:
    graph = small()
    fixed = fixed_by(graph, ["one"])
    assert check_mutation(Sparing(Swap(), fixed), sane_model(graph), seeds=(0,), limit=60)


def test_what_a_mutation_leaves_alone_by_itself_stays_so() -> None:
    assert sparing(Trim(fixed=frozenset(["one"])), frozenset(["two"])) == Trim(fixed=frozenset(["one", "two"]))


def test_every_part_of_a_mix_is_kept_away() -> None:
    mix = sparing(Mix((Graft(), Swap())), frozenset({"a"}))
    assert isinstance(mix, Mix)
    graft, swap = mix.mutations
    assert isinstance(graft, Graft) and graft.fixed == {"a"}
    assert isinstance(swap, Sparing) and swap.fixed == {"a"}


def test_module_paths_of_a_torch_network_are_the_names() -> None:
    module: nn.Module = zoo.build("resnet20", width=0.25)
    graph = from_module(module, torch.zeros(2, 3, 16, 16)).graph
    assert {node.id for node in graph if node.id.startswith("layer2.0.")} == fixed_by(graph, ["layer2.0"])
