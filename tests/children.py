"""Random children: a region of a network replaced by any segment that can be made to fit, and the mutations' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from netgraft.fit import NoFit, fit
from netgraft.ir import Edit, Graph, Model, Region
from netgraft.mutations.fixed import delicate, tears
from netgraft.mutations.graft import Graft, with_weights
from netgraft.mutations.mutation import Mutation
from netgraft.mutations.program import Program
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.mutations.wiring import wirings
from netgraft.segments import Bank

LONGEST: Final = 16
"""Most nodes of a random region."""
_PATIENCE: Final = 20
"""Random regions and segments that are tried for one that can be wired."""
_WAYS: Final = 24
"""Wirings of one segment, among which one is drawn."""

WAYS: Final = ("graft", "banked", "foreign", "swap", "trim", "program")
"""How children come about: :class:`Graft`'s own; a random region replaced by a random segment of the bank, or by a
random region of another network, through a random wiring; :class:`Swap`'s, :class:`Trim`'s and
:class:`Program`'s."""


@dataclass(frozen=True)
class Draw:
    """One attempt: its way (of :data:`WAYS`), and the edit, or the reason why there is none."""

    way: str
    edit: Edit | None
    reason: str = ""


def draws(
    parent: Model, others: Sequence[Graph], bank: Bank, rng: np.random.Generator, ways: Sequence[str] = WAYS
) -> Iterator[Draw]:
    """Attempts at children of ``parent``, the ways in turn, without end unless no way has anything to offer."""
    mutations: dict[str, Mutation] = {"graft": Graft(bank), "swap": Swap(), "trim": Trim(), "program": Program()}
    edits = {way: m.edits(parent.graph, parent.weights, rng) for way, m in mutations.items() if way in ways}
    open_ways = list(ways)
    while open_ways:
        for way in tuple(open_ways):
            if way in ("banked", "foreign"):
                yield _transplanted(parent, others, bank, way, rng)
            else:
                edit = next(edits[way], None)
                if edit is None:
                    open_ways.remove(way)
                else:
                    yield Draw(way, edit)


def random_region(graph: Graph, rng: np.random.Generator, longest: int = LONGEST) -> Region:
    """A convex, connected region of at most ``longest`` nodes, or a single node where its hull came out longer.

    Like a graft it leaves whole what a root or a division hangs on (:func:`~netgraft.mutations.fixed.delicate`): a root
    of anything else is no number, which the best checked replacement cannot help.
    """
    chains = delicate(graph)
    while True:
        start = graph.nodes[int(rng.integers(len(graph)))].id
        nodes, size = {start}, int(rng.integers(1, longest + 1))
        while len(nodes) < size:
            beside = sorted(_neighbours(graph, nodes))
            if not beside:
                break
            nodes.add(beside[int(rng.integers(len(beside)))])
        hull = Region.hull(graph, nodes)
        region = hull if len(hull.nodes) <= longest else Region.of([start])
        if not tears(region, chains):
            return region


def _neighbours(graph: Graph, nodes: set[str]) -> set[str]:
    read = {v.node for id in nodes for v in graph[id].inputs if v.node in graph}
    reading = {node.id for node in graph if any(v.node in nodes for v in node.inputs)}
    return (read | reading) - nodes


def _transplanted(parent: Model, others: Sequence[Graph], bank: Bank, way: str, rng: np.random.Generator) -> Draw:
    for _ in range(_PATIENCE):
        region = random_region(parent.graph, rng)
        signature = region.signature(parent.graph)
        if way == "banked":
            segment = bank[int(rng.integers(len(bank)))].graph
        else:
            other = others[int(rng.integers(len(others)))]
            segment = random_region(other, rng).extract(other)
        ways = tuple(islice(wirings(segment.signature, signature, rng), _WAYS)) if signature.inputs else ()
        if ways:
            break
    else:
        return Draw(way, None, "no wiring")
    wiring = ways[int(rng.integers(len(ways)))]
    fitted = fit(segment, wiring.inside(signature))
    if isinstance(fitted, NoFit):
        return Draw(way, None, "no fit")
    replacement = wiring.around(fitted, signature)
    if replacement.digest == region.extract(parent.graph).digest:
        return Draw(way, None, "the same again")
    return Draw(way, with_weights(parent.graph, Edit(region, replacement, origin=way), parent.weights))
