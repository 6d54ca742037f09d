"""Cutting graphs: what a token says, what byte-pair encoding learns, and what every cut keeps to."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import GOLDEN_NAMES, golden
from hypothesis import given
from hypothesis import strategies as st

from netgraft.ir import Batch, Builder, Graph, Region, TensorType
from netgraft.segments import Vocabulary
from netgraft.segments.bpe import LONGEST, order, tokens

IMAGE = TensorType((Batch(), 8, 6, 6))
GRAPHS = [golden(name) for name in GOLDEN_NAMES]


def chain(*ops: str) -> Graph:
    b = Builder()
    value = b.input("x", IMAGE)
    for op in ops:
        attrs = {"out_channels": 8, "kernel": (3, 3), "padding": (1, 1)} if op == "conv2d" else {}
        value = b.add(op, value, **attrs)
    return b.build(value)


def with_frozen() -> Graph:
    b = Builder()
    value = b.add("relu", b.add("conv2d", b.input("x", IMAGE), out_channels=8, kernel=(1, 1)))
    value = b.add("frozen", value, id="unknown", target="aten.roll.default", args=(("input", 0),), types=(IMAGE,))
    return b.build(b.add("relu", b.add("conv2d", value, out_channels=8, kernel=(1, 1))))


def is_connected(graph: Graph, region: Region) -> bool:
    reached = {next(iter(region.nodes))}
    while True:
        more = {
            id
            for node in graph
            if node.id in region.nodes
            for v in node.inputs
            if v.node in region.nodes and {v.node, node.id} & reached
            for id in (v.node, node.id)
        }
        if more <= reached:
            return reached == region.nodes
        reached |= more


def test_a_token_says_what_a_node_is_and_what_stands_around_it() -> None:
    assert tokens(golden("residual")) | {
        "one.conv2": "conv2d3x3(relu)(batch_norm)",
        "one.add": "add(batch_norm relu)(relu)",
        "one.relu2": "relu(add)(conv2d conv2d)",
        "stem.conv": "conv2d3x3(input)(batch_norm)",
        "head": "linear(flatten)(output)",
    } == tokens(golden("residual"))


def test_neighbours_are_sorted() -> None:
    def tops(first: str, second: str) -> str:
        b = Builder()
        x = b.input("x", IMAGE)
        branches = {"relu": b.add("relu", x), "tanh": b.add("tanh", x)}
        return tokens(b.build(b.add("add", branches[first], branches[second], id="sum")))["sum"]

    assert tops("relu", "tanh") == tops("tanh", "relu") == "add(relu tanh)(output)"


def test_the_order_follows_chains() -> None:
    names = [node.id for node in order(golden("residual"))]
    assert names.index("two.bn2") - names.index("two.conv1") == 4
    assert names.index("two.short.bn") - names.index("two.short.conv") == 1


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_order_is_topological(graph: Graph) -> None:
    ordered = order(graph)
    assert Graph(graph.inputs, ordered, graph.outputs).digest == graph.digest


def test_frequent_runs_become_entries() -> None:
    vocabulary = Vocabulary.learn([chain("conv2d", "batch_norm", "relu", "conv2d", "batch_norm", "relu")] * 3, 100)
    pieces = vocabulary.encode(chain("conv2d", "batch_norm", "relu", "conv2d", "batch_norm", "relu"))
    assert [len(piece.nodes) for piece in pieces] == [6]


def test_the_size_is_kept() -> None:
    unlimited = Vocabulary.learn(GRAPHS * 2, 10_000)
    size = len(unlimited.tokens) + 5
    limited = Vocabulary.learn(GRAPHS * 2, size)
    assert len(limited.merges) == 5
    assert limited.merges == unlimited.merges[:5]


def test_what_occurs_once_is_no_entry() -> None:
    assert Vocabulary.learn([chain("conv2d", "relu", "tanh", "batch_norm")], 100).merges == ()


def test_entries_are_no_longer_than_the_longest() -> None:
    vocabulary = Vocabulary.learn([chain(*["relu"] * 100)] * 2, 1000)
    assert max(len(first + second) for first, second in vocabulary.merges) == LONGEST


def test_learning_is_deterministic() -> None:
    assert Vocabulary.learn(GRAPHS * 2, 200) == Vocabulary.learn(GRAPHS * 2, 200)


def test_unknown_tokens_are_pieces_of_their_own() -> None:
    vocabulary = Vocabulary.learn([chain("conv2d", "relu")] * 2, 100)
    foreign = chain("conv2d", "silu", "conv2d", "silu")
    assert [len(piece.nodes) for piece in vocabulary.encode(foreign)] == [1, 1, 1, 1]
    assert Region.of(
        foreign[id].id for region in vocabulary.cut(foreign, np.random.default_rng(0)) for id in region.nodes
    )


@given(
    st.sampled_from([*GRAPHS, with_frozen()]), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 4)
)
def test_every_cut_is_a_partition_into_convex_connected_regions(
    graph: Graph, seed: int, sparsity: float, join: int
) -> None:
    vocabulary = Vocabulary.learn([*GRAPHS, with_frozen()] * 2, 400)
    regions = vocabulary.cut(graph, np.random.default_rng(seed), sparsity, join)
    ids = [id for region in regions for id in region.nodes]
    assert sorted(ids) == sorted(node.id for node in graph if node.op != "frozen")
    for region in regions:
        assert region.is_convex(graph)
        assert is_connected(graph, region)
        assert len(region.nodes) <= LONGEST


def test_cuts_differ_from_call_to_call() -> None:
    vocabulary = Vocabulary.learn(GRAPHS * 2, 400)
    rng = np.random.default_rng(0)
    cuts = {frozenset(vocabulary.cut(golden("residual"), rng)) for _ in range(10)}
    assert len(cuts) > 5
    whole = {frozenset(vocabulary.cut(golden("residual"), rng, sparsity=0, join=1)) for _ in range(10)}
    assert len(whole) == 1


def test_without_merges_every_node_is_alone() -> None:
    vocabulary = Vocabulary.learn(GRAPHS * 2, 400)
    regions = vocabulary.cut(golden("residual"), np.random.default_rng(0), sparsity=1, join=1)
    assert all(len(region.nodes) == 1 for region in regions)
