"""Operation swaps: the contract on networks of every kind, and what each kind does to one it fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts import GOLDEN_NAMES, check_mutation, child_of, golden, outputs, random_inputs, sane_model

from netgraft.ir import Batch, Builder, Edit, Graph, TensorType, Value, apply
from netgraft.mutations.swap import KINDS, Swap

IMAGE = TensorType((Batch(), 8, 6, 6))


def edits(graph: Graph, kind: str) -> list[Edit]:
    """All swaps of one kind."""
    return list(Swap((kind,)).edits(graph, {}, np.random.default_rng(0)))


def at(graph: Graph, kind: str, *ids: str) -> list[Edit]:
    """The swaps of one kind that take away all of the given nodes."""
    return [edit for edit in edits(graph, kind) if edit.region.nodes >= set(ids)]


def one_layer(op: str, type: TensorType = IMAGE, **attrs: object) -> Graph:
    b = Builder()
    return b.build(b.add(op, b.input("x", type), id="layer", **attrs))


def test_every_kind_is_found_somewhere() -> None:
    found = {edit.origin for name in GOLDEN_NAMES for edit in Swap().edits(golden(name), {}, np.random.default_rng(0))}
    assert found == {f"swap.{kind}" for kind in KINDS}


def test_kinds_are_equally_likely_to_come_first() -> None:
    graph = golden("residual")
    firsts = {next(Swap().edits(graph, {}, np.random.default_rng(seed))).origin for seed in range(60)}
    assert firsts == {f"swap.{kind}" for kind in KINDS if edits(graph, kind)}


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 1, 1), (1, 2, 0), (2, 1, 2), (8, 2, 1)])
def test_a_larger_kernel_computes_the_same(groups: int, stride: int, padding: int) -> None:
    window = {"kernel": (3, 3), "stride": (stride, stride), "padding": (padding, padding)}
    graph = one_layer("conv2d", out_channels=8, groups=groups, **window)
    (larger,) = (edit for edit in edits(graph, "kernel") if edit.exact)
    model = sane_model(graph)
    child = child_of(model, larger)
    assert child.graph["layer"].attrs["kernel"] == (5, 5)
    x = random_inputs(graph)
    torch.testing.assert_close(outputs(child, x), outputs(model, x))


def test_a_smaller_kernel_is_the_centre_of_the_old_one() -> None:
    graph = one_layer("conv2d", out_channels=4, kernel=(5, 5), padding=(2, 2))
    (smaller,) = edits(graph, "kernel")
    model = sane_model(graph)
    kept = child_of(model, smaller).weights["layer.weight"]
    assert not smaller.exact
    np.testing.assert_array_equal(kept, model.weights["layer.weight"][:, :, 1:4, 1:4])


def test_a_kernel_without_padding_to_give_up_does_not_shrink() -> None:
    grown = edits(one_layer("conv2d", out_channels=4, kernel=(3, 3)), "kernel")
    assert [edit.replacement["layer"].attrs["kernel"] for edit in grown] == [(5, 5)]


def test_gates_are_no_activations() -> None:
    assert not at(golden("inverted"), "activation", "gate.act")
    assert at(golden("inverted"), "activation", "gate.relu")


def test_a_block_gives_way_to_its_shortcut() -> None:
    graph = golden("residual")
    (edit,) = edits(graph, "block")
    child = apply(graph, edit)
    assert edit.region.nodes == {node.id for node in graph if node.id.startswith("one.")}
    assert {v.node for v in child["two.conv1"].inputs} == {"stem.relu"}


def test_branches_go_with_all_that_only_they_need() -> None:
    graph = golden("branches")
    gone = {edit.region.nodes for edit in edits(graph, "branch")}
    assert gone == {
        frozenset({"all", "a"}),
        frozenset({"all", "b", "b.act", "b.reduce"}),
        frozenset({"all", "c", "c.pool"}),
    }
    assert all(len(apply(graph, edit)["all"].inputs) == 2 for edit in edits(graph, "branch"))


def test_a_gate_may_go_but_not_what_it_gates() -> None:
    (edit,) = at(golden("inverted"), "branch", "gated")
    assert {"gate.pool", "gate.act"} <= edit.region.nodes
    assert "depth.act" not in edit.region.nodes


def test_a_branch_that_is_needed_elsewhere_stays() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    left = b.add("relu", x, id="left")
    right = b.add("silu", x, id="right")
    graph = b.build(b.add("add", left, right, id="sum"), left)
    assert {edit.region.nodes for edit in edits(graph, "branch")} == {
        frozenset({"sum"}),
        frozenset({"sum", "right"}),
    }


def test_a_layer_goes_with_its_norm_and_activation() -> None:
    graph = golden("residual")
    (edit,) = at(graph, "layer", "one.conv1")
    assert edit.region.nodes == {"one.conv1", "one.bn1", "one.relu1"}
    assert not at(graph, "layer", "two.conv1")  # its output is smaller


def test_a_whole_network_of_one_layer_can_become_the_identity() -> None:
    graph = one_layer("conv2d", out_channels=8, kernel=(3, 3), padding=(1, 1))
    (edit,) = edits(graph, "layer")
    assert apply(graph, edit).outputs == (Value("x"),)


def test_average_in_place_of_maximum() -> None:
    window = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}
    graph = one_layer("max_pool2d", **window)
    (edit,) = edits(graph, "pool")
    node = apply(graph, edit)["layer"]
    assert (node.op, {name: node.attrs[name] for name in window}) == ("avg_pool2d", window)
    assert not edits(one_layer("max_pool2d", kernel=(3, 3), stride=(1, 1), dilation=(2, 2)), "pool")


def test_a_kernel_shared_with_another_layer_is_copied_before_it_changes() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    window = {"out_channels": 8, "kernel": (3, 3), "padding": (1, 1), "bias": False}
    first = b.add("conv2d", x, id="first", **window)
    graph = b.build(b.add("conv2d", first, id="second", weights={"weight": "first.weight"}, **window))
    model = sane_model(graph)
    (edit,) = (edit for edit in at(graph, "kernel", "second") if edit.exact)
    child = child_of(model, edit)
    assert child.weights["first.weight"].shape == (8, 8, 3, 3)
    x_ = random_inputs(graph)
    torch.testing.assert_close(outputs(child, x_), outputs(model, x_))


def test_frozen_nodes_are_left_alone() -> None:
    frozen = {node.id for node in golden("tokens") if node.op == "frozen"}
    touched = {id for edit in Swap().edits(golden("tokens"), {}, np.random.default_rng(0)) for id in edit.region.nodes}
    assert frozen
    assert not frozen & touched


def test_the_contract_notices_a_false_promise() -> None:
    class Liar:
        name = "swap"

        def edits(self, graph: Graph, weights: object, rng: np.random.Generator) -> list[Edit]:
            edit = next(iter(edits(graph, "activation")))
            return [Edit(edit.region, edit.replacement, edit.carry, edit.origin, exact=True)]

    with pytest.raises(AssertionError):
        check_mutation(Liar(), sane_model(golden("residual")), seeds=(0,))  # type: ignore[arg-type]  # a list is enough
