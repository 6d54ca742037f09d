"""Measured time within a search: the correction of the estimate, limits, and what of a run hangs on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import TIMES, finished, model_of, resnet
from test_optimize import NETWORK, PLAN, optimize, trials

import netgraft as ng
from netgraft.candidate import Trial, TrialState
from netgraft.costs.measured import Latency, Ratio, sampling
from netgraft.errors import EmptyFrontError, MachineError, OptionError
from netgraft.ir import Model
from netgraft.metrics import Limit, parse_limit
from netgraft.recipes import clock
from netgraft.recipes.clock import Clock, Conditions, Correction, Screen
from netgraft.recipes.evaluation import counted
from netgraft.report import summarize
from netgraft.report.page import render
from netgraft.spaces import Space
from netgraft.study import Study

recipe = sys.modules["netgraft.recipes.optimize"]
COUNTS = {"flops": 1.0, "parameters": 1.0, "memory": 1.0, "quality": 1.0, "latency": 2.0}


def measured(number: int, estimate: float, time: float) -> Trial:
    scores = {"latency": time, "estimate": estimate, "time": time, "time_high": 1.02 * time}
    return Trial(number, 1, f"{number:016x}", TrialState.COMPLETE, scores=scores)


ORIGINAL = Trial(0, 0, "0" * 16, TrialState.COMPLETE, scores={"latency": 1.0, "estimate": 1.0})


def test_without_measurements_nothing_is_corrected() -> None:
    for share in (0.3, 1.0, 2.0):
        assert Correction.learned([ORIGINAL])(share)[0] == pytest.approx(share)


def test_many_measurements_decide_alone_and_narrow_the_margin() -> None:
    shares = np.linspace(0.3, 1.2, 60)
    trials = [ORIGINAL, *(measured(n, e, 1.3 * e**0.5) for n, e in enumerate(shares.tolist(), 1))]
    time, deviation = Correction.learned(trials)(0.5)
    assert time == pytest.approx(1.3 * 0.5**0.5, rel=0.05)
    assert deviation < 0.5 * Correction.learned([ORIGINAL])(0.5)[1]


@given(st.lists(st.tuples(st.floats(0.05, 5), st.floats(0.02, 20)), max_size=12), st.floats(0.05, 5))
def test_a_correction_is_a_positive_time_and_never_certain(known: list[tuple[float, float]], share: float) -> None:
    time, deviation = Correction(tuple(e for e, _ in known), tuple(t for _, t in known))(share)
    assert time > 0 and np.isfinite(time) and deviation > 0


def test_an_estimate_that_is_wrong_asks_for_a_wider_margin() -> None:
    right = [ORIGINAL, *(measured(n, 0.5, 0.5) for n in range(1, 9))]
    wrong = [ORIGINAL, *(measured(n, 0.5, 0.5 * 2 ** (n % 2)) for n in range(1, 9))]
    assert Correction.learned(wrong)(0.5)[1] > 2 * Correction.learned(right)(0.5)[1]


def test_what_is_screened_keeps_a_limit_with_a_margin() -> None:
    graph = resnet()
    screen = Screen(counted, Correction(), counted(graph)["latency"])
    assert screen(graph)["latency"] == pytest.approx(counted(graph)["latency"] * np.exp(np.sqrt(2 * 0.15**2)))
    assert {k: v for k, v in screen(graph).items() if k != "latency"} == {
        k: v for k, v in counted(graph).items() if k != "latency"
    }
    bound = Limit("latency", counted(graph)["latency"], True, "latency<=1x")
    assert Space(model_of(graph), recipe.default_mutations(), screen, [bound]).violation(graph) > 0


def test_engines_of_limits() -> None:
    limits = [parse_limit(text, COUNTS) for text in ("latency<=5ms@onnxruntime", "latency<=0.5x", "flops<=1x")]
    assert [limit.engine for limit in limits] == ["onnxruntime", "", ""]
    assert [limit.is_relative for limit in limits] == [False, True, True]
    assert parse_limit("latency<=0.6x@onnxruntime", COUNTS).is_relative
    assert Conditions.of(limits) == Conditions("onnxruntime")
    with pytest.raises(OptionError, match=r"no engine 'abacus'.*onnxruntime"):
        Conditions.of([parse_limit("latency<=5ms@abacus", COUNTS)])
    with pytest.raises(
        OptionError, match="one way; the limits name latency<=5ms@onnxruntime and latency<=6ms@openvino"
    ):
        Conditions.of([limits[0], parse_limit("latency<=6ms@openvino", COUNTS)])


def test_limits_name_threads_and_batch() -> None:
    limit = parse_limit("latency<=5ms@torch?threads=2&batch=8", COUNTS)
    assert (limit.engine, limit.threads, limit.batch, limit.bound) == ("torch", 2, 8, 5.0)
    assert Conditions.of([limit], "jobs") == Conditions("torch", 2, 8, "jobs")
    assert parse_limit("latency<=0.5x@torch?batch=4", COUNTS).is_relative
    for wrong in ("thread=2", "batch=0", "batch", "threads=two"):
        with pytest.raises(OptionError, match=f"cannot read '{wrong}' in the limit .*threads=4&batch=8"):
            parse_limit(f"latency<=5ms@torch?{wrong}", COUNTS)


def test_more_threads_than_processors_are_refused_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "processors", lambda: 4)
    Conditions(threads=4).check()
    with pytest.raises(MachineError, match="no folder"):  # another machine may have them: it is asked
        Conditions(threads=8, on="no folder").check()
    with pytest.raises(OptionError, match="from 1 to 4, the number of processors here, not 8"):
        Conditions(threads=8).check()


def test_latency_is_measured_under_the_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def compare(models: Sequence[Model], baseline: Model, **how: object) -> list[Ratio]:
        asked.append(how)
        return [Ratio(0.5, 0.4, 0.6, 1.0, 2.0, 10, 1.0, 0.99, 1.01, noisy=False)] * len(models)

    monkeypatch.setattr(clock, "compare", compare)
    model = model_of(resnet())
    assert Clock(model, 4.0, Conditions("torch", 2, 8, "jobs"), seconds=3.0).scores(model)["latency"] == 2.0
    assert asked == [{"engine": "torch", "threads": 2, "batch": 8, "on": "jobs", "seconds": 3.0}]


@pytest.mark.parametrize("text", ["flops<=0.9x@onnxruntime", "latency<=5ms@"])
def test_only_latency_is_measured_in_an_engine(text: str) -> None:
    with pytest.raises(OptionError, match="only latency is"):
        parse_limit(text, COUNTS)


# --- runs ---


def ratio(share: float) -> Ratio:
    return Ratio(share, 0.99 * share, 1.01 * share, 8 * share, 8.0, 10, 1.0, 0.99, 1.01, False)


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(NETWORK)
    return f"{path}:net"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """A machine on which time follows parameters, whatever the estimate says; it lists what it measured."""
    asked: list[Model] = []

    def size(model: Model) -> float:
        return float(sum(weight.size for weight in model.weights.values())) ** 0.5

    def compare(models: Sequence[Model], baseline: Model, **_: object) -> list[Ratio]:
        asked.extend(models)
        return [ratio(size(model) / size(baseline)) for model in models]

    monkeypatch.setattr(clock, "compare", compare)
    return asked


SEARCH = replace(PLAN, measure="search", pretrain_epochs=1, tune_epochs=0.25, final_epochs=0.25)


def test_limits_hold_for_what_was_measured_and_the_same_measurements_give_the_same_trials(
    source: str, tmp_path: Path, machine: list[Model]
) -> None:
    options: dict[str, Any] = {"limits": ("latency<=0.8x",), "plan": SEARCH, "budget": "3 trials"}
    front = optimize(source, tmp_path / "first", **options)
    complete = [t for t in front.study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    assert len(complete) == 3
    whole = front.study.trials[0].scores["estimate"]
    for trial in complete:
        assert trial.scores["time"] <= 0.8
        assert trial.scores["latency"] == pytest.approx(trial.scores["time"] * whole)
    for trial in front.study.trials.values():
        if "time" in trial.scores and trial.scores["time"] > 0.8:
            assert trial.state is TrialState.INFEASIBLE and "breaks latency<=0.8x" in trial.reason
            assert "quality" not in trial.scores, "it was trained for nothing"
    assert all(row.time <= 0.8 and not row.breaks for row in front.summary.rows if not row.is_original)

    again = optimize(source, tmp_path / "again", **options)
    assert trials(again.study) == trials(front.study)
    before = len(machine)
    optimize(source, tmp_path / "again", resume=True, **options)
    assert len(machine) == before, "a finished run measures nothing"


def test_a_limit_in_milliseconds_holds_for_everything_that_is_returned(
    source: str, tmp_path: Path, machine: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original takes 8 ms here, and the estimate is far off."""
    monkeypatch.setattr(clock, "measure", lambda *_, **__: Latency(8.0, 7.9, 8.1, sessions=10, noisy=False))
    front = optimize(source, tmp_path / "run", limits=("latency<=6ms@onnxruntime",), plan=SEARCH, budget="2 trials")
    children = [finalist for number, finalist in front.study.finalists.items() if number]
    assert children and all(finalist.latency_ms <= 6 and not finalist.breaks for finalist in children)
    trained = [t for t in front.study.trials.values() if t.number and t.state is TrialState.COMPLETE]
    assert trained and all(8 * trial.scores["time"] <= 6 for trial in trained)


