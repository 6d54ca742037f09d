"""Pareto dominance over costs (everything is minimised)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]


def front(costs: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point dominates, in their order; of equal points the first."""
    points = np.asarray(costs, np.float64).reshape(len(costs), -1)
    kept = []
    for i, point in enumerate(points):
        better = (points <= point).all(1) & (points < point).any(1)
        twin = (points[:i] == point).all(1)
        if not better.any() and not twin.any():
            kept.append(i)
    return kept


def ranks(costs: Sequence[Sequence[float]]) -> list[int]:
    """Non-domination rank of each point: 0 for the front, 1 for the front of the rest, and so on
    (Deb et al., NSGA-II, 2002, section III.A).
    """
    left = list(range(len(costs)))
    result = [0] * len(costs)
    rank = 0
    while left:
        best = {left[i] for i in front([costs[i] for i in left])}
        for i in best:
            result[i] = rank
        left = [i for i in left if i not in best]
        rank += 1
    return result


def spread(costs: Sequence[Sequence[float]], count: int) -> list[int]:
    """At most ``count`` points, well spread: with a single cost the lowest ones; otherwise those of the lowest ranks,
    from intervals of the last cost in turn, the lowest first cost of an interval first. The intervals are ``count``,
    equally long, and cover the front.

    AutoGO (Salameh et al., NeurIPS 2023, section 4) takes parents uniformly over a grid for the same reason: crowding
    distances favour the extremes, which are the least useful networks.
    """
    if not costs or len(costs[0]) == 1:
        return sorted(sorted(range(len(costs)), key=lambda i: (costs[i][-1], i))[:count])
    rank = ranks(costs)
    last = np.array([row[-1] for row in costs])
    edge = last[[r == 0 for r in rank]]
    interval = np.digitize(last, np.linspace(edge.min(), edge.max(), count + 1)[1:-1])
    turns: Counter[tuple[int, int]] = Counter()
    order = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i][0], i)):
        place = (rank[i], int(interval[i]))
        order.append((rank[i], turns[place], costs[i][0], i))
        turns[place] += 1
    return sorted(i for *_, i in sorted(order)[:count])
