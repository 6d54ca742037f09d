"""Goals and limits as a user writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgraft.errors import OptionError
from netgraft.metrics import Goal, parse_goals, parse_limit

ORIGINAL = {"flops": 4e7, "parameters": 2.7e5, "memory": 1e6, "latency": 2.0, "quality": 90.0}


def test_goals_keep_their_order_and_direction() -> None:
    assert parse_goals(["latency", "quality", "latency"]) == (Goal("latency"), Goal("quality", True))


def test_a_loss_as_quality_is_minimised() -> None:
    (goal,) = parse_goals(["quality"], quality_is_higher_better=False)
    assert goal.cost({"quality": 3.0}) == 3.0


@pytest.mark.parametrize("name", ["speed", "latncy", ""])
def test_unknown_goal_lists_the_known(name: str) -> None:
    with pytest.raises(OptionError, match=r"unknown goal .* Known: quality, latency, flops, parameters, memory"):
        parse_goals([name])


def test_misspelt_goal_is_recognised() -> None:
    with pytest.raises(OptionError, match="did you mean 'latency'"):
        parse_goals(["latncy"])


@pytest.mark.parametrize(
    ("text", "metric", "bound"),
    [
        ("flops<=0.9x", "flops", 3.6e7),
        ("flops <= 20M", "flops", 2e7),
        ("parameters<=200k", "parameters", 2e5),
        ("latency<=500us", "latency", 0.5),
        ("memory<=2MB", "memory", 2e6),
        ("quality>=0.99x", "quality", 89.1),
        ("quality>=88%", "quality", 88),
    ],
)
def test_limits(text: str, metric: str, bound: float) -> None:
    limit = parse_limit(text, ORIGINAL)
    assert (limit.metric, limit.upper) == (metric, "<=" in text)
    assert limit.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops<0.9x", "cannot read the limit"),
        ("flops<=fast", "cannot read the limit"),
        ("flops<=0.9y", "has the unit 'y'"),
        ("latency<=5MB", "latency takes x"),
        ("speed<=1x", "unknown metric"),
        ("latency<=1e400ms", "limits nothing: 1e400 is too large"),
        ("latency<=1e308s", "limits nothing"),
        ("quality>=1e400", "limits nothing"),
        ("flops<=0x", "impossible"),
        ("flops<=-1M", "impossible"),
        ("flops<=1.2.3x", "cannot read the number"),
    ],
)
def test_senseless_limits_say_what_would_work(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_limit(text, ORIGINAL)


@given(st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_limit_is_kept_up_to_its_bound(bound: float, score: float) -> None:
    upper = parse_limit(f"latency<={bound}ms", ORIGINAL)
    lower = parse_limit(f"latency>={bound}ms", ORIGINAL)
    assert (upper.violation({"latency": score}) == 0) == (score <= upper.bound)
    assert (lower.violation({"latency": score}) == 0) == (score >= lower.bound)
