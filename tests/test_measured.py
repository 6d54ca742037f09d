"""Measured latency: what it accepts, what it refuses, and its statistics. No test looks at how long anything took."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from netgraft.costs.measured import (
    CONFIDENCE,
    MIN_PAIRS,
    RESOLUTION,
    Ratio,
    compare,
    energy,
    intervals,
    measure,
    sampling,
)
from netgraft.errors import MeasureError, OptionError


def tiny(op: str = "Relu", shape: tuple[int | str, ...] = ("batch", 4), dtype: int = TensorProto.FLOAT) -> bytes:
    """An ONNX model of one unary operation."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class Clock:
    """Stands in for the machine: every session takes the time that its model's bytes are mapped to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, noise: float, seed: int, costs: dict[bytes, float]) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise = noise
        self.costs = costs
        self.bias: dict[int, tuple[object, float]] = {}
        monkeypatch.setattr(
            sampling.Subject, "time", lambda subject, session: self.time(subject.variant.model, session)
        )

    def time(self, model: bytes, session: object) -> float:
        """The model's cost, times a bias of the session, times what somebody else at work adds."""
        # The session is kept, so that no later one gets its id.
        _, bias = self.bias.setdefault(id(session), (session, self.rng.normal(0, self.noise)))
        return self.costs[model] * math.exp(bias) * float(1 + self.rng.exponential(0.1))


# --- comparing ---


def test_each_model_gets_a_ratio_to_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny("Sigmoid"))
    ratios = compare([tiny("Relu"), path], tiny("Relu"), seconds=0)
    assert len(ratios) == 2
    for ratio in ratios:
        assert 0 < ratio.low < ratio.ratio < ratio.high
        assert ratio.null_low < ratio.null < ratio.null_high
        assert ratio.model_ms > 0
        assert ratio.pairs == MIN_PAIRS, "never fewer, however short the time"
        assert ratio.speedup == pytest.approx(1 / ratio.ratio)


def test_nothing_to_compare_is_no_ratio() -> None:
    assert compare([], tiny(), seconds=0) == []


@pytest.mark.parametrize(("cost", "verdict"), [(0.8, "faster"), (1.0, "no difference shown"), (1.1, "slower")])
def test_the_verdict_on_a_known_cost(monkeypatch: pytest.MonkeyPatch, cost: float, verdict: str) -> None:
    model, baseline = tiny("Relu"), tiny("Sigmoid")
    Clock(monkeypatch, 0.01, 0, {baseline: 2e-3, model: cost * 2e-3})
    (ratio,) = compare([model], baseline, seconds=3600)
    assert ratio.low <= cost <= ratio.high
    assert ratio.verdict == verdict
    assert ratio.baseline_ms == pytest.approx(2, rel=0.1)
    assert ratio.model_ms == pytest.approx(2 * cost, rel=0.1)


def test_measuring_goes_on_until_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    model, baseline = tiny("Relu"), tiny("Sigmoid")
    seen: list[tuple[int, float]] = []
    Clock(monkeypatch, 0.02, 1, {baseline: 2e-3, model: 2e-3})
    (ratio,) = compare([model], baseline, seconds=3600, progress=lambda pairs, width: seen.append((pairs, width)))
    assert ratio.pairs > MIN_PAIRS
    assert [pairs for pairs, _ in seen] == list(range(1, ratio.pairs + 1))
    assert seen[-1][1] <= sampling.PRECISE < seen[-2][1]
    assert not ratio.noisy


def test_a_machine_too_noisy_to_say_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    model, baseline = tiny("Relu"), tiny("Sigmoid")
    Clock(monkeypatch, 0.2, 2, {baseline: 2e-3, model: 2e-3})
    (ratio,) = compare([model], baseline, seconds=0)
    assert ratio.noisy


def test_what_the_null_shows_is_added_to_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the second model opened is 5 % slower: the baseline's twin shows it."""
    model, baseline = tiny("Relu"), tiny("Sigmoid")

    def time(subject: sampling.Subject, _: object) -> float:
        return 2.1e-3 if subject.label == "the baseline's twin" else 2e-3

    monkeypatch.setattr(sampling.Subject, "time", time)
    (ratio,) = compare([model], baseline, seconds=0)
    assert ratio.null == pytest.approx(1.05)
    assert ratio.low < 0.96
    assert ratio.high > 1.04
    assert ratio.noisy


# --- one model ---


def test_measure_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 0.01, 0, {tiny(): 2e-3})
    latency = measure(tiny(), seconds=0)
    assert latency.low_ms < latency.median_ms < latency.high_ms
    assert latency.median_ms == pytest.approx(2, rel=0.1)
    assert latency.sessions == MIN_PAIRS


