"""Who is trained to the end, and who is stopped on the way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import begun, finished, model_of, resnet

from netgraft.candidate import Trial, TrialState
from netgraft.events import Event, FinalBegun, FinalStopped, StepDone
from netgraft.ir import Model
from netgraft.metrics import Goal
from netgraft.recipes import finals
from netgraft.recipes.finals import (
    ENTRANTS,
    WINDOWS,
    Entrants,
    Rival,
    affordable,
    dominated,
    entrants_of,
    fields_of,
    to_train,
    windowed,
)
from netgraft.report import summarize
from netgraft.report.page import render
from netgraft.search import Outlook
from netgraft.study import Study
from netgraft.tasks import Score

GOALS = (Goal("quality", True), Goal("latency"))


def rival(number: int, quality: float, latency: float, error: float = 1.0) -> Rival:
    return Rival(number, {"quality": quality, "quality_error": error, "latency": latency})


def test_who_is_clearly_worse_at_no_lower_cost_is_dominated() -> None:
    rivals = [
        rival(1, 90, 1.0),
        rival(2, 88, 1.0),  # by 2, and the error of a difference is 1.4
        rival(3, 89, 1.1),  # by 1: not clear
        rival(4, 70, 0.9),  # quicker
        rival(5, 60, 0.95),
    ]
    assert dominated(rivals, GOALS) == {2: 1, 5: 4}
    assert dominated(rivals, [Goal("latency")]) == {}, "where quality is no goal it stops nobody"
    assert dominated(rivals, [Goal("quality", False), Goal("latency")]) == {1: 5, 2: 5, 3: 5}, "a loss"


SOME = st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 2), st.floats(0, 10)), min_size=1, max_size=8)


@given(SOME)
def test_nobody_is_stopped_for_somebody_who_is_stopped_or_dearer(some: list[tuple[float, float, float]]) -> None:
    rivals = {i: rival(i, *values) for i, values in enumerate(some)}
    found = dominated(list(rivals.values()), GOALS)
    best = max(rivals.values(), key=lambda r: r.scores["quality"])
    quickest = min(rivals.values(), key=lambda r: (r.scores["latency"], -r.scores["quality"]))
    assert not {best.number, quickest.number} & found.keys() and len(found) < len(rivals)
    for number, other in found.items():
        worse, better = rivals[number], rivals[other]
        assert better.scores["latency"] <= worse.scores["latency"]
        errors = (rival.scores["quality_error"] for rival in (worse, better))
        assert better.scores["quality"] - worse.scores["quality"] > math.hypot(*errors)


class Made:
    """Trains nothing: counts, and says how good a network became."""

    task = None
    trained: list[tuple[str, int, float]]

    def __init__(self) -> None:
        self.trained = []

    def recalibrated(self, model: Model) -> Model:
        return model

    def train(self, model: Model, epochs: float, stage: str, number: int, on_step: Any) -> Model:
        self.trained.append((stage, number, epochs))
        for step, loss in enumerate(LOSSES[stage], 1):
            on_step(step, len(LOSSES[stage]), loss)
        return replace(model, name=f"{number}")


LOSSES = {"heat": [4.0, 3.0], "final": [2.0] * 60 + [1.0] * 60}
QUALITIES = {0: 80.0, 1: 85.0, 2: 80.0, 3: 84.5, 4: 70.0, 5: 84.0}
TIMES = {0: 1.0, 1: 0.9, 2: 0.95, 3: 0.8, 4: 0.5, 5: 0.85}


FIVE = Entrants([1, 2, 3, 4, 5], 8.0, 2)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Five children of one small network: the second is clearly worse than the first, and no quicker."""
    study = begun(tmp_path / "run")
    for number in range(1, 6):
        artifact = study.save_model(replace(model_of(resnet(1, 4), seed=number), name=str(number)))
        scores = {"quality": 80.0, "quality_error": 1.0, "latency": TIMES[number]}
        study.add_trial(
            Trial(number, 1, f"{number:032x}", TrialState.COMPLETE, 0, scores=scores, epochs=number % 3, model=artifact)
        )
    return study


def run(study: Study, monkeypatch: pytest.MonkeyPatch, trainer: Made, entrants: Entrants, listener: Any) -> list[int]:
    """The numbers of the finalists."""
    ended: list[int] = []

    def judged(study: Study, task: None, trained: list[tuple[Trial, Model]], *_: object) -> list[Any]:
        ended.extend(trial.number for trial, _ in trained)
        return []

    def evaluated(module: Model, task: None, split: str) -> Score:
        assert split == "validation"
        return Score(QUALITIES.get(int(module.name), 80.0), 1.0, 0.0)

    monkeypatch.setattr(finals, "_judged", judged)
    monkeypatch.setattr(finals, "evaluate", evaluated)
    monkeypatch.setattr(finals, "to_module", lambda model: model)
    given: Any = trainer
    nothing: Any = None
    finals.run_finals(study, given, entrants, GOALS, (), nothing, 0.0, listener)
    return ended