def test_nothing_is_measured_during_a_search_that_does_not_ask_for_time(
    source: str, tmp_path: Path, machine: list[Model]
) -> None:
    front = optimize(source, tmp_path / "run", goals=("quality", "flops"), plan=SEARCH, budget="1 trials")
    assert len(machine) == len(front.study.finalists)
    assert not any("time" in trial.scores for trial in front.study.trials.values())


def test_finalists_that_break_a_limit_are_no_picks(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 2)) as study:
        study.add_finalists([replace(study.finalists[2], breaks="latency<=0.5x")])
        assert not summarize(study).picks
        headline = "No finalist keeps the limits when it is measured: the fastest, #2, takes 0.49 ms, 0.62x"
        assert summarize(study).headline.startswith(headline)
        assert "So there is no pick" in " ".join(render(study).split())
    front = ng.Front(Study.read(tmp_path / "run"))
    with pytest.raises(EmptyFrontError, match=r"breaks latency<=0\.5x; pick a digest"):
        front.knee()
    assert front[study.finalists[2].digest].figures.number == 2
    with finished(tmp_path / "other") as study:
        study.add_finalists([replace(study.finalists[n], breaks="latency<=0.5x") for n in (1, 2)])
        assert set(summarize(study).picks.values()) == {3}
        assert TIMES[3][0] < TIMES[2][0]


