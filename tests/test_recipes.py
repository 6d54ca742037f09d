"""NetAdapt, CompactNet and AMC: what they promise, on real data, and their papers' numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import golden, sane_model
from test_cli import interrupt_at, netgraft
from test_optimize import source  # noqa: F401  # a fixture

import netgraft as ng
from netgraft import zoo
from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.channels import channels
from netgraft.convert.from_torch import from_module
from netgraft.costs.analytic import flops
from netgraft.costs.published import CompactNet
from netgraft.costs.published.compactnet import WHOLE
from netgraft.errors import OptionError, SourceError, StudyError
from netgraft.events import Event, FinalsBegun, TrialRecorded
from netgraft.ir import Graph, Model, apply
from netgraft.metrics import Goal
from netgraft.mutations import Mix
from netgraft.mutations.importance import Filters, importance_named, last_slice, reads
from netgraft.mutations.trim import trim_several, trimmable
from netgraft.recipes import amc, compactnet, netadapt
from netgraft.recipes.amc import Walk
from netgraft.recipes.compactnet import candidates, floor, highest, reducing
from netgraft.recipes.compactnet import steps as compactnet_steps
from netgraft.recipes.ddpg import Agent, Step
from netgraft.recipes.greedy import Greedy
from netgraft.recipes.netadapt import least_loss
from netgraft.recipes.netadapt import steps as netadapt_steps
from netgraft.spaces import Space
from netgraft.study import Study

PLAN = ng.Plan(finalists=1, tune_epochs=0.2, final_epochs=0.5, pretrain_epochs=3, measure_seconds=1.0, measure="end")
RECIPES: dict[str, Callable[..., ng.Front]] = {"netadapt": netadapt, "compactnet": compactnet, "amc": amc}
OPTIONS: dict[str, dict[str, Any]] = {
    "netadapt": {"limit": "flops<=0.85x", "iterations": 2, "multiple": 4},
    "compactnet": {"limit": "flops<=0.9x", "iterations": 2},
    "amc": {"limit": "flops<=0.6x", "episodes": 12, "multiple": 4, "images": 200},
}


loaded = cache(ng.load)


def run(name: str, source: str, out: Path, **options: Any) -> ng.Front:  # noqa: F811
    model = loaded(source)
    given = OPTIONS[name] | {"plan": PLAN} | options
    return RECIPES[name](model, ng.task("digits", model), out=out, **given)


def trials(study: Study) -> list[tuple[Any, ...]]:
    return sorted((t.number, t.digest, t.state, t.parent, t.model, t.reason) for t in study.trials.values())


@pytest.fixture(scope="module", params=list(RECIPES))
def front(request: pytest.FixtureRequest, source: str, tmp_path_factory: pytest.TempPathFactory) -> ng.Front:  # noqa: F811
    return run(request.param, source, tmp_path_factory.mktemp("runs") / request.param)


def test_a_run_ends_with_a_finalist_within_the_limit(front: ng.Front) -> None:
    name = front.study.settings["mutation"]
    original, finalist = front.summary.rows
    bound = float(OPTIONS[name]["limit"].removeprefix("flops<=").removesuffix("x"))
    assert original.is_original and finalist.flops_ratio <= bound and not finalist.breaks
    assert original.epochs == finalist.epochs
    assert finalist.origins and all(origin.startswith(name) for origin in finalist.origins)
    assert front.knee().figures.number == finalist.number


def test_a_run_that_was_interrupted_gives_the_same_trials(front: ng.Front, source: str, tmp_path: Path) -> None:  # noqa: F811
    name = front.study.settings["mutation"]
    out = tmp_path / "again"
    middle = len(front.study.trials) // 2

    def interrupt(event: Event) -> None:
        match event:
            case TrialRecorded(trial) if trial.number == middle:
                raise KeyboardInterrupt

    def interrupt_finals(event: Event) -> None:
        if isinstance(event, FinalsBegun):
            raise KeyboardInterrupt

    before = run(name, source, out, on_event=interrupt)
    assert not before.summary.rows and len(before.study.trials) < len(front.study.trials)
    after = run(name, source, out, resume=True, on_event=interrupt_finals)
    assert trials(after.study) == trials(front.study)
    assert after.study.note("finals") == front.study.note("finals")
    with pytest.raises(StudyError, match="other options of the method"):
        other = {"episodes": 17} if name == "amc" else {"iterations": 9}
        run(name, source, out, resume=True, **other)


# Greedy recipes


def test_each_iteration_begins_with_the_one_that_was_chosen(front: ng.Front) -> None:
    study, name = front.study, front.study.settings["mutation"]
    generations: dict[int, list[Trial]] = {}
    for trial in study.trials.values():
        generations.setdefault(trial.generation, []).append(trial)
    if name == "amc":
        assert {trial.parent for trial in study.trials.values() if trial.number} == {0}
        kept = [trial for trial in study.trials.values() if trial.state is TrialState.COMPLETE]
        assert len(kept) == len(generations), "of each few episodes the best network is kept"
        assert list(study.finalists) == [0, max(kept[1:], key=lambda trial: trial.scores["quality"]).number]
        return
    at = study.trials[0]
    for number in range(1, len(generations)):
        tried = generations[number]
        assert {trial.parent for trial in tried} == {at.number}
        assert all(trial.scores["flops"] < at.scores["flops"] for trial in tried)
        lost = [at.scores["quality"] - trial.scores["quality"] for trial in tried]
        saved = [(at.scores["flops"] - trial.scores["flops"]) / study.trials[0].scores["flops"] for trial in tried]
        choose = least_loss if name == "netadapt" else highest
        at = tried[choose(list(zip(lost, saved, strict=True)))]
    assert list(study.finalists) == [0, at.number]


def test_compactnet_takes_the_highest_quality() -> None:
    assert highest([(1.0, 0.1), (0.5, 0.02), (2.0, 0.4)]) == 1


def test_netadapt_takes_the_least_loss_for_what_is_saved() -> None:
    assert least_loss([(1.0, 0.1), (0.5, 0.02), (2.0, 0.4)]) == 2
    assert least_loss([(1.0, 0.1), (-1.0, 0.0)]) == 0, "what saves nothing is not taken"
    assert least_loss([(1.0, -0.1), (0.5, 0.0)]) == 1, "unless nothing else is there"


def test_netadapt_begins_with_its_papers_step_or_with_what_it_takes() -> None:
    steps = netadapt_steps
    assert steps(0.7, 30, None)[:2] == pytest.approx([0.025, 0.024])
    assert sum(steps(0.3, 30, None)) > 0.7 > sum(steps(0.3, 30, None)[:-1])
    assert steps(0.3, 2, 0.1) == pytest.approx([0.1, 0.096])


@pytest.mark.parametrize(("speedup", "iterations", "reached"), [(1.5, 18, 1.30), (2.0, 24, 1.45), (2.5, 30, 1.51)])
def test_compactnets_steps_add_up_as_its_comments_say(speedup: float, iterations: int, reached: float) -> None:
    """Its steps begin with (L - L/S)/N and are multiplied by 0.96 before each iteration."""
    first = (1 - 1 / speedup) / iterations
    theirs = [first * 0.96**i for i in range(1, iterations + 1)]
    assert 1 / (1 - sum(theirs)) == pytest.approx(reached, abs=0.006)
    assert compactnet_steps(1 - sum(theirs), iterations) == pytest.approx(theirs)


@cache
def whole(name: str, *size: int, classes: int = 10) -> Graph:
    """A network of the zoo in its full width."""
    return from_module(zoo.build(name, classes=classes), torch.zeros(2, 3, *size)).graph


def mobilenet() -> Graph:
    return whole("mobilenet_v2", 32, 32)


def filters(graph: Graph) -> list[int]:
    projections = ["features.1.conv.1", *(f"features.{n}.conv.2" for n in range(2, 18))]
    return [graph[id].attrs["out_channels"] for id in ["features.0.0", *projections]]


def test_compactnets_candidates_and_floors_are_its_seven_groups() -> None:
    graph = mobilenet()
    *found, head = candidates(graph, trimmable(graph))
    assert [(leader.channels, len(leader.makers)) for leader, _ in found] == [
        *((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)),
    ]
    assert [floor(leader.channels) for leader, _ in found] == [10, 12, 16, 12, 16, 24, 44]
    inside = [{group.channels // leader.channels for group in others} for leader, others in found]
    assert inside == [{6}, {6}, {6}, {6}, {6}, {6}, set()]
    assert head[0].channels == 1280, "its table knows no width there, so nothing is saved and nothing proposed"


def test_compactnets_proposals_save_a_step_of_its_table_or_reach_the_floor(shared_data: Path) -> None:
    """The first iteration on the phone's CPU, with S = 2 and N = 24, without any training."""
    table = CompactNet.load(shared_data / "hardware" / "compactnet_cpu_latency_ms.npz")
    model = sane_model(mobilenet())
    step = (table.latency() - table.latency() / 2) / 24 * 0.96
    resource = lambda graph: table.latency(filters(graph))  # noqa: E731
    reduce = reducing(model.graph, importance_named("l2"))
    edits = list(reduce(model, trimmable(model.graph), table.latency() - step, resource))
    made = [filters(apply(model.graph, edit)) for edit in edits]
    assert len(made) == 8 and made[-1] == list(WHOLE)
    for widths in made[:-1]:
        (changed,) = {(b, a) for b, a in zip(WHOLE, widths, strict=True) if b != a}
        saved = table.latency() - table.latency(widths)
        one_more = [w + 1 if w != b else w for w, b in zip(widths, WHOLE, strict=True)]
        assert saved >= step or changed[1] == floor(changed[0])
        assert table.latency() - table.latency(one_more) < step


