"""A network: its graph with its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .carry import initial
from .graph import Graph, Weights


@dataclass(frozen=True)
class Model:
    """A network as netgraft holds it; ``name`` is for people. Constructing checks the weights against the graph."""

    graph: Graph
    weights: Weights
    name: str = "network"

    def __post_init__(self) -> None:
        self.graph.check_weights(self.weights)

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.graph)} operations, {len(self.weights)} tensors, {self.graph.digest}>"


def untrained(graph: Graph, name: str = "network", seed: int = 0) -> Model:
    """A network with the weights that a new one starts from; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    roles = {key: role for node in graph for role, key in node.weights.items()}
    types = graph.weight_types
    weights = {
        key: initial("default", role, types[key].concrete(), types[key].dtype, rng) for key, role in roles.items()
    }
    return Model(graph, weights, name)
