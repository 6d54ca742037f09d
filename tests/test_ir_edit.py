"""Regions, edits and the weights they carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from contracts import GOLDEN_NAMES, child_of, golden, outputs, random_inputs, sane_model
from hypothesis import given
from hypothesis import strategies as st
from strategies import edits, graphs, regions

from netgraft.errors import GraphError
from netgraft.ir import (
    Batch,
    Builder,
    Carry,
    Concat,
    Edit,
    Factor,
    Fresh,
    Graph,
    Keep,
    Model,
    Pad,
    Region,
    Repeat,
    Slice,
    TensorType,
    Value,
    apply,
    inherit,
    render,
)
from netgraft.ir.carry import resolve
from netgraft.ir.digest import Marks

IMAGE = TensorType((Batch(), 4, 6, 6))
CONV = {"out_channels": 4, "kernel": (1, 1), "bias": False}


@given(st.data())
def test_replacing_a_region_by_itself_changes_nothing(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    region = data.draw(regions(graph))
    segment = region.extract(graph)
    assert segment.signature == region.signature(graph)
    carry = {key: Keep(key) for key in segment.weight_types}
    edit = Edit(region, segment, carry)
    child = apply(graph, edit)
    dead = {node.id for node in graph} - live(graph)
    if not dead & region.nodes:
        assert child.digest == graph.digest
    model = sane_model(graph)
    weights, inheritance = inherit(graph, edit, model.weights, np.random.default_rng(0))
    assert inheritance.share == 1
    assert all(np.array_equal(weights[key], model.weights[key]) for key in weights)
    x = random_inputs(graph, batch=1)
    torch.testing.assert_close(outputs(Model(child, weights), x), outputs(model, x))


def sorted_marks(graph: Graph) -> Marks:
    marks = graph.marks
    return replace(
        marks,
        shared={key: sorted(users) for key, users in marks.shared.items()},
        readers={id: tuple(sorted(edges)) for id, edges in marks.readers.items()},
    )


@given(st.data())
def test_a_child_is_the_graph_that_its_nodes_make(data: st.DataObject) -> None:
    """Whatever an edit leaves as it was or brings up to date, building the child with all checks gives the same."""
    child = data.draw(graphs(max_nodes=8))
    for _ in range(data.draw(st.integers(1, 3))):
        child = apply(child, data.draw(edits(child)))
        built = Graph(child.inputs, child.nodes, child.outputs)
        assert sorted_marks(child) == sorted_marks(built)
        assert child.digest == built.digest
        assert child.returns == built.returns
        assert list(child.types.items()) == list(built.types.items())
        assert child.users == built.users
        assert child.trainable == built.trainable
        assert (child.signature, render(child)) == (built.signature, render(built))
        assert child.weight_types == built.weight_types


@given(st.data())
def test_what_a_region_is_depends_on_nothing_outside(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    region = data.draw(regions(graph))
    segment = region.extract(graph)
    built = Graph(segment.inputs, segment.nodes, segment.outputs)
    assert (segment.returns, segment.digest) == (built.returns, built.digest)
    assert region.is_convex(graph)
    readers = {value: {user.id for user in graph.users.get(value, ())} for value in graph.types}
    leaving = {value for value, ids in readers.items() if value.node in region.nodes and ids - region.nodes}
    assert set(segment.outputs) == leaving | {value for value in graph.outputs if value.node in region.nodes}


@given(st.data())
def test_a_set_of_nodes_is_convex_where_no_path_returns_to_it(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    region = Region.of(data.draw(st.sets(st.sampled_from([node.id for node in graph]), min_size=1)))
    after: set[str] = set()
    for node in graph:
        if node.id not in region.nodes and {v.node for v in node.inputs} & (region.nodes | after):
            after.add(node.id)
    returns = any(v.node in after for node in graph if node.id in region.nodes for v in node.inputs)
    assert region.is_convex(graph) != returns


def test_what_stood_between_comes_before_the_replacement_unless_it_depends_on_it() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    first = b.add("relu", x, id="first")
    apart = b.add("tanh", x, id="apart")
    reader = b.add("silu", first, id="reader")
    graph = b.build(b.add("add", apart, first, id="last"), reader)
    region = Region.of(["first", "last"])
    child = apply(graph, Edit(region, region.extract(graph)))
    assert [node.id for node in child] == ["apart", "first", "last", "reader"]


def live(graph: Graph) -> set[str]:
    """Nodes that an output needs."""
    needed = {value.node for value in graph.outputs}
    for node in reversed(graph.nodes):
        if node.id in needed:
            needed |= {value.node for value in node.inputs}
    return needed


@given(st.data())
def test_a_split_is_in_order_and_complete(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    region = data.draw(regions(graph))
    before, middle, after = region.split(graph)
    parts = [part.nodes for part in (before, middle, after) if part is not None]
    assert sorted(id for part in parts for id in part) == sorted(node.id for node in graph)
    place = {id: i for i, part in enumerate((before, middle, after)) if part for id in part.nodes}
    assert all(place[v.node] <= place[node.id] for node in graph for v in node.inputs if v.node in place)


def test_a_region_with_a_hole_is_not_convex() -> None:
    graph = golden("residual")
    region = Region.of(["one.conv1", "one.add"])
    assert not region.is_convex(graph)
    segment = region.extract(graph)
    with pytest.raises(GraphError, match="a path leaves the region"):
        apply(graph, Edit(region, segment))


def test_a_boundary_comes_in_the_order_of_use() -> None:
    graph = golden("residual")
    entering, leaving = Region.of(["one.add", "one.relu2", "two.conv1"]).boundary(graph)
    assert [str(v) for v in entering] == ["one.bn2", "stem.relu"]
    assert [str(v) for v in leaving] == ["one.relu2", "two.conv1"]
    with pytest.raises(GraphError, match="no node 'ghost'"):
        Region.of(["ghost"]).boundary(graph)
    with pytest.raises(GraphError, match="needs a node"):
        Region.of([]).boundary(graph)


def test_a_replacement_must_have_the_signature() -> None:
    graph = golden("residual")
    b = Builder()
    wrong = b.build(b.add("relu", b.input("in0", IMAGE)))
    with pytest.raises(GraphError, match=r"swap.test: the replacement is \(f32\[N,4,6,6\]\) -> "):
        apply(graph, Edit(Region.of(["one.relu1"]), wrong, origin="swap.test"))


def chain() -> Graph:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), id="a", **CONV)
    y = b.add("relu", y, id="b")
    return b.build(b.add("conv2d", y, id="c", **CONV))


def wide() -> Graph:
    """A replacement for one convolution: two of them, the first of which wants a name that is taken."""
    b = Builder()
    y = b.add("conv2d", b.input("in0", IMAGE), id="c", **CONV)
    return b.build(b.add("conv2d", y, id="a", **CONV))


def test_names_outside_the_region_never_change() -> None:
    graph = chain()
    child = apply(graph, Edit(Region.of(["a"]), wide(), {"a.weight": Keep("a.weight")}))
    assert [node.id for node in child] == ["c_2", "a", "b", "c"]
    assert child["c"] == graph["c"]
    assert (child["c_2"].weights, child["a"].weights) == ({"weight": "c_2.weight"}, {"weight": "a.weight"})


def test_what_is_not_carried_starts_fresh() -> None:
    model = sane_model(chain())
    edit = Edit(Region.of(["a"]), wide(), {"a.weight": Keep("a.weight")})
    weights, inheritance = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    assert weights["c_2.weight"].shape == (4, 4, 1, 1)
    assert not np.array_equal(weights["c_2.weight"], model.weights["c.weight"])
    assert (inheritance.inherited, inheritance.total) == (32, 48)
    again, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    np.testing.assert_array_equal(weights["c_2.weight"], again["c_2.weight"])


def test_a_region_can_give_way_to_nothing() -> None:
    graph = chain()
    b = Builder()
    child = apply(graph, Edit(Region.of(["a", "b"]), b.build(b.input("in0", IMAGE))))
    assert [node.id for node in child] == ["c"]
    assert child["c"].inputs == (Value("x"),)
    b = Builder()
    child = apply(graph, Edit(Region.of(["c"]), b.build(b.input("in0", IMAGE))))
    assert child.outputs == (Value("b"),)


def test_a_new_weight_does_not_lie_below_a_tensor() -> None:
    b = Builder()
    token = b.add("constant", id="stored", type=TensorType((1, 4, 6, 6)), weights={"value": "token"})
    graph = b.build(b.add("relu", b.add("add", b.input("x", IMAGE), token), id="act"))
    b = Builder()
    replacement = b.build(b.add("prelu", b.input("in0", IMAGE), id="token"))
    edit = Edit(Region.of(["act"]), replacement, {"token.weight": Fresh("zeros")})
    child = child_of(sane_model(graph), edit)
    assert set(child.weights) == {"token", "token_2.weight"}
    assert child.weights["token_2.weight"] == 0
    assert outputs(child, random_inputs(graph))[0].shape == (2, 4, 6, 6)


def test_a_shared_weight_stays_shared_when_it_is_kept() -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), id="a", **CONV)
    graph = b.build(b.add("conv2d", y, id="b", weights={"weight": "a.weight"}, **CONV))
    segment = Region.of(["b"]).extract(graph)
    kept = apply(graph, Edit(Region.of(["b"]), segment, {"a.weight": Keep("a.weight")}))
    assert kept["b"].weights == {"weight": "a.weight"}
    parted = apply(graph, Edit(Region.of(["b"]), segment, {"a.weight": Slice(Keep("a.weight"), 0, (3, 2, 1, 0))}))
    assert parted["b"].weights == {"weight": "b.weight"}


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_children_have_children(name: str) -> None:
    """Ids stay valid along a lineage: an edit of a child made from the parent's ids."""
    model = sane_model(golden(name))
    region = Region.of([model.graph.nodes[-1].id])
    segment = region.extract(model.graph)
    edit = Edit(region, segment, {key: Keep(key) for key in segment.weight_types})
    once = child_of(model, edit)
    assert child_of(once, edit).graph.digest == model.graph.digest


