"""A predictor within the search: what it may decide, what is kept of it, and that it never breaks a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import model_of, resnet
from test_search import GOALS, count, counted, judge, network

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.costs.analytic import parameters
from netgraft.engine import Inline
from netgraft.events import Event, TrialRecorded, nobody
from netgraft.ir import Edit, Graph, Region, apply
from netgraft.metrics import Goal
from netgraft.mutations import Mix, drafts
from netgraft.mutations.graft import Graft
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.predictor import load
from netgraft.search import Budget, Guided, Outlook, Population, Predictor, Rung, search
from netgraft.search.calibration import SLOPE, Calibration
from netgraft.search.guided import PRIOR, Guide, agreements, outcomes, promise, trust
from netgraft.search.strategy import Spread
from netgraft.spaces import Space
from netgraft.study import Study

QUALITY = Goal("quality", True)


@dataclass(frozen=True)
class Said:
    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Sizes:
    """Predicts that what has more parameters is better: right in `test_search`, where quality follows them."""

    sign: float = 1.0
    deviation: float = 0.01
    digest: str = "sizes"

    def region(self, graph: Graph, region: Region) -> SizesCut:
        return SizesCut(self, region.extract(graph))


@dataclass(frozen=True)
class SizesCut:
    predictor: Sizes
    segment: Graph

    def gains(self, segments: Sequence[Graph]) -> Said:
        own, *sizes = np.log1p([float(parameters(segment)) for segment in (self.segment, *segments)])
        return Said(self.predictor.sign * (np.array(sizes) - own), np.full(len(segments), self.predictor.deviation))


@dataclass(frozen=True)
class Broken:
    digest: str = "broken"

    def region(self, graph: Graph, region: Region) -> SizesCut:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@dataclass(frozen=True)
class Lost:
    """Answers, but with no numbers."""

    digest: str = "lost"

    def region(self, graph: Graph, region: Region) -> SizesCut:
        return SizesCut(Sizes(sign=np.nan), region.extract(graph))


# --- trust ---


def tuned(pairs: Sequence[tuple[float, float]]) -> list[Trial]:
    """Trials of the original's children, with gains and the changes of quality that came out."""
    trials = [Trial(0, 0, "0", TrialState.COMPLETE, scores={"quality": 50.0})]
    for n, (gain, change) in enumerate(pairs, 1):
        scores = {"quality": 50.0 + change, "gain": gain, "agreement": 1.0 - change}
        trials.append(Trial(n, 1, str(n), TrialState.COMPLETE, 0, scores=scores))
    return trials


def test_nothing_finished_leaves_the_prior() -> None:
    assert outcomes(tuned([]), QUALITY) == agreements(tuned([]), QUALITY) == []
    assert trust([], 0.2) == pytest.approx(0.2)


def test_being_right_earns_trust_and_being_wrong_loses_it_all() -> None:
    right = [(float(n), n / 3) for n in range(30)]
    assert trust(right, 0.2) > 0.8
    assert trust([(-said, change) for said, change in right], 0.2) == 0
    assert trust([(1.0, change) for _, change in right], 0.2) < 0.05, "always the same says nothing"


def test_trust_in_noise_falls_and_the_more_so_the_longer_it_is_seen() -> None:
    rng = np.random.default_rng(0)
    means = [np.mean([trust(rng.standard_normal((n, 2)).tolist(), 0.5) for _ in range(40)]) for n in (4, 16, 64)]
    assert 0.5 > means[0] > means[1] > means[2] < 0.15


def test_gains_are_compared_with_changes_and_agreement_with_quality() -> None:
    trials = tuned([(1.0, -2.0), (2.0, -4.0)])
    grandchild = {"quality": 47.0, "gain": 0.5, "agreement": 3.0}
    trials.append(Trial(3, 2, "3", TrialState.COMPLETE, 1, scores=grandchild))
    trials.append(Trial(4, 2, "4", TrialState.DROPPED, 1, scores={"gain": 9.0, "agreement": 9.0}))
    assert outcomes(trials, QUALITY) == [(1.0, -2.0), (2.0, -4.0), (0.5, -1.0)]
    assert outcomes(trials, Goal("quality")) == [(1.0, 2.0), (2.0, 4.0), (0.5, 1.0)], "a loss: lower is better"
    assert agreements(trials, QUALITY) == [(-3.0, 48.0), (-5.0, 46.0), (-3.0, 47.0)]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), max_size=20))
