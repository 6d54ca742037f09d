"""What is chosen to be fine-tuned, by what agreement with the original has come to in the run."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgraft.candidate import Trial, TrialState
from netgraft.metrics import Goal
from netgraft.search import Outlook
from netgraft.search.promising import LEAST, SLACK, Expectation, Promising, corner
from netgraft.search.strategy import Spread

QUALITY, LATENCY = Goal("quality", True), Goal("latency")
ORIGINAL = {"quality": 80.0, "latency": 1.0}


def trial(number: int, scores: Mapping[str, float], state: TrialState = TrialState.COMPLETE) -> Trial:
    return Trial(number, min(number, 1), f"{number:032x}", state, scores=scores)


def run(*tuned: tuple[float, float]) -> list[Trial]:
    """The original, and networks with an agreement before and a quality after fine-tuning."""
    children = [{"agreement": agreement, "quality": quality, "latency": 0.9} for agreement, quality in tuned]
    return [trial(number, scores) for number, scores in enumerate([ORIGINAL, *children])]


@given(st.lists(st.floats(0.01, 4), min_size=LEAST, max_size=9, unique=True), st.floats(0.5, 20))
def test_the_line_is_learned(agreements: list[float], slope: float) -> None:
    found = Expectation.learned(run(*((a, 80 - slope * sqrt(a)) for a in agreements)), QUALITY)
    assert found is not None
    for agreement in (0.0, 1.0, 2.0):
        assert found({"agreement": agreement}) == pytest.approx(-(80 - slope * sqrt(agreement)))


def test_nothing_is_learned_of_too_few_or_where_agreement_says_nothing() -> None:
    assert Expectation.learned(run((1.0, 70.0), (2.0, 60.0)), QUALITY) is None
    assert Expectation.learned(run((1.0, 81.0), (2.0, 82.0), (3.0, 83.0)), QUALITY) is None
    assert Expectation.learned(run((0.0, 79.0), (0.0, 80.0), (0.0, 81.0)), QUALITY) is None
    dropped = trial(9, {"agreement": 1.0, "latency": 0.5}, TrialState.DROPPED)
    assert Expectation.learned([*run((1.0, 70.0), (2.0, 60.0)), dropped], QUALITY) is None


def candidate(agreement: float, latency: float) -> dict[str, float]:
    return {"agreement": agreement, "latency": latency}


SOME = [candidate(0.01, 0.98), candidate(0.09, 0.7), candidate(4.0, 0.2), candidate(3.6, 0.25), candidate(0.04, 0.8)]


def test_what_is_expected_to_be_ruined_gives_way() -> None:
    choose = Promising(Outlook(QUALITY, 0.0), [LATENCY], tolerance=2.0, epochs=1.0)
    learned = run((0.01, 79.0), (0.25, 75.0), (1.0, 70.0))  # ten points for a distance of 1
    assert choose(SOME, learned, 3) == [0, 1, 4]
    assert choose(SOME, run(), 3) == Spread([Goal("agreement"), LATENCY])(SOME, [], 3) != [0, 1, 4], "nothing is known"


def test_a_loss_that_training_makes_up_for_is_no_ruin() -> None:
    choose = Promising(Outlook(QUALITY, 15.0), [LATENCY], tolerance=2.0, epochs=1.0)
    learned = run((0.01, 79.0), (0.25, 75.0), (1.0, 70.0))
    assert 3 in choose(SOME, learned, 3), "a quarter of the time, at a loss of twenty points that come down to three"


def test_what_costs_little_in_quality_may_agree_less() -> None:
    easy = run((0.01, 79.99), (0.25, 79.95), (1.0, 79.9))
    assert 2 in Promising(Outlook(QUALITY, 0.0), [LATENCY], tolerance=2.0, epochs=1.0)(SOME, easy, 2)


def test_the_corner_is_a_little_beyond_the_original() -> None:
    assert corner(ORIGINAL, [QUALITY, LATENCY], 2.0) == [-78.0, 1 + SLACK]
    assert corner({"quality": 0.5}, [Goal("quality", False)], 0.1) == [0.6]
