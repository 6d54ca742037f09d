"""Pareto dominance over costs (everything is minimised)."""

from __future__ import annotations

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
    """At most ``count`` points, well spread: with a single cost the lowest ones; otherwise the points in
    the order of the last cost are cut into ``count`` slices holding equally many
    points, and each slice gives its point with the lowest rank, then the lowest first cost.

    AutoGO (Salameh et al., NeurIPS 2023, section 4) takes parents uniformly over a grid for the same reason: crowding
    distances favour the extremes, which are the least useful networks.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i][-1], i))
    if order and len(costs[0]) == 1:
        return sorted(order[:count])
    rank = ranks(costs)
    slices = [chunk for chunk in np.array_split(np.array(order, int), min(count, len(order))) if len(chunk)]
    return sorted(int(min(chunk, key=lambda i: (rank[i], costs[i][0], i))) for chunk in slices)
