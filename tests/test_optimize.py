"""The main job end to end on real data: a small network on digits, evolved, killed, resumed, exported."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from contracts import zoo_model
from safetensors.torch import load_file
from studies import begun

import netgraft as ng
from netgraft import predictor
from netgraft.candidate import Candidate, TrialState
from netgraft.convert.from_torch import from_module
from netgraft.costs.measured import Latency
from netgraft.errors import ConversionError, DataError, EmptyFrontError, OptionError, SourceError, StudyError
from netgraft.events import (
    Event,
    FinalBegun,
    FinalStopped,
    LimitScaled,
    MeasuringBegun,
    PretrainingBegun,
    RunFinished,
    TrialRecorded,
)
from netgraft.metrics import parse_limit
from netgraft.mutations import Mix
from netgraft.mutations.graft import Graft
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.recipes import clock
from netgraft.recipes import run as frame
from netgraft.recipes.clock import Conditions
from netgraft.recipes.evaluation import counted
from netgraft.recipes.finals import ENTRANTS, HEAT
from netgraft.recipes.optimize import parse_budget
from netgraft.report.page import render
from netgraft.segments import Bank, Vocabulary
from netgraft.spaces import Space
from netgraft.study import Study
from netgraft.tasks import Quality, Split

recipe = sys.modules["netgraft.recipes.optimize"]  # netgraft.recipes.optimize is the function
PLAN = ng.Plan(
    population=6,
    keep=2,
    finalists=2,
    tune_epochs=2,
    final_epochs=1,
    pretrain_epochs=10,
    measure_seconds=1.0,
    measure="end",  # the same trials in every run
)
NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))

def net():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Block(16), nn.MaxPool2d(2), Block(16)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

example_inputs = torch.zeros(2, 1, 8, 8)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETWORK)
    return f"{path}:net"


def optimize(source: str, out: Path, **options: Any) -> ng.Front:
    model = ng.load(source)
    given: dict[str, Any] = {"budget": "4 trials", "plan": PLAN, "predictor": "shipped", "seed": 1} | options
    return ng.optimize(model, ng.task("digits", model), out=out, **given)


@pytest.fixture(scope="module")
def front(source: str, tmp_path_factory: pytest.TempPathFactory) -> ng.Front:
    return optimize(source, tmp_path_factory.mktemp("runs") / "first", limits=("flops<=0.9x",))


def test_the_front_keeps_the_limits_and_reports_what_was_measured(front: ng.Front) -> None:
    rows = front.summary.rows
    assert rows[0].is_original and len(rows) > 1
    for row in rows[1:]:
        assert row.flops_ratio <= 0.9
        assert row.low <= row.time <= row.high
        assert row.test > 50, "a network that learned nothing is no result"
    assert rows[0].test > 80


def test_every_trained_child_says_what_it_inherited_and_its_quality_before_and_after(front: ng.Front) -> None:
    children = [t for t in front.study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    assert len(children) == 4
    for trial in children:
        assert 0 < trial.inherited <= 1
        assert {"quality_before", "quality", "latency", "flops", "agreement"} <= trial.scores.keys()


def test_the_shipped_predictor_says_what_it_expects_of_every_child(front: ng.Front) -> None:
    assert front.study.settings["predictor"] == predictor.load().digest
    children = [t for t in front.study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    assert all({"gain", "gain_trust", "expected", "expected_deviation"} <= t.scores.keys() for t in children)
    said = front.summary.prediction
    assert said is not None and said.networks == 4
    assert str(said).partition(":")[0] in render(front.study)


def test_a_run_is_what_a_predictor_learns_from(front: ng.Front, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = [t for t in front.study.trials.values() if t.state is TrialState.COMPLETE]
    labels = list(predictor.read_labels(front.study.path))
    assert [(label.score, label.graph.digest) for label in labels] == [(t.scores["quality"], t.digest) for t in tuned]
    (group,) = {label.group for label in labels}
    assert group.startswith("first ")
    monkeypatch.chdir(front.study.path)
    assert next(predictor.read_labels(Path())).group == group


def test_a_predictor_that_is_not_loaded(source: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"netgraft\.predictor\.load\('my\.predictor'\)"):
        optimize(source, tmp_path / "run", predictor="my.predictor")
    assert not (tmp_path / "run").exists()


def test_without_a_predictor_nothing_is_expected(source: str, tmp_path: Path) -> None:
    study = optimize(source, tmp_path / "run", predictor=None, budget="1 trials").study
    assert study.settings["predictor"] == "none"
    assert not any("expected" in t.scores or "gain_trust" in t.scores for t in study.trials.values())
    with pytest.raises(StudyError, match="another predictor, or none"):
        optimize(source, tmp_path / "run", resume=True)


def test_everybody_is_trained_equally_long(front: ng.Front) -> None:
    study = front.study
    begun = study.note("finals")
    longest = max(study.trials[number].epochs for number in begun["numbers"])
    heat = HEAT if len(begun["numbers"]) > begun["finalists"] else 0.0
    total = longest + (heat + 1) * PLAN.final_epochs
    (epochs,) = {f.epochs for f in study.finalists.values()}
    assert epochs == pytest.approx(total)
    for number in study.finalists:
        trained = [note["epochs"] for note in study.notes if note["note"] == "trained" and note["number"] == number]
        assert sum(trained) + study.trials[number].epochs == pytest.approx(total)
        assert trained[-1] == pytest.approx(PLAN.final_epochs)


def test_imitation_is_part_of_the_training_that_is_counted(front: ng.Front) -> None:
    trials = front.study.trials
    gained = [
        t.epochs - trials[t.parent].epochs for t in trials.values() if t.state is TrialState.COMPLETE and t.number
    ]
    assert all(PLAN.tune_epochs <= epochs < PLAN.tune_epochs + 100 * 64 / 1000 for epochs in gained)
    assert any(epochs > PLAN.tune_epochs for epochs in gained)


def test_more_networks_begin_the_finals_than_end_them(front: ng.Front) -> None:
    begun, heat = front.study.note("finals"), front.study.note("heat")
    assert PLAN.finalists < len(begun["numbers"]) <= ENTRANTS * PLAN.finalists
    stopped = {one["number"] for one in heat["networks"] if one["stopped"]}
    assert stopped == set(begun["numbers"]) - front.study.finalists.keys() and stopped
    assert len(front.summary.rows) <= 1 + PLAN.finalists
    assert len(front.summary.stopped) == len(stopped)


@pytest.mark.parametrize("pick", ["knee", "best"])  # what is faster hangs on the clock
def test_picks_are_exported_as_plain_files(front: ng.Front, pick: str, tmp_path: Path) -> None:
    chosen = front[pick]
    paths = {path.name: path for path in chosen.export(tmp_path / "better")}
    assert {"model.py", "weights.safetensors", "model.onnx"} <= paths.keys()
    notes = json.loads(paths["netgraft.json"].read_text())["notes"]
    assert any("less the mean" in note for note in notes), "whoever takes it home must know what inputs it expects"
    x = torch.randn(3, 1, 8, 8)
    wanted = chosen.to_torch()(x).detach().numpy()
    code = (
        "import sys, torch, importlib.util as u, inspect\n"
        "assert 'netgraft' not in sys.modules\n"
        f"spec = u.spec_from_file_location('model', {str(paths['model.py'])!r}); m = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(m)\n"
        "assert not any(name.startswith('netgraft') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    module = load_network(paths["model.py"])
    module.load_state_dict(load_file(paths["weights.safetensors"]), strict=True)
    np.testing.assert_allclose(module.eval()(x).detach().numpy(), wanted, atol=1e-5)
    session = onnxruntime.InferenceSession(paths["model.onnx"])
    (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(given, wanted, atol=1e-4)


def load_network(path: Path) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("exported_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == "exported_model"]
    network: torch.nn.Module = classes[-1]()
    return network


def test_a_pick_that_does_not_exist_lists_the_picks(front: ng.Front) -> None:
    with pytest.raises(OptionError, match=r"'slowest' is no pick of this run; choose one of: knee, "):
        front["slowest"]


def trials(study: ng.Study) -> list[tuple[Any, ...]]:
    return sorted((t.number, t.digest, t.state, t.parent, t.model, t.reason) for t in study.trials.values())


def test_killed_at_any_moment_and_resumed_gives_the_same_trials(source: str, front: ng.Front, tmp_path: Path) -> None:
    """Kills the process with SIGKILL as soon as two trials are trained, then goes on."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[3]); from test_optimize import optimize; from pathlib import Path\n"
        "optimize(sys.argv[1], Path(sys.argv[2]), limits=('flops<=0.9x',))\n"
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", program, source, str(out), str(Path(__file__).parent)])
    journal = out / "journal.jsonl"
    deadline = time.monotonic() + 300
    while not (journal.exists() and journal.read_text().count('"state": "complete"') > 2):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lost = ng.Study.read(out)
    assert sum(t.state is TrialState.COMPLETE for t in lost.trials.values()) >= 3 and not lost.finalists

    resumed = optimize(source, out, limits=("flops<=0.9x",), resume=True)
    assert trials(resumed.study) == trials(front.study)
    assert figures(resumed) == figures(front)


