"""Grafting: replace a region by a segment of another network, made to fit, with every weight that still has a place.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.2. Deviations: every wiring of inputs and outputs is an edit of its
own (:mod:`netgraft.mutations.wiring`) instead of one drawn at random; fan-out is no obstacle; the outputs' own layers
(:func:`netgraft.segments.head`) are left alone; weights are inherited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from operator import eq
from typing import NamedTuple

import numpy as np

from netgraft.errors import OptionError
from netgraft.fit import NoFit, fit
from netgraft.ir import OPS, Edit, Graph, Region, Signature, Weights, apply
from netgraft.segments import Bank, Segment, default, head

from .fixed import delicate, tears, untouchable
from .mutation import Draft
from .transplant import transplant
from .wiring import Wiring, alike, shuffled, wirings

NORMALISATIONS = frozenset(["batch_norm", "group_norm", "layer_norm"])
"""What a network that has none of them does without on purpose: super-resolution, for one."""

_PATIENCE = 400
"""Draws in a row without a new child after which a graph is taken to be exhausted."""
_TRIES = 4
"""Segments looked at in one draw before another region has its turn."""
_FRESH = 0.1
"""Share of draws that look for a new segment although there are some that fitted other regions of the signature: the
higher it is, the more segments are seen, the lower, the fewer are fitted.
"""

_KEPT = 1024
"""Replacements kept, of all signatures together, as other regions of these will ask for them soon."""


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
    that has the region's types already is taken where there is one; all others are fitted. Widths that are open become
    multiples of ``multiple``. Segments have only operations in ``allowed``; if that is None they may have all, but
    normalisations only where the graph has one. Regions with a node of ``fixed`` are left alone, beside those that
    always are (:func:`~netgraft.mutations.fixed.untouchable`). Raises OptionError where ``allowed`` leaves no segment.
    """

    bank: Bank = field(default_factory=default)
    sparsity: float = 0.5
    exact: float = 0.5
    multiple: int = 1
    allowed: frozenset[str] | None = None
    fixed: frozenset[str] = frozenset()
    name: str = "graft"

    def __post_init__(self) -> None:
        if self.allowed is not None:
            _check(self.allowed, self.bank)

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """See :class:`~netgraft.mutations.Mutation`: :meth:`proposals`, with weights."""
        for proposal in self.proposals(graph, rng):
            yield with_weights(graph, proposal.edit, weights)

    def drafts(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Draft]:
        """See :class:`~netgraft.mutations.mutation.Drafting`: :meth:`proposals`, with weights where they are wanted."""
        for proposal in self.proposals(graph, rng):
            yield Draft(proposal.edit, proposal.child, lambda edit: with_weights(graph, edit, weights))

    def proposals(self, graph: Graph, rng: np.random.Generator) -> Iterator[Proposal]:
        """Children of ``graph`` in a random order drawn from ``rng``, lazily, each once, and never ``graph`` itself.

        What is kept meanwhile is a number for each child (they must not come twice), and which segments fit where.
        """
        apart = self.fixed | untouchable(graph).keys() | head(graph)
        apart |= {node.id for node in graph if node.op == "constant"}
        whole = delicate(graph)
        bank = self._bank_for(graph)
        encoded = self.bank.vocabulary.encode(graph)
        order = int(rng.integers(2**32))
        kept = lru_cache(maxsize=_KEPT)(_Supply.make)
        supplies: dict[Signature, _Supply] = {}
        sites: dict[Region, _Site] = {}
        seen = {int(graph.digest, 16)}
        misses = 0
        while misses < _PATIENCE:
            regions = [
                region
                for region in encoded.cut(rng, self.sparsity)
                if region.nodes.isdisjoint(apart) and not tears(region, whole)
            ]
            misses += not regions
            for i in rng.permutation(len(regions)).tolist():
                site = sites.get(regions[i])
                if site is None:
                    signature = regions[i].signature(graph)
                    if signature not in supplies:
                        supplies[signature] = _Supply(bank, signature, self.multiple, order, kept)
                    site = sites[regions[i]] = _Site(regions[i], supplies[signature])
                misses += 1
                found = site.draw(self.exact, rng)
                if found is None:
                    continue
                segment, replacement = found
                whose = segment.provenance[0] if segment.provenance else "unknown origin"
                edit = Edit(site.region, replacement, {}, f"{self.name}.{segment.digest[:8]} of {whose}")
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
        return self.bank if self.allowed is None else self.bank.only(self.allowed)

    @cached_property
    def _bank_without_normalisations(self) -> Bank:
        return self.bank.only(OPS.keys() - NORMALISATIONS)


def with_weights(graph: Graph, edit: Edit, weights: Weights) -> Edit:
    """The same change of ``graph``, with each weight of the replacement taken from the region wherever it has a place
    there: see :func:`~netgraft.mutations.transplant.transplant`.
    """
    replacement, carry = transplant(edit.region.extract(graph), edit.replacement, weights)
    return replace(edit, replacement=replacement, carry=carry)


