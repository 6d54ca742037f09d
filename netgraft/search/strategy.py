"""The search loop: proposals go up a ladder of rungs, from cheap to dear; every result is journalled as it arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.engine import Engine, WorkerDied
from netgraft.events import (
    CandidateJudged,
    GenerationProposed,
    Listener,
    ProposingBegun,
    RungBegun,
    TrialRecorded,
    nobody,
)
from netgraft.metrics import Goal, Limit
from netgraft.spaces import Space
from netgraft.study import Study

from .pareto import spread


class Strategy(Protocol):
    """Where the next candidates come from."""

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """Up to ``n`` new candidates numbered from ``first``; a function of its arguments alone."""


@dataclass(frozen=True)
class Result:
    """What a rung found out about a candidate; ``failure`` is empty, or says why it cannot go on. ``training`` is the
    part of the ``seconds`` that went into fine-tuning.
    """

    candidate: Candidate
    scores: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0
    training: float = 0.0


Ranking = Callable[[Sequence[Mapping[str, float]]], Sequence[float]]
"""A cost for each of several candidates, from the scores of all of them."""


Choice = Callable[[Sequence[Mapping[str, float]], Sequence[Trial], int], list[int]]
"""Chooses a number of candidates by the scores of all of them, and the trials of the generations before: indices."""


@dataclass(frozen=True)
class Spread:
    """A :data:`Choice`: those that :func:`pareto.spread` picks over ``goals``, spread over the last of them.
    ``promise`` gives a cost for each candidate in place of the first goal's.
    """

    goals: Sequence[Goal]
    promise: Ranking | None = None

    def __call__(self, scores: Sequence[Mapping[str, float]], before: Sequence[Trial], count: int) -> list[int]:
        """Indices of those chosen."""
        costs = [[goal.cost(s) for goal in self.goals] for s in scores]
        if self.promise is not None:
            costs = [[first, *row[1:]] for first, row in zip(self.promise(scores), costs, strict=True)]
        return spread(costs, count)


@dataclass(frozen=True)
class Rung:
    """One step of the evaluation.

    ``evaluate`` takes a candidate to its scores and may hand it back changed (trained). A candidate whose scores break
    one of ``limits`` is infeasible; what it has no score for, it does not break. Of the rest, at most ``keep`` go on
    (all where None), which ``choose`` picks.
    """

    name: str
    evaluate: Callable[[Candidate], Result]
    limits: Sequence[Limit] = ()
    keep: int | None = None
    choose: Choice = Spread(())


@dataclass(frozen=True)
class Budget:
    """When a search ends: after ``seconds`` of recorded work, or after ``trials`` complete trials, or when
    ``generations`` in a row proposed nothing new.
    """

    seconds: float | None = None
    trials: int | None = None
    generations: int = 3

    def left(self, study: Study, running: float = 0.0) -> bool:
        """Whether there is something left, ``running`` seconds into work that is not recorded yet. The original's own
        preparation (trial 0) does not count.
        """
        children = [trial for trial in study.trials.values() if trial.number]
        if self.trials is not None and sum(t.state is TrialState.COMPLETE for t in children) >= self.trials:
            return False
        return self.seconds is None or spent(study) + running < self.seconds


def spent(study: Study) -> float:
    """Seconds of recorded work: that of all trials but the original's own preparation (trial 0), and of proposing."""
    proposing: float = sum(note["seconds"] for note in study.notes if note["note"] == "generation")
    return proposing + sum(trial.seconds for trial in study.trials.values() if trial.number)


