"""Greedy proposals: of several ways to need less of a resource the best is taken, again and again.

What NetAdapt and CompactNet have in common: an iteration makes proposals, each of which saves a step of the resource in
one place of the network; all are trained shortly; one is chosen, and the next iteration begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.channels import ChannelGroup
from netgraft.errors import EmptyFrontError, OptionError, SourceError
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Model, apply, inherit
from netgraft.metrics import Goal, Limit, parse_limit
from netgraft.mutations import Mix
from netgraft.mutations.fixed import fixed_by
from netgraft.mutations.trim import trimmable
from netgraft.search import Budget, Rung, search
from netgraft.spaces import Space
from netgraft.tasks import Task

from .clock import Clock
from .evaluation import Check, Count, Tune, counted, counter
from .finals import Entrants, at_worst
from .run import Begun, Plan, Run, conduct

Resource = Callable[[Graph], float]
"""What a network needs, and is to need less of."""
Reduce = Callable[[Model, Sequence[ChannelGroup], float, Resource], Iterator[Edit]]
"""The proposals of one iteration: edits that trim some of the groups until the resource is at most a number."""
Choose = Callable[[Sequence[tuple[float, float]]], int]
"""Which of the trained proposals is taken, by the quality that each loses against what it was made from and what it
saves, as a share of what the original needs.
"""


@dataclass(frozen=True)
class Greedy:
    """The strategy: ``steps`` say how much of ``metric`` each iteration saves, in its own unit, until there is at most
    ``bound`` of it; where they do not come to that, it goes on by the last one. No step goes further than that.
    ``resource`` counts or estimates the metric.

    A measured latency counts with the upper end of its interval. What a proposal will need follows from what the
    network it comes from was measured to need, and from what is counted or estimated for both.
    """

    metric: str
    resource: Resource
    bound: float
    steps: Sequence[float]
    quality: Goal
    reduce: Reduce
    choose: Choose
    fixed: frozenset[str] = frozenset()

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """See :class:`netgraft.search.Strategy`: all proposals of one iteration, whatever ``n`` is; none at the end."""
        path = self.path(trials)
        done = max(trial.generation for trial in trials)
        if self.needs(path[-1]) <= self.bound or len(path) <= done:
            return []
        parent = candidate_of(path[-1])
        graph = parent.model.graph
        scale = self.needs(path[-1]) / self.resource(graph)
        target = max(self.bound, self.needs(path[-1]) - self.steps[min(done, len(self.steps) - 1)])
        groups = trimmable(graph, self.fixed)
        found: list[Candidate] = []
        seen = {trial.digest for trial in trials}
        for edit in self.reduce(parent.model, groups, target / scale, self.resource):
            child = apply(graph, edit)
            if child.digest not in seen and self.resource(child) < self.resource(graph):
                seen.add(child.digest)
                weights, inheritance = inherit(graph, edit, parent.model.weights, rng)
                model = Model(child, weights, parent.model.name)
                number, edit = first + len(found), replace(edit, origin=f"{edit.origin} {narrowed(graph, child)}")
                found.append(Candidate(number, model, parent.number, (edit,), inheritance, parent.epochs))
        return found

    def path(self, trials: Sequence[Trial]) -> list[Trial]:
        """The original, and what was chosen in each iteration, as far as something was."""
        path = [trial for trial in trials if trial.number == 0]
        for generation in range(1, 1 + max(trial.generation for trial in trials)):
            tried = [t for t in trials if t.generation == generation and t.state is TrialState.COMPLETE]
            if not tried:
                break
            path.append(tried[self.choose([self._price(path[0], path[-1], trial) for trial in tried])])
        return path

    def _price(self, original: Trial, parent: Trial, trial: Trial) -> tuple[float, float]:
        loss = self.quality.cost(trial.scores) - self.quality.cost(parent.scores)
        return loss, (self.needs(parent) - self.needs(trial)) / self.needs(original)

    def needs(self, trial: Trial) -> float:
        """How much of the metric a trial needs."""
        return {**trial.scores, **at_worst(trial)}[self.metric]


def narrowed(graph: Graph, child: Graph) -> str:
    """In a few words what became narrower: the first layer that did, from how many channels to how many."""
    for node in graph:
        for name in ("out_channels", "out_features"):
            if name in node.attrs and node.id in child and child[node.id].attrs[name] < node.attrs[name]:
                return f"{node.id} {node.attrs[name]} to {child[node.id].attrs[name]}"
    return next((node.id for node in graph if node.id not in child or child[node.id] != node), "")


def greedily(
    model: Model,
    task: Task,
    run: Run,
    *,
    name: str,
    options: Mapping[str, Any],
    limit: str,
    steps: Callable[[float], Sequence[float]],
    reduce: Reduce,
    choose: Choose,
) -> Front:
    """A run of a greedy recipe. ``limit`` is what it works towards, ``steps`` gives for the share of the original's
    that this is how much each iteration saves, as shares, too. The finalists are the network it ends with, and where
    the plan has more of them, some of those on the way, evenly.

    OptionError for a limit that is nothing to save, SourceError for a network of which nothing can be trimmed,
    EmptyFrontError where nothing came out.
    """
    chosen = (run.plan or Plan(finalists=1)).for_task(task)
    fixed = fixed_by(model.graph, run.freeze, run.only)
    metric = check_limit(limit, counted(model.graph)).metric
    if not trimmable(model.graph, fixed):
        raise SourceError(
            f"{model.name} has no channels that {name} could trim ('netgraft inspect --channels' shows why)"
        )
    quality = Goal("quality", task.quality.higher_is_better)

    def descend(begun: Begun) -> Entrants:
        study, (bound,) = begun.study, begun.bounds
        whole = study.trials[0].scores[metric]
        if bound.bound >= whole:
            raise OptionError(
                f"the original keeps the limit {limit!r} already; start again in another folder with a lower one"
            )
        savings = [share * whole for share in steps(bound.bound / whole)]
        strategy = Greedy(metric, counter(metric, begun.latency), bound.bound, savings, quality, reduce, choose, fixed)
        clock = None
        if metric == "latency" and begun.plan.measure == "search":
            clock = Clock(begun.original, whole, begun.conditions)
        assert begun.plan.tune_epochs is not None and begun.plan.final_epochs is not None, "decided by for_task"
        search(
            Space(begun.original, NOTHING, begun.score),
            strategy,
            [
                Rung("count", Count(begun.latency)),
                Rung("check", Check(begun.trainer)),  # new batch-norm statistics
                Rung("tune", Tune(begun.trainer, begun.plan.tune_epochs, clock)),
            ],
            budget=Budget(generations=1),
            study=study,
            engine=run.engine,
            seed=run.seed,
            on_event=run.on_event,
        )
        path = strategy.path(list(study.trials.values()))[1:]
        if not path:
            raise EmptyFrontError(f"{name} found nothing to trim that saves {metric}; try another limit than {limit!r}")
        last = np.linspace(0, len(path), min(len(path), begun.plan.finalists) + 1)[1:].round().astype(int)
        return Entrants([path[i - 1].number for i in last], begun.plan.final_epochs, len(last))

    return conduct(
        *(model, task, descend, run),
        method={"mutation": name, "options": dict(options), "fixed": sorted(fixed)},
        goals=["quality", metric],
        limits=[limit],
        budget="until the limit is kept",
        plan=chosen,
    )


NOTHING = Mix(())
"""The mutation of a space whose strategy makes its children itself."""


def check_limit(text: str, original: Mapping[str, float]) -> Limit:
    """The limit that a recipe works towards, by the scores of the original. OptionError where there is nothing to save;
    of a limit in a unit of time that is not known yet.
    """
    limit = parse_limit(text, {**original, "quality": 1.0})
    if limit.metric == "quality" or not limit.upper:
        raise OptionError(
            f"the limit {text!r} is nothing to save: give one on latency, flops, parameters or memory, such as "
            "'flops<=0.5x'"
        )
    if not in_time(limit) and limit.bound >= original[limit.metric]:
        raise OptionError(f"the original keeps the limit {text!r} already; choose a lower one")
    return limit


def in_time(limit: Limit) -> bool:
    """Whether a limit is in a unit of time, and so waits for a measurement of the original."""
    return limit.metric == "latency" and not limit.is_relative
