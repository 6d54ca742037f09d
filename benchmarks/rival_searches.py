"""Two other searches by the same grafts, for :mod:`rivals`: at random, and by AutoGO's own choices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from equal_latency import measured

from netgraft.candidate import Candidate
from netgraft.costs.analytic import flops
from netgraft.ir import Graph, Model
from netgraft.metrics import Goal, parse_limit
from netgraft.mutations.graft import Graft
from netgraft.predictor import load
from netgraft.recipes.evaluation import Check, Trainer, Tune, counted
from netgraft.search.guided import Guide
from netgraft.search.pareto import front, spread
from netgraft.spaces import Space

ITERATIONS = 10
PARENTS = 10
CHILDREN = 200
"""Of each parent, a fifth of what AutoGO's search is given at most (ten segments, a hundred replacements of each)."""
SCORED = 100
"""How many children are scored at once."""


def random_grafts(
    original: Model, trainer: Trainer, trials: int, epochs: float, imitation: int, finalists: int, seed: int
) -> list[Model]:
    """The best by validation of ``trials`` networks with one to three random grafts each, no two alike, no slower than
    the original when estimated and when measured; each fine-tuned as netgraft fine-tunes what it searches.
    """
    rng = np.random.default_rng([seed, 1])
    scores = counted(original.graph)
    space = Space(original, Graft(), counted, [parse_limit("latency<=1x", scores)])
    check, tune = Check(trainer), Tune(trainer, epochs, imitation=imitation)
    quality = Goal("quality", trainer.task.quality.higher_is_better)
    found: list[tuple[float, Model]] = []
    seen: set[str] = set()
    number = 0
    while len(found) < trials:
        number += 1
        child = space.child(Candidate(0, original), number, rng)
        if child is None or child.model.graph.digest in seen or measured(child.model, original) > 1:
            continue
        seen.add(child.model.graph.digest)
        checked = check(child)
        result = checked if checked.failure else tune(checked.candidate)
        if not result.failure:
            found.append((quality.cost(result.scores), result.candidate.model))
    return [model for _, model in sorted(found, key=lambda each: each[0])[:finalists]]


def autogo_choice(graph: Graph, seed: int) -> Graph:
    """What a search by the predictor's gain and FLOPs alone thinks the best network with no more FLOPs than ``graph``
    has. Salameh et al., "AutoGO" (NeurIPS 2023), section 4: the children of each iteration that are predicted to be
    better than the input and have no more FLOPs join a front, on which the parents of the next are taken uniformly.
    Deviations: the predictor is netgraft's, and bank and fitting, too; segments are drawn, not ranked before fitting,
    and a fifth as many of them; of the front the network with the largest gain stands for all.
    """
    rng = np.random.default_rng([seed, 2])
    guide, mutation, most = Guide(load(), 1.0, 0.0), Graft(), flops(graph)
    known = [(graph, 0.0)]
    for _ in range(ITERATIONS):
        found = {graph.digest: (graph, gain) for graph, gain in known}
        for parent, gain in [known[i] for i in spread(_costs(known), PARENTS)]:
            proposals = mutation.proposals(parent, rng)
            for _ in range(CHILDREN // SCORED):
                some = list(islice(proposals, SCORED))
                gains, deviations = guide.gains(parent, [proposal.edit for proposal in some])
                for proposal, more, deviation in zip(some, gains, deviations, strict=True):
                    child, predicted = proposal.child, gain + float(more)
                    if np.isfinite(deviation) and predicted > 0 and flops(child) <= most:
                        found.setdefault(child.digest, (child, predicted))
        children = list(found.values())
        known = [children[i] for i in front(_costs(children))]
    return max(known, key=lambda each: each[1])[0]


def _costs(known: Sequence[tuple[Graph, float]]) -> list[list[float]]:
    return [[-gain, flops(graph)] for graph, gain in known]
