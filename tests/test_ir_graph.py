"""Graphs: what a digest sees and does not see, and what construction refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contracts import GOLDEN_NAMES, golden, sane_model
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, renamed, reordered

from netgraft.errors import GraphError, ShapeError
from netgraft.ir import Batch, Builder, Graph, Input, Model, Node, TensorType, Value

IMAGE = TensorType((Batch(), 4, 6, 6))
CONV = {"out_channels": 4, "kernel": (1, 1), "bias": False}


@given(graphs())
def test_the_digest_ignores_names(graph: Graph) -> None:
    assert renamed(graph).digest == graph.digest


@given(st.data())
def test_the_digest_ignores_order(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    assert data.draw(reordered(graph)).digest == graph.digest


@given(st.data())
def test_the_digest_sees_every_operation(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    i = data.draw(st.integers(0, len(graph) - 1))
    node = graph.nodes[i]
    if node.op == "batch_norm" or not node.definition.pointwise:
        return
    changed = replace(node, op="tanh", attrs={})
    assert Graph(graph.inputs, (*graph.nodes[:i], changed, *graph.nodes[i + 1 :]), graph.outputs).digest != graph.digest


def test_the_digest_sees_attributes_types_outputs_and_the_order_of_what_is_not_commutative() -> None:
    def build(
        type: TensorType = IMAGE, op: str = "sub", swapped: bool = False, first: bool = False, **conv: Any
    ) -> str:
        b = Builder()
        x = b.input("x", type)
        y = b.add("conv2d", x, **CONV | conv)
        z = b.add(op, *((y, x) if swapped else (x, y)))
        return b.build(y if first else z).digest

    digests = [
        build(),
        build(swapped=True),
        build(op="add"),
        build(first=True),
        build(bias=True),
        build(TensorType((Batch(), 4, 5, 5))),
        build(kernel=(3, 3), padding=(1, 1)),
    ]
    assert len(set(digests)) == len(digests)
    assert build(op="add") == build(op="add", swapped=True)


def test_the_digest_sees_which_layers_share_a_weight() -> None:
    def chain(*keys: str) -> str:
        b = Builder()
        y = b.input("x", IMAGE)
        for key in keys:
            y = b.add("conv2d", y, weights={"weight": key}, **CONV)
        return b.build(y).digest

    assert len({chain(*keys) for keys in ("abcd", "aacd", "aabb", "abab", "abba", "aaaa", "abcc")}) == 7
    assert chain(*"abab") == chain(*"cdcd")


def test_graphs_with_the_same_digest_are_one_key() -> None:
    graph = golden("residual")
    assert hash(graph) == hash(renamed(graph))
    assert len({graph: 1, golden("residual"): 2}) == 1


def _graph(*nodes: Node, outputs: tuple[Value, ...] = ()) -> Graph:
    return Graph((Input("x", IMAGE),), nodes, outputs)


X = (Value("x"),)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("a", "relu", (Value("ghost"),))], "a .relu. reads ghost"),
        ([Node("a", "relu", X), Node("a", "relu", X)], "two nodes are called 'a'"),
        ([Node("x", "relu", X)], "two nodes are called 'x'"),
        ([Node("a", "warp", X)], "unknown operation 'warp'"),
        ([Node("a", "relu", (*X, *X))], "a .relu. has 2 inputs"),
        ([Node("a", "leaky_relu", X)], "a .leaky_relu. needs the attributes .'slope'."),
        ([Node("a", "relu", X, {"slope": 1})], "a .relu. needs the attributes"),
        ([Node("a", "prelu", X, {"parameters": 1})], "a .prelu. needs the weights .'weight'."),
        ([Node("a", "relu", X, {}, {"weight": "k"})], "a .relu. needs the weights"),
        ([Node("a", "concat", (), {"dim": 1})], "a .concat. has 0 inputs"),
    ],
)
def test_construction_names_the_node_at_fault(nodes: list[Node], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        _graph(*nodes)


@pytest.mark.parametrize(
    ("op", "attrs", "message"),
    [
        ("conv2d", CONV | {"kernel": (9, 9)}, "window of 9 does not fit into 6"),
        ("conv2d", CONV | {"groups": 3}, "cannot be split into 3 groups"),
        ("pixel_shuffle", {"factor": 3}, "4 channels are no multiple of 9"),
        ("reshape", {"shape": (Batch(), 7)}, "cannot reshape"),
        ("layer_norm", {"shape": (5,)}, "does not fit"),
        ("split", {"sizes": (1, 1)}, "do not add up"),
        ("slice", {"dim": 1, "start": 2, "stop": 9}, "does not lie within"),
        ("max_pool2d", {"kernel": (2, 2), "stride": (2, 2), "padding": (2, 2)}, "more than half of the kernel"),
    ],
)
def test_shape_errors_name_the_node_and_the_shape(op: str, attrs: dict[str, Any], message: str) -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    with pytest.raises(ShapeError, match=rf"^layer\.7: .*{message}"):
        b.add(op, x, id="layer.7", **attrs)


def test_outputs_must_exist() -> None:
    with pytest.raises(GraphError, match="returns ghost"):
        _graph(outputs=(Value("ghost"),))
    with pytest.raises(GraphError, match="no node 'ghost'"):
        golden("residual")["ghost"]


def test_a_key_cannot_stand_for_two_shapes() -> None:
    b = Builder()
    y = b.add("conv2d", b.input("x", IMAGE), weights={"weight": "k"}, **CONV)
    y = b.add("conv2d", y, id="other", weights={"weight": "k"}, **CONV | {"kernel": (3, 3)})
    with pytest.raises(GraphError, match="other: weight 'k'"):
        _ = b.build(y).weight_types


def test_a_model_needs_all_its_weights() -> None:
    model = sane_model(golden("residual"))
    short = {key: tensor for key, tensor in model.weights.items() if key != "head.bias"}
    with pytest.raises(GraphError, match=r"'head.bias' .* is missing"):
        Model(model.graph, short)
    with pytest.raises(GraphError, match=r"'head.bias' has shape \(3,\)"):
        Model(model.graph, short | {"head.bias": np.zeros(3)})


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_buffers_and_stored_constants_are_not_trained(name: str) -> None:
    graph = golden(name)
    buffers = {key for key in graph.weight_types if "running" in key or "num_batches" in key}
    assert graph.trainable == graph.weight_types.keys() - buffers


def test_the_builder_gives_ids_that_are_free() -> None:
    b = Builder()
    x = b.input("relu", IMAGE)
    b.add("relu", x, id="relu_2")
    assert str(b.add("relu", x)) == "relu_3"
    assert b.fresh_id("relu") == "relu_4"
    with pytest.raises(GraphError, match="conv2d has no attribute 'size'"):
        b.add("conv2d", x, size=3)
    with pytest.raises(GraphError, match="conv2d needs the attribute 'out_channels'"):
        b.add("conv2d", x)


def test_users_come_in_order_and_once() -> None:
    graph = golden("residual")
    assert [node.id for node in graph.users[Value("one.relu2")]] == ["two.conv1", "two.short.conv"]
    b = Builder()
    x = b.input("x", IMAGE)
    assert len(b.build(b.add("add", x, x)).users[x]) == 1
