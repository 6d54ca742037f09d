"""From networks to times: fresh sessions of every subject, taking turns, until the interval is narrow."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.errors import MeasureError, NetgraftError, OptionError

from .engines import engine as engine_named
from .intervals import NOISY, ClockName, Floats, Latency, Ratio, low_percentile, median_interval, ratios
from .networks import Network, Session, Setting, Variant, label_of, random_input

Progress = Callable[[int, float], None]
"""Called after every session pair with the number of pairs and the widest half-width so far (0.01 is one percent)."""

MIN_PAIRS = 10
PRECISE = 0.01  # half-width, as a fraction, at which measuring stops
BURST_SECONDS = 1e-3  # a timing covers as many runs as fill this
WARM_UPS = 2
SWEEPS = (3, 20)  # fewest and most timings of a session

CLOCKS: Mapping[ClockName, Callable[[], int]] = {
    "thread": time.thread_time_ns,
    "process": time.process_time_ns,
    "wall": time.perf_counter_ns,
}


def measure(
    model: Network | Variant,
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    seconds: float = 20.0,
    seed: int = 0,
    on: str | None = None,
    progress: Progress | None = None,
) -> Latency:
    """Measure one model on random inputs of ``batch`` samples, for about ``seconds`` at most.

    Stops as soon as the interval is within one percent of the median, never before ten fresh sessions. Raises
    :class:`~netgraft.errors.MeasureError` for a model that cannot be loaded or run, an engine that is not installed, or
    a precision that it lacks here. ``on`` names another machine, as for :func:`compare`.
    """
    variant = Variant.of(model, engine, precision)
    checked(batch, threads)
    if on is not None:
        from .remote import Asked, ask

        (latency,) = ask(on, Asked([variant], None, batch, threads, seconds, seed), Latency)
        return latency
    check_processors(threads)
    with _subjects([(label_of(variant.model, "the model"), variant)], batch, threads) as subjects:

        def widest(times: Floats) -> float:
            return median_interval(low_percentile(times)[:, 0]).half_width

        times = _sample(subjects, seconds, seed, widest, progress)
        clock = subjects[0].clock
    interval = median_interval(low_percentile(times)[:, 0])
    return Latency(
        median_ms=1e3 * math.exp(interval.median),
        low_ms=1e3 * math.exp(interval.low),
        high_ms=1e3 * math.exp(interval.high),
        sessions=len(times),
        noisy=interval.half_width > NOISY,
        clock=clock,
    )


def compare(
    models: Sequence[Network | Variant],
    baseline: Network | Variant,
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    seconds: float = 30.0,
    seed: int = 0,
    on: str | None = None,
    progress: Progress | None = None,
) -> list[Ratio]:
    """Measure every model interleaved with the baseline, for about ``seconds`` at most in all; one ratio a model.

    A :class:`Variant` brings an engine and a precision of its own. Stops as soon as every interval is within one
    percent of its ratio, never before ten fresh sessions of everything (which slow models can take longer for than
    ``seconds``). Raises :class:`~netgraft.errors.MeasureError` as :func:`measure` does. ``on`` is a folder that
    ``netgraft worker`` serves, or ``ssh://[user@]host[:port][/path]``: there the measuring is done, and no progress is
    told.
    """
    against = Variant.of(baseline, engine, precision)
    variants = [Variant.of(model, engine, precision) for model in models]
    checked(batch, threads)
    if on is not None:
        from .remote import Asked, ask

        return ask(on, Asked(variants, against, batch, threads, seconds, seed), Ratio)
    check_processors(threads)
    named = [
        (label_of(against.model, "the baseline"), against),
        ("the baseline's twin", against),
        *((label_of(v.model, f"model {n}"), v) for n, v in enumerate(variants, start=1)),
    ]
    with _subjects(named, batch, threads) as subjects:

        def widest(times: Floats) -> float:
            return max(interval.half_width for interval in ratios(low_percentile(times)))

        times = _sample(subjects, seconds, seed, widest, progress)
        clock = subjects[0].clock
    p20 = low_percentile(times)
    null, *found = ratios(p20)
    _, *by_minimum = ratios(np.log(times.min(axis=-1)))
    baseline_ms, _, *model_ms = 1e3 * np.exp(np.median(p20, axis=0))
    bias = max(null.low, -null.high, 0.0)
    return [
        Ratio(
            ratio=math.exp(one.median),
            low=math.exp(one.low - bias),
            high=math.exp(one.high + bias),
            model_ms=float(ms),
            baseline_ms=float(baseline_ms),
            pairs=len(times),
            null=math.exp(null.median),
            null_low=math.exp(null.low),
            null_high=math.exp(null.high),
            noisy=one.half_width > NOISY or bias > 0 or one.distance(check.median) > NOISY,
            clock=clock,
        )
        for one, check, ms in zip(found, by_minimum, model_ms, strict=True)
    ]


def check_runs(model: Network | Variant, *, engine: str = "onnxruntime", batch: int = 1, threads: int = 1) -> None:
    """Run a network a few times, without measuring it: what :func:`measure` would raise on this machine is raised."""
    variant = Variant.of(model, engine, "fp32")
    with _subjects([(label_of(variant.model, "the network"), variant)], batch, threads):
        pass


class Subject:
    """A network to be measured: read by its engine, with what it is fed."""

    def __init__(self, label: str, variant: Variant, setting: Setting) -> None:
        self.label = label
        self.variant = variant
        self.setting = setting
        self.engine = engine_named(variant.engine)
        self.clock: ClockName = "wall"
        self.feed: dict[str, np.ndarray[Any, Any]] = {}
        refusal = self.engine.lacks(variant.precision)
        if refusal:
            raise MeasureError(f"{variant.engine} cannot measure {label} in {variant.precision}: {refusal}")
        self.program = self._guarded("load", lambda: self.engine.load(variant, setting))
        self.feed = {spec.name: random_input(spec, setting.batch, label) for spec in self.program.inputs}
        self.burst = 1
        session = self.open()
        self.warm_up(session)
        single = min(self.time(session) for _ in range(3))
        self.burst = max(1, math.ceil(BURST_SECONDS / single))
        if setting.threads == 1 and sys.platform != "win32":
            self.clock = self._processor_clock(session)

    def _processor_clock(self, session: Session) -> ClockName:
        """The calling thread's own clock, unless the engine turns out to do the work in another thread: three times in
        a row, because other threads of the process may happen to be at work.
        """
        for _ in range(3):
            process, thread = time.process_time_ns(), time.thread_time_ns()
            for _ in range(max(3, self.burst)):
                session()
            process, thread = time.process_time_ns() - process, time.thread_time_ns() - thread
            if thread >= 0.5 * process:
                return "thread"
        return "process"

    def open(self) -> Session:
        """Start a fresh session."""
        session: Session = self._guarded("load", lambda: self.program.open(self.feed))
        return session

    def warm_up(self, session: Session) -> None:
        """Run a few times before the clock is looked at: the first runs allocate, or compile."""
        for _ in range(WARM_UPS):
            self._guarded("run", session)

    def time(self, session: Session) -> float:
        """Seconds of one run: the mean of one burst."""
        clock = CLOCKS[self.clock]
        start = clock()
        for _ in range(self.burst):
            session()
        return max(clock() - start, 1) / self.burst * 1e-9

    def _guarded(self, verb: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except NetgraftError:
            raise
        except Exception as error:  # the engines' own exceptions share no other base
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in self.feed.items())
            on = f" on {shapes}" if verb == "run" else ""
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            raise MeasureError(f"{self.variant.engine} cannot {verb} {self.label}{on}: {first}") from error


def checked(batch: int, threads: int) -> None:
    """OptionError for a batch or a number of threads that nothing can be measured with."""
    if batch < 1 or threads < 1:
        raise OptionError(f"measuring needs a batch and a number of threads of at least 1, not {batch} and {threads}")


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_processors(threads: int) -> None:
    """OptionError for more threads than processors: they would wait for each other, which says nothing of a network."""
    most = processors()
    if threads > most:
        raise OptionError(f"threads must be from 1 to {most}, the number of processors here, not {threads}")


@contextmanager
def _subjects(named: Sequence[tuple[str, Variant]], batch: int, threads: int) -> Iterator[list[Subject]]:
    """The networks, read by their engines, within what these need to run; all of them read one kind of clock."""
    with ExitStack() as stack:
        for name in dict.fromkeys(variant.engine for _, variant in named):
            stack.enter_context(engine_named(name).running(threads))
        subjects = [Subject(label, variant, Setting(batch, threads)) for label, variant in named]
        clocks = {subject.clock for subject in subjects}
        if len(clocks) > 1:  # of two engines, one of which does its work in a thread of its own
            for subject in subjects:
                subject.clock = "wall" if "wall" in clocks else "process"
        yield subjects


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Keep the calling thread on the core where it is now: with one thread, and where the system offers it (Linux).

    Between two uses the scheduler may move it to a quieter one.
    """
    if threads > 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    with suppress(OSError, ValueError, IndexError):  # where it is refused, as in some containers, nothing is pinned
        # The 39th field, counted behind the name in brackets, which may hold anything (proc(5)).
        core = int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[36])
        os.sched_setaffinity(0, {core} & allowed)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, allowed)


