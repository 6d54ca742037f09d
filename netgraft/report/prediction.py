"""What a predictor said of the networks of a run, beside what came out."""

from __future__ import annotations

from dataclasses import dataclass

from netgraft.candidate import TrialState
from netgraft.study import Study

from . import words


@dataclass(frozen=True)
class Prediction:
    """A predictor's record in a run.

    ``networks`` were fine-tuned after it had said what quality to expect; ``within`` of them came out no further off
    than the deviation that was claimed. ``error`` is how far off it was, ``error_of_parent`` how far off the parent's
    quality would have been (means, in the quality's unit). ``trust_before`` and ``trust_after`` say how much the search
    listened to it for its first and for its last proposal, from 0 to 1.
    """

    networks: int
    within: int
    error: float
    error_of_parent: float
    trust_before: float
    trust_after: float
    unit: str

    def __str__(self) -> str:
        asked = "1 fine-tuned network" if self.networks == 1 else f"{self.networks} fine-tuned networks"
        return (
            f"Of {asked} the predictor had said what to expect: {self.within} came out within the deviation that it "
            f"claimed (two in three would be right); it was off by {self.error:.2g} {self.unit}".rstrip()
            + f" on average, taking the parent's quality by {self.error_of_parent:.2g}. The search's trust in it went "
            f"from {words.share(self.trust_before)} to {words.share(self.trust_after)}."
        )


def prediction(study: Study, unit: str) -> Prediction | None:
    """The predictor's record; None where none was asked, or nothing that it spoke of was fine-tuned."""
    trials = sorted(study.trials.values(), key=lambda trial: trial.number)
    asked = [trial.scores["gain_trust"] for trial in trials if "gain_trust" in trial.scores]
    judged = [
        (trial.scores, study.trials[trial.parent].scores)
        for trial in trials
        if trial.state is TrialState.COMPLETE and "expected" in trial.scores and trial.parent in study.trials
    ]
    if not judged or not asked:
        return None
    off = [abs(scores["quality"] - scores["expected"]) for scores, _ in judged]
    return Prediction(
        networks=len(judged),
        within=sum(o <= scores["expected_deviation"] for o, (scores, _) in zip(off, judged, strict=True)),
        error=sum(off) / len(off),
        error_of_parent=sum(abs(scores["quality"] - before["quality"]) for scores, before in judged) / len(judged),
        trust_before=asked[0],
        trust_after=asked[-1],
        unit=unit,
    )
