"""Another machine: jobs through a folder and by ssh, and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import netgraft
from test_measured import tiny

from netgraft.costs.measured import Latency, Ratio, Variant, compare, jobs, measure, remote
from netgraft.costs.measured.flags import has_avx512, machine
from netgraft.costs.measured.jobs import Folder, Job, read_answer, read_kernels
from netgraft.costs.measured.profile import profiled
from netgraft.costs.measured.remote import Asked, ask_kernels
from netgraft.costs.measured.worker import pack, serve
from netgraft.errors import MeasureError, OptionError
from netgraft.recipes import table
from netgraft.sources import load

NAME = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "jobs")


needs_avx512 = pytest.mark.skipif(not has_avx512(), reason="tables are made of AVX-512's kernels")


def files(folder: Folder) -> set[str]:
    """The names of the models there."""
    return {path.name for path in (folder.path / "models").iterdir()}


def asked(models: int = 1, baseline: bool = True) -> Asked:
    return Asked([Variant(tiny())] * models, Variant(tiny("Sigmoid")) if baseline else None, 1, 1, 0.0, 0)


@pytest.fixture
def serving(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Runs a function while a worker looks into the folder whenever the one who asks waits."""

    def run(function: Callable[[], Any]) -> Any:
        monkeypatch.setattr("netgraft.costs.measured.remote.time.sleep", lambda _: serve(folder.path, once=True))
        return function()

    return run


def test_the_same_classes_come_back(folder: Folder, serving: Callable[..., Any]) -> None:
    found = serving(lambda: measure(tiny(), seconds=0, on=str(folder.path)))
    assert isinstance(found, Latency) and 0 < found.low_ms < found.high_ms
    ratios = serving(lambda: compare([tiny(), tiny("Sigmoid")], tiny(), batch=3, seconds=0, on=str(folder.path)))
    assert len(ratios) == 2 and all(isinstance(r, Ratio) and r.low < r.ratio < r.high for r in ratios)
    (left,) = [path for path in folder.path.rglob("*") if path.is_file()]
    assert left.read_bytes() == tiny(), "nothing but the baseline is left, which the next job may have too"


def test_a_folder_does_not_grow_with_what_is_measured(folder: Folder, serving: Callable[..., Any]) -> None:
    for operation in ("Sigmoid", "Tanh", "Neg"):
        serving(lambda operation=operation: compare([tiny(operation)], tiny(), seconds=0, on=str(folder.path)))
        serving(lambda operation=operation: measure(tiny(operation), seconds=0, on=str(folder.path)))
    assert len(files(folder)) == 1
    with pytest.raises(MeasureError, match="cannot load"):
        serving(lambda: measure(b"not a model", seconds=0, on=str(folder.path)))
    assert len(files(folder)) == 1


@pytest.mark.parametrize("claimed", [False, True])
def test_what_another_job_names_stays(folder: Folder, claimed: bool) -> None:
    job, other = asked(baseline=False).job(folder), asked().job(folder)
    assert other.baseline and job.models == other.models
    folder.submit("b" * 16, other)
    claim = folder.claim("w") if claimed else None
    folder.forget("a" * 16, job)
    assert files(folder) == {other.models[0].file, other.baseline.file}
    if claim:
        claim.unlink()
    folder.forget("b" * 16, other)
    assert files(folder) == {other.baseline.file}


def test_int8_is_quantised_before_it_is_sent(folder: Folder, serving: Callable[..., Any]) -> None:
    model = tiny()
    job = Asked([Variant(model, precision="int8")], None, 1, 1, 0.0, 0).job(folder)
    assert job.models[0].precision == "fp32"
    assert (folder.path / "models" / job.models[0].file).read_bytes() != model


def test_the_workers_error_is_the_askers(folder: Folder, serving: Callable[..., Any]) -> None:
    with pytest.raises(MeasureError, match=r"the worker of .* says: onnxruntime cannot load"):
        serving(lambda: measure(b"not a model", seconds=0, on=str(folder.path)))
    with pytest.raises(MeasureError, match="says: there is no engine 'abacus'"):
        serving(lambda: measure(tiny(), engine="abacus", seconds=0, on=str(folder.path)))


