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


def volume(costs: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The hypervolume that the points dominate below ``reference`` (Zitzler & Thiele, "Multiobjective Evolutionary
    Algorithms", IEEE TEC 1999): by slices along the last cost; for a few dozen points.
    """
    points = np.asarray(costs, np.float64).reshape(len(costs), len(reference))
    return _volume(points[(points < reference).all(1)], np.asarray(reference, np.float64))


def _volume(points: Costs, reference: Costs) -> float:
    if not len(points):
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = np.append(points[1:, -1], reference[-1])
    heights = ends - points[:, -1]
    return sum(
        float(height) * _volume(points[: i + 1, :-1], reference[:-1]) for i, height in enumerate(heights) if height > 0
    )


def worthiest(costs: Sequence[Sequence[float]], reference: Sequence[float], count: int) -> list[int]:
    """At most ``count`` points that together dominate much of what lies below ``reference``: one after another, the one
    that adds most (Guerreiro et al., "Greedy Hypervolume Subset Selection in Low Dimensions", 2016: at least 63 % of
    the largest volume). Where none adds anything, the same is done with those that are left, as if the others were not
    there; what does not lie below ``reference`` comes last, :func:`spread`.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        layer: list[int] = []
        covered = 0.0
        left = [i for i in range(len(costs)) if i not in chosen]
        while left and len(chosen) + len(layer) < count:
            volumes = [volume([costs[j] for j in (*layer, i)], reference) for i in left]
            best = int(np.argmax(volumes))
            if volumes[best] <= covered * (1 + 1e-9):
                break  # beyond what sums in another order differ by
            covered = volumes[best]
            layer.append(left.pop(best))
        if not layer:
            rest = spread([costs[i] for i in left], count - len(chosen))
            return sorted([*chosen, *(left[i] for i in rest)])
        chosen += layer
    return sorted(chosen)
