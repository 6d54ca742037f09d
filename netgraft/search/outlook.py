"""What a short fine-tuning says about the end of a run: a loss of quality shrinks while training goes on.

Networks of which much was taken are far behind after a short fine-tuning, and come up. In the runs looked at, what was
left of a loss after n times as many epochs was about n^(-2/3) of it (``docs/results.md``). Who judges by the short
fine-tuning alone prefers small changes, and throws away the networks that would be the best fast ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from netgraft.candidate import Trial
from netgraft.metrics import Goal

RECOVERY = 2 / 3
"""The power of the number of epochs with which a loss of quality shrinks."""


def left(epochs: float, more: float) -> float:
    """The share of a loss after ``epochs`` of training that will be left after ``more`` of it."""
    return (epochs / (epochs + more)) ** RECOVERY if epochs else 1.0


@dataclass(frozen=True)
class Outlook:
    """The view on networks that are to be trained for ``more`` epochs; with 0 they are taken as they are."""

    quality: Goal
    more: float = 0.0

    def scores(self, trial: Trial, original: Trial) -> dict[str, float]:
        """Those of a complete trial, with the quality that is expected of it in the end. What is better than the
        original is expected to be as much better.
        """
        metric = self.quality.metric
        begun, found = original.scores[metric], trial.scores[metric]
        lost = self.quality.cost(trial.scores) > self.quality.cost(original.scores)
        return {**trial.scores, metric: begun + (found - begun) * left(trial.epochs, self.more) if lost else found}