def test_what_was_lost_or_damaged_is_sent_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    harm = iter(["job", "model", "content"])

    def sleep(_: float) -> None:
        kind = next(harm, None)
        if kind == "job":
            for path in (folder.path / "new").iterdir():
                path.unlink()
        else:
            for path in (folder.path / "models").iterdir():
                if kind == "model":
                    path.unlink()
                    break
            serve(folder.path, once=True)

    monkeypatch.setattr("netgraft.costs.measured.remote.time.sleep", sleep)
    (ratio,) = compare([tiny()], tiny("Sigmoid"), seconds=0, on=str(folder.path))
    assert ratio.pairs == 10
    damaged = asked().job(folder).models[0]
    (folder.path / "models" / damaged.file).write_bytes(b"damaged")
    with pytest.raises(MeasureError, match="missing: what was there was damaged"):
        folder.variant(damaged)
    assert not (folder.path / "models" / damaged.file).exists(), "so that it is sent again"


def test_nobody_there_is_said_after_a_while(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    with pytest.raises(MeasureError, match=r"no worker took the job.*netgraft worker"):
        measure(tiny(), seconds=0, on=str(folder.path))
    assert not list((folder.path / "new").iterdir()), "the job is taken back"
    with pytest.raises(MeasureError, match=r"there is no folder .*netgraft worker"):
        measure(tiny(), seconds=0, on=str(folder.path / "elsewhere"))


@needs_avx512
def test_kernels_are_timed_there_as_here(folder: Folder, serving: Callable[..., Any]) -> None:
    models = [tiny(), b"no model", tiny("Sigmoid")]
    found, where = serving(lambda: ask_kernels(str(folder.path), models, 0))
    here = profiled(models, 1)
    assert where == machine()
    assert [None if parts is None else [replace(p, microseconds=0) for p in parts] for parts in found] == [
        None if parts is None else [replace(p, microseconds=0) for p in parts] for parts in here
    ]
    assert found[1] is None and found[0]


@needs_avx512
def test_a_table_is_made_of_what_another_machine_measures(
    folder: Folder, tmp_path: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = load("zoo:resnet20?width=0.25&input=3x16x16").graph
    graphs = [table.resized(graph, size) for size in (8, 16, 24)]
    drawn = [table.Drawn(f"net {n}", "nets", graph) for n, graph in enumerate(graphs)]
    monkeypatch.setattr(table, "drawn", lambda space, seed: iter(drawn))
    monkeypatch.setattr(table, "REFERENCE", "zoo:resnet20?width=0.25&input=3x8x8")
    monkeypatch.setattr(table, "SECONDS", 0)
    monkeypatch.setattr(table, "FEWEST", 3)
    monkeypatch.setattr(table, "profiled", None)  # nothing is measured here
    journal = tmp_path / "far.table.part"
    found, where = serving(lambda: table.collect(["nets"], journal, on=str(folder.path)))
    assert where == machine() and [one.name for one in found] == ["net 0", "net 1", "net 2"]
    assert all(one.ratio > 0 and sum(row.microseconds for row in one.kernels) > 0 for one in found)
    monkeypatch.setattr("netgraft.costs.measured.worker.machine", lambda: {"processor": "another"})
    with pytest.raises(OptionError, match="on another machine"):
        serving(lambda: table.collect(["nets"], journal, on=str(folder.path)))


def test_a_machine_whose_kernels_nobody_knows_says_so(
    folder: Folder, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netgraft.costs.measured.profile.has_avx512", lambda: False)
    with pytest.raises(MeasureError, match=r"the worker of .* says: .* shows no avx512f"):
        serving(lambda: ask_kernels(str(folder.path), [tiny()], 0))


# --- workers ---


def test_a_job_is_claimed_by_one_worker_only(folder: Folder) -> None:
    names = [f"{n:016x}" for n in range(40)]
    job = asked().job(folder)
    for name in names:
        folder.submit(name, job)
    claimed: list[str] = []

    def work(worker: str) -> None:
        while (claim := folder.claim(worker)) is not None:
            claimed.append(claim.name.partition(".")[0])

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == names


def test_the_job_of_a_dead_worker_is_taken_over_and_that_of_a_living_one_is_not(folder: Folder) -> None:
    folder.submit(NAME, asked().job(folder))
    first = folder.claim("first")
    assert first is not None and folder.claim("second") is None
    assert folder.state(NAME) == "claimed"
    dead(first)
    assert folder.state(NAME) == "waiting"
    second = folder.claim("second")
    assert second is not None and not first.exists() and folder.claim("third") is None
    dead(second)
    assert serve(folder.path, once=True) == 1
    assert len(read_answer(folder.path / "done" / f"{NAME}.json", Ratio, 1, "it")) == 1
    assert not list((folder.path / "claimed").iterdir())


def test_a_job_that_kills_its_workers_is_given_up(folder: Folder) -> None:
    folder.submit(NAME, asked().job(folder))
    for _ in range(jobs.ATTEMPTS):
        claim = folder.claim("w")
        assert claim is not None
        dead(claim)
    assert folder.claim("w") is None
    with pytest.raises(MeasureError, match="it says: the job ended its worker 3 times"):
        read_answer(folder.path / "done" / f"{NAME}.json", Ratio, 1, "it")


def test_a_worker_that_died_after_its_answer_leaves_nothing_to_do(folder: Folder) -> None:
    folder.submit(NAME, asked().job(folder))
    claim = folder.claim("w")
    assert claim is not None
    folder.answer(NAME, {"found": []})
    dead(claim)
    assert folder.claim("other") is None and not claim.exists()


def dead(claim: Path) -> None:
    then = claim.stat().st_mtime - jobs.STALE - 1
    os.utime(claim, (then, then))


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "at least one"),
        (
            {"models": [{"file": "../../secret.onnx", "engine": "onnxruntime", "precision": "fp32"}]},
            "no name of a model",
        ),
        ({"models": [{"file": 3, "engine": "onnxruntime", "precision": "fp32"}]}, "an object of the texts"),
        ({"models": ["x"]}, "an object of the texts"),
        ({"baseline": None, "models": [1, 2]}, "one model only"),
        ({"batch": 0}, "batch must be a whole number of at least 1"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"seconds": 1e9}, "seconds must be a number from 0 to 3600"),
        ({"seconds": "1"}, "seconds must be a number"),
        ({"task": "reboot"}, "task must be one of latency, kernels"),
        ({"netgraft": 1}, "no job of format 2"),
        ({"command": "reboot"}, "no job of format 2"),
    ],
)
def test_a_malformed_job_gets_an_error_for_an_answer(folder: Folder, change: dict[str, Any], message: str) -> None:
    data = json.loads(asked().job(folder).written()) | change
    folder.write("new", f"{NAME}.json", json.dumps(data).encode())
    assert serve(folder.path, once=True) == 1
    with pytest.raises(MeasureError, match=message):
        read_answer(folder.path / "done" / f"{NAME}.json", Ratio, 1, "it")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["models", "netgraft", "batch"]), inner)
            ),
        ).map(lambda data: json.dumps(data).encode()),
    )
)
def test_no_job_file_ends_a_worker(folder: Folder, content: bytes) -> None:
    folder.write("new", f"{NAME}.json", content)
    assert serve(folder.path, once=True) == 1
    assert "error" in json.loads((folder.path / "done" / f"{NAME}.json").read_text())


