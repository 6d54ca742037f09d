"""A mutation kept to a list of operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from netgraft.ir import Edit, Graph, Weights

from .mutation import Mutation


@dataclass(frozen=True)
class Within:
    """Those edits of ``mutation`` that bring in no operation beside the ``allowed`` and those they replace."""

    mutation: Mutation
    allowed: frozenset[str]

    @property
    def name(self) -> str:
        """That of the mutation."""
        return self.mutation.name

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """See :class:`~netgraft.mutations.Mutation`."""
        for edit in self.mutation.edits(graph, weights, rng):
            if {node.op for node in edit.replacement} <= self.allowed | {graph[id].op for id in edit.region.nodes}:
                yield edit
