"""Which kinds of edits brought what in a run."""

from __future__ import annotations

from dataclasses import dataclass

from netgraft.candidate import Trial, TrialState
from netgraft.study import Study

from .summary import lineage, standings


@dataclass(frozen=True)
class Kind:
    """A kind of edits (``graft``, ``swap``, ``trim``, ``program``, ...) in a run.

    ``proposed`` and ``tuned`` count networks with an edit of the kind among their own, those that were proposed and
    those that were fine-tuned; ``front`` and ``finalists`` those with one anywhere in their lineage: on the front of
    what was fine-tuned (validation quality against time), and among the finalists. A network counts for each of its
    kinds.
    """

    name: str
    proposed: int
    tuned: int
    front: int
    finalists: int


def kinds(study: Study) -> tuple[Kind, ...]:
    """The kinds of edits that a run proposed, the most successful first."""
    own = {number: _of(trial) for number, trial in study.trials.items() if number}
    best = {entry.number for entry in standings(study)[0]}
    led = {
        number: frozenset().union(*(_of(step) for step in lineage(study, number)))
        for number in {*best, *study.finalists} - {0}
    }
    tuned = {number for number in own if study.trials[number].state is TrialState.COMPLETE}

    def count(name: str) -> Kind:
        return Kind(
            name,
            sum(name in mine for mine in own.values()),
            sum(name in own[number] for number in tuned),
            sum(name in led[number] for number in best),
            sum(name in led[number] for number in study.finalists if number),
        )

    found = [count(name) for name in sorted(frozenset().union(*own.values()))]
    return tuple(sorted(found, key=lambda kind: (-kind.finalists, -kind.front, -kind.tuned, -kind.proposed)))


def _of(trial: Trial) -> frozenset[str]:
    return frozenset(edit.origin.partition(".")[0] for edit in trial.edits)
