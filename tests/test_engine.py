"""Engines: results in order, errors that name their item, workers that die, and an end that is an end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from netgraft.engine import HELD, Engine, Inline, Processes, WorkerDied, apart, collect_rarely, engine_from
from netgraft.errors import OptionError, ShapeError


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(2) as engine:
        yield engine


@pytest.fixture(params=["inline", "processes"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return Inline() if request.param == "inline" else request.getfixturevalue("processes")


def square(number: int) -> int:
    return number * number


def slow_when_even(number: int) -> int:
    if number % 2 == 0:
        time.sleep(0.05)
    return number


def refuse_three(number: int) -> int:
    if number == 3:
        raise ShapeError("three is the wrong shape")
    return number


class Awkward(Exception):
    """Cannot be unpickled: its argument is not what it is built from."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def raise_awkwardly(_: int) -> None:
    raise Awkward("left", "right")


def refuse_three_at_once(number: int) -> int:
    if number < 3:
        time.sleep(0.1)
    return refuse_three(number)


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_at_three(number: int) -> int:
    if number == 3:
        sys.exit(7)
    return number


def pid(_: int) -> int:
    return os.getpid()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def fetch(_: int) -> object:
    return lambda: None


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# --- every engine ---


def test_results_come_in_the_order_of_the_items(engine: Engine) -> None:
    assert list(engine.map(slow_when_even, range(8))) == list(range(8))


def test_items_may_be_none_or_come_from_an_iterator(engine: Engine) -> None:
    assert list(engine.map(square, [])) == []
    assert list(engine.map(square, iter([1, 2, 3]))) == [1, 4, 9]


def test_an_error_comes_out_as_it_is_with_its_item_named(engine: Engine) -> None:
    results = engine.map(refuse_three, [1, 2, 3, 4])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ShapeError, match="three is the wrong shape") as caught:
        next(results)
    assert str(caught.value) == "three is the wrong shape"
    assert "item 2: 3" in caught.value.__notes__
    assert list(engine.map(square, [5])) == [25], "the engine is good for another map"


# --- processes ---


def test_an_error_does_not_overtake_the_results_before_it(processes: Processes) -> None:
    list(processes.map(square, range(4)))  # both workers are up
    results = processes.map(refuse_three_at_once, [1, 3, 4])
    assert next(results) == 1
    with pytest.raises(ShapeError):
        next(results)


def test_what_cannot_be_sent_does_not_overtake_either(processes: Processes) -> None:
    results = processes.map(type, [1, lambda: None])
    assert next(results) is int
    with pytest.raises(Exception, match=r"[Pp]ickle"):
        next(results)


def test_workers_are_other_processes_and_stay_from_map_to_map(processes: Processes) -> None:
    first, second = set(processes.map(pid, range(6))), set(processes.map(pid, range(6)))
    assert os.getpid() not in first
    assert len(first | second) <= processes.workers


def test_an_error_brings_its_traceback_from_the_worker(processes: Processes) -> None:
    with pytest.raises(ShapeError) as caught:
        list(processes.map(refuse_three, [3]))
    assert any("in refuse_three" in note for note in caught.value.__notes__)


def test_an_error_that_cannot_be_pickled_still_says_what_happened(processes: Processes) -> None:
    with pytest.raises(RuntimeError, match="Awkward: left and right"):
        list(processes.map(raise_awkwardly, [0]))


@pytest.mark.parametrize("function", [lambda item: item, fetch], ids=["function", "result"])
def test_what_cannot_be_pickled_is_an_error_that_names_the_item(processes: Processes, function: object) -> None:
    assert callable(function)
    with pytest.raises(Exception, match=r"[Pp]ickle") as caught:
        list(processes.map(function, ["the item"]))
    assert "item 0: 'the item'" in caught.value.__notes__


class Large:
    """A function that counts, in the process it is unpickled in, how often that happened."""

    loaded = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: dict[str, str]) -> None:
        Large.loaded += 1
        self.__dict__.update(state)

    def __call__(self, item: int) -> tuple[str, int, int]:
        return self.name, item, Large.loaded


def test_a_function_travels_once_to_a_worker_and_the_last_few_stay() -> None:
    with Processes(1) as engine:
        first, second = Large("first"), Large("second")
        for _ in range(2):
            assert {name for name, _, _ in engine.map(first, range(3))} == {"first"}
            assert [item for _, item, _ in engine.map(second, range(3))] == [0, 1, 2]
        assert list(engine.map(first, [7])) == [("first", 7, 2)], "two functions, each unpickled once"
        first.name = "changed"
        assert list(engine.map(first, [7])) == [("changed", 7, 3)], "what it holds now counts"
        for n in range(HELD):
            assert list(engine.map(Large(f"number {n}"), [n])) == [(f"number {n}", n, 4 + n)]
        assert list(engine.map(second, [7])) == [("second", 7, 4 + HELD)], "forgotten, so sent again"