def test_trust_is_a_share_and_depends_on_no_order(pairs: list[tuple[float, float]]) -> None:
    found = trust(pairs, 0.2)
    assert 0 <= found <= 1
    assert trust(pairs[::-1], 0.2) == pytest.approx(found)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ranks_are_mixed_by_trust(sign: float) -> None:
    scores = [{"agreement": 0.1, "expected": -sign}, {"agreement": 0.9, "expected": sign}, {"agreement": 0.5}]
    quality = Goal("quality", sign > 0)

    def order(agreement: float, gain: float) -> list[int]:
        trusts = {"agreement_trust": agreement, "gain_trust": gain}
        return np.argsort(promise(quality, [s | trusts for s in scores]), kind="stable").tolist()

    assert order(0.5, 0.0) == [0, 2, 1]
    assert order(0.1, 0.9) == [1, 2, 0]
    assert np.argsort(promise(quality, scores)).tolist() == [0, 2, 1], "without a predictor agreement decides alone"


# --- calibration ---


def drawn(n: int, offset: float, slope: float, noise: float, seed: int = 0) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    return [(g, offset + slope * g + noise * rng.standard_normal()) for g in rng.standard_normal(n)]


def test_before_anything_is_known_little_is_expected_and_little_claimed() -> None:
    start = Calibration.of([], 1.5)
    change, deviation = start.change(1.0, 0.3)
    assert change == pytest.approx(SLOPE * 1.5)
    assert deviation > 1.5


def test_what_a_gain_is_worth_is_learned_from_outcomes() -> None:
    found = Calibration.of(drawn(200, offset=-2.0, slope=0.7, noise=0.5), 1.0)
    assert (found.offset, found.slope, found.noise) == pytest.approx((-2.0, 0.7, 0.5), abs=0.1)
    few = Calibration.of(drawn(4, offset=-2.0, slope=0.7, noise=0.5), 1.0)
    assert few.change(0.0, 0.0)[1] > found.change(0.0, 0.0)[1]
    assert found.change(1.0, 3.0)[1] > found.change(1.0, 0.1)[1], "its own deviation counts"


def test_a_predictor_that_is_wrong_is_turned_round_by_the_line() -> None:
    assert Calibration.of(drawn(60, offset=0.0, slope=-0.8, noise=0.2), 1.0).slope < -0.6


@pytest.mark.parametrize("n", [3, 10, 40])
def test_deviations_hold_what_comes_out(n: int) -> None:
    """Of changes drawn anew, about two thirds lie within one deviation, and nearly all within three."""
    off = []
    for seed in range(200):
        *seen, (gain, change) = drawn(n + 1, offset=-1.0, slope=0.5, noise=1.0, seed=seed)
        expected, deviation = Calibration.of(seen, 1.0).change(gain, 0.0)
        off.append(abs(change - expected) / deviation)
    assert 0.55 < np.mean(np.array(off) < 1) < 0.9 and np.mean(np.array(off) < 3) > 0.97


@given(st.floats(0.01, 100), st.lists(st.tuples(st.floats(-3, 3), st.floats(-5, 5)), max_size=12))
def test_another_unit_of_quality_gives_the_same_line(unit: float, pairs: list[tuple[float, float]]) -> None:
    plain = Calibration.of(pairs, 1.0).change(0.5, 0.2)
    scaled = Calibration.of([(gain, unit * change) for gain, change in pairs], unit).change(0.5, 0.2)
    assert scaled == pytest.approx([unit * x for x in plain], abs=1e-6 * unit)


# --- choosing ---


def test_gains_belong_to_their_own_edits() -> None:
    graph = resnet()
    weights = model_of(graph).weights
    mixed = Mix((Graft(), Swap(), Trim())).edits(graph, weights, np.random.default_rng(0))
    edits = [edit for edit, _ in zip(mixed, range(30), strict=False)]
    guide = Guide(Sizes(), 1.0, 0.0)
    gains, deviations = guide.gains(graph, edits)
    assert len({edit.region for edit in edits}) > 3 and np.ptp(gains) > 0
    order = np.random.default_rng(1).permutation(len(edits))
    assert np.array_equal(guide.gains(graph, [edits[i] for i in order])[0], gains[order])
    for edit, gain, deviation in zip(edits, gains, deviations, strict=True):
        wanted = np.log1p(parameters(edit.replacement)) - np.log1p(parameters(edit.region.extract(graph)))
        assert gain == pytest.approx(wanted, abs=1e-4)
        assert deviation == pytest.approx(0.01)


