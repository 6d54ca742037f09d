"""What the report says of a predictor: what it let expect, what came out, and how far it was trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from studies import SETTINGS, TIMES, finished
from test_cli import netgraft

from netgraft.report import summarize
from netgraft.report.page import render
from netgraft.study import Finalist, Study

SAID = {
    1: {"expected": 90.8, "expected_deviation": 0.6, "gain_trust": 0.2},  # 91.0 came out
    2: {"expected": 92.5, "expected_deviation": 0.5, "gain_trust": 0.2},  # 90.5
    3: {"expected": 91.0, "expected_deviation": 2.0, "gain_trust": 0.1},  # 90.0
    4: {"expected": 80.0, "expected_deviation": 1.0, "gain_trust": 0.05},  # dropped: nothing came out
}


def predicted(path: Path) -> Study:
    """A finished run in which a predictor had spoken."""
    with finished(path / "without") as study:
        trials = list(study.trials.values())
        models = {t.model: study.load_model(t.model) for t in trials if t.model}
        finalists: list[Finalist] = list(study.finalists.values())
    with Study.create(path / "run", SETTINGS) as study:
        for model in models.values():
            study.save_model(model)
        for trial in trials:
            said = {"gain": 0.0, **SAID[trial.number]} if trial.number in SAID else {}
            study.add_trial(replace(trial, scores={**trial.scores, **said}))
        study.add_finalists(finalists)
    return Study.read(path / "run")


def test_the_record_counts_what_was_fine_tuned(tmp_path: Path) -> None:
    said = summarize(predicted(tmp_path)).prediction
    assert said is not None
    assert (said.networks, said.within, said.trust_before, said.trust_after) == (3, 2, 0.2, 0.05)
    assert abs(said.error - (0.2 + 2.0 + 1.0) / 3) < 1e-9
    # Parents were 91 (the original) for 1 and 3, and 91.0 (trial 1) for 2.
    assert abs(said.error_of_parent - (0.0 + 0.5 + 1.0) / 3) < 1e-9
    assert "2 came out within" in str(said) and "from 20 % to 5 %" in str(said)


def test_finalists_and_trials_show_what_was_expected_beside_what_came_out(tmp_path: Path) -> None:
    study = predicted(tmp_path)
    row = next(row for row in summarize(study).rows if row.number == 2)
    assert (row.expected, row.expected_deviation, row.tuned) == (92.5, 0.5, 90.5)
    page = render(study)
    assert str(summarize(study).prediction) in page.replace("&#39;", "'")
    for expected in ("92.5 %", "± 0.5", "expected", "80 %"):
        assert expected in page
    code, said = netgraft("report", study.path)
    assert code == 0 and "Of 3 fine-tuned networks the predictor had said what to expect" in said


def test_nothing_is_said_where_nothing_was_asked(tmp_path: Path) -> None:
    with finished(tmp_path / "run", times=TIMES) as study:
        assert summarize(study).prediction is None
        assert "expected" not in render(study) and "predictor" not in render(study)
