"""What a short fine-tuning says about the end of a run: a loss of quality shrinks while training goes on.

Networks of which much was taken are far behind after a short fine-tuning, and come up. In the runs looked at, what was
left of a loss after n times as many epochs was about n^(-2/3) of it (``docs/results.md``). Who judges by the short
fine-tuning alone prefers small changes, and throws away the networks that would be the best fast ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netgraft.candidate import Trial
from netgraft.metrics import Goal

RECOVERY = 2 / 3
"""The power of the number of epochs with which a loss of quality shrinks."""


def remaining(epochs: float, until: float) -> float:
    """The share of a loss after ``epochs`` of training that remains after ``until``; all of what was never trained."""
    return (epochs / until) ** RECOVERY if 0 < epochs < until else 1.0


def lasting(cost: float, original: float, share: float) -> float:
    """The cost of a quality in the end, where such a share of a loss against the original's remains. What is better
    than the original is expected to be as much better.
    """
    return original + (cost - original) * share if cost > original else cost


@dataclass(frozen=True)
class Outlook:
    """The view on networks of a run whose finals train everybody ``more`` epochs beyond the longest lineage.

    A network's epochs are those of its whole lineage, though its last edit may be younger.
    """

    quality: Goal
    more: float

    def until(self, trials: Iterable[Trial]) -> float:
        """The number of epochs since the run began up to which finals train, as far as these trials tell."""
        return max((trial.epochs for trial in trials), default=0.0) + self.more

    def scores(self, trial: Trial, original: Trial, until: float) -> dict[str, float]:
        """Those of a complete trial, with the quality that is expected of it in the end. The standard error stays
        what it was: an expectation is not surer than what it is made of.
        """
        cost, begun = self.quality.cost(trial.scores), self.quality.cost(original.scores)
        share = remaining(trial.epochs, until) if cost > begun else 1.0
        expected = lasting(cost, begun, share)
        return {**trial.scores, self.quality.metric: -expected if self.quality.higher_is_better else expected}