def test_the_best_of_many_is_chosen_unless_the_deviation_drowns_it() -> None:
    graph = resnet()
    rng = np.random.default_rng(0)
    found = [d for d, _ in zip(drafts(Swap(), graph, model_of(graph).weights, rng), range(12), strict=False)]

    def chosen(predictor: Predictor) -> list[int]:
        guide = Guide(predictor, 1.0, 0.0)
        return [guide.choose(graph, found, counted, np.random.default_rng(n)) for n in range(20)]

    gains, _ = Guide(Sizes(), 1.0, 0.0).gains(graph, [draft.edit for draft in found])
    assert set(gains[chosen(Sizes(deviation=1e-6))]) == {gains.max()}
    assert set(chosen(Sizes(deviation=1e6))) == {0}
    assert set(chosen(Broken())) == set(chosen(Lost())) == {0}


@dataclass(frozen=True)
class Drifting(Sizes):
    """As a matrix product does: what comes out for a row depends, in the last digits, on how many there are."""

    def region(self, graph: Graph, region: Region) -> DriftingCut:
        return DriftingCut(self, region.extract(graph))


@dataclass(frozen=True)
class DriftingCut(SizesCut):
    def gains(self, segments: Sequence[Graph]) -> Said:
        said = super().gains(segments)
        return replace(said, mean=said.mean + 1e-7 * len(segments))


def test_a_gain_is_the_same_however_many_are_asked_for() -> None:
    graph = resnet()
    found = Swap().edits(graph, model_of(graph).weights, np.random.default_rng(0))
    edits = [edit for edit, _ in zip(found, range(30), strict=False)]
    guide = Guide(Drifting(), 1.0, 0.0)
    together = guide.gains(graph, edits)[0]
    assert len({edit.region for edit in edits}) < len(edits), "several are asked for at once"
    assert together.tolist() == [float(guide.gains(graph, [edit])[0][0]) for edit in edits]


def test_a_draft_and_the_edit_it_becomes_give_the_same_child() -> None:
    graph, rng = resnet(), np.random.default_rng(0)
    weights = model_of(graph).weights
    for draft, _ in zip(drafts(Mix((Graft(), Swap(), Trim())), graph, weights, rng), range(20), strict=False):
        assert apply(graph, draft.finish(draft.edit)).digest == draft.child.digest


# --- runs ---


def run(path: Path, predictor: Predictor | None, trials: int = 10, *, resume: bool = False, on_event=nobody) -> Study:  # type: ignore[no-untyped-def]  # a test's helper
    model = network()
    strategy = Population(GOALS, Outlook(GOALS[0], 0.0), 1.0)
    rungs = [
        Rung(
            "count",
            count,
            keep=4,
            choose=Spread([Goal("agreement"), GOALS[1]], partial(promise, QUALITY) if predictor else None),
        ),
        Rung("judge", judge),
    ]
    rungs[0] = replace(rungs[0], evaluate=checked)
    study = Study.open(path) if resume else Study.create(path, {"seed": 0})
    with study:
        if not resume:
            scores = judge(Candidate(0, model)).scores | counted(model.graph)
            study.add_trial(
                Trial(0, 0, model.graph.digest, TrialState.COMPLETE, scores=scores, model=study.save_model(model))
            )
        search(
            Space(model, Mix((Trim(), Swap())), counted),
            Guided(strategy, predictor, GOALS[0], 1.0, ("flops",)) if predictor else strategy,
            rungs,
            budget=Budget(trials=trials),
            study=study,
            engine=Inline(),
            seed=0,
            population=8,
            on_event=on_event,
        )
    return Study.read(path)


def checked(candidate: Candidate):  # type: ignore[no-untyped-def]  # a test's helper
    result = count(candidate)
    return replace(result, scores=result.scores | {"agreement": 1.0 + candidate.number % 3})