def test_more_begin_than_end_and_all_are_judged_at_the_same_point(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, told = Made(), list[Event]()
    ended = run(study, monkeypatch, trainer, FIVE, told.append)
    assert ended == [0, 1, 3], "the quickest, 4, has lost ten points, and 5 adds less than 1 to what 3 brings"
    # The longest lineage has 2 epochs: everybody is judged after 2 + 8 / 4, and ends 8 later.
    epochs = {n: [e for _, number, e in trainer.trained if number == n] for n in range(6)}
    assert all(study.trials[n].epochs + epochs[n][0] == 4.0 for n in range(6))
    assert all(epochs[n][1:] == ([8.0] if n in ended else []) for n in range(6))
    reasons = {event.trial.number: event.reason for event in told if isinstance(event, FinalStopped)}
    assert reasons.keys() == {1, 2, 3, 4, 5} - set(ended)
    assert reasons[2] == "#1 is clearly better at no higher cost"
    note = study.note("heat") or {}
    assert {one["number"]: one["stopped"] for one in note["networks"] if one["stopped"]} == reasons
    assert {one["number"]: one["quality"] for one in note["networks"]} == {n: QUALITIES[n] for n in range(1, 6)}


@pytest.mark.parametrize(("epochs", "ended"), [(0.1, [0, 1, 3]), (200.0, [0, 3, 4])])
def test_who_lost_much_goes_on_where_the_finals_are_long(
    study: Study, monkeypatch: pytest.MonkeyPatch, epochs: float, ended: list[int]
) -> None:
    monkeypatch.setitem(QUALITIES, 4, 78.5)
    study.trials[4] = replace(study.trials[4], scores={**study.trials[4].scores, "latency": 0.1})
    assert run(study, monkeypatch, Made(), replace(FIVE, epochs=epochs), lambda event: None) == ended


def lineages(path: Path) -> Study:
    """Twelve networks, of which none is dominated; they were trained for 1 to 34 epochs since the run began."""
    study = begun(path)
    artifact = study.trials[0].model
    for number in range(11, 23):
        scores = {"quality": 91.0 + number / 100, "quality_error": 1.0, "latency": 1.0 + number / 100}
        epochs = float(1 + 3 * (number * 5 % 12))
        study.add_trial(
            Trial(number, 1, f"{number:032x}", TrialState.COMPLETE, 0, scores=scores, epochs=epochs, model=artifact)
        )
    return study


@pytest.mark.parametrize(
    ("left", "entrants", "finalists", "epochs"),
    [
        (1000.0, 8, 4, 20.0),  # enough for everything
        (300.0, 8, 4, 14.34),  # 196 for drawing level with 34 epochs, and 7.25 for each that remains
        (250.0, 6, 3, 20.0),
        (220.0, 6, 3, 17.21),
        (160.0, 4, 2, 16.94),
        (80.0, 2, 2, 12.33),  # no heat
        (0.0, 2, 2, 10.0),  # more than there is: a run ends with something to choose from
    ],
)
def test_a_budget_in_time_is_kept_however_long_lineages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, entrants: int, finalists: int, epochs: float
) -> None:
    with lineages(tmp_path / "run") as study:
        fields = list(fields_of(study, GOALS, GOALS[0], 4, 20.0))
        field = affordable(study, fields, left)
        assert (len(field.numbers), field.finalists, field.epochs) == (entrants, finalists, epochs)
        trainer = Made()
        ended = run(study, monkeypatch, trainer, field, lambda event: None)
    assert len(ended) == 1 + finalists
    trained = sum(epochs for *_, epochs in trainer.trained)
    assert math.isclose(trained, to_train(study, field))
    least = to_train(study, replace(fields[-1], epochs=10.0))
    assert trained <= max(left, least)
    assert epochs in (10.0, 20.0) or trained > left - 0.1, "what there is is used"


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(1, 4), st.floats(0.25, 20), st.floats(0, 400))
def test_epochs_that_fit_are_counted_truly(lengths: list[int], finalists: int, epochs: float, left: float) -> None:
    trials = {n: Trial(n, 0, "", TrialState.COMPLETE, epochs=float(e)) for n, e in enumerate([0, *lengths])}
    study = Study(Path(), {}, trials)
    planned = Entrants(range(1, len(trials)), epochs, finalists)
    found = affordable(study, [planned], left)
    assert epochs / 2 <= found.epochs <= epochs
    assert to_train(study, found) <= left + 1e-6 or found.epochs == epochs / 2


