"""Narrowing: which channels are coupled, and that what is left computes what it did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contracts import GOLDEN_NAMES, check_mutation, child_of, golden, outputs, random_inputs, sane_model

from netgraft.ir import Batch, Builder, Graph, Model, Region, TensorType
from netgraft.mutations.narrow import ChannelGroup, Narrow, channel_groups, convex_hull, narrow

IMAGE = TensorType((Batch(), 3, 8, 8))


def group_of(graph: Graph, maker: str) -> ChannelGroup:
    return next(group for group in channel_groups(graph) if maker in group.makers)


def readers(group: ChannelGroup) -> set[str]:
    return {member.node for member in group.members if member.part == "reads"}


def test_the_inside_of_a_block_is_a_group_of_its_own() -> None:
    group = group_of(golden("residual"), "one.conv1")
    assert group.makers == ("one.conv1",)
    assert readers(group) == {"one.conv2"}
    assert group.channels == 16


def test_a_stage_is_coupled_by_its_sums() -> None:
    graph = golden("residual")
    assert group_of(graph, "stem.conv").makers == ("one.conv2", "stem.conv")
    assert readers(group_of(graph, "stem.conv")) == {"one.conv1", "two.conv1", "two.short.conv"}
    assert group_of(graph, "two.conv2").makers == ("two.conv2", "two.short.conv")
    assert readers(group_of(graph, "two.conv2")) == {"head"}


def test_depthwise_convolutions_and_gates_are_coupled() -> None:
    group = group_of(golden("inverted"), "expand.conv")
    assert group.makers == ("expand.conv", "gate.up")
    assert readers(group) == {"project.conv", "gate.down"}
    assert "depth.conv" in {member.node for member in group.members if member.part == "passes"}


def test_what_is_opaque_stops_a_group() -> None:
    tokens, branches = golden("tokens"), golden("branches")
    assert [group.makers for group in channel_groups(tokens)] == [("mlp1",)]  # norms, a frozen node, heads
    assert [group.makers for group in channel_groups(branches)] == [("b.reduce",)]  # a concatenation, an output


# A group is narrowed to channels that carry everything, by making the others dead first: then nothing may change.
@pytest.mark.parametrize(("name", "maker"), [(n, g.makers[0]) for n in GOLDEN_NAMES for g in channel_groups(golden(n))])
def test_dead_channels_can_go_without_a_trace(name: str, maker: str) -> None:
    model = sane_model(golden(name))
    group = group_of(model.graph, maker)
    dead = list(range(0, group.channels, 3))
    model = Model(model.graph, deafened(model, group, dead))
    kept = [channel for channel in range(group.channels) if channel not in dead]
    child = child_of(model, narrow(model.graph, group, kept))
    x = random_inputs(model.graph)
    for one, other in zip(outputs(child, x), outputs(model, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def deafened(model: Model, group: ChannelGroup, dead: list[int]) -> dict[str, np.ndarray]:
    """The model's weights, with every reader of the group deaf to some of its channels."""
    weights = {key: np.array(tensor) for key, tensor in model.weights.items()}
    for member in group.members:
        if member.part == "reads":
            node = model.graph[member.node]
            kernel = weights[node.weights["weight"]]
            silent = [channel * member.inner + i for channel in dead for i in range(member.inner)]
            if node.op == "conv_transpose2d":
                kernel[silent] = 0
            else:
                kernel[:, silent] = 0
    return weights


def test_the_channels_that_are_read_most_stay() -> None:
    graph = golden("residual")
    model = sane_model(graph)
    weights = {key: np.array(tensor) for key, tensor in model.weights.items()}
    weights["one.conv2.weight"][:, ::2] *= 10
    edit = next(
        edit
        for edit in Narrow((0.5,)).edits(graph, weights, np.random.default_rng(0))
        if edit.origin == "narrow.inner" and "one.conv1" in edit.region.nodes
    )
    child = child_of(Model(graph, weights), edit)
    np.testing.assert_array_equal(child.weights["one.conv1.weight"], weights["one.conv1.weight"][::2])
    np.testing.assert_array_equal(child.weights["one.bn1.running_var"], weights["one.bn1.running_var"][::2])
    np.testing.assert_array_equal(child.weights["one.conv2.weight"], weights["one.conv2.weight"][:, ::2])


@pytest.mark.parametrize(
    ("channels", "widths"), [(64, [32, 40, 48, 56]), (16, [8]), (8, [4, 5, 6, 7]), (2, [1]), (48, [24, 32, 40])]
)
def test_widths_are_multiples_of_eight_where_there_is_room(channels: int, widths: list[int]) -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), out_channels=channels, kernel=(1, 1), id="first")
    graph = b.build(b.add("conv2d", y, out_channels=3, kernel=(1, 1)))
    edits = Narrow().edits(graph, sane_model(graph).weights, np.random.default_rng(0))
    assert sorted(edit.replacement["first"].attrs["out_channels"] for edit in edits) == widths


def test_a_single_channel_is_left_alone() -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), out_channels=1, kernel=(1, 1))
    assert not channel_groups(b.build(b.add("conv2d", y, out_channels=3, kernel=(1, 1))))


def test_shared_weights_are_left_alone() -> None:
    b = Builder()
    y = b.input("x", IMAGE)
    for id in ("first", "second"):
        weights = {"weight": "shared.weight", "bias": "shared.bias"}
        y = b.add("conv2d", y, out_channels=3, kernel=(1, 1), id=id, weights=weights)
    assert not channel_groups(b.build(y))


def test_a_convolution_may_read_and_make_the_same_group() -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", IMAGE), out_channels=16, kernel=(1, 1), id="stem")
    y = b.add("conv2d", x, out_channels=16, kernel=(3, 3), padding=(1, 1), id="body")
    graph = b.build(b.add("conv2d", b.add("add", x, y), out_channels=3, kernel=(1, 1), id="head"))
    group = group_of(graph, "body")
    assert group.makers == ("body", "stem")
    assert readers(group) == {"body", "head"}
    (edit,) = Narrow((0.5,)).edits(graph, sane_model(graph).weights, np.random.default_rng(0))
    assert child_of(sane_model(graph), edit).weights["body.weight"].shape == (8, 8, 3, 3)


def test_channels_are_found_again_in_other_layouts() -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", IMAGE), out_channels=12, kernel=(3, 3), id="stem")
    x = b.add("permute", b.add("interpolate", x, scale=(0.5, 0.5)), dims=(0, 2, 3, 1))
    x = b.add("relu", b.add("linear", x, out_features=20, id="rows"))
    x = b.add("mean", x, dims=(1,))
    x = b.add("flatten", b.add("permute", x, dims=(0, 2, 1)))
    graph = b.build(b.add("linear", x, out_features=4, id="head"))
    assert readers(group_of(graph, "stem")) == {"rows"}
    rows = group_of(graph, "rows")
    assert {(member.node, member.inner) for member in rows.members if member.part == "reads"} == {("head", 3)}
    check_mutation(Narrow(), sane_model(graph), seeds=(0,))


def test_the_hull_takes_in_what_lies_between() -> None:
    graph = golden("residual")
    assert convex_hull(graph, ["one.conv1", "one.add"]).nodes == {
        node.id for node in graph if node.id.startswith("one.") and node.id != "one.relu2"
    }
    assert not Region.of(["one.conv1", "one.add"]).is_convex(graph)
    assert convex_hull(graph, ["one.conv1"]).nodes == {"one.conv1"}
