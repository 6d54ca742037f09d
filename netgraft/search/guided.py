"""A predictor within the search: it chooses among many proposals, as far as it was right in this run.

What it says of a network is the *gain* of its edits: the difference of two scores of one cut (Salameh et al., AutoGO,
NeurIPS 2023, section 4), in standard deviations of the labels that it was trained on. Deviations from AutoGO, whose
predictor ranks alone: its say is the rank correlation of the gains with the changes of quality that fine-tuning found
in this run, and falls where its own deviation is wide beside the differences that it sees; and what a gain is worth in
this run's quality is learned from the same changes (:mod:`.calibration`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, isfinite, sqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.errors import NetgraftError
from netgraft.ir import Edit, Graph, Region
from netgraft.metrics import Goal
from netgraft.mutations import Draft
from netgraft.spaces import GraphScores, Space

from .calibration import Calibration
from .pareto import front
from .strategy import Strategy

Floats = npt.NDArray[np.float64]

PRIOR = {"gain": 0.2, "agreement": 0.5}
"""The rank correlations of a gain with the change of quality, and of agreement with quality, that are expected before
anything is known of a run.
"""
WORTH = 8.0
"""How many trials the prior is worth."""
_DIGITS = 4
"""Of gains. What is behind them depends on how many segments are scored at once, and would break ties by chance."""


class Estimates(Protocol):
    """One entry a network: in standard deviations of the training labels, higher is better."""

    @property
    def mean(self) -> Floats: ...
    @property
    def deviation(self) -> Floats: ...


class Cut(Protocol):
    """A graph cut at one region."""

    def gains(self, segments: Sequence[Graph]) -> Estimates:
        """By how much each segment in the region's place betters the network: one entry a segment."""


class Predictor(Protocol):
    """What scores replacements of a region."""

    @property
    def digest(self) -> str:
        """Names it by content: a run is resumed with the predictor that it began with."""

    def region(self, graph: Graph, region: Region) -> Cut:
        """The graph, cut at the region."""


def outcomes(trials: Sequence[Trial], quality: Goal) -> list[tuple[float, float]]:
    """The gain of every child that was fine-tuned and has one, and by how much it became better than its parent (in the
    quality's unit).
    """
    scores = {trial.number: trial.scores for trial in trials if trial.state is TrialState.COMPLETE}
    return [
        (s["gain"], quality.cost(scores[trial.parent]) - quality.cost(s))
        for trial in trials
        if trial.parent in scores and "gain" in (s := scores.get(trial.number, {}))
    ]


def agreements(trials: Sequence[Trial], quality: Goal) -> list[tuple[float, float]]:
    """How nearly every child that was fine-tuned agreed with the original before, and how good it became (higher is
    better for both): agreement is with the original, whoever the parent was.
    """
    complete = [t.scores for t in trials if t.state is TrialState.COMPLETE and "agreement" in t.scores]
    return [(-scores["agreement"], -quality.cost(scores)) for scores in complete]


