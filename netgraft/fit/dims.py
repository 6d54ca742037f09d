"""Dimensions as linear forms of unknown widths, and the equations between them.

Most equations settle an unknown on the spot: equal to a number, or to a multiple of another. What is left are sums (the
parts of a concatenation whose total is given) between a few independent unknowns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

from netgraft.ir import Batch

from .outcome import Misfit


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum of multiples of unknowns (by number; no factor is 0) and a constant."""

    terms: tuple[tuple[int, int], ...]
    constant: int = 0


Dim = int | Batch | Linear
Shape = tuple[Dim, ...]


def plus(a: Dim, b: Dim, times: int = 1) -> Dim:
    """``a + times * b``."""
    if isinstance(a, int) and isinstance(b, int):
        return a + times * b
    first, second = linear(a), linear(b)
    terms = dict(first.terms)
    for unknown, factor in second.terms:
        terms[unknown] = terms.get(unknown, 0) + times * factor
    left = tuple((unknown, factor) for unknown, factor in terms.items() if factor)
    constant = first.constant + times * second.constant
    return Linear(left, constant) if left else constant


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions of which at most one is not a number; Misfit where two are unknown."""
    number = 1
    other: Batch | Linear | None = None
    for dim in dims:
        if isinstance(dim, int):
            number *= dim
        elif other is None:
            other = dim
        else:
            raise Misfit("two unknown widths would be multiplied")
    if other is None or number == 1:
        return number if other is None else other
    if isinstance(other, Batch):
        return Batch(other.times * number)
    return Linear(tuple((unknown, factor * number) for unknown, factor in other.terms), other.constant * number)


def linear(dim: Dim) -> Linear:
    """The dimension as a linear form."""
    if isinstance(dim, Batch):
        raise Misfit(f"the batch dimension {dim} would have to be a width")
    return Linear((), dim) if isinstance(dim, int) else dim


@dataclass(frozen=True, slots=True)
class Sum:
    """Two or more terms that must add up to ``total``."""

    terms: tuple[tuple[int, int], ...]
    total: int
    where: str


class Equations:
    """Unknown widths (whole, at least 1) and what is known of them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        # The value that each unknown has in the segment.
        self.own: list[int] = []
        self._settled: dict[int, Dim] = {}
        self._open: list[tuple[Linear, str]] = []

    def new(self, name: str, own: int) -> int:
        """A new unknown, which goes by the node it belongs to; returns its number."""
        self.names.append(name)
        self.own.append(own)
        return len(self.own) - 1

    def value(self, dim: Dim) -> Dim:
        """The dimension with all that is known filled in."""
        if not isinstance(dim, Linear) or not self._settled:
            return dim
        result: Dim = dim.constant
        for unknown, factor in dim.terms:
            result = plus(result, self._unknown(unknown), factor)
        return result

    def _unknown(self, unknown: int) -> Dim:
        settled = self._settled.get(unknown)
        if settled is None:
            return Linear(((unknown, 1),))
        if isinstance(settled, Linear):
            settled = self._settled[unknown] = self.value(settled)
        return settled

    def equate(self, a: Dim, b: Dim, where: str) -> None:
        """Demands ``a = b``; Misfit, beginning with ``where``, if that cannot be."""
        if a == b:
            return
        a, b = self.value(a), self.value(b)
        if a == b:
            return
        if isinstance(a, Batch) or isinstance(b, Batch) or not self._settle(plus(a, b, -1), where):
            raise Misfit(f"{where}: a width of {self.text(a)} cannot be {self.text(b)}")

    def _settle(self, difference: Dim, where: str) -> bool:
        """Makes the difference 0; False if it cannot be."""
        form = linear(difference)
        constant = form.constant
        match form.terms:
            case ():
                return constant == 0
            case ((unknown, factor),):
                if constant % factor or -constant // factor < 1:
                    return False
                self._settled[unknown] = -constant // factor
            case ((u, f), (v, g)) if constant == 0:
                if f * g > 0:
                    return False
                f, g = abs(f) // gcd(f, g), abs(g) // gcd(f, g)
                # f u = g v: both are multiples of one unknown, which is one of them where a factor is 1.
                if f == 1:
                    self._settled[u] = product((g, Linear(((v, 1),))))
                elif g == 1:
                    self._settled[v] = product((f, Linear(((u, 1),))))
                else:
                    both = Linear(((self.new(self.names[u], max(1, round(self.own[u] / g))), 1),))
                    self._settled[u], self._settled[v] = product((g, both)), product((f, both))
            case _:
                self._open.append((form, where))
        return True

    def sums(self) -> list[Sum]:
        """The sums that are left when everything known is filled in."""
        while True:
            before, waiting = len(self._settled), self._open
            self._open = []
            for form, where in waiting:
                now = self.value(form)
                if not self._settle(now, where):
                    form = linear(now)
                    left = Linear(tuple(t for t in form.terms if t[1] > 0), max(0, form.constant))
                    right = Linear(tuple((u, -f) for u, f in form.terms if f < 0), max(0, -form.constant))
                    raise Misfit(f"{where}: a width of {self.text(left)} cannot be {self.text(right)}")
            if len(self._settled) == before:
                break
        return [Sum(form.terms, -form.constant, where) for form, where in self._open]

    def text(self, dim: Dim) -> str:
        """The dimension for people: ``16 + 2*a``, where ``a`` is the width of node ``a``."""
        if not isinstance(dim, Linear):
            return str(dim)
        terms = [f"{self.names[u]}'s" if f == 1 else f"{f} times {self.names[u]}'s" for u, f in dim.terms]
        return " + ".join([*terms, *([str(dim.constant)] if dim.constant or not terms else [])])