@pytest.mark.parametrize("moment", [PretrainingBegun, FinalBegun, FinalStopped, MeasuringBegun, RunFinished])
def test_interrupted_at_any_stage_and_resumed_ends_the_same(
    moment: type[Event], source: str, front: ng.Front, tmp_path: Path
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, moment) and not (isinstance(event, FinalBegun) and event.trial.number == 0):
            raise KeyboardInterrupt

    optimize(source, tmp_path / "run", limits=("flops<=0.9x",), on_event=interrupt)
    resumed = optimize(source, tmp_path / "run", limits=("flops<=0.9x",), resume=True)
    assert trials(resumed.study) == trials(front.study)
    assert figures(resumed) == figures(front)


def figures(front: ng.Front) -> list[tuple[Any, ...]]:
    return [(f.number, f.test, f.epochs, f.model) for f in front.study.finalists.values()]


def test_interrupting_keeps_what_was_found(source: str, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        match event:
            case TrialRecorded(trial) if trial.number and trial.state is TrialState.COMPLETE:
                raise KeyboardInterrupt

    front = optimize(source, tmp_path / "run", on_event=interrupt)
    assert any(t.number and t.state is TrialState.COMPLETE for t in front.study.trials.values())
    assert not front.summary.rows
    found = {t.digest for t in front.study.trials.values() if t.state is TrialState.COMPLETE and t.number}
    assert front.best().model.graph.digest in found
    assert {path.name for path in front.knee().export(tmp_path / "so far")} >= {"model.py", "model.onnx"}
    assert optimize(source, tmp_path / "run", resume=True).summary.rows


def test_resuming_with_other_settings_is_refused(source: str, front: ng.Front) -> None:
    limits = ("flops<=0.9x",)
    with pytest.raises(StudyError, match="was run with other limits"):
        optimize(source, front.path, resume=True, limits=("flops<=0.5x",))
    with pytest.raises(StudyError, match="another seed"):
        optimize(source, front.path, resume=True, limits=limits, seed=2)
    with pytest.raises(StudyError, match=r"tune_epochs 2 \(now 3\)"):
        optimize(source, front.path, resume=True, limits=limits, plan=replace(PLAN, tune_epochs=3))
    with pytest.raises(StudyError, match="other operations allowed"):
        mutation = recipe.default_mutations(ops=frozenset(["conv2d", "relu"]))
        optimize(source, front.path, resume=True, limits=limits, mutation=mutation)
    with pytest.raises(StudyError, match="widths in other multiples"):
        optimize(source, front.path, resume=True, limits=limits, multiple=8)
    model = ng.load(source)
    other = ng.task("digits", model, seed=1)
    with pytest.raises(StudyError, match="data that was split otherwise"):
        ng.optimize(model, other, out=front.path, resume=True, limits=limits, budget="4 trials", plan=PLAN)
    weights = {key: value + 1 for key, value in model.weights.items()}
    with pytest.raises(StudyError, match="the same one with other weights"):
        optimize_model = replace(model, weights=weights)
        task = ng.task("digits", model)
        ng.optimize(optimize_model, task, out=front.path, resume=True, limits=limits, budget="4 trials", plan=PLAN)


def test_widths_in_multiples_are_the_default_mutations(source: str, tmp_path: Path) -> None:
    by_kind = {part.name: part for part in recipe._parts(recipe.default_mutations(multiple=16))}
    assert by_kind["graft"].multiple == by_kind["trim"].multiple == 16
    with pytest.raises(OptionError, match="multiple=8 is for the default mutations"):
        optimize(source, tmp_path / "run", mutation=Swap(), multiple=8)
    with pytest.raises(OptionError, match="1 or more, not 0"):
        optimize(source, tmp_path / "run", multiple=0)


def test_a_folder_with_a_run_is_not_overwritten(source: str, front: ng.Front) -> None:
    before = json.loads((front.path / "run.json").read_text())
    with pytest.raises(StudyError, match="holds a run already"):
        optimize(source, front.path)
    assert json.loads((front.path / "run.json").read_text()) == before


def test_limits_out_of_reach_give_an_empty_front(source: str, tmp_path: Path) -> None:
    with pytest.raises(EmptyFrontError, match=r"found no network.*looser limits than parameters<=5"):
        optimize(source, tmp_path / "run", limits=("parameters<=5",))


def test_a_limit_in_milliseconds_means_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original takes 8 ms here, whatever the estimate says; it is measured once in a run."""
    measured: list[ng.Model] = []

    def measure(model: ng.Model, **_: object) -> Latency:
        measured.append(model)
        return Latency(8.0, 7.9, 8.1, sessions=10, noisy=False)

    monkeypatch.setattr(clock, "measure", measure)
    told: list[Event] = []
    here = Conditions()
    limits = ("latency<=2ms", "latency<=0.5x", "flops<=30M")
    with begun(tmp_path / "run") as study:
        original = study.load_model(study.trials[0].model or "")
        estimate = study.trials[0].scores["latency"]
        assert [limit.bound for limit in frame._bounds(study, original, limits[1:], here, told.append)] == [
            0.5 * estimate,
            3e7,
        ]
        assert not measured and not told, "a limit in x needs no measurement"
        first = frame._bounds(study, original, limits, here, told.append)
    with Study.open(tmp_path / "run") as study:
        assert frame._bounds(study, original, limits, here, told.append) == first
        assert "which was measured when the run began: 8.00 ms" in " ".join(render(study).split())
    assert [limit.bound for limit in first] == [0.25 * estimate, 0.5 * estimate, 3e7]
    assert told == [LimitScaled("latency<=2ms", 8.0, 0.25)] * 2
    assert len(measured) == 1 and measured[0] is original


def test_a_network_in_which_nothing_can_be_changed_is_refused_at_once(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    model = ng.load(module, example_inputs=torch.zeros(2, 1, 8, 8))
    nothing = Mix((Graft(Bank.of((), Vocabulary((), ()))), Swap(), Trim()))
    with pytest.raises(SourceError, match=r"holds nothing that graft\+swap\+trim could change"):
        ng.optimize(
            model, ng.task("digits", model), out=tmp_path / "run", budget="1 trials", plan=PLAN, mutation=nothing
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["population", "keep", "finalists", "tune_epochs", "final_epochs", "batch_size"])
def test_plans_that_cannot_work_are_refused(field: str) -> None:
    with pytest.raises(OptionError, match=f"{field} must be above 0"):
        replace(PLAN, **{field: 0})


@pytest.mark.parametrize(
    ("examples", "side", "batch"),
    [(50_000, 32, 128), (1_000, 8, 32), (367, 100, 16), (20, 8, 8), (50_000, 224, 16), (50_000, 1024, 8)],
)
def test_batches_are_smaller_of_few_examples_and_of_large_ones(examples: int, side: int, batch: int) -> None:
    train = Split(torch.zeros(1, 3, side, side).expand(examples, -1, -1, -1), torch.zeros(examples))
    task = replace(ng.task("digits", ng.load("zoo:resnet20?channels=1", input_shape=(1, 8, 8))), train=train)
    assert ng.Plan().for_task(task).batch_size == batch
    assert ng.Plan(batch_size=5).for_task(task).batch_size == 5
    assert ng.Plan().for_task(replace(task, optimiser="adam")).batch_size == min(batch, 16)  # many steps restore better


def test_a_network_that_cannot_be_judged_on_the_data_is_refused(source: str, tmp_path: Path) -> None:
    model = ng.load(source)
    task = replace(ng.task("digits", model), quality=Quality("odd", "", lambda outputs, targets: outputs.sum(7)))
    with pytest.raises(DataError, match="cannot be judged on digits"):
        ng.optimize(model, task, out=tmp_path / "run", budget="1 trials", plan=PLAN)


@pytest.mark.parametrize("text", ["10", "fast", "0m", "0 trials", "", "-5m"])
def test_budgets_that_mean_nothing(text: str) -> None:
    with pytest.raises(OptionError, match="cannot read the budget"):
        parse_budget(text)


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("45s", 45), ("2min", 120)])
def test_budgets_as_time(text: str, seconds: float) -> None:
    assert parse_budget(text)[1] == seconds


def test_budgets_as_trials() -> None:
    assert parse_budget("40 trials")[0].trials == parse_budget("40t")[0].trials == 40


@pytest.mark.parametrize("limit", ["flops<=0.5x", "flops<=0.15x", "latency<=0.5x"])
def test_limits_that_are_far_are_reached(limit: str) -> None:
    model = zoo_model("mobilenet_v2")
    bound = parse_limit(limit, counted(model.graph))
    space = Space(model, recipe.default_mutations(), counted, [bound])
    rng = np.random.default_rng(0)
    children = [space.child(Candidate(0, model), n + 1, rng) for n in range(6)]
    found = [child for child in children if child is not None]
    assert len(found) >= 5
    assert all(bound.violation(counted(child.model.graph)) == 0 for child in found)


def test_a_network_that_onnx_cannot_say_is_measured_in_torch(tmp_path: Path) -> None:
    """And refused before anything is done where it cannot be measured."""

    class Spectral(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.last((0.1 * torch.fft.fft2(x).real + x).mean((2, 3)))

    task = ng.tasks.load("digits", input_shape=(1, 8, 8), classes=10)
    torch.manual_seed(0)
    model = from_module(Spectral(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ConversionError, match=r"complex numbers.*'latency<=1x@torch' it is measured in torch"):
        ng.optimize(model, task, budget="2 trials", out=tmp_path / "refused", plan=PLAN)
    assert not (tmp_path / "refused").exists()
    plan = replace(PLAN, pretrain_epochs=1)
    front = ng.optimize(model, task, limits=["latency<=5x@torch"], budget="2 trials", out=tmp_path / "run", plan=plan)
    assert all(finalist.time > 0 for finalist in front.study.finalists.values())