def test_files_that_are_no_jobs_are_left_alone(folder: Folder) -> None:
    for name in ("notes.json", "0123.json", f"{NAME}.txt"):
        (folder.path / "new" / name).write_text("{}")
    (folder.path / "new" / f"{NAME}.json").mkdir()
    (folder.path / "claimed" / "a.b.c.json").write_text("{}")
    assert serve(folder.path, once=True) == 0


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b'{"found": []}', b'{"found": [{}]}', b'{"found": [{"ratio": "1"}]}'),
        *(b'{"found": [[{}]], "machine": {}}', b'{"found": [null], "machine": [1]}', b'{"found": [null]}'),
        b'{"found": [[{"name": "a", "operation": "", "inputs": [], "outputs": [], "microseconds": -1}]],"machine": {}}',
    ],
)
def test_what_is_no_answer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MeasureError, match=r"a\.json"):
        read_answer(tmp_path / "a.json", Ratio, 1, "it")
    with pytest.raises(MeasureError, match=r"a\.json"):
        read_kernels(tmp_path / "a.json", 1, "it")


def test_a_job_survives_its_file(folder: Folder) -> None:
    job = asked(2).job(folder)
    folder.submit(NAME, job)
    assert Job.read(folder.path / "new" / f"{NAME}.json") == job != replace(job, batch=2)


# --- one file, and ssh ---


