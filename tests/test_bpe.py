"""Cutting graphs: what a token says, what byte-pair encoding learns, and what every cut keeps to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from contracts import GOLDEN_NAMES, golden
from hypothesis import given
from hypothesis import strategies as st

from netgraft.ir import Batch, Builder, Graph, Region, TensorType
from netgraft.segments import Line, Vocabulary
from netgraft.segments.bpe import LONGEST, Encoding, Piece, order, tokens

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


def test_the_order_does_not_depend_on_how_a_graph_is_written() -> None:
    def line(first: str, second: str) -> tuple[str, ...]:
        b = Builder()
        x = b.input("x", IMAGE)
        ends = [b.add("relu", b.add(op, x)) for op in (first, second)]
        return Line.of(b.build(b.add("add", *ends))).tokens

    assert line("tanh", "sigmoid") == line("sigmoid", "tanh")


def learn(graphs: Iterable[Graph], size: int) -> Vocabulary:
    return Vocabulary.learn([Line.of(graph) for graph in graphs], size)


def lengths(encoding: Encoding) -> list[int]:
    return [piece.stop - piece.start for piece in encoding.pieces]


def test_frequent_runs_become_entries() -> None:
    vocabulary = learn([chain("conv2d", "batch_norm", "relu", "conv2d", "batch_norm", "relu")] * 3, 100)
    encoded = vocabulary.encode(chain("conv2d", "batch_norm", "relu", "conv2d", "batch_norm", "relu"))
    assert lengths(encoded.encoding) == [6]


def textbook(lines: list[Line], size: int) -> tuple[Vocabulary, list[tuple[Piece, ...]]]:
    """Byte-pair encoding as one would write it on a blackboard: everything counted anew for each merge."""
    alphabet = tuple(sorted({token for line in lines for token in line.tokens}))
    merges: list[tuple[int, int]] = []
    texts = [[Piece(alphabet.index(t), i, i + 1) for i, t in enumerate(line.tokens)] for line in lines]
    nears = [memoryview(line.near).cast("H") for line in lines]

    def joined(near: memoryview, a: Piece, b: Piece) -> bool:
        return any(near[j] >> (j - i - 1) & 1 for j in range(b.start, b.stop) for i in range(a.start, a.stop))

    while len(merges) < size:
        counts: Counter[tuple[int, int]] = Counter()
        for text, near in zip(texts, nears, strict=True):
            for a, b in pairwise(text):
                if b.stop - a.start <= LONGEST and joined(near, a, b):
                    counts[a.entry, b.entry] += 1
        if max(counts.values(), default=0) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        for text, near in zip(texts, nears, strict=True):
            merged: list[Piece] = []
            for piece in text:
                if merged and (merged[-1].entry, piece.entry) == best and joined(near, merged[-1], piece):
                    first = merged.pop()
                    piece = Piece(len(alphabet) + len(merges), first.start, piece.stop, (first, piece))
                merged.append(piece)
            text[:] = merged
        merges.append(best)
    return Vocabulary(alphabet, tuple(merges)), [tuple(text) for text in texts]


@pytest.mark.parametrize(
    "graphs", [GRAPHS * 2, [chain(*["relu"] * 7)] * 2 + [chain(*["relu"] * 100)], [with_frozen()] * 2]
)
def test_learning_and_encoding_are_those_of_the_textbook(graphs: list[Graph]) -> None:
    lines = [Line.of(graph) for graph in graphs]
    vocabulary, pieces = textbook(lines, 60)
    assert Vocabulary.learn(lines, 60) == vocabulary
    assert [vocabulary.encode_line(line).pieces for line in lines] == pieces


def test_the_size_is_kept() -> None:
    unlimited = learn(GRAPHS * 2, 10_000)
    limited = learn(GRAPHS * 2, 5)
    assert len(limited.merges) == 5
    assert limited.merges == unlimited.merges[:5]


def test_what_occurs_once_is_no_entry() -> None:
    assert learn([chain("conv2d", "relu", "tanh", "batch_norm")], 100).merges == ()
    assert Vocabulary.learn([], 100) == Vocabulary((), ())


def test_entries_are_no_longer_than_the_longest() -> None:
    assert max(learn([chain(*["relu"] * 100)] * 2, 1000).lengths) == LONGEST


def test_learning_does_not_hang_on_the_order_of_the_graphs() -> None:
    assert learn(GRAPHS * 2, 200) == learn(GRAPHS[::-1] * 2, 200)


def test_unknown_operations_are_pieces_of_their_own() -> None:
    vocabulary = learn([chain("conv2d", "relu")] * 2, 100)
    foreign = chain("conv2d", "silu", "conv2d", "silu")
    assert lengths(vocabulary.encode(foreign).encoding) == [1, 1, 1, 1]
    assert {id for region in vocabulary.cut(foreign, np.random.default_rng(0)) for id in region.nodes} == {
        node.id for node in foreign
    }


def test_unknown_tokens_are_taken_for_the_nearest() -> None:
    vocabulary = learn([chain("conv2d", "relu", "conv2d", "tanh")] * 2, 100)
    known = dict(enumerate(vocabulary.tokens))

    def nearest(graph: Graph) -> list[str]:
        return [known[piece.entry] for piece in replace(vocabulary, merges=()).encode(graph).encoding.pieces]

    assert nearest(chain("conv2d", "tanh")) == ["conv2d3x3(input)(relu)", "tanh(conv2d)(output)"]
    b = Builder()
    larger = b.add("conv2d", b.add("relu", b.input("x", IMAGE)), out_channels=8, kernel=(5, 5), padding=(2, 2))
    assert nearest(b.build(b.add("tanh", larger))) == [
        "relu(conv2d)(conv2d)",
        "conv2d3x3(relu)(tanh)",
        "tanh(conv2d)(output)",
    ]


def test_a_union_cuts_what_each_of_its_vocabularies_cuts() -> None:
    first, second = chain("conv2d", "batch_norm", "relu"), chain("tanh", "conv2d", "silu", "tanh")
    one, two = learn([first] * 2, 100), learn([second] * 2, 100)
    both = Vocabulary.union([one, two])
    assert set(both.tokens) == {*one.tokens, *two.tokens}
    assert len(both.merges) == len(one.merges) + len(two.merges)
    for graph, own in (first, one), (second, two):
        assert lengths(both.encode(graph).encoding) == lengths(own.encode(graph).encoding)
    assert Vocabulary.union([one, one]) == one


@given(
    st.sampled_from([*GRAPHS, with_frozen()]), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 4)
)
def test_every_cut_is_a_partition_into_convex_connected_regions(
    graph: Graph, seed: int, sparsity: float, join: int
) -> None:
    regions = VOCABULARY.cut(graph, np.random.default_rng(seed), sparsity, join)
    ids = [id for region in regions for id in region.nodes]
    assert sorted(ids) == sorted(node.id for node in graph if node.op != "frozen")
    for region in regions:
        assert region.is_convex(graph)
        assert is_connected(graph, region)
        assert len(region.nodes) <= LONGEST


VOCABULARY = learn([*GRAPHS, with_frozen()] * 2, 400)


def test_cuts_differ_from_call_to_call() -> None:
    encoded = VOCABULARY.encode(golden("residual"))
    rng = np.random.default_rng(0)
    assert len({frozenset(encoded.cut(rng)) for _ in range(10)}) > 5
    assert len({frozenset(encoded.cut(rng, sparsity=0, join=1)) for _ in range(10)}) == 1
    one, two = (encoded.cut(np.random.default_rng(7)) for _ in range(2))
    assert one == two


def test_without_merges_every_node_is_alone() -> None:
    regions = VOCABULARY.cut(golden("residual"), np.random.default_rng(0), sparsity=1, join=1)
    assert all(len(region.nodes) == 1 for region in regions)
