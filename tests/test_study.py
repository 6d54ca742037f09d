"""The run folder: what is written is there after any kind of end, and damage is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from studies import finished, model_of, resnet, searched

from netgraft.candidate import Trial, TrialState
from netgraft.errors import StudyError
from netgraft.ir import Batch, Builder, DType, Model, TensorType, render
from netgraft.study import Study

SETTINGS = {"seed": 0}


def trial(number: int) -> Trial:
    return Trial(number, 0, f"{number:016x}", TrialState.COMPLETE, scores={"quality": 90.0 + number}, seconds=2.5)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A closed run with trials 0, 1 and 2."""
    with Study.create(tmp_path / "run", SETTINGS) as study:
        for number in range(3):
            study.add_trial(trial(number))
    return tmp_path / "run"


def test_everything_comes_back(tmp_path: Path) -> None:
    with finished(tmp_path / "run") as study:
        study.add_note("finals", numbers=[1, 2])
        study.add_note("finals", numbers=[1, 2, 3])
    again = Study.read(tmp_path / "run")
    assert again.settings == study.settings
    assert again.finalists == study.finalists
    assert again.notes == study.notes
    assert again.note("finals") == {"note": "finals", "numbers": [1, 2, 3]}
    assert again.note("another") is None
    assert again.seconds == study.seconds == 60.0
    assert list(again.trials) == list(study.trials)
    for number, one in again.trials.items():
        other = study.trials[number]
        assert one == other  # edits and all: an edit's graph is compared by content
        assert one.origin == other.origin


def test_a_folder_can_be_named_by_text(run: Path) -> None:
    assert list(Study.read(str(run)).trials) == [0, 1, 2]
    with Study.open(str(run)) as study:
        assert study.path == run
    with Study.create(f"{run}-2", SETTINGS) as other:
        assert other.path == run.with_name("run-2")


def test_recorded_edits_can_be_replayed(tmp_path: Path) -> None:
    from netgraft.ir import apply

    with searched(tmp_path / "run") as study:
        pass
    again = Study.read(tmp_path / "run")
    for number in (1, 2, 3):
        recorded = again.trials[number]
        parent = again.load_model(study.trials[recorded.parent or 0].model or "")
        assert apply(parent.graph, recorded.edits[0]).digest == recorded.digest


def test_a_folder_with_a_run_is_not_overwritten(run: Path) -> None:
    with pytest.raises(StudyError, match=r"holds a run already; continue it with --resume"):
        Study.create(run, SETTINGS)


def test_a_folder_without_a_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no run\.json"):
        Study.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot make the run folder"):
        Study.create(tmp_path / "file" / "run", SETTINGS)


def test_resuming_appends(run: Path) -> None:
    before = (run / "journal.jsonl").read_bytes()
    with Study.open(run) as study:
        study.add_trial(trial(3))
    assert (run / "journal.jsonl").read_bytes().startswith(before)
    assert list(Study.read(run).trials) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_write_cut_short_costs_only_its_line(run: Path, cut: int) -> None:
    journal = run / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    assert list(Study.read(run).trials) == [0, 1]
    assert journal.read_bytes() == whole[:-cut], "reading changes nothing"
    with Study.open(run) as study:
        study.add_trial(trial(2))
    assert journal.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [b"{not json}", b"[1, 2]", b'"text"', b'{"number": 1}', b'{"kind": "trial", "number": 1}', b"\xff\xfe"]
)
def test_damage_elsewhere_names_the_line(run: Path, damage: bytes) -> None:
    journal = run / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], damage, lines[2], b""]))
    with pytest.raises(StudyError, match=r"journal\.jsonl, line 2 is damaged"):
        Study.read(run)


@pytest.mark.parametrize("field", ["state", "edits"])
def test_a_trial_with_a_wrong_value_names_the_line(run: Path, field: str) -> None:
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines()
    data = json.loads(lines[1])
    data[field] = {"state": "unheard of", "edits": [{"region": []}]}[field]
    journal.write_text("\n".join([lines[0], json.dumps(data), lines[2], ""]))
    with pytest.raises(StudyError, match=r"journal\.jsonl, line 2 is damaged"):
        Study.read(run)


@pytest.mark.parametrize("content", [b'{"seed": ', b"\xff"])
def test_damaged_settings_are_named(run: Path, content: bytes) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(StudyError, match=r"run\.json is damaged"):
        Study.read(run)


