"""The main job: evolve one network on one task, within limits and a budget.

AutoGO's loop (Salameh et al., NeurIPS 2023, section 4) on this project's parts: segment grafts, and beside them swaps,
trims and other forms of convolutions, a population on the Pareto front. Deviations: children inherit weights and are
fine-tuned with the original as teacher instead of being ranked by a predictor alone; quality is judged on a validation
split, the test split once at the end; the original receives the same extra training as its children; latency is
measured, shortly in the search (unless the plan says otherwise) and at length at the end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from netgraft.candidate import TrialState
from netgraft.engine import Engine, Inline
from netgraft.errors import EmptyFrontError, OptionError, SourceError
from netgraft.events import Listener, nobody
from netgraft.front import Front
from netgraft.ir import Graph, Model
from netgraft.metrics import Goal, Limit, parse_goals
from netgraft.mutations import Mix, Mutation
from netgraft.mutations.fixed import fixed_by
from netgraft.mutations.graft import Graft
from netgraft.mutations.program import Program
from netgraft.mutations.sparing import sparing
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.mutations.within import Within
from netgraft.predictor import load as load_predictor
from netgraft.search import Budget, Guided, Outlook, Population, Predictor, Rung, Strategy, search, spent
from netgraft.search.guided import promise
from netgraft.search.promising import Promising
from netgraft.search.strategy import Choice, Spread
from netgraft.segments import Bank, default
from netgraft.spaces import Space
from netgraft.study import Study
from netgraft.tasks import Task

from .clock import Clock, Corrected
from .evaluation import Check, Count, Trainer, Tune
from .finals import HEAT, Entrants, affordable, fields_of, tolerance_of
from .run import Begun, Estimates, Plan, Run, conduct, fingerprint


def default_mutations(bank: Bank | None = None, ops: frozenset[str] | None = None, multiple: int = 1) -> Mutation:
    """Segment grafts, operation swaps, trimmed channels and convolutions in other forms, in equal parts.

    Segments come from ``bank`` (None: the one that comes with netgraft); no operation but those of ``ops`` is brought
    in (None: any may be). Widths that grafts and trims choose are multiples of ``multiple``, where there is room; at 1
    grafts have any, and trims those of :class:`~netgraft.mutations.trim.Trim`. OptionError where ``ops`` names an
    operation that does not exist, or leaves no segment, and for a multiple below 1.
    """
    if multiple < 1:
        raise OptionError(f"multiple must be 1 or more, not {multiple}")
    graft = Graft(bank or default(), multiple=multiple, allowed=ops)
    trim = Trim() if multiple == 1 else Trim(multiple=multiple)
    others: tuple[Mutation, ...] = (Swap(), trim, Program())
    return Mix((graft, *(others if ops is None else [Within(mutation, ops) for mutation in others])))


def optimize(
    model: Model,
    task: Task,
    *,
    goals: Sequence[str] = ("quality", "latency"),
    limits: Sequence[str] = (),
    budget: str = "10m",
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    plan: Plan | None = None,
    mutation: Mutation | None = None,
    multiple: int = 1,
    freeze: Sequence[str] = (),
    only: Sequence[str] = (),
    engine: Engine | None = None,
    predictor: Predictor | Literal["shipped"] | None = None,
    table: Estimates | None = None,
    on: str | None = None,
    device: str | torch.device = "auto",
    settings: Mapping[str, Any] | None = None,
    on_event: Listener = nobody,
) -> Front:
    """Evolves ``model`` for ``task`` and returns the front of what was found; everything is kept in the folder ``out``.

    ``goals`` and ``limits`` are written as in :mod:`netgraft.metrics`; ``budget`` is a time (``10m``, ``1h30m``) or
    a number of fine-tuned networks (``40 trials``). ``mutation`` proposes the edits (None:
    :func:`default_mutations`, which keep widths to multiples of ``multiple``; another has its own).
    A ``predictor`` chooses among many more proposals, as far as it turns out to be right in this run
    (:mod:`netgraft.search.guided`): the one that netgraft ships, another (:func:`netgraft.predictor.load`), or none.

    The other arguments are those of every recipe: :class:`netgraft.recipes.Run` says what they mean. With ``resume`` a
    run in ``out`` is continued: the same seed gives the same trials, resumed or not.

    A limit on latency in a unit of time is turned into a share of the original's, which is measured once, when the run
    begins; the journal keeps it. With such a limit the same seed gives the same trials only in a run that is resumed.

    Raises OptionError, SourceError, DataError and StudyError for what cannot work, EmptyFrontError where no network was
    found within the limits. Ctrl-C ends the search; the front then holds what was found so far.
    """
    run = Run(
        out,
        seed,
        resume,
        plan,
        freeze=freeze,
        only=only,
        table=table,
        on=on,
        device=device,
        engine=engine or Inline(),
        settings=settings or {},
        on_event=on_event,
    )
    higher = task.quality.higher_is_better
    parsed = parse_goals(goals, quality_is_higher_better=higher)
    quality = Goal("quality", higher)
    search_budget, seconds = parse_budget(budget)
    chosen = (run.plan or Plan()).for_task(task)
    fixed = fixed_by(model.graph, run.freeze, run.only)
    if mutation is not None and multiple != 1:
        raise OptionError(f"multiple={multiple} is for the default mutations; give it to the parts of your mutation")
    mutation = sparing(mutation or default_mutations(multiple=multiple), fixed)
    if next(mutation.edits(model.graph, model.weights, np.random.default_rng(run.seed)), None) is None:
        raise SourceError(
            f"{model.name} holds nothing that {_name(mutation)} could change: all of it is frozen, or belongs to its "
            "inputs or outputs ('netgraft inspect' shows why)"
        )
    if predictor == "shipped":
        predictor = load_predictor()
    elif isinstance(predictor, str | Path):
        raise OptionError(f"a predictor must be loaded: predictor=netgraft.predictor.load({str(predictor)!r})")
    grafts = [part for part in _parts(mutation) if isinstance(part, Graft)]

    def evolve(begun: Begun) -> Entrants:
        study, plan, bounds = begun.study, begun.plan, begun.bounds
        tolerance = tolerance_of(study.trials[0])
        by_graph = [bound for bound in bounds if bound.metric != "quality"]
        others = [goal for goal in parsed if goal.metric != "quality"]
        assert plan.tune_epochs is not None and plan.final_epochs is not None, "decided by for_task"
        outlook = Outlook(quality, (1 + HEAT) * plan.final_epochs)
        strategy: Strategy = Population(parsed, outlook, tolerance)
        choose: Choice = Promising(outlook, others, tolerance, plan.tune_epochs)
        if predictor is not None:
            strategy = Guided(strategy, predictor, quality, tolerance, [goal.metric for goal in others])
            choose = Spread([Goal("agreement"), *others], partial(promise, quality))
        clock = None
        if plan.measure == "search" and "latency" in {goal.metric for goal in parsed} | {b.metric for b in bounds}:
            clock = Clock(begun.original, study.trials[0].scores["latency"], begun.conditions)
            strategy = Corrected(strategy)
        search(
            Space(begun.original, mutation, begun.score, by_graph),
            strategy,
            _rungs(begun.trainer, plan, bounds, clock, choose, begun.latency),
            budget=search_budget if seconds is None else replace(search_budget, seconds=plan.search_share * seconds),
            study=study,
            engine=run.engine,
            seed=run.seed,
            population=plan.population,
            on_event=run.on_event,
        )
        return _entrants(study, plan, parsed, quality, bounds, seconds)

    method = {
        "mutation": _name(mutation),
        "fixed": sorted(fixed),
        "banks": [fingerprint(*graft.bank.columns.digests) for graft in grafts],
        "ops": [sorted(graft.allowed) if graft.allowed else "any" for graft in grafts],
        "multiple": [graft.multiple for graft in grafts],
        "predictor": "none" if predictor is None else predictor.digest,
    }
    return conduct(
        *(model, task, evolve, run),
        method=method,
        goals=goals,
        limits=limits,
        budget=budget,
        plan=chosen,
    )


def parse_budget(text: str) -> tuple[Budget, float | None]:
    """``10m``, ``1h30m``, ``45s`` or ``40 trials`` as a budget, and the seconds in it if it is a time."""
    trials = re.fullmatch(r"\s*(\d+)\s*(?:t|trials?)\s*", text)
    if trials and int(trials[1]) > 0:
        return Budget(trials=int(trials[1])), None
    parts = re.fullmatch(r"\s*(?:(\d+)h)?\s*(?:(\d+)m(?:in)?)?\s*(?:(\d+)s)?\s*", text)
    seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0
    if seconds <= 0:
        raise OptionError(f"cannot read the budget {text!r}; write a time like '10m' or '1h30m', or '40 trials'")
    return Budget(seconds=seconds), float(seconds)


def _parts(mutation: Mutation) -> Sequence[Mutation]:
    return mutation.mutations if isinstance(mutation, Mix) else (mutation,)


def _name(mutation: Mutation) -> str:
    return "+".join(part.name for part in _parts(mutation))


def _rungs(
    trainer: Trainer,
    plan: Plan,
    limits: Sequence[Limit],
    clock: Clock | None,
    choose: Choice,
    latency: Callable[[Graph], float],
) -> list[Rung]:
    assert plan.tune_epochs is not None
    by_graph = [limit for limit in limits if limit.metric != "quality" and not (clock and limit.metric == "latency")]
    by_quality = [limit for limit in limits if limit.metric == "quality"]
    by_time = [limit for limit in limits if limit.metric == "latency" and clock]
    return [
        Rung("count", Count(latency), limits=by_graph),
        Rung("check", Check(trainer), keep=plan.keep, choose=choose),
        Rung("tune", Tune(trainer, plan.tune_epochs, clock, by_time, plan.imitation), limits=[*by_time, *by_quality]),
    ]


def _entrants(
    study: Study, plan: Plan, goals: Sequence[Goal], quality: Goal, limits: Sequence[Limit], seconds: float | None
) -> Entrants:
    """Who begins the finals, and for how many epochs each is trained: what the plan says, or as much of it as the rest
    of a budget in time allows, by what an epoch cost so far.
    """
    tuned = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    if not tuned:
        raise EmptyFrontError(_why_empty(study))
    assert plan.final_epochs is not None, "decided by for_task"
    fields = fields_of(study, goals, quality, plan.finalists, plan.final_epochs, limits)
    if seconds is None:
        return next(fields)
    epoch = sum(t.training for t in tuned) / sum(t.epochs - study.trials[t.parent or 0].epochs for t in tuned)
    return affordable(study, fields, (seconds - spent(study) - plan.measure_seconds) / epoch)


def _why_empty(study: Study) -> str:
    reasons = Counter(
        re.sub(r"-?\d[-\d.e+]*", "#", t.reason) for t in study.trials.values() if t.state is not TrialState.COMPLETE
    )
    said = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    tried = f"of {len(study.trials) - 1} proposals none was trained ({said})" if said else "nothing could be proposed"
    limits = ", ".join(study.settings["limits"])
    hint = f"start again in another folder with looser limits than {limits}" if limits else "resume with more budget"
    return f"the search found no network: {tried}; {hint}"
