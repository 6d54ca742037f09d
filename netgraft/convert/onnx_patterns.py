"""What exporters take apart, put together again: layers out of arithmetic, and layouts that only come and go.

Every rewriting is exact, up to rounding. A pattern is a tree: ``("mul", X, ("sigmoid", X))`` is the product of
something with its own sigmoid. A letter stands for any value, the same one wherever it occurs; a name with attributes
is a :class:`Op`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from netgraft.ir import Graph, Node, TensorType, Value

Weights = dict[str, npt.NDArray[Any]]


def simplify(graph: Graph, weights: Mapping[str, npt.NDArray[Any]]) -> tuple[Graph, Weights]:
    """The graph with every pattern put together, without what nothing reads; and the weights, with new ones."""
    net = Net(graph, dict(weights))
    net.sweep()
    return net.graph(), net.weights


@dataclass
class Net:
    """A graph that is being rewritten."""

    old: Graph
    weights: Weights
    nodes: dict[str, Node] = field(default_factory=dict)
    types: dict[Value, TensorType] = field(default_factory=dict)
    uses: Counter[Value] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.nodes = {node.id: node for node in self.old}
        self.outputs = self.old.outputs

    def sweep(self) -> None:
        """Drops what nothing reads."""
        alive: set[str] = set()
        waiting = [value.node for value in self.outputs]
        while waiting:
            id = waiting.pop()
            if id in self.nodes and id not in alive:
                alive.add(id)
                waiting += [value.node for value in self.nodes[id].inputs]
        self.nodes = {id: node for id, node in self.nodes.items() if id in alive}

    def graph(self) -> Graph:
        """The graph as it is now."""
        return Graph(self.old.inputs, tuple(self.nodes.values()), self.outputs)
