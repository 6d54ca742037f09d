"""The space around a network: everything that edits reach while limits are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from netgraft.candidate import Candidate
from netgraft.ir import Edit, Graph, Inheritance, Model, apply, inherit
from netgraft.metrics import Limit
from netgraft.mutations import Mutation

GraphScores = Callable[[Graph], Mapping[str, float]]
"""The scores that follow from a graph alone (FLOPs, parameters, memory, estimated latency), by metric name."""


@dataclass(frozen=True)
class Space:
    """All networks that ``mutation`` reaches from ``model``, within ``limits`` on what ``score`` counts.

    A child is its parent after one to ``steps`` edits; while it breaks a limit, up to ``reach`` further edits are
    applied, each the best of a few draws, so that a tight limit is reached by walking towards it instead of waiting
    for luck. A walk that comes no nearer twice in a row is given up.
    """

    model: Model
    mutation: Mutation
    score: GraphScores
    limits: Sequence[Limit] = ()
    steps: int = 3
    reach: int = 8

    def violation(self, graph: Graph) -> float:
        """How far the graph is beyond the limits, summed; 0 inside the space."""
        scores = self.score(graph)
        return sum(limit.violation(scores) for limit in self.limits if limit.metric in scores)

    def child(self, parent: Candidate, number: int, rng: np.random.Generator) -> Candidate | None:
        """A random child of ``parent`` within the limits, or None where none was found."""
        model = parent.model
        edits: list[Edit] = []
        shares: list[float] = []
        wanted = 1 + int(rng.integers(self.steps))
        excess = self.violation(model.graph)
        stuck = 0
        while len(edits) < wanted or (excess > 0 and stuck < 2 and len(edits) < wanted + self.reach):
            step = self._step(model, excess, rng)
            if step is None:
                break
            edit, model, inheritance = step
            edits.append(edit)
            shares.append(inheritance.share)
            left = self.violation(model.graph)
            stuck = stuck + 1 if left >= excess else 0
            excess = left
        if not edits or excess > 0 or model.graph.digest == parent.model.graph.digest:
            return None
        total = sum(model.weights[key].size for key in model.graph.trainable)
        inherited = Inheritance(round(float(np.prod(shares)) * total), total)
        return Candidate(number, model, parent.number, tuple(edits), inherited, parent.epochs)

    def _step(self, model: Model, excess: float, rng: np.random.Generator) -> tuple[Edit, Model, Inheritance] | None:
        """One edit; where a limit is broken, the one of up to 6 draws that comes nearest to keeping it."""
        best: tuple[float, Edit, Graph] | None = None
        for edit in islice(self.mutation.edits(model.graph, model.weights, rng), 6 if excess > 0 else 1):
            graph = apply(model.graph, edit)
            left = self.violation(graph)
            if best is None or left < best[0]:
                best = left, edit, graph
        if best is None:
            return None
        _, edit, graph = best
        weights, inheritance = inherit(model.graph, edit, model.weights, rng)
        return edit, Model(graph, weights, model.name), inheritance