def test_a_measured_latency_sets_the_scale_of_what_is_estimated() -> None:
    """The original's estimate is 10; what was measured of it counts, with the upper end of its interval."""
    model = sane_model(golden("residual"))
    asked: list[float] = []

    def reduce(model: Model, groups: Any, target: float, resource: Callable[[Graph], float]) -> Any:
        asked.append(target)
        return iter(())

    greedy = Greedy("latency", lambda graph: 10.0, 6.0, [2.0, 2.0], Goal("quality", True), reduce, lambda prices: 0)
    space = Space(model, Mix(()), lambda graph: {})
    scores = {"latency": 9.0, "time": 0.9, "time_high": 1.0, "quality": 90.0}
    origin = Trial(0, 0, "o", TrialState.COMPLETE, scores={"latency": 10.0, "quality": 91.0})
    child = Trial(1, 1, "c", TrialState.COMPLETE, parent=0, scores=scores)

    def propose(*found: Trial) -> list[Candidate]:
        return greedy.propose(space, found, lambda t: Candidate(t.number, model), 2, 9, np.random.default_rng(0))

    assert greedy.needs(child) == pytest.approx(10.0)
    propose(origin)
    propose(origin, child)
    assert asked == pytest.approx([8.0, 8.0])
    low = Trial(2, 2, "d", TrialState.COMPLETE, parent=1, scores={"latency": 5.5, "quality": 90.0})
    assert propose(origin, child, low) == [] and len(asked) == 2, "the limit is kept"


