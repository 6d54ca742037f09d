"""Graphs drawn in characters."""

from __future__ import annotations

from contracts import golden

from netgraft.ir import Batch, Builder, Graph, TensorType, Value
from netgraft.picture import describe, picture

IMAGE = TensorType((Batch(), 8, 6, 6))


def drawn(graph: Graph) -> list[str]:
    """The rails and what is drawn, without types."""
    return [line.partition("  f32")[0].rstrip() for line in picture(graph)]


def test_a_residual_block() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    y = b.add("relu", b.add("conv2d", x, out_channels=8, kernel=(3, 3), padding=(1, 1)))
    assert picture(b.build(b.add("add", x, y))) == [
        "○    x: f32[N,8,6,6]",
        "├─●  conv2d out_channels=8 3x3  f32[N,8,6,6]",
        "│ ●  relu                       f32[N,8,6,6]",
        "●─┘  add                        f32[N,8,6,6]",
        "○    out0",
    ]


def test_branches_pass_one_another() -> None:
    b = Builder()
    x, y = b.input("x", IMAGE), b.input("y", IMAGE)
    ends = [b.add(op, x) for op in ("relu", "tanh", "sigmoid")]
    assert drawn(b.build(b.add("add", ends[0], ends[2]), b.add("add", ends[1], y))) == [
        "○        x: f32[N,8,6,6]",
        "│ ○      y: f32[N,8,6,6]",
        "├─│─●    relu",
        "├─│─│─●  tanh",
        "● │ │ │  sigmoid",
        "●─│─┘ │  add",
        "│ ●───┘  add",
        "○ │      out0",
        "  ○      out1",
    ]


def test_several_outputs_and_values_read_twice() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    first = b.add("split", x, sizes=(4, 4))
    square = b.add("mul", first, first)
    assert drawn(b.build(square, Value(first.node, 1), square)) == [
        "○    x: f32[N,8,6,6]",
        "●─┐  split sizes=(4,4)",
        "● │  mul",
        "○ │  out0",
        "│ ○  out1",
        "○    out2",
    ]


def test_what_nobody_reads_ends_at_once() -> None:
    b = Builder()
    x = b.input("x", IMAGE)
    b.add("tanh", x)
    assert drawn(b.build(b.add("relu", x))) == ["○    x: f32[N,8,6,6]", "├─●  tanh", "●    relu", "○    out0"]


def test_every_golden_graph_has_a_line_for_each_node_and_end() -> None:
    graph = golden("branches")
    lines = picture(graph)
    assert len(lines) == len(graph.inputs) + len(graph) + len(graph.outputs)
    assert [line for line in lines if "●" in line] == lines[1 : 1 + len(graph)]


def test_a_node_is_described_by_what_is_not_as_usual() -> None:
    nodes = {node.id: describe(node) for node in golden("residual")}
    assert nodes["two.conv1"] == "conv2d out_channels=32 3x3 stride=2"
    assert nodes["one.relu2"] == "relu"