SOURCE = {"w": np.arange(24, dtype=np.float32).reshape(4, 3, 2)}


def resolved(carry: Carry, *shape: int, role: str = "weight") -> tuple[Any, int]:
    return resolve(carry, SOURCE, role, TensorType(shape), np.random.default_rng(0))


def test_slices_pads_and_joins() -> None:
    w = SOURCE["w"]
    array, count = resolved(Slice(Slice(Keep("w"), 0, (2, 0)), 1, (1,)), 2, 1, 2)
    np.testing.assert_array_equal(array, w[[2, 0]][:, [1]])
    assert count == 4
    array, count = resolved(Pad(Keep("w"), (0, 1, 0), (1, 0, 0)), 5, 4, 2)
    np.testing.assert_array_equal(array[:4, 1:], w)
    assert (count, array.sum()) == (24, w.sum())
    array, count = resolved(Concat((Keep("w"), Fresh("ones", (1, 3, 2))), 0), 5, 3, 2)
    np.testing.assert_array_equal(array[4], np.ones((3, 2)))
    assert count == 24


def test_repeated_channels_are_divided_for_their_readers() -> None:
    array, count = resolved(Repeat(Keep("w"), 1, (0, 1, 2, 1), divide=True), 4, 4, 2)
    w = SOURCE["w"]
    np.testing.assert_array_equal(array, np.stack([w[:, 0], w[:, 1] / 2, w[:, 2], w[:, 1] / 2], 1))
    assert count == 32
    np.testing.assert_array_equal(resolved(Repeat(Keep("w"), 0, (1, 1)), 2, 3, 2)[0], w[[1, 1]])


