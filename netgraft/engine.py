"""Where the work of a search is done: in this process, or in several.

An engine maps a function over items and yields the results in the order of the items::

    with engine_from("processes:2") as engine:
        for result in engine.map(evaluate, candidates):
            ...

A function that raises ends the map: its exception comes out as it is, with a note that names the item. A worker process
that dies (out of memory, ``kill -9``, a crash in native code) does not: its item yields a :class:`WorkerDied`, a fresh
worker takes the place, and the other items are done as if nothing had happened.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import pickle
import reprlib
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from netgraft.errors import OptionError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerDied:
    """The result of an item whose worker process ended before it had one; ``reason`` says how it ended."""

    reason: str


class Engine(Protocol):
    """What does the work. Close it, or use it in a ``with`` block."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | WorkerDied]:
        """Yield ``function(item)`` for every item, in the order of the items.

        The work is done while the results are asked for; leaving the iterator early stops it.
        """
        ...

    def close(self) -> None:
        """End all workers."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Inline(Engine):
    """One item after the other, in this process: for debugging, and for work that has threads of its own."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield ``function(item)`` for every item, in the order of the items."""
        for index, item in enumerate(items):
            with _naming(index, item):
                result = function(item)
            yield result

    def close(self) -> None:
        """There is nothing to end."""


class Processes(Engine):
    """Worker processes on this machine, each with so many threads; they start when first needed, and stay.

    Workers are spawned, not forked (threads of native libraries do not survive a fork), so the function must be
    importable, function, items and results must pickle, and a script that uses this needs its
    ``if __name__ == "__main__"``. A function travels once to each worker, which keeps the last few: so it may hold what
    is large (data, a teacher), while items had better be small; and its results must not hang on what it did before.
    """

    def __init__(self, workers: int, threads_per_worker: int = 1) -> None:
        if workers < 1 or threads_per_worker < 1:
            raise OptionError(
                f"processes need at least 1 worker with 1 thread, not {workers} with {threads_per_worker}"
            )
        self.workers = workers
        self.threads_per_worker = threads_per_worker
        self._idle: list[_Worker] = []

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | WorkerDied]:
        """Yield ``function(item)`` for every item, in the order of the items."""
        payload = _pickled_function(function)
        waiting = deque(enumerate(items))
        busy: dict[Connection, tuple[_Worker, int, T]] = {}
        done: dict[int, tuple[T, R | WorkerDied | _Raised]] = {}
        try:
            for turn in range(len(waiting)):
                while turn not in done:
                    while waiting and len(busy) < self.workers:
                        worker = self._idle.pop() if self._idle else _Worker(self.threads_per_worker)
                        index, item = waiting.popleft()
                        busy[worker.connection] = worker, index, item
                        worker.send(payload, item)
                    for connection in wait(list(busy)):
                        assert isinstance(connection, Connection)
                        worker, index, item = busy.pop(connection)
                        done[index] = item, worker.result()
                        if worker.alive:
                            self._idle.append(worker)
                item, outcome = done.pop(turn)
                if isinstance(outcome, _Raised):
                    # Not before its turn: which results come before an error must not hang on who was faster.
                    with _naming(turn, item):
                        raise outcome.error
                yield outcome
        finally:
            # Nobody waits for what is still being worked on: after an error, Ctrl-C, or an iterator left early.
            for worker, _, _ in busy.values():
                worker.kill()

    def close(self) -> None:
        """End all idle workers; those of a map end with its iterator."""
        while self._idle:
            self._idle.pop().kill()


