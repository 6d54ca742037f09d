"""The search loop on real graphs and mutations, with a made-up quality that costs nothing."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.costs.analytic import flops, parameters
from netgraft.engine import Engine, Inline, Processes
from netgraft.events import Event, TrialRecorded, nobody
from netgraft.ir import Batch, Builder, Graph, Model, TensorType, apply
from netgraft.metrics import Goal, Limit
from netgraft.mutations.trim import Trim
from netgraft.search import Budget, Outlook, Population, Result, Rung, search
from netgraft.search.strategy import Spread
from netgraft.spaces import Space
from netgraft.study import Study

GOALS = (Goal("quality", True), Goal("flops"))


def network() -> Model:
    builder = Builder()
    x = builder.input("x", TensorType((Batch(), 3, 16, 16)))
    for i in range(4):
        x = builder.add("conv2d", x, id=f"conv{i}", out_channels=32, kernel=(3, 3), padding=(1, 1))
        x = builder.add("relu", x, id=f"relu{i}")
    x = builder.add("adaptive_avg_pool2d", x)
    graph = builder.build(builder.add("linear", builder.add("flatten", x), id="head", out_features=10))
    rng = np.random.default_rng(0)
    return Model(graph, {k: rng.standard_normal(t.shape).astype(np.float32) for k, t in graph.weight_types.items()})


def counted(graph: Graph) -> dict[str, float]:
    return {"flops": flops(graph), "parameters": parameters(graph)}


def count(candidate: Candidate) -> Result:
    return Result(candidate, counted(candidate.model.graph))


def judge(candidate: Candidate) -> Result:
    """More parameters are better here, and weights are 'trained' so that a resumed run must find them again."""
    weights = {k: (v * np.float32(0.9)).astype(v.dtype) for k, v in candidate.model.weights.items()}
    trained = replace(candidate, model=replace(candidate.model, weights=weights), epochs=candidate.epochs + 1)
    quality = parameters(candidate.model.graph) ** 0.5 + float(sum(abs(v).sum() for v in weights.values())) * 1e-3
    return Result(trained, {"quality": quality, "quality_error": 0.1})


DAY = 86_400.0


def takes_a_day(candidate: Candidate) -> Result:
    return replace(judge(candidate), seconds=DAY)


def fails_for_some(candidate: Candidate) -> Result:
    return Result(candidate, failure="bad luck") if candidate.number % 3 == 0 else judge(candidate)


def rungs(judge_=judge, limits: tuple[Limit, ...] = ()) -> list[Rung]:  # type: ignore[no-untyped-def]  # a test's helper
    return [Rung("count", count, limits, keep=5, choose=Spread(GOALS[1:])), Rung("judge", judge_)]


def run(path: Path, budget: Budget, *, engine: Engine | None = None, resume: bool = False, **options) -> Study:  # type: ignore[no-untyped-def]  # options of every kind
    model = network()
    limits = options.get("limits", ())
    study = Study.open(path) if resume else Study.create(path, {"seed": 0})
    with study:
        if not resume:
            scores = judge(Candidate(0, model)).scores | counted(model.graph)
            start = Trial(0, 0, model.graph.digest, TrialState.COMPLETE, scores=scores, model=study.save_model(model))
            study.add_trial(start)
        search(
            Space(model, Trim(), counted, limits),
            Population(GOALS, Outlook(GOALS[0], 0.0), 1.0),
            options.get("rungs") or rungs(limits=limits),
            budget=budget,
            study=study,
            engine=engine or Inline(),
            seed=options.get("seed", 0),
            population=8,
            on_event=options.get("on_event", nobody),
        )
    return Study.read(path)


def test_parents_are_chosen_by_what_will_be_left_of_a_loss() -> None:
    model = network()
    scores = {"flops": 1.0, "quality": 80.0}
    original = Trial(0, 0, model.graph.digest, TrialState.COMPLETE, scores=scores)
    behind = replace(original, number=1, digest="1", scores={"flops": 0.5, "quality": 70.0}, epochs=1.0)
    space = Space(model, Trim(), counted)
    parents = []
    for more in (0.0, 100.0):
        strategy = Population(GOALS, Outlook(GOALS[0], more), 1.0)
        rng = np.random.default_rng(0)
        found = strategy.propose(space, [original, behind], lambda t: Candidate(t.number, model), 2, 12, rng)
        parents.append({child.parent for child in found})
    assert parents == [{0}, {0, 1}], "by ten tolerances behind, and in the end by half a one"


def story(study: Study) -> list[tuple[object, ...]]:
    return [
        (t.number, t.digest, t.state, t.parent, t.reason, t.model, sorted(t.scores.items()))
        for t in study.trials.values()
    ]


def test_trials_are_numbered_recorded_and_lead_back_to_the_original(tmp_path: Path) -> None:
    study = run(tmp_path, Budget(trials=12))
    last = max(t.generation for t in study.trials.values())
    finished = [t.number for t in study.trials.values() if t.generation < last]
    assert sorted(finished) == list(range(len(finished)))
    complete = [t for t in study.trials.values() if t.state is TrialState.COMPLETE]
    assert len(complete) == 13
    assert any(t.state is TrialState.DROPPED for t in study.trials.values())
    assert len({t.digest for t in study.trials.values()}) == len(study.trials)
    for trial in complete[1:]:
        assert trial.parent is not None and trial.model is not None
        graph = study.load_model(study.trials[trial.parent].model or "").graph
        for edit in trial.edits:
            graph = apply(graph, edit)
        assert graph.digest == trial.digest == study.load_model(trial.model).graph.digest
        assert trial.epochs == study.trials[trial.parent].epochs + 1


def test_the_same_seed_gives_the_same_trials_and_another_does_not(tmp_path: Path) -> None:
    first, again = (run(tmp_path / name, Budget(trials=8)) for name in "ab")
    other = run(tmp_path / "c", Budget(trials=8), seed=1)
    assert story(first) == story(again)
    assert story(first) != story(other)


@pytest.mark.parametrize("after", [1, 4, 7, 11, 14])
def test_a_run_that_was_cut_off_resumes_to_the_same_trials(tmp_path: Path, after: int) -> None:
    whole = run(tmp_path / "whole", Budget(trials=14))
    heard = 0

    def cut(event: Event) -> None:
        nonlocal heard
        heard += isinstance(event, TrialRecorded)
        if heard == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Budget(trials=14), on_event=cut)
    assert len(Study.read(tmp_path / "cut").trials) == after + 1
    assert sorted(story(run(tmp_path / "cut", Budget(trials=14), resume=True))) == sorted(story(whole))


def test_a_run_whose_time_ran_out_resumes_to_the_same_trials(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Budget(trials=9), rungs=rungs(takes_a_day))
    for days in (2.5, 6.5):
        study = run(tmp_path / "cut", Budget(seconds=days * DAY), rungs=rungs(takes_a_day), resume=days > 3)
        assert sum(t.seconds for t in study.trials.values()) == pytest.approx(ceil(days) * DAY)
    assert sorted(story(run(tmp_path / "cut", Budget(trials=9), rungs=rungs(takes_a_day), resume=True))) == sorted(
        story(whole)
    )


def test_a_budget_too_short_for_checking_ends_with_one_network(tmp_path: Path) -> None:
    def counts_for_a_day(candidate: Candidate) -> Result:
        return replace(count(candidate), seconds=DAY)

    dear = [Rung("count", counts_for_a_day, keep=5, choose=Spread(GOALS[1:])), Rung("judge", judge)]
    study = run(tmp_path, Budget(seconds=DAY), rungs=dear)
    assert sum(t.state is TrialState.COMPLETE for t in study.trials.values() if t.number) == 1


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    whole = run(tmp_path, Budget(trials=6))
    assert story(run(tmp_path, Budget(trials=6), resume=True)) == story(whole)


def test_limits_hold_for_every_complete_trial(tmp_path: Path) -> None:
    bound = 0.3 * flops(network().graph)
    study = run(tmp_path, Budget(trials=6), limits=(Limit("flops", bound, True, "flops<=0.3x"),))
    complete = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    assert complete and all(t.scores["flops"] <= bound for t in complete)


def test_limits_beyond_reach_end_the_search_without_trials(tmp_path: Path) -> None:
    study = run(tmp_path, Budget(trials=6), limits=(Limit("flops", 10.0, True, "flops<=10"),))
    assert list(study.trials) == [0]


def test_a_candidate_that_fails_is_a_value(tmp_path: Path) -> None:
    study = run(tmp_path, Budget(trials=6), rungs=rungs(fails_for_some))
    failed = [t for t in study.trials.values() if t.state is TrialState.FAILED]
    assert failed and all(t.reason == "judge: bad luck" and t.model is None for t in failed)


def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    inline = run(tmp_path / "a", Budget(trials=4))
    with Processes(2) as engine:
        assert story(run(tmp_path / "b", Budget(trials=4), engine=engine)) == story(inline)