def trust(pairs: Sequence[tuple[float, float]], prior: float) -> float:
    """How right a score was in this run, from 0 to 1: the rank correlation of what was said with what came out, shrunk
    towards ``prior``. A score that was wrong is not trusted, and one that says always the same less and less.
    """
    said = np.array(pairs, np.float64).reshape(-1, 2)
    found = _correlation(said[:, 0], said[:, 1])
    return max(0.0, (WORTH * prior + len(said) * found) / (WORTH + len(said)))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0 to 1, equal values sharing theirs."""
    ranks: Floats = (rankdata(values) - 1) / max(1, len(values) - 1)
    return ranks


def _correlation(a: Floats, b: Floats) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


@dataclass(frozen=True)
class Guide:
    """Chooses edits by their gains: see :class:`netgraft.spaces.Guide`.

    ``others`` are the metrics of the other goals. What goes wrong within the predictor is no answer, never an error.
    """

    predictor: Predictor
    trust: float
    agreement_trust: float
    others: Sequence[str] = ()
    looks: int = 24

    def gains(self, graph: Graph, edits: Sequence[Edit]) -> tuple[Floats, Floats]:
        """Gain and its deviation for each edit of ``graph``; 0 and infinite where nothing is known."""
        gain, deviation = np.zeros(len(edits)), np.full(len(edits), np.inf)
        places: dict[Region, list[int]] = {}
        for i, edit in enumerate(edits):
            places.setdefault(edit.region, []).append(i)
        for region, at in places.items():
            try:
                found = self.predictor.region(graph, region).gains([edits[i].replacement for i in at])
                means, errors = np.round(found.mean, _DIGITS), np.asarray(found.deviation)
            except (NetgraftError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
                continue
            known = np.isfinite(means) & np.isfinite(errors)
            gain[at], deviation[at] = np.where(known, means, 0.0), np.where(known, errors, np.inf)
        return gain, deviation

    def choose(self, graph: Graph, drafts: Sequence[Draft], score: GraphScores, rng: np.random.Generator) -> int:
        """One of those that no other beats in gain and the other goals, at random; the first one where the deviations
        drown the differences: in a share of cases that is the expected correlation of the gains with the truth.
        """
        gain, deviation = self.gains(graph, [draft.edit for draft in drafts])
        known = np.flatnonzero(np.isfinite(deviation)).tolist()
        spread = float(np.var(gain[known])) if len(known) > 1 else 0.0
        noise = float(np.mean(deviation[known] ** 2)) if len(known) else 0.0
        if not spread or rng.random() >= sqrt(spread / (spread + noise)):
            return 0
        found = [score(drafts[i].child) for i in known]
        best = front([[-gain[i], *(s[name] for name in self.others)] for i, s in zip(known, found, strict=True)])
        return int(known[int(rng.choice(best))])

    def scores(self, steps: Sequence[tuple[Graph, Edit]]) -> dict[str, float]:
        """``gain`` and ``gain_deviation`` of all steps together, where all are known, and the trust in the scores."""
        gain, deviation = 0.0, 0.0
        for graph, edit in steps:
            means, errors = self.gains(graph, [edit])
            gain, deviation = gain + float(means[0]), hypot(deviation, float(errors[0]))
        trusts = {"gain_trust": self.trust, "agreement_trust": self.agreement_trust}
        return {"gain": gain, "gain_deviation": deviation, **trusts} if isfinite(deviation) else trusts


@dataclass(frozen=True)
class Guided:
    """``strategy`` in a space where ``predictor`` chooses some of the edits.

    ``tolerance`` is a change of quality that matters, in its unit.
    """

    strategy: Strategy
    predictor: Predictor
    quality: Goal
    tolerance: float
    others: Sequence[str] = ()

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """See :class:`netgraft.search.Strategy`: what is trusted and expected follows from the trials alone.

        Candidates whose gain is known have two scores more: ``expected``, the quality after fine-tuning that their
        parent's and the calibrated gain promise, and ``expected_deviation``.
        """
        pairs = outcomes(trials, self.quality)
        agreement = trust(agreements(trials, self.quality), PRIOR["agreement"])
        guide = Guide(self.predictor, trust(pairs, PRIOR["gain"]), agreement, self.others)
        children = self.strategy.propose(replace(space, guide=guide), trials, candidate_of, first, n, rng)
        calibration = Calibration.of(pairs, self.tolerance)
        qualities = {trial.number: trial.scores[self.quality.metric] for trial in trials if self._judged(trial)}
        return [self._expecting(child, calibration, qualities) for child in children]

    def _judged(self, trial: Trial) -> bool:
        return trial.state is TrialState.COMPLETE and self.quality.metric in trial.scores

    def _expecting(self, child: Candidate, calibration: Calibration, qualities: Mapping[int, float]) -> Candidate:
        if child.parent is None or child.parent not in qualities or "gain" not in child.scores:
            return child
        change, deviation = calibration.change(child.scores["gain"], child.scores["gain_deviation"])
        expected = qualities[child.parent] + (change if self.quality.higher_is_better else -change)
        return replace(child, scores={**child.scores, "expected": expected, "expected_deviation": deviation})


def promise(quality: Goal, scores: Sequence[Mapping[str, float]]) -> list[float]:
    """A cost for each of several candidates: the mean of their ranks by ``agreement`` and by the ``expected`` quality,
    weighted by the trust in either. What nothing is expected of stands in the middle.
    """
    agreement = _ranks(np.array([s["agreement"] for s in scores], np.float64))
    sign = -1.0 if quality.higher_is_better else 1.0
    costs = np.array([sign * s["expected"] for s in scores if "expected" in s], np.float64)
    middle = float(np.median(costs)) if len(costs) else 0.0
    expected = _ranks(np.array([sign * s["expected"] if "expected" in s else middle for s in scores], np.float64))
    weight = [(s.get("agreement_trust", 1.0), s.get("gain_trust", 0.0)) for s in scores]
    return [float(a * x + g * y) / ((a + g) or 1.0) for (a, g), x, y in zip(weight, agreement, expected, strict=True)]
