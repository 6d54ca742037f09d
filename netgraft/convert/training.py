"""What shows in training only, and leaves its input alone in evaluation: dropout in all its forms."""

from __future__ import annotations

from dataclasses import replace
from math import isclose
from typing import Any

from netgraft.ir import Batch, Graph, Node, Value
from netgraft.ir.ops import definition

_DROPOUTS = ("dropout", "dropout2d", "drop_path")


def without_dropout(graph: Graph) -> Graph:
    """The graph as it would have been traced in evaluation: what reads a dropout reads its input."""
    through: dict[Value, Value] = {}

    def source(value: Value) -> Value:
        return through.get(value, value)

    nodes = []
    for node in graph:
        inputs = tuple(map(source, node.inputs))
        if _is_dropout(node):
            through[node.value()] = inputs[0]
        else:
            attrs = {**node.attrs, "p": 0.0} if node.op == "attention" else node.attrs
            nodes.append(replace(node, inputs=inputs, attrs=attrs))
    return Graph(graph.inputs, tuple(nodes), tuple(map(source, graph.outputs)))


def _is_dropout(node: Node) -> bool:
    follows = node.op == "frozen" and ("training",) in node.attrs["args"]
    return node.op in _DROPOUTS or (follows and "dropout" in node.attrs["target"])


def with_drop_paths(graph: Graph) -> Graph:
    """The graph with stochastic depth, of which packages have functions of their own, as the operation ``drop_path``:
    a product with a random zero or one for each example, divided by how often it is one.
    """
    found: dict[str, Node] = {}
    for node in graph:
        for x, mask in (node.inputs, node.inputs[::-1]) if node.op == "mul" and len(node.inputs) == 2 else ():
            kept, scale = _mask(graph, mask)
            branch, factor = _unscaled(graph, x)
            if kept is not None and isclose(scale * factor * kept, 1, rel_tol=1e-6):
                source = branch if isclose(factor * kept, 1, rel_tol=1e-6) else x
                attrs = definition("drop_path").complete({"p": 1 - kept})
                found[node.id] = replace(node, op="drop_path", inputs=(source,), attrs=attrs)
    if not found:
        return graph
    nodes = [found.get(node.id, node) for node in graph]
    needed = {value.node for value in graph.outputs}
    for node in reversed(nodes):
        if node.id in needed:
            needed.update(value.node for value in node.inputs)
    return Graph(graph.inputs, tuple(node for node in nodes if node.id in needed), graph.outputs)


def _mask(graph: Graph, value: Value) -> tuple[float | None, float]:
    """How often ``value`` is not zero if it is a random zero or number for each example, and that number."""
    value, scale = _unscaled(graph, value)
    shape = graph.types_of([value])[0].shape
    if not shape or not isinstance(shape[0], Batch) or any(size != 1 for size in shape[1:]):
        return None, 1.0
    match _frozen(graph, value):
        case "aten.bernoulli.p", (_, float(p)), _:
            return p, scale
        case "aten.floor.default", _, sum_:
            uniform, kept = _number(graph, sum_, "add_scalar")
            if uniform is not None and _frozen(graph, uniform)[0] in ("aten.rand.default", "aten.rand_like.default"):
                return kept, scale
    return None, 1.0


def _unscaled(graph: Graph, value: Value) -> tuple[Value, float]:
    """The value without a multiplication by a number, and the number."""
    inner, factor = _number(graph, value, "mul_scalar")
    return (value, 1.0) if inner is None else (inner, factor)


def _number(graph: Graph, value: Value, op: str) -> tuple[Value | None, float]:
    """What is computed on by ``op``, and its number, if ``value`` comes from such a node."""
    if value.node not in graph or graph[value.node].op != op:
        return None, 0.0
    node = graph[value.node]
    return node.inputs[0], float(node.attrs["value"])


def _frozen(graph: Graph, value: Value) -> tuple[str, Any, Value]:
    """Target, arguments and first input of the frozen node that gives ``value``; empty ones for any other node."""
    if value.node not in graph or graph[value.node].op != "frozen":
        return "", (), value
    node = graph[value.node]
    return node.attrs["target"], node.attrs["args"], node.inputs[0] if node.inputs else value