def test_one_process_at_a_time(run: Path) -> None:
    code = """
import sys
from pathlib import Path
from netgraft.errors import StudyError
from netgraft.study import Study
try:
    Study.open(Path(sys.argv[1])).close()
except StudyError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(run)]
    with Study.open(run):
        held = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert list(Study.read(run).trials) == [0, 1, 2], "looking is allowed"
    free = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "another process is working on" in held
    assert free == ""


def test_a_run_opened_to_look_at_cannot_be_written(run: Path) -> None:
    with pytest.raises(StudyError, match="opened for reading only"):
        Study.read(run).add_trial(trial(3))


def test_a_process_killed_in_the_middle_of_a_write_loses_only_that_line(tmp_path: Path) -> None:
    """The process dies by SIGKILL with half a line on disk, once its third trial is recorded."""
    code = """
import os, signal, sys
from pathlib import Path
from netgraft.candidate import Trial, TrialState
from netgraft.study import Study
study = Study.create(Path(sys.argv[1]), {"seed": 0})
for number in range(3):
    study.add_trial(Trial(number, 0, "0" * 16, TrialState.DROPPED))
class Dying:
    def __init__(self, file): self.file = file
    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
study._journal = Dying(study._journal)
study.add_trial(Trial(3, 0, "0" * 16, TrialState.DROPPED))
"""
    run = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, check=False)
    assert died.returncode == -9
    assert not (run / "journal.jsonl").read_bytes().endswith(b"\n")
    with Study.open(run) as study:  # the lock went with the process
        assert list(study.trials) == [0, 1, 2]
        study.add_trial(trial(3))
    assert list(Study.read(run).trials) == [0, 1, 2, 3]


def test_models_come_back_and_are_stored_once(tmp_path: Path) -> None:
    model = model_of(resnet(1))
    with Study.create(tmp_path / "run", SETTINGS) as study:
        name = study.save_model(model)
        assert study.save_model(Model(model.graph, dict(reversed(model.weights.items())), model.name)) == name
        assert study.save_model(model_of(resnet(1), seed=1)) != name
    again = Study.read(tmp_path / "run").load_model(name)
    assert render(again.graph) == render(model.graph)
    assert again.name == model.name
    assert again.weights.keys() == set(model.graph.weight_types)
    for key, tensor in again.weights.items():
        assert tensor.dtype == model.weights[key].dtype
        assert np.array_equal(tensor, model.weights[key])
    assert sorted(path.suffix for path in (tmp_path / "run" / "models").iterdir()) == [".safetensors"] * 2


def test_a_model_without_weights_and_one_that_shares_them_come_back(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 4), DType.F32))
    plain = Model(b.build(b.add("relu", x)), {})
    b = Builder()
    x = b.input("x", TensorType((Batch(), 4), DType.F32))
    y = b.add("linear", x, id="one", out_features=4, bias=False)
    y = b.add("linear", y, id="two", out_features=4, bias=False, weights={"weight": "one.weight"})
    # A transposed tensor is not contiguous in memory.
    shared = Model(b.build(y), {"one.weight": np.arange(16, dtype=np.float32).reshape(4, 4).T})
    with Study.create(tmp_path / "run", SETTINGS) as study:
        for model in (plain, shared):
            again = study.load_model(study.save_model(model))
            assert again.graph == model.graph
            assert all(np.array_equal(again.weights[key], tensor) for key, tensor in model.weights.items())


def test_a_missing_or_damaged_model_is_named(tmp_path: Path) -> None:
    with Study.create(tmp_path / "run", SETTINGS) as study:
        with pytest.raises(StudyError, match=r"cannot read the model .*nowhere\.safetensors"):
            study.load_model("nowhere")
        name = study.save_model(model_of(resnet(1)))
        path = tmp_path / "run" / "models" / f"{name}.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(StudyError, match="cannot read the model"):
            study.load_model(name)


def test_weights_of_somebody_else_are_refused(tmp_path: Path) -> None:
    import safetensors.numpy

    with Study.create(tmp_path / "run", SETTINGS) as study:
        path = tmp_path / "run" / "models" / "other.safetensors"
        safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path)
        with pytest.raises(StudyError, match="weights without a graph"):
            study.load_model("other")


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails when the bytes are to be made safe: the model's name must not exist yet."""

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    with Study.create(tmp_path / "run", SETTINGS) as study:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            study.save_model(model_of(resnet(1)))
    assert not list((tmp_path / "run" / "models").glob("*.safetensors"))
