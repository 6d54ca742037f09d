"""What a graph computes several times, which inference engines compute once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from netgraft.ir import Graph, Node, Value

# Nothing is left of these.
NOTHING: Final = frozenset({"identity", "dropout", "dropout2d", "drop_path", "constant"})


def once(graph: Graph) -> tuple[Graph, Mapping[str, list[str]]]:
    """The graph with everything computed once that it computes several times of the same values (the activations at the
    beginning of several branches, say); and by each node that is left in such a case, those that are gone.
    """
    twins: dict[str, list[str]] = defaultdict(list)
    seen: dict[Any, Value] = {}
    through: dict[Value, Value] = {}  # a value, and the equal one that is computed first
    plain: dict[Value, Value] = {}  # the same, and through what leaves a value as it is
    nodes: list[Node] = []
    for node in graph:
        read = node.reading(through)
        inputs = tuple(plain.get(value, value) for value in read.inputs)
        if node.op in NOTHING:
            if inputs:
                plain[node.value()] = inputs[0]
        elif node.op != "frozen" and len(graph.returns[node.id]) == 1:
            made = node.op, inputs, tuple(sorted(node.attrs.items())), tuple(sorted(node.weights.items()))
            first = seen.setdefault(made, node.value())
            if first != node.value():
                through[node.value()] = plain[node.value()] = first
                twins[first.node].append(node.id)
                continue
        nodes.append(read)
    if not twins:
        return graph, twins
    outputs = tuple(through.get(value, value) for value in graph.outputs)
    return Graph.known(graph.inputs, tuple(nodes), outputs, graph.returns), twins
