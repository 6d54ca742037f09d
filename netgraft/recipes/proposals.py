"""Networks in which many layers were replaced at once, and what their Fisher potential is: what random searches for
program transformations and block substitutions have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netgraft.costs.measured import Ratio
from netgraft.errors import MeasureError
from netgraft.ir import Edit, Graph, Model, Value, apply, inherit
from netgraft.proxies import Minibatch, Probe, anew, fisher_potential
from netgraft.proxies.legality import child_at_the_start, moved_value


@dataclass(frozen=True)
class Proposal:
    """A network that a random search found, with the weights that it inherits.

    ``choices`` says what was chosen for each place, ``fisher`` is its Fisher potential and ``estimate`` its estimated
    latency, both as multiples of the original's; ``time`` is its measured one, where it was measured.
    """

    model: Model
    edits: tuple[Edit, ...]
    choices: tuple[str, ...]
    fisher: float
    estimate: float
    time: Ratio | None = None


def child_graph(graph: Graph, edits: Sequence[Edit]) -> Graph:
    """The network after edits of different regions."""
    for edit in edits:
        graph = apply(graph, edit)
    return graph


def child_of(model: Model, edits: Sequence[Edit], seed: int = 0) -> Model:
    """The network after edits of different regions, with the weights that it inherits."""
    rng = np.random.default_rng(seed)
    for edit in edits:
        weights, _ = inherit(model.graph, edit, model.weights, rng)
        model = Model(apply(model.graph, edit), weights, model.name)
    return model


@dataclass(frozen=True, eq=False)
class Potential:
    """The Fisher potential of networks that edits make of ``model``, at what they have in place of the nodes ``ends``,
    on one mini-batch before any training (:func:`~netgraft.proxies.fisher_potential`). Layers that they have in common
    are initialised alike.
    """

    model: Model
    ends: tuple[str, ...]
    batch: Minibatch
    seed: int = 0

    @cached_property
    def original(self) -> float:
        """That of the network itself; MeasureError where there is none to compare others with."""
        found = self._at(self._start, [self._start.graph[end].value() for end in self.ends])
        if not found > 0:
            raise MeasureError(
                f"{self.model.name} has a Fisher potential of {found:g}: nothing can be compared with it"
            )
        return found

    def of(self, edits: Sequence[Edit]) -> float:
        """That of a child, as a multiple of the original's."""
        model, ends = self._start, [self._start.graph[end].value() for end in self.ends]
        for edit in edits:
            child = child_at_the_start(model, edit, self.seed)
            ends = [
                moved_value(model.graph, child.graph, end) if end.node in edit.region.nodes else end for end in ends
            ]
            model = child
        return self._at(model, ends) / self.original

    @cached_property
    def _start(self) -> Model:
        return anew(self.model, self.seed)

    def _at(self, model: Model, ends: Sequence[Value]) -> float:
        probe = Probe(model, self.batch, self.seed)
        return sum(fisher_potential(probe, [end.node for end in ends]).values())
