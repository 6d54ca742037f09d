"""Grafting: replace a region by a segment of another network, made to fit, with every weight that still has a place.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.2. Deviations: several inputs and outputs are matched in order, by
their types, instead of at random; fan-out is no obstacle; the outputs' own layers (:func:`netgraft.segments.head`) are
left alone; weights are inherited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from netgraft.errors import GraphError
from netgraft.fit import NoFit, fit
from netgraft.ir import Edit, Graph, Region, Weights, apply
from netgraft.segments import Bank, default, head

from .transplant import transplant

_PATIENCE = 100
"""Draws in a row without a new edit after which a graph is taken to be exhausted."""


@dataclass(frozen=True)
class Graft:
    """Grafts segments of ``bank`` (by default the one that comes with netgraft) onto graphs cut by its vocabulary.

    ``sparsity`` is the share of the vocabulary left out at each cut, ``exact`` the share of draws for which a segment
    with exactly the region's signature is taken where there is one; all others are fitted. Segments with an operation
    in ``without`` are passed over: say ``{"batch_norm"}`` for a network that does without on purpose.
    """

    bank: Bank = field(default_factory=default)
    sparsity: float = 0.5
    exact: float = 0.5
    multiple: int = 1
    without: frozenset[str] = frozenset()
    name: str = "graft"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """See :class:`~netgraft.mutations.Mutation`. Every child was built and differs from all those before it."""
        apart = head(graph) | {node.id for node in graph if node.op in ("frozen", "constant")}
        seen = {graph.digest}
        misses = 0
        while misses < _PATIENCE:
            regions = [r for r in self.bank.vocabulary.cut(graph, rng, self.sparsity) if not r.nodes & apart]
            misses += not regions
            for i in rng.permutation(len(regions)):
                edit = self._draw(graph, regions[i], weights, rng)
                child = _child(graph, edit) if edit is not None else None
                if edit is None or child is None or child.digest in seen:
                    misses += 1
                    continue
                seen.add(child.digest)
                misses = 0
                yield edit

    def _draw(self, graph: Graph, region: Region, weights: Weights, rng: np.random.Generator) -> Edit | None:
        """One random segment in place of ``region``, or None where it does not fit."""
        signature = region.signature(graph)
        exact = self.bank.exact(signature)
        candidates = exact if exact and rng.random() < self.exact else self.bank.alike(signature)
        if not candidates:
            return None
        segment = candidates[int(rng.integers(len(candidates)))]
        source = region.extract(graph)
        if segment.digest == source.digest or any(node.op in self.without for node in segment.graph):
            return None
        fitted = (
            segment.graph if segment.signature == signature else fit(segment.graph, signature, multiple=self.multiple)
        )
        if isinstance(fitted, NoFit) or fitted.digest == source.digest:
            return None
        replacement, carry = transplant(source, fitted, weights)
        return Edit(region, replacement, carry, f"{self.name}.{segment.digest[:8]} of {segment.provenance[0]}")


def _child(graph: Graph, edit: Edit) -> Graph | None:
    try:
        return apply(graph, edit)
    except GraphError:
        return None