def test_the_journal_keeps_how_the_loss_went(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[Event]()
    ended = run(study, monkeypatch, Made(), FIVE, told.append)
    kept = {(n["number"], n["until"]): n["losses"] for n in Study.read(study.path).notes if n["note"] == "trained"}
    assert kept == {
        **{(number, 4.0): [4.0, 3.0] for number in range(6)},
        **{(number, 12.0): [2.0] * 20 + [1.0] * 20 for number in ended},
    }
    assert [event for event in told if isinstance(event, StepDone)][:2] == [StepDone(1, 2), StepDone(2, 2)]


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_windows_lose_no_loss(losses: list[float]) -> None:
    kept = windowed(losses)
    assert len(kept) == min(WINDOWS, len(losses))
    if losses:
        assert min(losses) * 0.9999 - 1e-9 <= min(kept) <= max(kept) <= max(losses) * 1.0001 + 1e-9
    if losses and len(losses) % len(kept) == 0:
        assert math.isclose(sum(kept) / len(kept), sum(losses) / len(losses), rel_tol=1e-4, abs_tol=1e-9)


def test_where_all_can_end_there_is_no_heat(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Made()
    assert run(study, monkeypatch, trainer, replace(FIVE, finalists=5), lambda event: None) == [0, 1, 2, 3, 4, 5]
    assert {stage for stage, *_ in trainer.trained} == {"final"} and study.note("heat") is None


def test_finals_that_were_cut_off_take_up_what_was_trained(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, told = Made(), list[Event]()
    expected = run(study, monkeypatch, whole, FIVE, told.append)
    trained = [event for event in told if isinstance(event, FinalBegun)]
    for cut in range(len(trained)):
        again = Study.read(study.path)
        again.notes[:] = [n for n in again.notes if n["note"] != "heat"][:cut]  # the journal was cut there
        again._journal = study._journal
        rest = Made()
        assert run(again, monkeypatch, rest, FIVE, lambda event: None) == expected
        assert rest.trained == whole.trained[cut:]


def test_who_begins_may_be_a_little_worse_than_another(study: Study) -> None:
    scores = {1: 80.0, 2: 79.0, 3: 60.0, 4: 79.5, 5: 80.0}  # 3 is ruined, 2 is not clearly worse than 1
    for number, quality in scores.items():
        trial = study.trials[number]
        study.trials[number] = replace(trial, scores={**trial.scores, "quality": quality}, epochs=1.0)
    assert [t.number for t in entrants_of(study, GOALS, Outlook(GOALS[0], 0.0), 4)] == [1, 2, 4, 5]
    assert len(entrants_of(study, GOALS, Outlook(GOALS[0], 0.0), 1)) == ENTRANTS


def test_who_lost_much_in_a_short_tuning_and_is_fast_begins_where_much_training_follows(study: Study) -> None:
    for number, trial in list(study.trials.items()):
        quality, latency = (50.0, 0.3) if number == 3 else (80.0, trial.scores["latency"])
        scores = {**trial.scores, "quality": quality, "latency": latency}
        study.trials[number] = replace(trial, scores=scores, epochs=1.0 if number else 0.0)
    assert 3 not in [t.number for t in entrants_of(study, GOALS, Outlook(GOALS[0], 0.0), 4)]
    assert 3 in [t.number for t in entrants_of(study, GOALS, Outlook(GOALS[0], 200.0), 4)]


def test_where_all_lost_much_those_that_lost_least_begin(study: Study) -> None:
    for number, quality in {1: 50.0, 2: 20.0, 3: 48.0, 4: 30.0, 5: 10.0}.items():
        trial = study.trials[number]
        study.trials[number] = replace(trial, scores={**trial.scores, "quality": quality}, epochs=1.0)
    assert [t.number for t in entrants_of(study, GOALS, Outlook(GOALS[0], 0.0), 4)] == [1, 3]


def test_the_report_says_who_was_stopped(tmp_path: Path) -> None:
    reason = "others promised <more>"
    with finished(tmp_path / "run") as study:
        assert not summarize(study).stopped and "stopped early" not in render(study)
        networks = [
            {"number": 1, "quality": 90.0, "error": 0.4, "stopped": ""},
            {"number": 2, "quality": 80.0, "error": 0.4, "stopped": reason},
        ]
        study.add_note("heat", epochs=4.0, networks=networks)
        (stopped,) = summarize(study).stopped
        assert (stopped.label, stopped.validation, stopped.epochs) == ("#2", 80.0, 4.0)
        assert stopped.digest == study.trials[2].digest
        page = render(study)
    assert "1 more began and was stopped early" in page and "others promised &lt;more&gt;" in page
