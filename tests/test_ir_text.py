"""The textual form: round trips, and errors that name the line."""

from __future__ import annotations

import json

import pytest
from contracts import GOLDEN, GOLDEN_NAMES, golden
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs

from netgraft.errors import GraphError
from netgraft.ir import (
    Batch,
    Carry,
    Concat,
    DType,
    Edit,
    Factor,
    Fresh,
    Graph,
    Keep,
    Pad,
    Region,
    Repeat,
    Slice,
    parse,
    render,
)
from netgraft.ir.text import edit_from_data, edit_to_data, parse_type

HEAD = "graph(x: f32[N,3,8,8]) {\n"


@given(graphs())
def test_random_graphs_come_back(graph: Graph) -> None:
    again = parse(render(graph))
    assert (again.inputs, again.nodes, again.outputs) == (graph.inputs, graph.nodes, graph.outputs)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_graphs_are_what_render_writes(name: str) -> None:
    assert render(golden(name)) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from([Batch(), Batch(7), *DType])
)
_literals = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@given(_literals)
def test_every_attribute_value_comes_back_with_its_type(value: object) -> None:
    text = 'graph(x: f32[N,3,8,8]) {\n  y = frozen(x) {target="t", args=ARGS, types=(f32[N,3,8,8],)}\n  return y\n}\n'
    graph = parse(text.replace("ARGS", "()"))
    node = graph["y"]
    changed = Graph(
        graph.inputs, (type(node)("y", "frozen", node.inputs, {**node.attrs, "args": (value,)}),), graph.outputs
    )
    (again,) = parse(render(changed))["y"].attrs["args"]
    assert repr(again) == repr(value)


_keys = st.text(min_size=1, max_size=8)
_indices = st.lists(st.integers(0, 9), max_size=4).map(tuple)
_carries: st.SearchStrategy[Carry] = st.recursive(
    st.one_of(
        st.builds(Keep, _keys),
        st.builds(Fresh, st.sampled_from(["default", "zeros", "identity"]), st.none() | _indices),
    ),
    lambda inner: st.one_of(
        st.builds(Slice, inner, st.integers(0, 3), _indices),
        st.builds(Repeat, inner, st.integers(0, 3), _indices, st.booleans()),
        st.builds(Concat, st.lists(inner, min_size=1, max_size=3).map(tuple), st.integers(0, 3)),
        st.builds(Pad, inner, _indices, _indices),
        st.builds(Factor, inner, st.integers(1, 9), st.integers(1, 9), _indices, st.booleans()),
    ),
    max_leaves=5,
)


@given(graphs(), st.dictionaries(_keys, _carries, max_size=3), st.text(), st.booleans())
def test_edits_come_back_through_json(graph: Graph, carry: dict[str, Carry], origin: str, exact: bool) -> None:
    edit = Edit(Region.of(node.id for node in graph), graph, carry, origin, exact)
    again = edit_from_data(json.loads(json.dumps(edit_to_data(edit))))
    assert (again.region, again.carry, again.origin, again.exact) == (edit.region, carry, origin, exact)
    assert render(again.replacement) == render(graph)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with"),
        (HEAD, "begins with"),
        (HEAD + "}", "no 'return' line"),
        (HEAD + "  y = warp(x)\n  return y\n}", "line 2: unknown operation 'warp'"),
        (HEAD + "  y = relu(x\n  return y\n}", "line 2: cannot read"),
        (HEAD + "  y = relu(x) {slope=0.1}\n  return y\n}", "line 2: relu has no attribute 'slope'"),
        (HEAD + "  y = conv2d(x) {kernel=(3, 3)}\n  return y\n}", "line 2: conv2d needs the attribute 'out_channels'"),
        (HEAD + "  y = clamp(x) {min=__import__('os')}\n  return y\n}", "line 2: cannot read"),
        (HEAD + "  y = relu(z)\n  return y\n}", "line 2: y .relu. reads z"),
        ("graph(x: f33[N]) {\n  return x\n}", "unknown element type 'f33'"),
        ("graph(x: f32[M]) {\n  return x\n}", "'M' in 'f32.M.' is no dimension"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["f32[N,3,8,8]", "i64[]", "bool[49N,1]", "bf16[7]"])
def test_types_come_back(text: str) -> None:
    assert str(parse_type(text)) == text


@pytest.mark.parametrize("data", [{}, {"region": 3}, {"region": ["a"], "replacement": "graph"}])
def test_a_damaged_edit_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(GraphError):
        edit_from_data(data)


@pytest.mark.parametrize("carry", [["borrow", "key"], ["keep", 3], [], ["slice", ["keep", "k"], "x", [1]]])
def test_a_damaged_carry_is_refused(carry: list[object]) -> None:
    graph = golden("residual")
    data = edit_to_data(Edit(Region.of(["pool"]), Region.of(["pool"]).extract(graph)))
    with pytest.raises(GraphError, match="unknown carry"):
        edit_from_data(data | {"carry": {"k": carry}})
