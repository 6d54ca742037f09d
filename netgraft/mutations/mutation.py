"""What a mutation is, and how several are combined.

To add a kind of mutation: write one file beside this one with a class that has ``name`` and ``edits``, and one test
file that runs ``check_mutation`` of ``tests/contracts.py`` over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from netgraft.ir import Edit, Graph, Weights, apply


class Mutation(Protocol):
    """A source of edits."""

    @property
    def name(self) -> str:
        """Short name, the first word of its edits' ``origin``."""

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """Edits of ``graph`` in a random order drawn from ``rng``, lazily, without duplicates.

        Every edit can be applied, gives a graph that differs from ``graph``, and says where its weights come from.
        ``weights`` are for ranking what to keep (by magnitude, say); they are not changed. A mutation that finds
        nothing to do yields nothing.
        """


@dataclass(frozen=True)
class Draft:
    """A child as a structure: what to look at before weights are given to the one that is chosen.

    ``edit`` may lack its carry; ``finish`` adds it.
    """

    edit: Edit
    child: Graph
    finish: Callable[[Edit], Edit]


@runtime_checkable
class Drafting(Protocol):
    """A mutation that finds structures more cheaply than where their weights come from."""

    def drafts(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Draft]:
        """As :meth:`Mutation.edits`, with what is dear left to :attr:`Draft.finish`."""


def drafts(mutation: Mutation, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Draft]:
    """What ``mutation`` proposes for ``graph``, as drafts; where it drafts nothing, they are finished already."""
    if isinstance(mutation, Drafting):
        yield from mutation.drafts(graph, weights, rng)
    else:
        for edit in mutation.edits(graph, weights, rng):
            yield Draft(edit, apply(graph, edit), lambda edit: edit)


@dataclass(frozen=True)
class Mix:
    """Several mutations, drawn from with probability proportional to ``shares`` (all alike if left out)."""

    mutations: Sequence[Mutation]
    shares: Sequence[float] | None = None
    name: str = "mix"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """Edits of all the mutations, interleaved at random, until every one is exhausted."""
        for draft in self.drafts(graph, weights, rng):
            yield draft.finish(draft.edit)

    def drafts(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Draft]:
        """See :class:`Drafting`."""
        sources = [drafts(mutation, graph, weights, rng) for mutation in self.mutations]
        shares = list(self.shares) if self.shares is not None else [1.0] * len(sources)
        while sources:
            i = int(rng.choice(len(sources), p=np.array(shares) / sum(shares)))
            draft = next(sources[i], None)
            if draft is None:
                del sources[i], shares[i]
            else:
                yield draft
