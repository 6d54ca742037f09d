"""What a short fine-tuning lets expect of the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgraft.candidate import Trial, TrialState
from netgraft.metrics import Goal
from netgraft.search import Outlook
from netgraft.search.outlook import RECOVERY, lasting, remaining

ACCURACY, LOSS = Goal("quality", True), Goal("quality", False)
ORIGINAL = Trial(0, 0, "0", TrialState.COMPLETE, scores={"quality": 80.0, "latency": 1.0})


def child(quality: float, epochs: float) -> Trial:
    scores = {"quality": quality, "quality_error": 1.0, "latency": 0.5}
    return replace(ORIGINAL, number=1, scores=scores, epochs=epochs)


def test_what_was_lost_shrinks_while_training_goes_on() -> None:
    expected = Outlook(ACCURACY, 7.0).scores(child(72.0, 1.0), ORIGINAL, until=8.0)
    assert expected == pytest.approx({"quality": 80 - 8 * 8**-RECOVERY, "quality_error": 1.0, "latency": 0.5})


def test_where_less_is_better_it_shrinks_too() -> None:
    expected = Outlook(LOSS, 7.0).scores(child(88.0, 1.0), ORIGINAL, until=8.0)
    assert expected["quality"] == pytest.approx(80 + 8 * 8**-RECOVERY)


@pytest.mark.parametrize(("until", "epochs", "quality"), [(1.0, 1.0, 70.0), (6.0, 0.0, 70.0), (6.0, 1.0, 83.0)])
def test_what_is_better_or_trained_already_or_never_is_taken_as_it_is(
    until: float, epochs: float, quality: float
) -> None:
    one = child(quality, epochs)
    assert Outlook(ACCURACY, 5.0).scores(one, ORIGINAL, until) == one.scores


def test_finals_train_beyond_the_longest_lineage() -> None:
    assert Outlook(ACCURACY, 5.0).until([ORIGINAL, child(70.0, 3.0), child(70.0, 1.0)]) == 8.0


@given(st.floats(0.01, 100), st.floats(1, 10), st.floats(1, 10))
def test_two_trainings_leave_what_one_as_long_leaves(begun: float, first: float, second: float) -> None:
    middle, end = begun * first, begun * first * second
    assert remaining(begun, middle) * remaining(middle, end) == pytest.approx(remaining(begun, end))
    assert 0 < remaining(begun, end) <= 1


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0, 1))
def test_a_cost_in_the_end_lies_between_the_original_s_and_its_own_or_is_its_own(
    cost: float, original: float, share: float
) -> None:
    expected = lasting(cost, original, share)
    assert expected == cost if cost <= original else original <= expected <= cost + 1e-9
