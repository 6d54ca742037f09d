"""Grafting: replace a region by a segment of another network, made to fit, with every weight that still has a place.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.2. Deviations: every wiring of inputs and outputs is an edit of its
own (:mod:`netgraft.mutations.wiring`) instead of one drawn at random; fan-out is no obstacle; the outputs' own layers
(:func:`netgraft.segments.head`) are left alone; weights are inherited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import eq

import numpy as np

from netgraft.errors import OptionError
from netgraft.fit import NoFit, fit
from netgraft.ir import OPS, Edit, Graph, Region, Signature, Weights, apply
from netgraft.segments import Bank, Segment, default, head

from .transplant import transplant
from .wiring import Wiring, alike, shuffled, wirings

NORMALISATIONS = frozenset(["batch_norm", "group_norm", "layer_norm"])
"""What a network that has none of them does without on purpose: super-resolution, for one."""

_PATIENCE = 400
"""Draws in a row without a new child after which a graph is taken to be exhausted."""
_TRIES = 4
"""Replacements looked at in one draw before another region has its turn."""


@dataclass(frozen=True)
class Proposal:
    """A child that a graft makes, as a structure: what to score before weights are given to the best.

    ``edit`` carries no weights yet: :func:`with_weights` adds them.
    """

    edit: Edit
    child: Graph

    @property
    def digest(self) -> str:
        """The child's name: see :attr:`netgraft.ir.Graph.digest`."""
        return self.child.digest


@dataclass(frozen=True)
class Graft:
    """Grafts segments of ``bank`` (by default the one that comes with netgraft) onto graphs cut by its vocabulary.

    ``sparsity`` is the share of the vocabulary left out at each cut, ``exact`` the share of draws for which a segment
    that has the region's types already is taken where there is one; all others are fitted, with widths in multiples of
    ``multiple``. Segments have only operations in ``allowed``; if that is None they may have all, but normalisations
    only where the graph has one. Raises OptionError where ``allowed`` leaves no segment.
    """

    bank: Bank = field(default_factory=default)
    sparsity: float = 0.5
    exact: float = 0.5
    multiple: int = 1
    allowed: frozenset[str] | None = None
    name: str = "graft"

    def __post_init__(self) -> None:
        if self.allowed is not None:
            _check(self.allowed, self.bank)

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """See :class:`~netgraft.mutations.Mutation`: :meth:`proposals`, with weights."""
        for proposal in self.proposals(graph, rng):
            yield with_weights(graph, proposal.edit, weights)

    def proposals(self, graph: Graph, rng: np.random.Generator) -> Iterator[Proposal]:
        """Children of ``graph`` in a random order drawn from ``rng``, lazily, each once, and never ``graph`` itself.

        What is kept meanwhile is a number for each child (they must not come twice) and what the region types need.
        """
        apart = head(graph) | {node.id for node in graph if node.op in ("frozen", "constant")}
        bank = self._bank_for(graph)
        supplies: dict[Signature, _Supply] = {}
        sites: dict[Region, _Site] = {}
        seen = {int(graph.digest, 16)}
        misses = 0
        while misses < _PATIENCE:
            regions = [r for r in self.bank.vocabulary.cut(graph, rng, self.sparsity) if r.nodes.isdisjoint(apart)]
            misses += not regions
            for i in rng.permutation(len(regions)).tolist():
                site = sites.get(regions[i])
                if site is None:
                    signature = regions[i].signature(graph)
                    if signature not in supplies:
                        supplies[signature] = _Supply(bank, signature, self.multiple)
                    site = sites[regions[i]] = _Site(graph, regions[i], supplies[signature], rng)
                misses += 1
                found = site.draw(self.exact, rng)
                if found is None:
                    continue
                segment, replacement = found
                edit = Edit(
                    site.region, replacement, {}, f"{self.name}.{segment.digest[:8]} of {segment.provenance[0]}"
                )
                child = apply(graph, edit)
                name = int(child.digest, 16)
                if name not in seen:
                    seen.add(name)
                    misses = 0
                    yield Proposal(edit, child)

    def _bank_for(self, graph: Graph) -> Bank:
        bare = self.allowed is None and NORMALISATIONS.isdisjoint(node.op for node in graph)
        return self._bank_without_normalisations if bare else self._bank

    @cached_property
    def _bank(self) -> Bank:
        return self.bank if self.allowed is None else _within(self.bank, self.allowed)

    @cached_property
    def _bank_without_normalisations(self) -> Bank:
        return _within(self.bank, frozenset(OPS) - NORMALISATIONS)