def _sample(
    subjects: Sequence[Subject],
    seconds: float,
    seed: int,
    widest: Callable[[Floats], float],
    progress: Progress | None,
) -> Floats:
    """Seconds a run, of shape (sessions, subjects, timings): fresh sessions until ``widest`` is small or time is up."""
    deadline = time.monotonic() + seconds
    rng = random.Random(seed)
    fewest, most = SWEEPS
    # A first round that nobody counts shows how many timings fit into the time there is.
    _round(subjects, 1, rng)
    start = time.monotonic()
    _round(subjects, fewest, rng)
    affordable = seconds / MIN_PAIRS / (time.monotonic() - start) * fewest
    sweeps = round(min(max(affordable, fewest), most))
    rounds: list[Floats] = []
    while True:
        rounds.append(_round(subjects, sweeps, rng))
        if len(rounds) < MIN_PAIRS:
            if progress is not None:
                progress(len(rounds), math.inf)
            continue
        times = np.stack(rounds)
        width = widest(times)
        if progress is not None:
            progress(len(rounds), width)
        if width <= PRECISE or time.monotonic() >= deadline:
            return times


def _round(subjects: Sequence[Subject], sweeps: int, rng: random.Random) -> Floats:
    """Seconds a run, of shape (subjects, timings): a fresh session of every subject, all of them taking turns."""
    with _pinned(subjects[0].setting.threads):
        return _turns(subjects, sweeps, rng)


def _turns(subjects: Sequence[Subject], sweeps: int, rng: random.Random) -> Floats:
    order = list(range(len(subjects)))
    rng.shuffle(order)
    sessions = {n: subjects[n].open() for n in order}
    for n in order:
        subjects[n].warm_up(sessions[n])
    times = np.empty((len(subjects), sweeps))
    for sweep in range(sweeps):
        if sweep % 2:
            order.reverse()  # A B B A: a drift meets all alike
        else:
            rng.shuffle(order)
        for n in order:
            times[n, sweep] = subjects[n].time(sessions[n])
    return times
