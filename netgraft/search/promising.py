"""What is worth being fine-tuned: chosen by the quality that a network's agreement with the original lets expect.

In every run looked at, agreement before fine-tuning and quality after it had a rank correlation of 0.7 to 0.9
(``docs/results.md``). How much quality a lack of agreement costs is another thing on each task, so it is learned in the
run, as a line; and what is chosen together dominates most of what is better than the original by it, where a loss
counts as what will be left of it in the end (:mod:`.outlook`). Before there is anything to learn from, choices are
spread evenly over the last goal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from netgraft.candidate import Trial, TrialState
from netgraft.metrics import Goal

from .outlook import Outlook, lasting, remaining
from .pareto import worthiest
from .strategy import Spread

LEAST = 3
"""How many networks must have been fine-tuned before a line is trusted."""
PROMISING = 2
"""By how many tolerances a network may be expected to be worse than the original in the end, and be looked at: what is
expected is not certain.
"""
SLACK = 0.1
"""By how much other goals than quality may be worse than the original's, as a share of it, and a network be of use."""


@dataclass(frozen=True)
class Expectation:
    """The cost of quality after fine-tuning: ``level``, and ``slope`` for each unit of the root of agreement, which is
    a distance between outputs (its square is a mean squared difference, or a divergence between probabilities).
    """

    level: float
    slope: float

    @classmethod
    def learned(cls, trials: Sequence[Trial], quality: Goal) -> Expectation | None:
        """The least squares line through the networks that were fine-tuned and the original, which agrees with itself;
        None where there are fewer than :data:`LEAST`, or those that agree less did not come out worse.
        """
        tuned = [t.scores for t in trials if t.state is TrialState.COMPLETE and "agreement" in t.scores]
        if len(tuned) < LEAST:
            return None
        original = next(t.scores for t in trials if t.number == 0)
        distances = np.array([0.0, *(distance(s) for s in tuned)])
        costs = np.array([quality.cost(s) for s in (original, *tuned)])
        spread = distances - distances.mean()
        if not (spread**2).sum():
            return None
        slope = float(spread @ costs / (spread**2).sum())
        return cls(float(costs.mean() - slope * distances.mean()), slope) if slope > 0 else None

    def __call__(self, scores: Mapping[str, float]) -> float:
        """The cost that is expected of a network that was compared with the original."""
        return self.level + self.slope * distance(scores)


def distance(scores: Mapping[str, float]) -> float:
    """How far a network's outputs are from the original's."""
    return sqrt(max(0.0, scores["agreement"]))


def corner(original: Mapping[str, float], goals: Sequence[Goal], loss: float) -> list[float]:
    """The costs, goal by goal, up to which a network is of use to somebody who has the original with these scores: its
    quality may be worse by ``loss``, and others by :data:`SLACK`, for the sake of the rest.
    """
    costs = [goal.cost(original) for goal in goals]
    return [c + (loss if g.metric == "quality" else SLACK * abs(c)) for c, g in zip(costs, goals, strict=True)]


@dataclass(frozen=True)
class Promising:
    """A :data:`~netgraft.search.strategy.Choice`. ``others`` are the goals beside quality; ``tolerance`` is a loss of
    quality that matters, in its unit; what is chosen is fine-tuned for ``epochs``.
    """

    outlook: Outlook
    others: Sequence[Goal]
    tolerance: float
    epochs: float

    def __call__(self, scores: Sequence[Mapping[str, float]], before: Sequence[Trial], count: int) -> list[int]:
        """Indices of those chosen."""
        quality = self.outlook.quality
        expectation = Expectation.learned(before, quality)
        if expectation is None:
            return Spread([Goal("agreement"), *self.others])(scores, before, count)
        original = next(trial.scores for trial in before if trial.number == 0)
        share = remaining(self.epochs, self.outlook.until(before))
        expected = [lasting(expectation(s), quality.cost(original), share) for s in scores]
        costs = [[cost, *(goal.cost(s) for goal in self.others)] for cost, s in zip(expected, scores, strict=True)]
        return worthiest(costs, corner(original, [quality, *self.others], PROMISING * self.tolerance), count)