def apart(function: Callable[[], R]) -> R | WorkerDied:
    """``function()``, called in a fork of this process, which a crash of native code in it therefore leaves alive.

    The result travels back as a pickle, and so does what it raises. Libraries' threads do not survive a fork: the
    function must not count on them. Where processes cannot be forked, it is called in this one.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        return function()
    context = multiprocessing.get_context("fork")
    connection, theirs = context.Pipe(duplex=False)

    def call() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to answer
        connection.close()
        try:
            answer = pickle.dumps(function())
        except Exception as error:
            answer = pickle.dumps(_Raised(_portable(error)))
        theirs.send_bytes(answer)

    process = context.Process(target=call, name="netgraft-apart")
    process.start()
    theirs.close()
    try:
        outcome: R | _Raised = pickle.loads(connection.recv_bytes())
    except EOFError:
        process.join()
        return WorkerDied(_how_it_ended(process.exitcode).replace("worker ", ""))
    finally:
        process.kill()
        process.join()
        connection.close()
    if isinstance(outcome, _Raised):
        raise outcome.error
    return outcome


def engine_from(spec: str) -> Engine:
    """The engine that a command line names: ``inline``, or ``processes:N`` for N workers of one thread each."""
    kind, colon, count = spec.partition(":")
    if kind == "inline" and not colon:
        return Inline()
    if kind == "processes" and count.isascii() and count.isdigit() and int(count) > 0:
        return Processes(int(count))
    raise OptionError(f"unknown engine {spec!r}; use 'inline', or 'processes:2' for two worker processes")


@dataclass(frozen=True)
class _Raised:
    """The outcome of an item whose function raised."""

    error: Exception


HELD = 3
"""How many functions a worker keeps: those that a search goes through in turn."""
_NEW = b"new"


class _Worker:
    """The caller's end of one worker process, which does one item at a time.

    It is sent which of the functions it holds to call (``_NEW``: the one that follows), and the item.
    """

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.alive = True
        self._held: deque[bytes] = deque(maxlen=HELD)
        # Not daemonic, as what a worker runs may start processes of its own; so its end is arranged for here, and in
        # _end_with_parent for the case that this process has no time to.
        self._process = context.Process(target=_work, args=(theirs,), name="netgraft-worker")
        atexit.register(self.kill)
        try:
            with _threads_of_children(threads), _interrupts_held_back():
                self._process.start()
        except BaseException:
            self.kill()
            raise
        theirs.close()

    def send(self, function: bytes, item: Any) -> None:
        """Set the worker to work; ``function`` is pickled already."""
        # Plain pickles: those of multiprocessing leave torch's tensors behind in shared memory that dies with a worker.
        try:
            message = pickle.dumps(item)
        except Exception as error:
            function, message = _pickled_function(partial(_raise, _portable(error))), pickle.dumps(None)
        with suppress(BrokenPipeError, ConnectionResetError):  # a dead worker shows when its result is asked for
            if function in self._held:
                self.connection.send_bytes(b"%d" % self._held.index(function))
            else:
                self._held.append(function)
                self.connection.send_bytes(_NEW)
                self.connection.send_bytes(function)
            self.connection.send_bytes(message)

    def result(self) -> Any:
        """The result of the item at work, what its function raised, or how the worker died of it."""
        try:
            message = self.connection.recv_bytes()
        except (EOFError, OSError):
            self._process.join(timeout=5)
            reason = _how_it_ended(self._process.exitcode)
            self.kill()
            return WorkerDied(reason)
        try:
            return pickle.loads(message)
        except Exception as error:
            return _Raised(error)

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.alive = False
        atexit.unregister(self.kill)
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self.connection.close()


def _work(connection: Connection) -> None:
    """What a worker process does, until the caller closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    held: deque[Callable[[Any], Any]] = deque(maxlen=HELD)
    while True:
        try:
            place = connection.recv_bytes()
            if place == _NEW:
                held.append(_unpickled_function(connection.recv_bytes()))
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            function = held[-1 if place == _NEW else int(place)]
            answer = pickle.dumps(function(pickle.loads(message)))
        except Exception as error:
            error.add_note(f"raised in a worker process:\n{traceback.format_exc()}")
            answer = pickle.dumps(_Raised(_portable(error)))
        connection.send_bytes(answer)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, even in the middle of an item."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _pickled_function(function: Callable[[Any], Any]) -> bytes:
    """The function, or if it cannot be pickled one that says so when it is called."""
    try:
        return pickle.dumps(function)
    except Exception as error:
        return pickle.dumps(partial(_raise, _portable(error)))


def _unpickled_function(payload: bytes) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = pickle.loads(payload)
    except Exception as error:
        return partial(_raise, error)
    return function


def _raise(error: Exception, _: Any) -> None:
    raise error


def _portable(error: Exception) -> Exception:
    """The error, if it survives pickling; or else a RuntimeError of the same words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        substitute = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            substitute.add_note(note)
        return substitute
    return error


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None:
        return "the worker process hung up without ending"
    if exitcode >= 0:
        return f"the worker process exited with code {exitcode}"
    if exitcode == -signal.SIGKILL:
        return "the worker process was killed (SIGKILL), perhaps for want of memory"
    return f"the worker process was ended by {signal.Signals(-exitcode).name}"


@contextmanager
def _naming(index: int, item: object) -> Iterator[None]:
    """Note on an exception which item it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"item {index}: {reprlib.repr(item)}")
        raise


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Let processes started inside use so many threads each; numeric libraries read it when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes inside with Ctrl-C blocked, so that one that is still loading prints no traceback either."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def collect_rarely() -> None:
    """Lets Python look for garbage in cycles more rarely. For a process of one's own: it holds for the whole of it.

    What is loaded by now stays for good, and graphs, which are made by the thousand, hold hardly any cycles; a third of
    the time of a search through structures went into looking for some.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
