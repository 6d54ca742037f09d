"""A graph that is being rewritten, and the patterns by which places in it are found.

A pattern is a tree: ``("mul", "x", ("sigmoid", "x"))`` is the product of something with its own sigmoid. A letter
stands for any value, the same one wherever it occurs; a dict in a tuple binds attributes to names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from math import isclose
from typing import Any

import numpy.typing as npt

from netgraft.errors import GraphError
from netgraft.ir import Graph, Node, Value
from netgraft.ir.ops import definition

Weights = Mapping[str, npt.NDArray[Any]]
Found = dict[str, Any]


class Net:
    """A graph that is being rewritten: the nodes in order, and who reads what."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self.inputs, self.outputs, self.weights = graph.inputs, graph.outputs, dict(weights)
        self.nodes = {node.id: node for node in graph}
        self.types = dict(graph.types)
        self.claimed: set[str] = set()
        self.uses: dict[Value, set[str]] = {}
        for node in graph:
            for value in node.inputs:
                self.uses.setdefault(value, set()).add(node.id)

    def maker(self, value: Value) -> Node | None:
        """The node that gives a value; None for an input of the graph."""
        return self.nodes.get(value.node)

    def is_sole(self, value: Value) -> bool:
        """Whether a single node reads the value, and nobody outside."""
        return len(self.uses.get(value, ())) == 1 and value not in self.outputs

    def constant(self, value: Value) -> npt.NDArray[Any] | None:
        """The tensor behind a value, if it is a constant."""
        node = self.maker(value)
        return self.weights[node.weights["value"]] if node is not None and node.op == "constant" else None

    def key(self, value: Value) -> str:
        """The key of the tensor behind a constant."""
        return self.nodes[value.node].weights["value"]

    def extend(self, layer: Node, node: Node, weights: Mapping[str, str], **attrs: Any) -> bool:
        """Lets ``layer``, with more weights, do what ``node`` does after it."""
        self.nodes[layer.id] = replace(layer, attrs={**layer.attrs, **attrs}, weights={**layer.weights, **weights})
        return self.bypass(node, layer.value())

    def put(self, old: Node, op: str, *inputs: Value, weights: Mapping[str, str] | None = None, **attrs: Any) -> bool:
        """Computes what ``old`` gives by another node of its id; False, and nothing changed, if that does not fit."""
        new = Node(old.id, op, inputs, definition(op).complete(attrs), dict(weights or {}))
        try:
            types = new.definition.infer([self.types[value] for value in inputs], new.attrs)
        except GraphError:
            return False
        if types[0] != self.types[old.value()] or len(types) != 1:
            return False
        for value in old.inputs:
            self.uses[value].discard(old.id)
        for value in inputs:
            self.uses.setdefault(value, set()).add(old.id)
        self.nodes[old.id] = new
        return True

    def bypass(self, old: Node, value: Value) -> bool:
        """Lets everybody read ``value`` instead of what ``old`` gives."""
        given = old.value()
        for id in self.uses.pop(given, set()):
            node = self.nodes[id]
            self.nodes[id] = replace(node, inputs=tuple(value if v == given else v for v in node.inputs))
            self.uses.setdefault(value, set()).add(id)
        self.outputs = tuple(value if v == given else v for v in self.outputs)
        for read in old.inputs:
            self.uses[read].discard(old.id)
        del self.nodes[old.id]
        return True

    def before(self, node: Node, stem: str, op: str, *inputs: Value, **attrs: Any) -> Value:
        """A new node, in front of ``node``, where it can be put: its inputs come before."""
        id, number = f"{node.id}.{stem}", 1
        while id in self.nodes:
            number += 1
            id = f"{node.id}.{stem}_{number}"
        new = Node(id, op, inputs, definition(op).complete(attrs))
        self.types[new.value()] = new.definition.infer([self.types[v] for v in inputs], new.attrs)[0]
        items = list(self.nodes.items())
        place = next(i for i, (other, _) in enumerate(items) if other == node.id)
        self.nodes = dict([*items[:place], (id, new), *items[place:]])
        for value in inputs:
            self.uses.setdefault(value, set()).add(id)
        return new.value()

    def sweep(self) -> None:
        """Drops what nothing reads."""
        returned = {value.node for value in self.outputs}
        for id in reversed(list(self.nodes)):
            node = self.nodes[id]
            if id not in returned and not any(self.uses.get(v) for v in self.values(node)):
                for value in node.inputs:
                    self.uses[value].discard(id)
                del self.nodes[id]

    def values(self, node: Node) -> list[Value]:
        """What a node gives."""
        count = len(node.attrs["types"] if node.op == "frozen" else node.attrs.get("sizes", (0,)))
        return [node.value(i) for i in range(max(1, count))]

    def graph(self) -> Graph:
        """The graph as it is now."""
        return Graph(self.inputs, tuple(self.nodes.values()), self.outputs)


def match(net: Net, pattern: Any, value: Value, found: Found) -> Found | None:
    """What the letters of a pattern stand for where it fits ``value``; None where it does not."""
    if isinstance(pattern, str):
        return found | {pattern: value} if found.get(pattern, value) == value else None
    node = net.maker(value)
    return None if node is None or value.index else match_node(net, pattern, node, found)


def match_node(net: Net, pattern: Any, node: Node, found: Found) -> Found | None:
    """As :func:`match`, of the value that a node gives."""
    op, *rest = pattern
    names = rest.pop() if rest and isinstance(rest[-1], dict) else {}
    target = node.attrs["target"] if node.op == "frozen" else node.op
    if target != op or len(rest) != len(node.inputs):
        return None
    for attr, name in names.items():
        if name in found and found[name] != node.attrs[attr]:
            return None
        found = found | {name: node.attrs[attr]}
    for order in permutations(node.inputs) if node.definition.commutative and len(rest) == 2 else (node.inputs,):
        result: Found | None = found
        for part, value in zip(rest, order, strict=True):
            result = match(net, part, value, result) if result is not None else None
        if result is not None:
            return result
    return None


def near(found: Found, **numbers: float) -> bool:
    """Whether the names stand for these numbers, up to what exporters round."""
    return all(isclose(found[name], number, rel_tol=1e-3, abs_tol=1e-6) for name, number in numbers.items())


Rewriting = Callable[[Net, Node], bool]
"""Changes the net at a node, and says whether it did."""


def pattern(op: str, *patterns: Any, numbers: Mapping[str, float] | None = None, **attrs: Any) -> Rewriting:
    """Any of ``patterns``, where the numbers in it are these, is ``op`` of ``x``."""

    def rewriting(net: Net, node: Node) -> bool:
        for pattern in patterns:
            found = match_node(net, pattern, node, {})
            if found and near(found, **{n: v for n, v in (numbers or {}).items() if n in found}):
                return net.put(node, op, found["x"], **attrs)
        return False

    return rewriting
