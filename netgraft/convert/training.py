"""What shows in training only, and leaves its input alone in evaluation: dropout in all its forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    The same random state leaves out the same examples. Where that cannot be, because masks are drawn in another order
    than they are used in, or one mask serves several branches, the graph stays as it is.
    """
    found: dict[str, Node] = {}
    drawn: list[str] = []
    for node in graph:
        for x, other in (node.inputs, node.inputs[::-1]) if node.op == "mul" and len(node.inputs) == 2 else ():
            mask = _mask(graph, other)
            branch, factor = _unscaled(graph, x)
            if mask is None or not isclose(mask.scale * factor * mask.kept, 1, rel_tol=1e-6):
                continue
            source = branch if isclose(factor * mask.kept, 1, rel_tol=1e-6) else x
            if graph.types[source] == graph.types[node.value()]:
                attrs = definition("drop_path").complete({"p": 1 - mask.kept, "draw": mask.draw})
                found[node.id] = replace(node, op="drop_path", inputs=(source,), attrs=attrs)
                drawn.append(mask.node)
    order = {node.id: position for position, node in enumerate(graph)}
    if not found or drawn != sorted(set(drawn), key=order.__getitem__):
        return graph
    return _needed(graph, [found.get(node.id, node) for node in graph], graph.outputs)


def first_outputs(graph: Graph, count: int) -> Graph:
    """The graph with its first outputs only: in training, networks return what their losses need behind them."""
    return _needed(graph, graph.nodes, graph.outputs[:count]) if count < len(graph.outputs) else graph


def differing(graph: Graph, other: Graph) -> list[str]:
    """The nodes of a graph, by id, that another one does not have, or has with other attributes."""
    return [
        node.id
        for node in graph
        if node.id not in other or (node.op, node.attrs) != (other[node.id].op, other[node.id].attrs)
    ]


def _needed(graph: Graph, nodes: Sequence[Node], outputs: tuple[Value, ...]) -> Graph:
    """The graph of those ``nodes`` that the outputs depend on."""
    needed = {value.node for value in outputs}
    for node in reversed(nodes):
        if node.id in needed:
            needed.update(value.node for value in node.inputs)
    return Graph(graph.inputs, tuple(node for node in nodes if node.id in needed), outputs)


@dataclass(frozen=True, slots=True)
class _Mask:
    """A random zero or ``scale`` for each example, which is not zero as often as ``kept`` says."""

    node: str
    draw: str
    kept: float
    scale: float


def _mask(graph: Graph, value: Value) -> _Mask | None:
    """The mask that ``value`` is, None if it is none."""
    value, scale = _unscaled(graph, value)
    shape = graph.types[value].shape
    if not shape or not isinstance(shape[0], Batch) or any(size != 1 for size in shape[1:]):
        return None
    match _frozen(graph, value):
        case "aten.bernoulli.p", (_, float(kept)), _:
            return _Mask(value.node, "bernoulli", kept, scale)
        case "aten.floor.default", _, sum_:
            uniform, kept = _number(graph, sum_, "add_scalar")
            if uniform is not None and _frozen(graph, uniform)[0] in ("aten.rand.default", "aten.rand_like.default"):
                return _Mask(uniform.node, "uniform", kept, scale)
    return None


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
