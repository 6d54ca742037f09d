"""What a short fine-tuning lets expect of the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgraft.candidate import Trial, TrialState
from netgraft.metrics import Goal
from netgraft.search import Outlook
from netgraft.search.outlook import RECOVERY, left

ACCURACY, LOSS = Goal("quality", True), Goal("quality", False)
ORIGINAL = Trial(0, 0, "0", TrialState.COMPLETE, scores={"quality": 80.0, "latency": 1.0})


def child(quality: float, epochs: float) -> Trial:
    return replace(ORIGINAL, number=1, scores={"quality": quality, "latency": 0.5}, epochs=epochs)


def test_what_was_lost_shrinks_while_training_goes_on() -> None:
    expected = Outlook(ACCURACY, more=7.0).scores(child(72.0, epochs=1.0), ORIGINAL)
    assert expected == {"quality": pytest.approx(80 - 8 * 8**-RECOVERY), "latency": 0.5}


def test_where_less_is_better_it_shrinks_too() -> None:
    assert Outlook(LOSS, more=7.0).scores(child(88.0, 1.0), ORIGINAL)["quality"] == pytest.approx(80 + 8 * 8**-RECOVERY)


@pytest.mark.parametrize(("more", "epochs", "quality"), [(0.0, 1.0, 70.0), (5.0, 0.0, 70.0), (5.0, 1.0, 83.0)])
def test_what_is_better_or_not_trained_is_taken_as_it_is(more: float, epochs: float, quality: float) -> None:
    assert Outlook(ACCURACY, more).scores(child(quality, epochs), ORIGINAL)["quality"] == quality


@given(st.floats(0.01, 100), st.floats(0, 100), st.floats(0, 100))
def test_two_trainings_leave_what_one_as_long_leaves(begun: float, first: float, second: float) -> None:
    assert left(begun, first) * left(begun + first, second) == pytest.approx(left(begun, first + second))
    assert 0 < left(begun, first) <= 1


def test_a_network_that_comes_up_slowly_is_behind_one_that_does_at_once() -> None:
    outlook = Outlook(ACCURACY, more=5.0)
    long, short = (outlook.scores(child(75.0, epochs), ORIGINAL)["quality"] for epochs in (6.0, 1.0))
    assert long < short
