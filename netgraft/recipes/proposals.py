"""Networks in which many layers were replaced at once, and what their Fisher potential is: what random searches for
program transformations and block substitutions have in common, and how what they find is trained and measured.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from netgraft.candidate import Candidate, Trial
from netgraft.costs.measured import Ratio
from netgraft.errors import EmptyFrontError, MeasureError
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Inheritance, Model, Value, apply, inherit
from netgraft.ir.text import edit_from_data, edit_to_data
from netgraft.metrics import Goal
from netgraft.mutations import Mix
from netgraft.proxies import Minibatch, Probe, anew, fisher_potential
from netgraft.proxies.legality import child_at_the_start, moved_value
from netgraft.search import Budget, Outlook, Rung, search
from netgraft.spaces import Space
from netgraft.study import Study
from netgraft.tasks import Task

from .clock import Clock
from .evaluation import Check, Count, Tune
from .finals import Entrants, finalists_of
from .run import Begun, Plan, Run, conduct


@dataclass(frozen=True)
class Proposal:
    """A network that a random search found, with the weights that it inherits.

    ``choices`` says what was chosen for each place, ``fisher`` is its Fisher potential and ``estimate`` its estimated
    latency, both as multiples of the original's; ``time`` is its measured one, where it was measured. ``inherited`` is
    how many of its weights came from the original.
    """

    model: Model
    edits: tuple[Edit, ...]
    choices: tuple[str, ...]
    fisher: float
    estimate: float
    inherited: Inheritance
    time: Ratio | None = None


def child_graph(graph: Graph, edits: Sequence[Edit]) -> Graph:
    """The network after edits of different regions."""
    for edit in edits:
        graph = apply(graph, edit)
    return graph


def child_of(model: Model, edits: Sequence[Edit], seed: int = 0) -> tuple[Model, Inheritance]:
    """The network after edits of different regions, with the weights that it inherits, and how many."""
    rng = np.random.default_rng(seed)
    shares = []
    for edit in edits:
        weights, inheritance = inherit(model.graph, edit, model.weights, rng)
        model = Model(apply(model.graph, edit), weights, model.name)
        shares.append(inheritance.share)
    total = sum(model.weights[key].size for key in model.graph.trainable)
    return model, Inheritance(round(prod(shares) * total), total)


@dataclass(frozen=True, eq=False)
class Potential:
    """The Fisher potential of networks that edits make of ``model``, at what they have in place of the nodes ``ends``,
    on one mini-batch before any training (:func:`~netgraft.proxies.fisher_potential`). Layers that they have in common
    are initialised alike. ``known`` holds those of children by their digests: none is computed that is there, and each
    that is gets there.
    """

    model: Model
    ends: tuple[str, ...]
    batch: Minibatch
    seed: int = 0
    known: MutableMapping[str, float] = field(default_factory=dict)

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
        digest = child_graph(self.model.graph, edits).digest
        if digest not in self.known:
            self.known[digest] = self._of(edits)
        return self.known[digest]

    def _of(self, edits: Sequence[Edit]) -> float:
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


class Probed(UserDict[str, float]):
    """Fisher potentials by the digests of networks, kept in the journal of a run."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.data.update((note["digest"], note["fisher"]) for note in study.notes if note["note"] == "probe")
        self.study = study

    def __setitem__(self, digest: str, fisher: float) -> None:
        self.study.add_note("probe", digest=digest, fisher=fisher)
        self.data[digest] = fisher


Find = Callable[[Begun, Probed], Sequence[Proposal]]
"""Finds networks by what follows from a run that has begun, and what it probed already."""


@dataclass(frozen=True)
class Found:
    """The strategy that proposes once: what ``find`` finds. The journal keeps it, and what was probed on the way, so
    that a run that is resumed goes on where it was, with the same networks (their order may follow from measurements).
    """

    begun: Begun
    find: Find
    seed: int

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """See :class:`netgraft.search.Strategy`."""
        if len(trials) > 1:  # they were proposed
            return []
        study, original = self.begun.study, self.begun.original
        if study.note("found") is None:
            proposals = [
                {"edits": [edit_to_data(edit) for edit in one.edits], "fisher": one.fisher}
                for one in self.find(self.begun, Probed(study))
            ]
            study.add_note("found", proposals=proposals)
        found = []
        for number, one in enumerate((study.note("found") or {})["proposals"], first):
            edits = tuple(edit_from_data(data) for data in one["edits"])
            model, inherited = child_of(original, edits, self.seed)
            found.append(Candidate(number, model, 0, edits, inherited, scores={"fisher": one["fisher"]}))
        return found


def trained(
    model: Model,
    task: Task,
    run: Run,
    find: Find,
    *,
    name: str,
    options: Mapping[str, Any],
    limits: Sequence[str],
    fixed: frozenset[str],
) -> Front:
    """A run of what ``find`` finds: each network is fine-tuned and measured shortly, and the best of them as any
    search's finalists. The arguments are as those of :func:`netgraft.optimize`; EmptyFrontError where nothing is found.
    """
    chosen = (run.plan or Plan(finalists=3)).for_task(task)
    quality = Goal("quality", task.quality.higher_is_better)

    def search_once(begun: Begun) -> Entrants:
        study, original = begun.study, begun.original
        assert begun.plan.tune_epochs is not None and begun.plan.final_epochs is not None, "decided by for_task"
        clock = None
        if begun.plan.measure == "search":
            clock = Clock(original, study.trials[0].scores["latency"], begun.conditions)
        search(
            Space(original, Mix(()), begun.score),
            Found(begun, find, run.seed),
            [
                Rung("count", Count(begun.latency)),
                Rung("check", Check(begun.trainer)),
                Rung("tune", Tune(begun.trainer, begun.plan.tune_epochs, clock)),
            ],
            budget=Budget(generations=1),
            study=study,
            engine=run.engine,
            seed=run.seed,
            on_event=run.on_event,
        )
        outlook = Outlook(quality, begun.plan.final_epochs)
        best = finalists_of(study, [quality, Goal("latency")], outlook, begun.plan.finalists, begun.bounds)
        if not best:
            raise EmptyFrontError(f"{name} found no network: none of its candidates is legal; try more --candidates")
        return Entrants([trial.number for trial in best], begun.plan.final_epochs, len(best))

    return conduct(
        *(model, task, search_once, run),
        method={"mutation": name, "options": dict(options), "fixed": sorted(fixed)},
        goals=["quality", "latency"],
        limits=limits,
        budget="once",
        plan=chosen,
    )
