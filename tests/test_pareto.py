"""Dominance, ranks and the choice of well-spread points."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from netgraft.search.pareto import front, ranks, spread, volume, worthiest

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@given(points)
def test_front_holds_what_nothing_dominates_once(costs: list[tuple[int, int]]) -> None:
    kept = [costs[i] for i in front(costs)]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {p for p in costs if not any(dominates(q, p) for q in costs)}


@given(points)
def test_a_dominated_point_has_a_worse_rank(costs: list[tuple[int, int]]) -> None:
    rank = ranks(costs)
    assert all(rank[i] < rank[j] for i, p in enumerate(costs) for j, q in enumerate(costs) if dominates(p, q))


@given(points, st.integers(1, 5))
def test_spread_gives_as_many_as_asked_for(costs: list[tuple[int, int]], count: int) -> None:
    picked = spread(costs, count)
    assert len(set(picked)) == len(picked) == min(count, len(costs))


def test_spread_covers_the_last_cost() -> None:
    costs = [(5.0, 1.0), (4.0, 2.0), (9.0, 3.0), (3.0, 4.0), (1.0, 5.0), (2.0, 6.0)]
    assert spread(costs, 3) == [1, 3, 4]


def test_spread_cuts_the_front_into_equal_lengths_not_equal_counts() -> None:
    crowd = [(1.0 - i / 100, 9.0 + i / 100) for i in range(8)]  # many that are alike, and two that dare more
    assert spread([(3.0, 1.0), (2.0, 5.0), *crowd], 3) == [0, 1, 9]


@given(points, st.integers(1, 5))
def test_spread_takes_from_the_front_first(costs: list[tuple[int, int]], count: int) -> None:
    rank = ranks(costs)
    picked = spread(costs, count)
    left = [i for i in range(len(costs)) if i not in picked]
    assert max(rank[i] for i in picked) <= min((rank[i] for i in left), default=len(costs))


def test_spread_over_one_cost_takes_the_lowest() -> None:
    assert spread([(3.0,), (1.0,), (2.0,)], 2) == [1, 2]


CORNER = (5, 5, 5)
BOXES = st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=7)


@given(BOXES, st.integers(1, 3))
def test_volume_counts_the_cells_that_points_dominate(costs: list[tuple[int, int, int]], goals: int) -> None:
    points = [cost[:goals] for cost in costs]
    cells = itertools.product(*[range(5)] * goals)
    dominated = [cell for cell in cells if any(all(p <= c for p, c in zip(q, cell, strict=True)) for q in points)]
    assert volume(points, CORNER[:goals]) == len(dominated)


@given(BOXES, st.integers(1, 7))
def test_the_worthiest_dominate_most_of_what_as_many_can(costs: list[tuple[int, int, int]], count: int) -> None:
    chosen = worthiest(costs, CORNER, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(costs))
    most = max((volume(some, CORNER) for some in itertools.combinations(costs, len(chosen))), default=0)
    assert volume([costs[i] for i in chosen], CORNER) >= (1 - 1 / 2.718) * most


def test_what_is_beyond_the_reference_is_worth_less_than_what_adds_nothing() -> None:
    costs = [(0, 9), (4, 4), (1, 1), (3, 3), (9, 0)]
    assert worthiest(costs, (5, 5), 1) == [2]
    assert worthiest(costs, (5, 5), 3) == [1, 2, 3]
    assert worthiest(costs, (5, 5), 4) == [0, 1, 2, 3]
