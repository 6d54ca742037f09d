"""What a digest tells apart: all that a plain Weisfeiler-Lehman hash does, written down here to compare with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import pytest
from contracts import GOLDEN_NAMES, golden
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, renamed, reordered, rerouted

from netgraft.ir import Batch, Builder, Graph, Node, TensorType, Value, parse, render

IMAGE = TensorType((Batch(), 4, 6, 6))


_NUMBERS: dict[str, int] = {}


def name(*parts: object) -> int:
    """A number for ``parts``, another for each: a hash without collisions."""
    return _NUMBERS.setdefault(repr(parts), len(_NUMBERS))


def refined(graph: Graph) -> str:
    """What feeds a node (down), then what uses it (up), then the multiset of both."""
    shared = Counter(key for node in graph.nodes for key in node.weights.values())
    down = {given.id: name("input", i, str(given.type)) for i, given in enumerate(graph.inputs)}
    for node in graph.nodes:
        inputs = [(down[v.node], v.index) for v in node.inputs]
        sharing = [(role, shared[key]) for role, key in sorted(node.weights.items()) if shared[key] > 1]
        reads = sorted(inputs) if node.definition.commutative else inputs
        down[node.id] = name(node.op, sorted((k, repr(v)) for k, v in node.attrs.items()), reads, sharing)
    uses: defaultdict[str, list[str]] = defaultdict(list)
    for position, value in enumerate(graph.outputs):
        uses[value.node].append(repr(("output", position, value.index)))
    up: dict[str, int] = {}
    for node in reversed(graph.nodes):
        up[node.id] = name(down[node.id], sorted(uses[node.id]))
        for position, value in enumerate(node.inputs):
            place = 0 if node.definition.commutative else position
            uses[value.node].append(repr((place, value.index, up[node.id])))
    ends = [repr((down[given.id], sorted(uses[given.id]))) for given in graph.inputs]
    readers: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for node in graph.nodes:
        for role, key in node.weights.items():
            readers[key].append((up[node.id], role))
    together = sorted(sorted(pairs) for pairs in readers.values() if len(pairs) > 1)
    return repr((sorted(up.values()), ends, together))


@given(st.data())
def test_two_graphs_have_one_digest_exactly_if_refinement_cannot_tell_them_apart(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    others = [data.draw(rerouted(graph)), data.draw(reordered(graph))]
    for other in others:
        assert (other.digest == graph.digest) == (refined(other) == refined(graph))


def small_graphs(nodes: int) -> Iterator[Graph]:
    """Every graph of so many nodes, each a ReLU or a difference of what is before it."""

    def extended(built: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
        if len(built) == nodes:
            yield built
            return
        values = [Value("x"), *(node.value() for node in built)]
        choices = [("relu", (v,)) for v in values]
        choices += [("sub", (v, w)) for v in values for w in values if v != w]
        for op, inputs in choices:
            yield from extended((*built, Node(f"n{len(built)}", op, inputs)))

    b = Builder()
    b.input("x", IMAGE)
    given_inputs = b.build(Value("x")).inputs
    for built in extended(()):
        yield Graph(given_inputs, built, (built[-1].value(),))


def test_no_two_small_graphs_are_confused() -> None:
    """All 576 graphs of four nodes: most have twins, and many differ in nothing but who reads which twin."""
    partners: defaultdict[str, set[str]] = defaultdict(set)
    classes: set[str] = set()
    for graph in small_graphs(4):
        partners[graph.digest].add(refined(graph))
        classes.add(refined(graph))
    assert all(len(found) == 1 for found in partners.values())
    assert len(partners) == len(classes)


def branches(*readers: Sequence[str]) -> Graph:
    """A convolution for every string of activations: each is read by those, which are summed."""
    b = Builder()
    x = b.input("x", IMAGE)
    ends = []
    for ops in readers:
        y = b.add("conv2d", x, out_channels=4, kernel=(1, 1))
        ends += [b.add(op, y) for op in ops]
    return b.build(b.add("add", *ends))


def test_twins_are_told_apart_by_what_reads_them() -> None:
    """The same convolutions and the same activations, which change hands."""
    pairs = [
        (["relu", "tanh"], ["relu", "tanh"]),
        (["relu", "relu"], ["tanh", "tanh"]),
        (["relu", "tanh", "tanh"], ["relu"]),
        (["relu", "tanh"], ["relu"], ["tanh"]),
        (["relu"], ["relu"], ["tanh"], ["tanh"]),
    ]
    assert len({branches(*pair).digest for pair in pairs}) == len(pairs)
    # Each two of a to f are read together equally often here and there: sums of squares would not do.
    a, b, c, d, e, f = ["relu", "tanh", "silu", "gelu", "mish", "sigmoid"]
    one = branches((a, b, c), (a, d, e), (f, b, d), (f, c, e))
    other = branches((f, d, e), (f, b, c), (a, c, e), (a, b, d))
    assert one.digest != other.digest
    assert branches(*[(a, b, c), (a, d, e)]).digest == branches(*[(e, d, a), (c, a, b)]).digest


def test_twins_are_told_apart_by_what_reads_them_far_away() -> None:
    """Two branches that are alike to the last join, and their four ends joined straight or crosswise."""

    def joined(crosswise: bool) -> str:
        b = Builder()
        x = b.input("x", IMAGE)
        ends = []
        for _ in range(2):
            y = b.add("relu", b.add("conv2d", x, out_channels=4, kernel=(1, 1)))
            ends.append((b.add("tanh", y), b.add("silu", y)))
        (a, b1), (c, d) = ends
        sums = (b.add("add", a, d), b.add("add", c, b1)) if crosswise else (b.add("add", a, b1), b.add("add", c, d))
        return b.build(b.add("concat", *sums)).digest

    assert joined(True) != joined(False)


def test_outputs_have_their_order_and_their_index() -> None:
    def pieces(*indices: int, returned: int = 0, op: str = "sub") -> str:
        b = Builder()
        y = b.add("split", b.input("x", IMAGE), sizes=(2, 2))
        pair = [Value(y.node, i) for i in indices]
        outputs = [b.add(op, *pair), pair[0]]
        return b.build(outputs[returned], outputs[1 - returned]).digest

    variants = [
        pieces(0, 1),
        pieces(1, 0),
        pieces(0, 0),
        pieces(1, 1),
        pieces(0, 1, returned=1),
        pieces(0, 1, op="add"),
    ]
    assert len(set(variants)) == len(variants)


def test_an_attribute_is_more_than_its_value() -> None:
    """1, 1.0 and True are equal to Python."""

    def clamped(**attrs: object) -> str:
        b = Builder()
        return b.build(b.add("clamp", b.input("x", IMAGE), **attrs)).digest

    assert len({clamped(min=1), clamped(min=1.0), clamped(min=True), clamped(max=1)}) == 4


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_digest_is_the_same_when_read_again(name: str) -> None:
    graph = golden(name)
    assert parse(render(graph)).digest == graph.digest == renamed(graph).digest


def test_digests_do_not_change_between_processes_and_releases() -> None:
    """Banks and studies are stored by them."""
    assert golden("residual").digest == "ef4dd0b9e882a5d0"