def test_the_clock_measures_against_the_original(machine: list[Model]) -> None:
    model = model_of(resnet())
    smaller = model_of(resnet(blocks=1))
    scores = Clock(model, 4.0).scores(smaller)
    assert 0 < scores["time"] < 1 and scores["time_high"] == pytest.approx(1.01 * scores["time"])
    assert scores["latency"] == pytest.approx(4.0 * scores["time"])


def test_estimates_of_another_engine_are_said(source: str, tmp_path: Path, machine: list[Model]) -> None:
    with pytest.warns(UserWarning, match="estimated as onnxruntime's for one input on one thread, .*--measure search"):
        optimize(source, tmp_path / "run", limits=("latency<=2x@torch",), budget="1 trials")


def test_a_machine_that_does_not_answer_ends_the_run(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineError, match="there is no folder nowhere"):
        optimize(source, tmp_path / "first", on="nowhere", plan=SEARCH, budget="1 trials")

    def compare(*_: object, **__: object) -> list[Ratio]:
        raise MachineError("no worker took the job")

    monkeypatch.setattr(clock, "measure", lambda *_, **__: Latency(8.0, 7.9, 8.1, sessions=10, noisy=False))
    monkeypatch.setattr(clock, "compare", compare)
    with pytest.raises(MachineError, match="no worker took the job"):
        optimize(source, tmp_path / "run", on="jobs", plan=SEARCH, budget="1 trials")
    assert all(trial.state is not TrialState.FAILED for trial in Study.read(tmp_path / "run").trials.values())