def test_an_item_that_cannot_be_sent_does_not_cost_the_function() -> None:
    with Processes(1) as engine:
        function = Large("kept")
        assert list(engine.map(function, [1])) == [("kept", 1, 1)]
        with pytest.raises(Exception, match=r"[Pp]ickle"):
            list(engine.map(function, [lambda: None]))
        assert list(engine.map(function, [2])) == [("kept", 2, 1)]


@pytest.mark.parametrize(("function", "reason"), [(die_at_three, "SIGKILL"), (leave_at_three, "code 7")])
def test_a_worker_that_dies_costs_only_its_item(processes: Processes, function: object, reason: str) -> None:
    assert callable(function)
    results = list(processes.map(function, [1, 2, 3, 4, 5, 6]))
    assert results[:2] + results[3:] == [1, 2, 4, 5, 6]
    assert isinstance(results[2], WorkerDied)
    assert reason in results[2].reason
    assert list(processes.map(square, range(4))) == [0, 1, 4, 9], "dead workers have been replaced"


def test_leaving_the_iterator_early_ends_the_work(processes: Processes) -> None:
    results = processes.map(time.sleep, [0, 3600, 3600])
    assert next(results) is None
    results.close()  # type: ignore[attr-defined]  # a generator, to the caller an iterator
    assert list(processes.map(square, [2])) == [4]


def test_close_ends_the_workers() -> None:
    with Processes(1) as engine:
        (worker,) = engine.map(pid, [0])
        assert isinstance(worker, int)
        assert alive(worker)
    assert not alive(worker)


def test_workers_have_the_threads_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Processes(1, threads_per_worker=3) as engine:
        assert list(engine.map(variable, ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])) == ["3", "3"]
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


SCRIPT = """
import os, signal, sys, time
from netgraft.engine import Processes

def work(seconds):
    print("worker", os.getpid(), flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    {body}
"""


def start(folder: Path, body: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(body=body))
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def worker_pids(script: subprocess.Popen[str], count: int) -> list[int]:
    assert script.stdout is not None
    return [int(script.stdout.readline().split()[1]) for _ in range(count)]


def test_ctrl_c_ends_the_workers_without_a_traceback_of_theirs(tmp_path: Path) -> None:
    body = """
    try:
        with Processes(2) as engine:
            list(engine.map(work, [3600, 3600]))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    """
    script = start(tmp_path, body)
    workers = worker_pids(script, 2)
    os.killpg(script.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, errors = script.communicate(timeout=60)
    assert errors == "interrupted\n"
    assert not any(map(alive, workers))


def test_an_engine_that_nobody_closed_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    script = start(tmp_path, "engine = Processes(1); list(engine.map(work, [0]))")
    (worker,) = worker_pids(script, 1)
    assert script.communicate(timeout=60) == ("", "")
    assert not alive(worker)


def test_workers_end_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    script = start(tmp_path, "list(Processes(1).map(work, [3600]))")
    (worker,) = worker_pids(script, 1)
    script.kill()
    try:
        script.communicate(timeout=60)  # returns when nobody holds the other end of the pipe any more
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise


# --- by name ---


def test_engines_by_name() -> None:
    assert isinstance(engine_from("inline"), Inline)
    engine = engine_from("processes:3")
    assert isinstance(engine, Processes)
    assert engine.workers == 3


@pytest.mark.parametrize(
    "spec", ["", "ray", "inline:2", "processes", "processes:", "processes:0", "processes:-1", "processes:two"]
)
def test_an_unknown_engine_is_refused_by_name(spec: str) -> None:
    with pytest.raises(OptionError, match=f"unknown engine '{spec}'.*processes:2"):
        engine_from(spec)


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0)])
def test_processes_need_a_worker_and_a_thread(workers: int, threads: int) -> None:
    with pytest.raises(OptionError, match="at least 1 worker"):
        Processes(workers, threads)


def test_garbage_is_collected_rarely_but_still() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.isenabled() and gc.get_threshold()[0] > 10 * 700
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_what_is_called_apart_comes_back_or_raises() -> None:
    assert apart(partial(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        apart(partial(divmod, 7, 0))


def test_a_crash_apart_leaves_this_process_alive() -> None:
    died = apart(_crash)
    assert isinstance(died, WorkerDied) and "SIGSEGV" in died.reason


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