def test_widening_by_repetition_computes_the_same() -> None:
    b = Builder()
    y = b.add("relu", b.add("conv2d", b.input("x", IMAGE), id="a", **CONV))
    graph = b.build(b.add("conv2d", y, id="c", **CONV))
    region = Region.of(["a", "relu", "c"])
    segment = region.extract(graph)
    wider = replace(segment["a"], attrs=dict(segment["a"].attrs) | {"out_channels": 6})
    replacement = Graph(segment.inputs, (wider, segment["relu"], segment["c"]), segment.outputs)
    channels = (0, 1, 2, 3, 1, 1)
    carry = {"a.weight": Repeat(Keep("a.weight"), 0, channels), "c.weight": Repeat(Keep("c.weight"), 1, channels, True)}
    model = sane_model(graph)
    x = random_inputs(graph)
    torch.testing.assert_close(outputs(child_of(model, Edit(region, replacement, carry)), x), outputs(model, x))


@pytest.mark.parametrize(("rank", "blocks", "taps"), [(2, 1, (2, 3)), (3, 1, (2,)), (1, 6, (2, 3)), (2, 3, ())])
def test_factors_multiply_to_the_nearest_kernel_of_their_rank(rank: int, blocks: int, taps: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(0).standard_normal((5, 6, 3, 3))
    first, second = (Factor(Keep("k"), rank, blocks, taps, second=late) for late in (False, True))
    sizes = [[k if (axis in taps) is early else 1 for axis, k in ((2, 3), (3, 3))] for early in (True, False)]
    shapes = (blocks * rank, 6 // blocks, *sizes[0]), (5, blocks * rank, *sizes[1])
    a, b = (
        resolve(carry, {"k": kernel}, "weight", TensorType(shape), np.random.default_rng(0))[0]
        for carry, shape in zip((first, second), shapes, strict=True)
    )
    a, b = (np.broadcast_to(x, (*x.shape[:2], 3, 3)) for x in (a, b))
    a, b = a.reshape(blocks, rank, 6 // blocks, 3, 3), b.reshape(5, blocks, rank, 3, 3)
    product = np.einsum("grchw,ogrhw->ogchw", a, b).reshape(kernel.shape)
    # By hand: what the second sees by what the first sees, block by block, its largest singular values left.
    later = [axis for axis in (2, 3) if axis not in taps]
    left = 0.0
    for block in np.split(kernel, blocks, axis=1):
        matrix = block.transpose(0, *later, 1, *taps).reshape(5 * 3 ** len(later), -1)
        left += float((np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum())
    assert ((product - kernel) ** 2).sum() == pytest.approx(left)


@pytest.mark.parametrize(
    ("carry", "shape", "message"),
    [
        (Factor(Keep("w"), 5, 1, (2,), False), (5, 3, 2), "no rank of 5"),
        (Factor(Keep("w"), 1, 2, (2,), False), (2, 1, 2), "does not fit a kernel"),
        (Factor(Keep("w"), 1, 0, (2,), False), (2, 1, 2), "does not fit a kernel"),
        (Keep("v"), (1,), "no weight 'v' to keep"),
        (Keep("w"), (4, 3), "the graph needs"),
        (Slice(Keep("w"), 0, (4,)), (1, 3, 2), "does not lie within"),
        (Slice(Keep("w"), 3, (0,)), (1, 3, 2), "does not lie within"),
        (Repeat(Keep("w"), 0, (-1,)), (1, 3, 2), "does not lie within"),
        (Pad(Keep("w"), (1,), (1,)), (6, 3, 2), "pads 1 axes"),
        (Fresh("magic"), (4, 3), "unknown initialisation 'magic'"),
        (Fresh("identity"), (3, 2, 1, 1), "no identity of shape"),
    ],
)
def test_a_carry_that_does_not_work_out_says_why(carry: Carry, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        resolved(carry, *shape)


def test_fresh_weights_suit_their_role() -> None:
    kernel, count = resolved(Fresh(), 64, 32, 3, 3)
    assert count == 0
    assert abs(kernel.std() - (2 / (32 * 9)) ** 0.5) < 0.005
    assert resolved(Fresh(), 5)[0].tolist() == [1] * 5
    assert resolved(Fresh(), 5, role="bias")[0].tolist() == [0] * 5
    assert resolved(Fresh("zeros"), 2, 2)[0].tolist() == [[0, 0], [0, 0]]
    x = torch.randn(1, 6, 5, 5)
    for groups in (1, 6):
        identity = torch.from_numpy(resolved(Fresh("identity"), 6, 6 // groups, 3, 3)[0])
        torch.testing.assert_close(torch.nn.functional.conv2d(x, identity, padding=1, groups=groups), x)