class _Option(NamedTuple):
    """A segment, by where it stands in the bank's answer (graphs take much memory), and a wiring of it."""

    exact: bool
    number: int
    wiring: Wiring


_Make = Callable[["_Supply", _Option], "tuple[Segment, Graph] | None"]


class _Supply:
    """What may replace the regions of one signature: every segment in every wiring, in a random order, fitted when its
    turn comes. What fits is found once and then offered to all regions of the signature. Supplies of one ``order`` take
    segments in the same order as far as they can, so that each is read once for all.
    """

    def __init__(self, bank: Bank, signature: Signature, multiple: int, order: int, kept: _Make) -> None:
        self.found: list[tuple[_Option, Region]] = []
        """What fits, and the region that it was found for."""
        self._signature, self._multiple = signature, multiple
        self._segments = {True: bank.exact(signature), False: bank.alike(signature)}
        self._waiting = {exact: self._options(exact, np.random.default_rng(order)) for exact in (True, False)}
        self._digests: set[str] = set()
        self._kept = kept

    def find(self, region: Region, share: float, rng: np.random.Generator) -> tuple[Segment, Graph] | None:
        """A replacement that was not found yet, exact in a ``share`` of cases; None where a few tries brought none."""
        for _ in range(_TRIES):
            exact = bool(rng.random() < share)
            option = next(self._waiting[exact], None) or next(self._waiting[not exact], None)
            if option is None:
                return None
            result = self.made(option)
            if result is not None and result[1].digest not in self._digests:
                self._digests.add(result[1].digest)
                self.found.append((option, region))
                return result
        return None

    def made(self, option: _Option) -> tuple[Segment, Graph] | None:
        """What :meth:`make` makes, or has made."""
        return self._kept(self, option)

    def make(self, option: _Option) -> tuple[Segment, Graph] | None:
        """The segment, and the graph that it becomes in place of a region; None where it cannot be fitted."""
        segment = self._segments[option.exact][option.number]
        wanted = option.wiring.inside(self._signature)
        as_it_is = option.exact and self._multiple == 1
        fitted = segment.graph if as_it_is else fit(segment.graph, wanted, multiple=self._multiple)
        return None if isinstance(fitted, NoFit) else (segment, option.wiring.around(fitted, self._signature))

    def _options(self, exact: bool, rng: np.random.Generator) -> Iterator[_Option]:
        """Every segment with one of its wirings, then again with another one, until none is left."""
        segments = self._segments[exact]
        known: dict[Signature, Iterator[Wiring]] = {}
        more = True
        while more:
            more = False
            turn: dict[Signature, Wiring | None] = {}
            for i in shuffled(len(segments), rng):
                own = segments.signature(i)
                if own not in turn:
                    if own not in known:
                        known[own] = self._wirings(own, exact, rng)
                    turn[own] = next(known[own], None)
                wiring = turn[own]
                if wiring is not None:
                    more = True
                    yield _Option(exact, i, wiring)

    def _wirings(self, own: Signature, exact: bool, rng: np.random.Generator) -> Iterator[Wiring]:
        for wiring in wirings(own, self._signature, rng, eq if exact else alike):
            if exact or wiring.inside(self._signature) != own:  # what matches exactly comes from the other source
                yield wiring


@dataclass(slots=True)
class _Site:
    """A region, and how much of what its supply has found was tried in its place."""

    region: Region
    supply: _Supply
    tried: int = 0

    def draw(self, share: float, rng: np.random.Generator) -> tuple[Segment, Graph] | None:
        """A replacement, mostly one that was found for another region before; None where there is none at hand."""
        found = self.supply.found
        while self.tried < len(found) and found[self.tried][1] is self.region:
            self.tried += 1
        drawn = None
        if self.tried == len(found) or rng.random() < _FRESH:
            drawn = self.supply.find(self.region, share, rng)
        if drawn is None and self.tried < len(found):
            drawn = self.supply.made(found[self.tried][0])
            self.tried += 1
        return drawn


def _check(allowed: frozenset[str], bank: Bank) -> None:
    """OptionError for operations that do not exist, and where no segment keeps to them."""
    unknown = sorted(allowed - OPS.keys())
    if unknown:
        raise OptionError(f"there is no operation {unknown[0]!r} to allow; there are {', '.join(sorted(OPS))}")
    lacking: Counter[frozenset[str]] = Counter()
    for ops, count in bank.opsets.items():
        lacking[ops - allowed] += count
    if lacking and frozenset() not in lacking:
        nearest = min(lacking, key=lambda ops: (len(ops), -lacking[ops], sorted(ops)))
        raise OptionError(
            f"no segment of the bank keeps to the operations {', '.join(sorted(allowed)) or '(none)'}; with "
            f"{' and '.join(sorted(nearest))} as well {lacking[nearest]} of {len(bank)} would"
        )