def story(study: Study) -> list[tuple[object, ...]]:
    return sorted((t.number, t.digest, t.state, t.model, sorted(t.scores.items())) for t in study.trials.values())


def test_the_journal_keeps_what_was_predicted_and_the_trust_in_it(tmp_path: Path) -> None:
    study = run(tmp_path / "run", Sizes())
    children = [t for t in study.trials.values() if t.number]
    wanted = {"gain", "gain_deviation", "gain_trust", "agreement_trust", "expected", "expected_deviation"}
    assert all(wanted <= t.scores.keys() for t in children)
    for trial in children:
        earlier = [t for t in study.trials.values() if t.generation < trial.generation]
        pairs = outcomes(earlier, QUALITY)
        assert trial.scores["gain_trust"] == trust(pairs, PRIOR["gain"])
        assert trial.parent is not None
        change, deviation = Calibration.of(pairs, 1.0).change(trial.scores["gain"], trial.scores["gain_deviation"])
        assert trial.scores["expected"] == study.trials[trial.parent].scores["quality"] + change
        assert trial.scores["expected_deviation"] == deviation
    assert max(children, key=lambda t: t.generation).scores["gain_trust"] > PRIOR["gain"], "it was right"


def test_the_weight_of_a_predictor_that_is_wrong_falls_until_it_decides_nothing(tmp_path: Path) -> None:
    study = run(tmp_path / "wrong", Sizes(sign=-1.0), trials=16)
    trusts = {t.generation: t.scores["gain_trust"] for t in study.trials.values() if t.number}
    assert trusts[1] == PRIOR["gain"] > trusts[2] >= trusts[max(trusts)] == 0.0
    last = [t.scores for t in study.trials.values() if t.generation == max(trusts)]
    by_agreement = [s["agreement"] for s in last]
    assert (
        np.argsort(promise(QUALITY, last), kind="stable").tolist() == np.argsort(by_agreement, kind="stable").tolist()
    )


@pytest.mark.parametrize("after", [3, 9])
def test_a_guided_run_resumes_to_the_same_trials(tmp_path: Path, after: int) -> None:
    whole = run(tmp_path / "whole", Sizes())
    heard = 0

    def cut(event: Event) -> None:
        nonlocal heard
        heard += isinstance(event, TrialRecorded)
        if heard == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Sizes(), on_event=cut)
    assert story(run(tmp_path / "cut", Sizes(), resume=True)) == story(whole)


@pytest.mark.parametrize("predictor", [Broken(), Lost()])
def test_a_predictor_that_knows_nothing_breaks_no_run(tmp_path: Path, predictor: Predictor) -> None:
    study = run(tmp_path / "run", predictor, trials=4)
    assert sum(t.state is TrialState.COMPLETE for t in study.trials.values()) == 5
    assert not any("gain" in t.scores for t in study.trials.values())


def test_edits_are_edits(tmp_path: Path) -> None:
    """What a guided search records leads from parent to child, weights and all."""
    study = run(tmp_path / "run", Sizes(), trials=4)
    for trial in study.trials.values():
        if trial.state is TrialState.COMPLETE and trial.parent is not None:
            graph = study.load_model(study.trials[trial.parent].model or "").graph
            for edit in trial.edits:
                assert isinstance(edit, Edit)
                graph = apply(graph, edit)
            assert graph.digest == trial.digest


def test_the_shipped_predictor_is_surer_of_a_gain_than_of_a_score() -> None:
    """What it gets wrong of parent and child alike is no error of their difference; for no change there is none."""
    graph = resnet()
    found = Swap().edits(graph, model_of(graph).weights, np.random.default_rng(0))
    edits = [edit for edit, _ in zip(found, range(12), strict=False)]
    shipped = load()
    gains, deviations = Guide(shipped, 1.0, 0.0).gains(graph, edits)
    children = shipped.scores([graph, *(apply(graph, edit) for edit in edits)])
    assert gains == pytest.approx(children.mean[1:] - children.mean[0], abs=1e-4)
    assert (deviations < children.deviation[1:]).all() and np.ptp(gains) > np.median(deviations)
    same = Edit(edits[0].region, edits[0].region.extract(graph))
    assert [x[0] for x in Guide(shipped, 1.0, 0.0).gains(graph, [same])] == pytest.approx([0.0, 0.0], abs=1e-5)
