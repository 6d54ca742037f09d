"""A network: its graph with its weights."""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Graph, Weights


@dataclass(frozen=True)
class Model:
    """A network as netgraft holds it; ``name`` is for people. Constructing checks the weights against the graph."""

    graph: Graph
    weights: Weights
    name: str = "network"

    def __post_init__(self) -> None:
        self.graph.check_weights(self.weights)
