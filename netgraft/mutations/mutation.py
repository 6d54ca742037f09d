"""What a mutation is, and how several are combined.

To add a kind of mutation: write one file beside this one with a class that has ``name`` and ``edits``, and one test
file that runs ``check_mutation`` of ``tests/contracts.py`` over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from netgraft.ir import Edit, Graph, Weights


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
class Mix:
    """Several mutations, drawn from with probability proportional to ``shares`` (all alike if left out)."""

    mutations: Sequence[Mutation]
    shares: Sequence[float] | None = None
    name: str = "mix"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """Edits of all the mutations, interleaved at random, until every one is exhausted."""
        sources = [mutation.edits(graph, weights, rng) for mutation in self.mutations]
        shares = list(self.shares) if self.shares is not None else [1.0] * len(sources)
        while sources:
            i = int(rng.choice(len(sources), p=np.array(shares) / sum(shares)))
            edit = next(sources[i], None)
            if edit is None:
                del sources[i], shares[i]
            else:
                yield edit
