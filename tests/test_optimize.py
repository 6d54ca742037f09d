"""The main job end to end on real data: a small network on digits, evolved, killed, resumed, exported."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import netgraft as ng
from netgraft.candidate import TrialState
from netgraft.errors import EmptyFrontError, OptionError, StudyError
from netgraft.recipes.optimize import parse_budget
from netgraft.report import summarize

PLAN = ng.Plan(
    population=6, keep=2, finalists=2, tune_epochs=0.5, final_epochs=1, pretrain_epochs=10, measure_seconds=1.0
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
    given: dict[str, Any] = {"budget": "4 trials", "plan": PLAN} | options
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


def test_the_original_is_trained_as_long_as_the_longest_lineage(front: ng.Front) -> None:
    finalists = front.study.finalists
    assert finalists[0].epochs == max(f.epochs for f in finalists.values()) > PLAN.final_epochs  # type: ignore[operator]


@pytest.mark.parametrize("pick", ["knee", "fastest", "best"])
def test_picks_are_exported_as_plain_files(front: ng.Front, pick: str, tmp_path: Path) -> None:
    chosen = front[pick]
    paths = {path.name: path for path in chosen.export(tmp_path / "better")}
    assert {"model.py", "weights.safetensors", "model.onnx"} <= paths.keys()
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
    with pytest.raises(OptionError, match=r"'slowest' is no pick of this run; choose one of: knee, fastest, best"):
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
    wanted, given = (summarize(f.study).rows for f in (front, resumed))
    assert [(r.digest, r.test, r.epochs) for r in sorted(given, key=lambda r: r.number)] == [
        (r.digest, r.test, r.epochs) for r in sorted(wanted, key=lambda r: r.number)
    ]


def test_interrupting_keeps_what_was_found(source: str, tmp_path: Path) -> None:
    def interrupt(kind: str, data: Any) -> None:
        if kind == "trial" and data.number and data.state is TrialState.COMPLETE:
            raise KeyboardInterrupt

    front = optimize(source, tmp_path / "run", on_event=interrupt)
    assert any(t.number and t.state is TrialState.COMPLETE for t in front.study.trials.values())
    assert not front.summary.rows
    found = {t.digest for t in front.study.trials.values() if t.state is TrialState.COMPLETE and t.number}
    assert front.best().model.graph.digest in found
    assert {path.name for path in front.knee().export(tmp_path / "so far")} >= {"model.py", "model.onnx"}
    assert optimize(source, tmp_path / "run", resume=True).summary.rows


def test_resuming_with_other_settings_is_refused(source: str, front: ng.Front) -> None:
    with pytest.raises(StudyError, match="was run with limits"):
        optimize(source, front.path, resume=True, limits=("flops<=0.5x",))


def test_a_folder_with_a_run_is_not_overwritten(source: str, front: ng.Front) -> None:
    before = json.loads((front.path / "run.json").read_text())
    with pytest.raises(StudyError, match="holds a run already"):
        optimize(source, front.path)
    assert json.loads((front.path / "run.json").read_text()) == before


def test_limits_out_of_reach_give_an_empty_front(source: str, tmp_path: Path) -> None:
    with pytest.raises(EmptyFrontError, match=r"found no network.*loosen the limits \(parameters<=5\)"):
        optimize(source, tmp_path / "run", limits=("parameters<=5",))


@pytest.mark.parametrize("text", ["10", "fast", "0m", "0 trials", "", "-5m"])
def test_budgets_that_mean_nothing(text: str) -> None:
    with pytest.raises(OptionError, match="cannot read the budget"):
        parse_budget(text)


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("45s", 45), ("2min", 120)])
def test_budgets_as_time(text: str, seconds: float) -> None:
    assert parse_budget(text)[1] == seconds


def test_budgets_as_trials() -> None:
    assert parse_budget("40 trials")[0].trials == parse_budget("40t")[0].trials == 40
