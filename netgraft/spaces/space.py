"""The space around a network: everything that edits reach while limits are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from netgraft.candidate import Candidate
from netgraft.ir import Edit, Graph, Inheritance, Model, apply, inherit
from netgraft.metrics import Limit
from netgraft.mutations import Draft, Mutation, drafts

GraphScores = Callable[[Graph], Mapping[str, float]]
"""The scores that follow from a graph alone (FLOPs, parameters, memory, estimated latency), by metric name."""


class Guide(Protocol):
    """Who knows which edits promise much: chooses among ``looks`` drafts a step, in a share ``trust`` of the steps."""

    @property
    def looks(self) -> int: ...
    @property
    def trust(self) -> float: ...

    def choose(self, graph: Graph, drafts: Sequence[Draft], score: GraphScores, rng: np.random.Generator) -> int:
        """Which of the drafts of ``graph`` to take."""

    def scores(self, steps: Sequence[tuple[Graph, Edit]]) -> dict[str, float]:
        """What it says of a child: the steps that led to it, each a graph and its edit."""


@dataclass(frozen=True)
class Space:
    """All networks that ``mutation`` reaches from ``model``, within ``limits`` on what ``score`` counts.

    A child is its parent after one to ``steps`` edits; while it breaks a limit, up to ``reach`` further edits are
    applied, each the best of a few draws, so that a tight limit is reached by walking towards it instead of waiting
    for luck. A walk that comes no nearer twice in a row is given up. Where there is a ``guide``, it chooses some of the
    edits. Weights are given to what was chosen only.
    """

    model: Model
    mutation: Mutation
    score: GraphScores
    limits: Sequence[Limit] = ()
    steps: int = 3
    reach: int = 16
    guide: Guide | None = None

    def violation(self, graph: Graph) -> float:
        """How far the graph is beyond the limits, summed; 0 inside the space."""
        scores = self.score(graph)
        return sum(limit.violation(scores) for limit in self.limits if limit.metric in scores)

    def child(self, parent: Candidate, number: int, rng: np.random.Generator) -> Candidate | None:
        """A random child of ``parent`` within the limits, or None where none was found."""
        model = parent.model
        steps: list[tuple[Graph, Edit]] = []
        shares: list[float] = []
        wanted = 1 + int(rng.integers(self.steps))
        excess = self.violation(model.graph)
        stuck = 0
        while len(steps) < wanted or (excess > 0 and stuck < 2 and len(steps) < wanted + self.reach):
            step = self._step(model, excess, rng)
            if step is None:
                break
            steps.append((model.graph, step[0]))
            _, model, inheritance = step
            shares.append(inheritance.share)
            left = self.violation(model.graph)
            stuck = stuck + 1 if left >= excess else 0
            excess = left
        if not steps or excess > 0 or model.graph.digest == parent.model.graph.digest:
            return None
        total = sum(model.weights[key].size for key in model.graph.trainable)
        inherited = Inheritance(round(float(np.prod(shares)) * total), total)
        edits = tuple(edit for _, edit in steps)
        scores = self.guide.scores(steps) if self.guide else {}
        return Candidate(number, model, parent.number, edits, inherited, parent.epochs, scores)

    def _step(self, model: Model, excess: float, rng: np.random.Generator) -> tuple[Edit, Model, Inheritance] | None:
        """One edit; where a limit is broken, the one of up to 6 draws that comes nearest to keeping it, unless
        the guide chooses: among those that keep the limits, or else the nearest quarter.
        """
        guide = self.guide if self.guide and rng.random() < self.guide.trust else None
        looks = guide.looks if guide else 6 if excess > 0 else 1
        found = list(islice(drafts(self.mutation, model.graph, model.weights, rng), looks))
        if not found:
            return None
        excesses = [self.violation(draft.child) for draft in found] if len(found) > 1 else [0.0]
        order = sorted(range(len(found)), key=excesses.__getitem__)
        chosen = found[order[0]]
        if guide:
            kept = sum(excess == 0 for excess in excesses) or -(-len(found) // 4)
            pool = [found[i] for i in order[:kept]]
            chosen = pool[guide.choose(model.graph, pool, self.score, rng)]
        edit = chosen.finish(chosen.edit)
        weights, inheritance = inherit(model.graph, edit, model.weights, rng)
        return edit, Model(apply(model.graph, edit), weights, model.name), inheritance
