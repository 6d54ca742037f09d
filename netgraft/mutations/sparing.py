"""A mutation kept away from what it may not change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from netgraft.ir import Edit, Graph, Weights

from .fixed import changed, untouchable
from .graft import Graft
from .mutation import Mix, Mutation
from .trim import Trim
from .within import Within


def sparing(mutation: Mutation, fixed: frozenset[str] = frozenset()) -> Mutation:
    """``mutation``, kept away from the nodes ``fixed`` and from what is
    :func:`~netgraft.mutations.fixed.untouchable` in any network.

    ``fixed`` are ids of the network that a search begins with: no edit changes these nodes, so that they have the same
    ids in all of its children; what edits add is not among them.
    """
    if isinstance(mutation, Mix):
        return replace(mutation, mutations=tuple(sparing(part, fixed) for part in mutation.mutations))
    if isinstance(mutation, Within):
        return replace(mutation, mutation=sparing(mutation.mutation, fixed))
    if isinstance(mutation, Graft | Trim):
        return replace(mutation, fixed=mutation.fixed | fixed)
    return Sparing(mutation, fixed)


@dataclass(frozen=True)
class Sparing:
    """Those edits of ``mutation`` that leave the nodes ``fixed``, and what is :func:`untouchable`, as they are."""

    mutation: Mutation
    fixed: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """That of the mutation."""
        return self.mutation.name

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """See :class:`~netgraft.mutations.Mutation`."""
        fixed = self.fixed | untouchable(graph).keys()
        for edit in self.mutation.edits(graph, weights, rng):
            if fixed.isdisjoint(changed(graph, edit)):
                yield edit