def test_the_packed_worker_needs_numpy_and_onnxruntime_only(folder: Folder, tmp_path: Path) -> None:
    pack(tmp_path / "worker.pyz")
    folder.submit(NAME, asked().job(folder))
    kernels = NAME[::-1]
    folder.submit(kernels, replace(asked().job(folder), task="kernels", baseline=None))
    blocked = tmp_path / "blocked"
    for name in ("torch", "onnx", "scipy", "typer", "rich", "openvino"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text("raise ImportError('not on a phone')")
    environment = {**os.environ, "PYTHONPATH": str(blocked)}
    command = [sys.executable, str(tmp_path / "worker.pyz"), str(folder.path), "--once"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{NAME}: measured" in done.stdout
    assert len(read_answer(folder.path / "done" / f"{NAME}.json", Ratio, 1, "it")) == 1
    if has_avx512():
        (parts,), _ = read_kernels(folder.path / "done" / f"{kernels}.json", 1, "it")
        assert parts
    first = (tmp_path / "worker.pyz").read_bytes()
    pack(tmp_path / "worker.pyz")
    assert (tmp_path / "worker.pyz").read_bytes() == first


SSH = """#!/bin/sh
printf '%s\\n' "$*" >> "$FAKE_LOG"
while [ "$1" != "--" ]; do shift; done
shift 2
cd "$FAKE_HOME" && PATH="$FAKE_BIN:$PATH" exec sh -c "$*"
"""
SCP = """#!/bin/sh
printf '%s\\n' "$*" >> "$FAKE_LOG"
while [ "$1" != "--" ]; do shift; done
cd "$FAKE_HOME"
exec cp -r "$(echo "$2" | sed 's/^[^/]*://')" "$(echo "$3" | sed 's/^[^/]*://')"
"""


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder that ``ssh`` and ``scp`` reach, both of them stand-ins that stay on this machine."""
    home, tools = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    tools.mkdir()
    for name, text in {"ssh": SSH, "scp": SCP, "python3": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    for name, value in {"FAKE_HOME": home, "FAKE_BIN": tools, "FAKE_LOG": tmp_path / "log"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    yield home


needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for ssh is a shell script")


@needs_sh
def test_ssh_brings_the_worker_and_takes_everything_away_again(far: Path, tmp_path: Path) -> None:
    (ratio,) = compare([tiny()], tiny("Sigmoid"), seconds=0, on="ssh://me@board:2222")
    assert isinstance(ratio, Ratio) and ratio.pairs == 10
    assert list((far / "netgraft-worker").iterdir()) == []
    said = (tmp_path / "log").read_text()
    assert "-p 2222 -- me@board" in said and "-P 2222 --" in said and "BatchMode=yes" in said


@needs_sh
def test_what_fails_over_ssh_is_said(far: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="board says: onnxruntime cannot load"):
        measure(b"no model", seconds=0, on="ssh://board")
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\necho No module named numpy >&2\nexit 1\n")
    with pytest.raises(MeasureError, match=r"board could not be used: No module named numpy; it needs Python 3.11"):
        measure(tiny(), seconds=0, on="ssh://board")


@pytest.mark.parametrize("on", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://host/$(reboot)", "ssh:host"])
def test_what_is_no_host_is_refused(on: str) -> None:
    with pytest.raises(OptionError, match=r"is no machine; write ssh://host"):
        measure(tiny(), on=on)


@pytest.mark.parametrize("second", [False, True])
def test_the_command_line_measures_nothing_here_that_it_was_to_have_measured_there(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    """Without a worker there is no figure, whether of one network or of two."""
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    (tmp_path / "tiny.onnx").write_bytes(tiny())
    code, said = netgraft("measure", *[tmp_path / "tiny.onnx"] * (1 + second), "--on", folder.path, "--seconds", 1)
    assert code == 2 and "no worker took the job" in " ".join(said.split()) and " ms" not in said


def test_on_the_command_line(folder: Folder, tmp_path: Path, serving: Callable[..., Any]) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny())
    words = ("measure", tmp_path / "tiny.onnx", "--on", folder.path, "--seconds", 1)
    code, said = serving(lambda: netgraft(*words))
    assert code == 0 and " ms, 99 % interval" in said and f"on {folder.path}" in " ".join(said.split())
    code, said = netgraft("worker", "--pack", tmp_path / "worker.pyz")
    assert code == 0 and (tmp_path / "worker.pyz").is_file() and "python3 worker.pyz DIR" in said
    assert netgraft("worker", folder.path, "--once")[0] == 0
    code, said = netgraft("worker")
    assert code == 2 and "name either a folder" in said
    code, said = netgraft(*words, "--memory")
    assert code == 2 and "leave out --on" in said