def test_what_cannot_be_trimmed_to_is_said_before_anything_is_done(source: str, tmp_path: Path) -> None:  # noqa: F811
    for limit, why in [
        ("quality>=0.9x", "nothing to save"),
        ("flops>=0.9x", "nothing to save"),
        ("flops<=1.2x", "keeps the limit"),
        ("speed<=0.5x", "unknown metric"),
    ]:
        for name in RECIPES:
            with pytest.raises(OptionError, match=why):
                run(name, source, tmp_path / "run", limit=limit)
    with pytest.raises(OptionError, match="no importance 'l3'; known: reads, l1"):
        run("netadapt", source, tmp_path / "run", importance="l3")
    with pytest.raises(SourceError, match="no channels that netadapt could trim"):
        run("netadapt", source, tmp_path / "run", freeze=["*.conv*", "0", "8"])
    with pytest.raises(OptionError, match="out of reach"):
        run("amc", source, tmp_path / "run", limit="flops<=0.01x")
    assert not (tmp_path / "run").exists()


def test_frozen_parts_stay(source: str) -> None:  # noqa: F811
    graph = loaded(source).graph
    makers = {id for group in trimmable(graph, frozenset(["3.conv1"])) for id in group.makers}
    assert "3.conv1" not in makers and "5.conv1" in makers


def test_the_last_slice_ranks_with_the_sign() -> None:
    model = sane_model(golden("residual"))
    group = next(group for group in channels(model.graph).groups if group.makers == ("one.conv1",))
    weights = {key: np.array(tensor) for key, tensor in model.weights.items()}
    weights["one.conv1.weight"][3, -1, -1, -1], weights["one.conv1.weight"][5, -1, -1, -1] = 50, -90
    scores = last_slice(model.graph, group, weights)
    assert (scores.argmax(), scores.argmin()) == (3, 5)
    by_size = Filters(2)(model.graph, group, weights)
    assert by_size.argmax() == 5


# AMC