def search(
    space: Space,
    strategy: Strategy,
    rungs: Sequence[Rung],
    *,
    budget: Budget,
    study: Study,
    engine: Engine,
    seed: int,
    population: int = 16,
    on_event: Listener = nobody,
) -> None:
    """Fills ``study`` with trials until the budget is spent.

    Trial 0, the original, must be in the study already. Generation ``g`` is drawn from ``(seed, g)`` and the trials of
    the generations before it, so the same seed gives the same trials, resumed or not; trials that the study holds
    already are not evaluated again. ``on_event`` hears what happens (see :mod:`netgraft.events`).
    """
    generation = max((note["number"] for note in study.notes if note["note"] == "generation"), default=0) + 1
    idle = 0
    while budget.left(study) and idle < budget.generations:
        started = time.perf_counter()
        before = [t for t in study.trials.values() if t.generation < generation]
        first = max(t.number for t in before) + 1
        rng = np.random.default_rng([seed, generation])
        on_event(ProposingBegun(generation))
        candidates = strategy.propose(space, before, lambda t: _revive(study, t), first, population, rng)
        on_event(GenerationProposed(generation, len(candidates)))
        seconds = time.perf_counter() - started
        idle = 0 if candidates else idle + 1
        if not _climb(candidates, generation, rungs, budget, study, engine, seconds, on_event):
            return  # what is missing of this generation is made up for on resuming
        study.add_note("generation", number=generation, candidates=len(candidates), seconds=seconds)
        generation += 1


def _revive(study: Study, trial: Trial) -> Candidate:
    assert trial.model is not None, "complete trials have a model"
    return Candidate(trial.number, study.load_model(trial.model), trial.parent, trial.edits, epochs=trial.epochs)


def _climb(
    candidates: Sequence[Candidate],
    generation: int,
    rungs: Sequence[Rung],
    budget: Budget,
    study: Study,
    engine: Engine,
    proposing: float,
    on_event: Listener,
) -> bool:
    """Takes one generation up the rungs, recording each trial once decided; False if the budget ended it."""
    standing = {c.number: Result(c, dict(c.scores)) for c in candidates}
    for depth, rung in enumerate(rungs):
        last = depth == len(rungs) - 1
        on_event(RungBegun(rung.name, len(standing)))
        fresh = [r.candidate for r in standing.values() if not (last and r.candidate.number in study.trials)]
        for candidate, result in zip(fresh, engine.map(rung.evaluate, fresh), strict=True):
            if isinstance(result, WorkerDied):
                result = Result(candidate, failure=result.reason)
            number = candidate.number
            scores = standing[number].scores | result.scores
            spent = standing[number].seconds + result.seconds
            result = replace(result, scores=scores, seconds=spent)
            reason = result.failure or _broken(rung.limits, scores)
            if reason:
                del standing[number]
                state = TrialState.FAILED if result.failure else TrialState.INFEASIBLE
                _record(study, result, generation, state, f"{rung.name}: {reason}", on_event)
            elif last:
                _record(study, result, generation, TrialState.COMPLETE, "", on_event)
            else:
                standing[number] = result
            on_event(CandidateJudged(number))
            if last and candidate is not fresh[-1] and not budget.left(study, proposing):
                return False
        if not last and rung.keep is not None and len(standing) > rung.keep:
            results = list(standing.values())
            before = [trial for trial in study.trials.values() if trial.generation < generation]
            kept = set(rung.choose([result.scores for result in results], before, rung.keep))
            for i, result in enumerate(results):
                if i not in kept:
                    del standing[result.candidate.number]
                    reason = f"{rung.name}: others of its size promised more"
                    _record(study, result, generation, TrialState.DROPPED, reason, on_event)
        running = proposing + sum(result.seconds for result in standing.values())
        if not last and not budget.left(study, running) and _any_complete(study):
            return False  # a budget that is too short for anything ends with one network all the same
    return True


def _any_complete(study: Study) -> bool:
    return any(trial.state is TrialState.COMPLETE for trial in study.trials.values() if trial.number)


def _broken(limits: Sequence[Limit], scores: dict[str, float]) -> str:
    broken = [limit for limit in limits if limit.metric in scores and limit.violation(scores) > 0]
    return ", ".join(f"{limit.metric} {scores[limit.metric]:.4g} breaks {limit.text}" for limit in broken)


def _record(study: Study, result: Result, generation: int, state: TrialState, reason: str, on_event: Listener) -> None:
    candidate = result.candidate
    if candidate.number in study.trials:
        return  # recorded before an interruption
    model = study.save_model(candidate.model) if state is TrialState.COMPLETE else None
    trial = Trial(
        candidate.number,
        generation,
        candidate.model.graph.digest,
        state,
        candidate.parent,
        candidate.edits,
        result.scores,
        reason,
        candidate.inheritance.share,
        candidate.epochs,
        model,
        result.seconds,
        result.training,
    )
    study.add_trial(trial)
    on_event(TrialRecorded(trial))
