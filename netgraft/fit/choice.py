"""Choosing the widths that are left open: as near as possible to the segment's own proportions.

Unknowns that no sum ties together are chosen one by one (a weighted median), the parts of one sum by handing out what
is left over where it hurts least; both are optimal, since every unknown's cost is convex. Only what hangs together by
several sums, or by differences, takes an integer program, which HiGHS solves in process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, lcm

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from .dims import Equations, Linear, Sum, product
from .outcome import Misfit

_MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Wish:
    """A width, ``factor`` times an unknown, that would best be ``own`` times how much wider everything becomes.

    ``importance`` weighs relative deviations: one and the nodes that the width has a say in.
    """

    unknown: int
    factor: int
    own: int
    importance: int


@dataclass(frozen=True, slots=True)
class Pull:
    """A wish once everything known is filled in: ``weight * |factor * unknown - target|`` is to be small."""

    factor: int
    target: float
    weight: float


Pulls = Mapping[int, Sequence[Pull]]
"""What pulls at each open unknown."""


def choose(equations: Equations, wishes: Iterable[Wish], scale: float, multiple: int) -> dict[int, int]:
    """A value for every unknown that the equations leave open; Misfit where the sums cannot be met.

    A width's target is its own value times ``scale``, and where it is a part of a given total, times how much that
    has grown; rounded to ``multiple``. The weighted sum of the relative distances from the targets is the least there
    is, and among equals the narrower width is taken.
    """
    sums = equations.sums()
    pulls = targets(equations, sums, wishes, scale, multiple)
    values = {unknown: favourite(pull) for unknown, pull in pulls.items()}
    for unknowns, tied in components(sums):
        if all(sum(factor * values[u] for u, factor in s.terms) == s.total for s in tied):
            continue
        only = {unknown: pulls[unknown] for unknown in unknowns}
        shares = shared(only, tied[0]) if len(tied) == 1 else None
        values |= solved(only, tied, equations.names) if shares is None else shares
    return values


def targets(
    equations: Equations, sums: Iterable[Sum], wishes: Iterable[Wish], scale: float, multiple: int
) -> dict[int, list[Pull]]:
    """What pulls at each open unknown."""
    scales: dict[int, float] = {}
    for s in sums:
        if all(factor > 0 for _, factor in s.terms):
            grown = s.total / sum(factor * equations.own[u] for u, factor in s.terms)
            for unknown, _ in s.terms:
                scales.setdefault(unknown, grown)
    pulls: dict[int, list[Pull]] = {unknown: [] for s in sums for unknown, _ in s.terms}
    for wish in wishes:
        width = equations.value(product((wish.factor, Linear(((wish.unknown, 1),)))))
        if isinstance(width, Linear):
            ((unknown, factor),) = width.terms
            target = max(1.0, wish.own * scales.get(unknown, scale))
            weight = wish.importance / target
            if multiple > 1:
                unit = lcm(factor, multiple)
                target = max(1, floor(target / unit + 0.5)) * unit
            pulls.setdefault(unknown, []).append(Pull(factor, target, weight))
    return pulls


def cost(pulls: Sequence[Pull], value: int) -> float:
    """How far an unknown of this value is from what pulls at it."""
    total = 0.0
    for pull in pulls:
        total += pull.weight * abs(pull.factor * value - pull.target)
    return total


def favourite(pulls: Sequence[Pull]) -> int:
    """The whole number, at least 1, with the least cost: next to the weighted median of the targets."""
    if len(pulls) == 1:
        best = pulls[0].target / pulls[0].factor
    else:
        marks = sorted((pull.target / pull.factor, pull.weight * pull.factor) for pull in pulls)
        half = sum(weight for _, weight in marks) / 2
        best = 1.0
        for mark, weight in marks:
            best = mark
            half -= weight
            if half <= 0:
                break
    low = max(1, floor(best))
    return min(low, low + 1, key=lambda value: cost(pulls, value))


def components(sums: Sequence[Sum]) -> list[tuple[list[int], list[Sum]]]:
    """The sums in groups that share no unknown, with the unknowns of each."""
    groups: list[tuple[dict[int, None], dict[Sum, None]]] = []
    for s in sums:
        unknowns, together = dict.fromkeys(unknown for unknown, _ in s.terms), {s: None}
        apart = []
        for group in groups:
            if group[0].keys().isdisjoint(unknowns):
                apart.append(group)
            else:
                unknowns, together = group[0] | unknowns, group[1] | together
        groups = [*apart, (unknowns, together)]
    return [(list(unknowns), list(together)) for unknowns, together in groups]


def shared(pulls: Pulls, given: Sum) -> dict[int, int] | None:
    """The best shares in one sum of equal positive factors; None where it is no such sum or cannot be met.

    Beginning at the unknowns' favourites, one is moved at a time whose cost rises least: optimal for convex costs
    (Fox, "Discrete optimization via marginal analysis", 1966).
    """
    factor = given.terms[0][1]
    total, rest = divmod(given.total, factor)
    if factor < 0 or rest or total < len(pulls) or any(f != factor for _, f in given.terms):
        return None
    values = {unknown: favourite(pull) for unknown, pull in pulls.items()}
    left = total - sum(values.values())
    if abs(left) > _MOST_STEPS:
        return None
    step = 1 if left > 0 else -1
    for _ in range(abs(left)):
        movable = [unknown for unknown, value in values.items() if value + step > 0]
        cheapest = min(movable, key=lambda u: cost(pulls[u], values[u] + step) - cost(pulls[u], values[u]))
        values[cheapest] += step
    return values


def solved(pulls: Pulls, sums: Sequence[Sum], names: Sequence[str]) -> dict[int, int]:
    """The best values of unknowns under any sums, by an integer program."""
    column = {unknown: i for i, unknown in enumerate(pulls)}
    flat = [(column[unknown], pull) for unknown, several in pulls.items() for pull in several]
    count = len(pulls) + len(flat)
    rows = [([(column[unknown], float(f)) for unknown, f in s.terms], float(s.total), float(s.total)) for s in sums]
    for distance, (unknown, pull) in enumerate(flat, len(pulls)):
        # distance >= |factor * unknown - target|
        rows.append(([(unknown, float(pull.factor)), (distance, -1.0)], -np.inf, pull.target))
        rows.append(([(unknown, -float(pull.factor)), (distance, -1.0)], -np.inf, -pull.target))
    entries = [(r, c, f) for r, (row, _, _) in enumerate(rows) for c, f in row]
    at, columns, factors = zip(*entries, strict=True)
    result = milp(
        [0.0] * len(pulls) + [pull.weight for _, pull in flat],
        integrality=np.array([1] * len(pulls) + [0] * len(flat)),
        bounds=Bounds(np.array([1.0] * len(pulls) + [0.0] * len(flat)), np.full(count, np.inf)),
        constraints=LinearConstraint(
            csr_array((factors, (at, columns)), shape=(len(rows), count)), [r[1] for r in rows], [r[2] for r in rows]
        ),
        # Programs of real segments need a few nodes; a limit in seconds would not be deterministic.
        options={"node_limit": 10_000, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        s = sums[0]
        parts = " + ".join(names[u] if f == 1 else f"{f}*{names[u]}" for u, f in s.terms)
        raise Misfit(f"{s.where}: no whole widths {parts} = {s.total}")
    return {unknown: round(result.x[i]) for unknown, i in column.items()}