def test_amcs_mobilenet_has_the_published_count() -> None:
    """293.9 of 568.7 million multiply-accumulates, by the widths of its published network."""
    graph = whole("mobilenet_v1", 224, 224, classes=1000)
    widths = [24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752]
    groups = channels(graph).groups
    edit = trim_several(graph, [(g, np.arange(g.channels), w) for g, w in zip(groups, widths, strict=True)])
    assert edit is not None
    assert flops(graph) / 2e6 == pytest.approx(568.7, abs=0.05)
    assert flops(apply(graph, edit)) / 2e6 == pytest.approx(293.9, abs=0.05)


@pytest.mark.parametrize("bound", [0.35, 0.6, 0.95])
def test_every_episode_keeps_the_budget_and_uses_it(bound: float) -> None:
    graph = whole("resnet20", 32, 32)
    groups = trimmable(graph)
    weights = sane_model(graph).weights
    scores = [reads(graph, group, weights) for group in groups]
    walk = Walk.through(graph, groups, scores, flops, bound * flops(graph), 0.2, 8)
    rng = np.random.default_rng(0)
    for act in (lambda _: 1.0, lambda _: 0.0, lambda _: float(rng.random())):
        widths, steps = walk.episode(act)
        assert walk.needs(widths) <= bound * flops(graph)
        assert all(width % 8 == 0 and width >= 0.2 * g.channels for width, g in zip(widths, groups, strict=True))
        assert [step.last for step in steps] == [False] * (len(groups) - 1) + [True]
        shares = [1.0, *(width / group.channels for width, group in zip(widths, groups, strict=True))]
        for step, did in zip(steps, shares[:-1], strict=True):
            assert step.state[-1] == np.float32(did), "it sees what was done, which may be less than it wanted"
            assert (step.state >= 0).all() and (step.state <= 1).all()
    greedy, _ = walk.episode(lambda _: 1.0)
    assert walk.needs(greedy) > 0.9 * bound * flops(graph), "who wants all gets what there is"
    assert greedy[0] == groups[0].channels or bound < 0.5


def test_a_budget_that_is_out_of_reach_is_named() -> None:
    graph = whole("resnet20", 32, 32)
    groups = trimmable(graph)
    scores = [np.arange(float(group.channels)) for group in groups]
    with pytest.raises(OptionError, match=r"out of reach.*there is still 0\.\d+x"):
        Walk.through(graph, groups, scores, flops, 0.01 * flops(graph), 0.5, 8)


def test_the_agent_learns_what_is_rewarded() -> None:
    """Two steps, told apart by the state: little is right in the first, much in the second."""
    agent = Agent(2, memory=200, warmup=20, seed=0)
    states = [np.array([0.0, 1.0], np.float32), np.array([1.0, 0.0], np.float32)]

    def play(episode: int) -> float:
        actions = [agent.act(state, episode) for state in states]
        reward = 1 - abs(actions[0] - 0.2) - abs(actions[1] - 0.8)
        agent.learn(
            [Step(states[0], actions[0], states[1], False), Step(states[1], actions[1], states[1], True)], reward
        )
        return reward

    rewards = [play(episode) for episode in range(90)]
    assert np.mean(rewards[:20]) < 0.5 < 0.75 < np.mean(rewards[-10:])


# On the command line


def test_a_recipe_on_the_command_line_can_be_interrupted_and_its_network_exported(
    source: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    options = ["--data", "digits", "--limit", "flops<=0.9x", "--iterations", 1, "--multiple", 4, "--measure", "end"]
    short = ["--pretrain", 2, "--tune-epochs", 0.1, "--final-epochs", 0.1, "--out", out]
    interrupt_at(FinalsBegun, monkeypatch)
    code, said = netgraft("run", "netadapt", source, *options, *short)
    assert code == 130, said
    assert "generation 1:" in said and re.search(r"netadapt \S+ 16 to \d+", said) and "trained so far" in said
    code, said = netgraft("export", out, "--to", tmp_path / "better")
    assert code == 0 and (tmp_path / "better" / "model.onnx").is_file()
    code, said = netgraft("run", "netadapt", source, *options, *short)
    assert code == 2 and "holds a run already" in said


def test_the_help_of_every_recipe_has_its_own_options_and_the_common_ones() -> None:
    for name, own in (("netadapt", "--step"), ("compactnet", "--importance"), ("amc", "--episodes")):
        code, said = netgraft("run", name, "--help")
        assert code == 0
        for expected in (own, "--limit", "--resume", "--table", "resnet20", "FILE.py:NAME", f"netgraft run {name}"):
            assert expected in said
