"""Whether an edit keeps a training-free score: what program transformation calls a legal change.

.. code-block:: python

    Program(legal=fisher_legal(of_task(task, 128)))  # of netgraft.mutations.program: only legal edits are proposed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from netgraft.ir import Carry, Edit, Graph, Model, Value, apply, inherit

from .fisher import fisher_potential
from .probe import Minibatch, Probe, anew

_STORED = frozenset({"constant", "frozen"})


def fisher_legal(batch: Minibatch, *, seed: int = 0) -> Callable[[Model, Edit], bool]:
    """Legal is an edit after which the Fisher potential of what leaves its region is not below what it was (Turner et
    al., "Neural Architecture Search as Program Transformation Exploration", ASPLOS 2021), on one mini-batch, with both
    networks as initialised.

    Deviation: layers that the edit leaves alone are initialised alike in both, so that only the change is seen.
    """
    start = _Start(batch, seed)

    def legal(model: Model, edit: Edit) -> bool:
        before = start.of(model)
        _, leaving = edit.region.boundary(model.graph)
        layers = fisher_potential(before)
        ends = [value.node for value in leaving]
        one = layers if layers.keys() >= set(ends) else fisher_potential(before, ends)
        child = child_at_the_start(before.model, edit, seed)
        moved = [moved_value(model.graph, child.graph, value).node for value in leaving]
        return sum(fisher_potential(Probe(child, batch, seed), moved).values()) >= sum(one[end] for end in ends)

    return legal


def score_legal(score: Callable[[Probe], float], batch: Minibatch, *, seed: int = 0) -> Callable[[Model, Edit], bool]:
    """Legal is an edit after which a score of the whole network (one of :data:`~netgraft.proxies.PROXIES`) is not below
    what it was; as :func:`fisher_legal` in all else.
    """
    start = _Start(batch, seed)

    def legal(model: Model, edit: Edit) -> bool:
        before = start.of(model)
        child = child_at_the_start(before.model, edit, seed)
        return score(Probe(child, batch, seed)) >= score(before)

    return legal


@dataclass
class _Start:
    """The network that edits are asked about, before training: the last one is kept, as many edits of it follow."""

    batch: Minibatch
    seed: int
    _last: tuple[str, Probe] | None = None

    def of(self, model: Model) -> Probe:
        if self._last is None or self._last[0] != model.graph.digest:
            self._last = model.graph.digest, Probe(anew(model, self.seed), self.batch, self.seed)
        return self._last[1]


def child_at_the_start(fresh: Model, edit: Edit, seed: int) -> Model:
    """The child of a network that is not trained. What the replacement has is new, even where the edit would keep it;
    all else is as in ``fresh``.
    """
    kept: dict[str, Carry] = {
        key: edit.carry[key]
        for node in edit.replacement
        if node.op in _STORED
        for key in node.weights.values()
        if key in edit.carry
    }
    new = replace(edit, carry=kept)
    weights, _ = inherit(fresh.graph, new, fresh.weights, np.random.default_rng([seed, len(edit.replacement)]))
    return Model(apply(fresh.graph, new), weights, fresh.name)


def moved_value(graph: Graph, child: Graph, value: Value) -> Value:
    """What the child of an edit has in place of a value that left the edit's region."""
    for node in graph.users.get(value, ()):
        if node.id in child and child[node.id].op == node.op:
            return child[node.id].inputs[node.inputs.index(value)]
    return child.outputs[graph.outputs.index(value)]