def with_weights(graph: Graph, edit: Edit, weights: Weights) -> Edit:
    """The same change of ``graph``, with each weight of the replacement taken from the region wherever it has a place
    there: see :func:`~netgraft.mutations.transplant.transplant`.
    """
    replacement, carry = transplant(edit.region.extract(graph), edit.replacement, weights)
    return replace(edit, replacement=replacement, carry=carry)


class _Supply:
    """What may replace the regions of one signature, and what of it has proved to be no use."""

    def __init__(self, bank: Bank, signature: Signature, multiple: int) -> None:
        self.signature = signature
        self.exact, self.alike = bank.exact(signature), bank.alike(signature)
        self._multiple = multiple
        self._wirings: dict[tuple[Signature, bool], tuple[Wiring, ...]] = {}
        self._useless: set[tuple[str, Wiring]] = set()
        self._first: dict[int, tuple[str, Wiring]] = {}

    def candidates(self, exact: bool, rng: np.random.Generator) -> Iterator[tuple[Segment, Wiring]]:
        """Every segment in a random order with one of its wirings, then again with another one, until none is left."""
        segments = self.exact if exact else self.alike
        turn, more = 0, True
        while more:
            more = False
            for i in shuffled(len(segments), rng):
                ways = self._ways(segments[i], exact, rng)
                if turn < len(ways):
                    more = True
                    yield segments[i], ways[turn]
            turn += 1

    def _ways(self, segment: Segment, exact: bool, rng: np.random.Generator) -> tuple[Wiring, ...]:
        ways = self._wirings.get((segment.signature, exact))
        if ways is None:
            ways = wirings(segment.signature, self.signature, rng, eq if exact else alike)
            if not exact:
                ways = tuple(way for way in ways if way.inside(self.signature) != segment.signature)
            self._wirings[segment.signature, exact] = ways
        return ways

    def replacement(self, segment: Segment, wiring: Wiring) -> Graph | None:
        """The segment fitted and wired; None where it does not fit, or gives what another one gave before."""
        key = segment.digest, wiring
        if key in self._useless:
            return None
        wanted = wiring.inside(self.signature)
        fitted = segment.graph if segment.signature == wanted else fit(segment.graph, wanted, multiple=self._multiple)
        if not isinstance(fitted, NoFit):
            graph = wiring.around(fitted, self.signature)
            if self._first.setdefault(int(graph.digest, 16), key) == key:
                return graph
        self._useless.add(key)
        return None


class _Site:
    """A region, and what has not been tried in its place yet."""

    def __init__(self, graph: Graph, region: Region, supply: _Supply, rng: np.random.Generator) -> None:
        self.region = region
        self._source = region.extract(graph).digest
        self._supply = supply
        self._exact, self._alike = (supply.candidates(exact, rng) for exact in (True, False))

    def draw(self, exact: float, rng: np.random.Generator) -> tuple[Segment, Graph] | None:
        """A segment, and the graph it becomes in place of the region; None where a few tries brought none."""
        for _ in range(_TRIES):
            first, second = (self._exact, self._alike) if rng.random() < exact else (self._alike, self._exact)
            candidate = next(first, None) or next(second, None)
            if candidate is None:
                return None
            graph = self._supply.replacement(*candidate)
            if graph is not None and graph.digest != self._source:
                return candidate[0], graph
        return None


def _within(bank: Bank, ops: frozenset[str]) -> Bank:
    """The segments that keep to the given operations."""
    return Bank(tuple(segment for segment in bank if _ops(segment) <= ops), bank.vocabulary)


def _ops(segment: Segment) -> frozenset[str]:
    return frozenset(node.op for node in segment.graph)


def _check(allowed: frozenset[str], bank: Bank) -> None:
    """OptionError for operations that do not exist, and where no segment keeps to them."""
    unknown = sorted(allowed - OPS.keys())
    if unknown:
        raise OptionError(f"there is no operation {unknown[0]!r} to allow; there are {', '.join(sorted(OPS))}")
    lacking = Counter(_ops(segment) - allowed for segment in bank)
    if lacking and frozenset() not in lacking:
        nearest = min(lacking, key=lambda ops: (len(ops), -lacking[ops], sorted(ops)))
        raise OptionError(
            f"no segment of the bank keeps to the operations {', '.join(sorted(allowed)) or '(none)'}; with "
            f"{' and '.join(sorted(nearest))} as well {lacking[nearest]} of {len(bank)} would"
        )