def test_inputs_follow_the_signature_and_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[Any] = []
    warm_up = sampling.Subject.warm_up

    def spy(subject: sampling.Subject, session: Any) -> None:
        fed.append(subject.feed)
        warm_up(subject, session)

    monkeypatch.setattr(sampling.Subject, "warm_up", spy)
    monkeypatch.setattr(sampling, "processors", lambda: 2)
    measure(tiny(shape=("n", 3, 8)), batch=5, seconds=0)
    measure(tiny("Not", ("n", 2), TensorProto.BOOL), batch=3, threads=2, seconds=0)
    measure(tiny("Abs", ("n", 2), TensorProto.INT64), seconds=0)
    shapes = {(array.shape, str(array.dtype)) for feed in fed for array in feed.values()}
    assert shapes == {((5, 3, 8), "float32"), ((3, 2), "bool"), ((1, 2), "int64")}


# --- what cannot be measured ---


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"cannot load .*nowhere\.onnx"):
        measure(tmp_path / "nowhere.onnx")


def test_bytes_that_are_no_model_are_told_by_their_place() -> None:
    with pytest.raises(MeasureError, match="cannot load model 2"):
        compare([tiny(), b"not a model"], tiny())
    with pytest.raises(MeasureError, match="cannot load the baseline"):
        compare([tiny()], b"not a model")


def test_a_model_that_does_not_run_is_named_with_its_input() -> None:
    shape = onnx.numpy_helper.from_array(np.array([7, 7]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "impossible",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (7, 7))],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(MeasureError, match=r"cannot run the model on x \[1, 4\]"):
        measure(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny(shape=("n", "length")), "'x' of the model .*only its first axis"),
        (tiny(shape=(8, 4)), "fixed to a batch of 8, not 1.*dynamic batch axis"),
        (tiny("Identity", ("n", 4), TensorProto.STRING), r"is a tensor\(string\)"),
    ],
)
def test_an_input_that_cannot_be_made_is_named(model: bytes, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        measure(model)


@pytest.mark.parametrize("option", [{"batch": 0}, {"threads": 0}])
def test_a_batch_or_threads_below_one_are_refused(option: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        measure(tiny(), **option)  # type: ignore[arg-type]  # a dict of one keyword


def test_more_threads_than_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "processors", lambda: 4)
    for ask in (measure, energy, lambda network, threads: compare([network], network, threads=threads)):
        with pytest.raises(OptionError, match="threads must be from 1 to 4, the number of processors here, not 5"):
            ask(tiny(), threads=5)


# --- the interval ---


@pytest.mark.parametrize("count", [MIN_PAIRS, 11, 15, 25, 60])
def test_the_order_statistics_hold_the_median_often_enough_and_no_more_of_them_are_needed(count: int) -> None:
    """With values 0 to n-1 the rank of each end can be read off; the binomial says how often they miss."""
    interval = intervals.median_interval(np.arange(count, dtype=np.float64))
    rank = int(interval.low)
    assert interval.high == count - 1 - rank, "as many cut above as below"

    def miss(cut: int) -> float:
        return 2 * sum(math.comb(count, k) for k in range(cut + 1)) * 0.5**count

    assert miss(rank) <= 1 - CONFIDENCE < miss(rank + 1)


@given(st.lists(st.floats(-1, 1), min_size=MIN_PAIRS, max_size=40), st.floats(-1, 1))
def test_the_interval_moves_with_the_values_and_mirrors_them(values: list[float], shift: float) -> None:
    plain, moved, mirrored = (
        intervals.median_interval(np.array(v)) for v in (values, [x + shift for x in values], [-x for x in values])
    )
    assert plain.low <= plain.median - RESOLUTION < plain.median + RESOLUTION <= plain.high
    assert moved.low == pytest.approx(plain.low + shift)
    assert (mirrored.low, mirrored.high) == pytest.approx((-plain.high, -plain.low))


def test_one_wild_value_in_each_direction_does_not_move_a_large_interval() -> None:
    calm = np.random.default_rng(0).normal(0, 0.01, 30)
    wild = calm.copy()
    wild[[calm.argmin(), calm.argmax()]] = -5, 5
    assert intervals.median_interval(wild) == intervals.median_interval(calm)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.99, "faster"),
        (1.01, 1.2, "slower"),
        (0.99, 1.01, "no difference shown"),
        (1.0, 1.1, "no difference shown"),
    ],
)
def test_nothing_is_faster_whose_interval_holds_one(low: float, high: float, verdict: str) -> None:
    ratio = Ratio(
        (low + high) / 2, low, high, model_ms=1, baseline_ms=1, pairs=10, null=1, null_low=1, null_high=1, noisy=False
    )
    assert ratio.verdict == verdict


def test_the_same_seed_takes_turns_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def turns(seed: int) -> list[str]:
        taken: list[str] = []

        def time(subject: sampling.Subject, _: object) -> float:
            taken.append(subject.label)
            return 1e-3

        monkeypatch.setattr(sampling.Subject, "time", time)
        compare([tiny()], tiny(), seconds=0, seed=seed)
        return taken

    assert turns(1) == turns(1) != turns(2)
    assert len(set(Counter(turns(1)).values())) == 1, "everybody has as many turns"
