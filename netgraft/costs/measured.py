"""Measured latency: ONNX models run by onnxruntime on the CPU, compared so that a busy machine cannot fool us.

How a number is made, and why (experiments: ``benchmarks/latency_interval.py``, results in ``docs/results.md``):

*Fresh sessions.* An onnxruntime session carries a bias of its own of almost one percent (where its buffers came to
lie), which no number of runs in it averages out. So a comparison is made of *pairs*: both models get a new session,
the pair gives one ratio, and at least ten pairs are made.

*Interleaved.* Within a pair the models take turns, in an order that is shuffled and then reversed, so that a drift of
the clock frequency or a neighbour's load meets both alike.

*Processor time.* With one thread the model runs in the calling thread, and its time is read from that thread's own
processor clock. On an idle machine that is the wall clock; on a busy one it leaves out the slices in which somebody
else had the core. With more threads (and on Windows, whose thread clock ticks at 64 Hz) the wall clock is used.

*A low percentile.* A session's time is the 20th percentile of its timings. Others slow a run down and hardly ever speed
it up, so low values are the clean ones; the minimum is as clean, but hangs on a single timing and scattered twice as
much on a net of half a millisecond. It serves as a check instead.

*The median and its order statistics.* Reported are the median ratio over the pairs and the distribution-free interval
for a median: under no assumption but independent pairs, the k-th smallest and k-th largest ratio enclose it with a
known binomial probability. A t-interval on the logarithms is a little narrower, but a few wild pairs stretch it
without end. The level is nominally 99 %, and the interval is called so on every page and in every table: high, to leave
room for looking at it again and again until it is narrow, and for pairs that are not quite independent (in 40 repeats
it held the truth in 95 to 100 %). It is never narrower than half a percent to either side: the bias of one session.

*A against A.* The baseline runs twice in every comparison, as itself and as its own twin, in a session of its own. What
this null shows of a difference that cannot be there is added to every interval.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from netgraft.errors import MeasureError, OptionError

Onnx = bytes | Path
"""An ONNX model: its serialised bytes, or the file it lies in."""

Progress = Callable[[int, float], None]
"""Called after every session pair with the number of pairs and the widest half-width so far (0.01 is one percent)."""

MIN_PAIRS = 10
CONFIDENCE = 0.99
PRECISE = 0.01  # half-width, as a fraction, at which measuring stops
NOISY = 0.03  # half-width, as a fraction, beyond which the machine was too noisy to say much
RESOLUTION = 0.005  # no interval is narrower than this to either side
PERCENTILE = 20
BURST_SECONDS = 1e-3  # a timing covers as many runs as fill this
WARM_UPS = 2
SWEEPS = (3, 20)  # fewest and most timings of a session

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run of one batch: the median over fresh sessions and its 99 % interval.

    It describes this machine at this moment; to say which of two models is faster, use :func:`compare`.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    sessions: int
    noisy: bool


@dataclass(frozen=True)
class Ratio:
    """A model's time over the baseline's (below 1 is faster), with its 99 % interval and the A/A null beside it.

    ``noisy`` warns that the machine was too busy to say much: the interval is wide, the null does not hold 1, or the
    sessions' minima tell another story than their 20th percentiles.
    """

    ratio: float
    low: float
    high: float
    model_ms: float
    baseline_ms: float
    pairs: int
    null: float
    null_low: float
    null_high: float
    noisy: bool

    @property
    def speedup(self) -> float:
        """How many times as fast as the baseline the model is: the inverse of the ratio."""
        return 1 / self.ratio

    @property
    def verdict(self) -> Literal["faster", "slower", "no difference shown"]:
        """What the interval allows to say; nothing as long as it holds 1."""
        if self.high < 1:
            return "faster"
        if self.low > 1:
            return "slower"
        return "no difference shown"


def measure(
    model: Onnx,
    *,
    batch: int = 1,
    threads: int = 1,
    seconds: float = 20.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Latency:
    """Measure one model on random inputs of ``batch`` samples, for about ``seconds`` at most.

    Stops as soon as the interval is within one percent of the median, never before ten fresh sessions. Raises
    :class:`~netgraft.errors.MeasureError` for a model that cannot be loaded or run.
    """
    subject = _Subject(_label(model, "the model"), model, batch, threads)

    def widest(times: Floats) -> float:
        return _median_interval(_p20(times)[:, 0]).half_width

    times = _sample([subject], seconds, seed, widest, progress)
    found = _median_interval(_p20(times)[:, 0])
    return Latency(
        median_ms=1e3 * math.exp(found.median),
        low_ms=1e3 * math.exp(found.low),
        high_ms=1e3 * math.exp(found.high),
        sessions=len(times),
        noisy=found.half_width > NOISY,
    )


def compare(
    models: Sequence[Onnx],
    baseline: Onnx,
    *,
    batch: int = 1,
    threads: int = 1,
    seconds: float = 30.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Ratio]:
    """Measure every model interleaved with the baseline, for about ``seconds`` at most in all; one ratio a model.

    Stops as soon as every interval is within one percent of its ratio, never before ten fresh sessions of everything
    (which slow models can take longer for than ``seconds``). Raises :class:`~netgraft.errors.MeasureError` for a
    model that cannot be loaded or run.
    """
    subjects = [
        _Subject(_label(baseline, "the baseline"), baseline, batch, threads),
        _Subject("the baseline's twin", baseline, batch, threads),
        *(_Subject(_label(model, f"model {n}"), model, batch, threads) for n, model in enumerate(models, start=1)),
    ]

    def widest(times: Floats) -> float:
        return max(interval.half_width for interval in _ratios(_p20(times)))

    times = _sample(subjects, seconds, seed, widest, progress)
    p20 = _p20(times)
    null, *ratios = _ratios(p20)
    _, *by_minimum = _ratios(np.log(times.min(axis=-1)))
    baseline_ms, _, *model_ms = 1e3 * np.exp(np.median(p20, axis=0))
    bias = max(null.low, -null.high, 0.0)
    return [
        Ratio(
            ratio=math.exp(found.median),
            low=math.exp(found.low - bias),
            high=math.exp(found.high + bias),
            model_ms=float(ms),
            baseline_ms=float(baseline_ms),
            pairs=len(times),
            null=math.exp(null.median),
            null_low=math.exp(null.low),
            null_high=math.exp(null.high),
            noisy=found.half_width > NOISY or bias > 0 or found.distance(check.median) > NOISY,
        )
        for found, check, ms in zip(ratios, by_minimum, model_ms, strict=True)
    ]


# --- from times to intervals; everything in logarithms, where a ratio and its inverse are alike ---


@dataclass(frozen=True)
class _Interval:
    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def distance(self, value: float) -> float:
        """How far outside of the interval a value lies."""
        return max(self.low - value, value - self.high, 0.0)


def _p20(times: Floats) -> Floats:
    """Of times (sessions, subjects, timings): the logarithm of each session's low percentile (sessions, subjects)."""
    return np.log(np.percentile(times, PERCENTILE, axis=-1))


def _ratios(logs: Floats) -> list[_Interval]:
    """One interval for every subject but the first, which is the baseline of them all."""
    return [_median_interval(logs[:, n] - logs[:, 0]) for n in range(1, logs.shape[1])]


def _median_interval(values: Floats) -> _Interval:
    """The median of at least 8 values and the order statistics that enclose the true one with ``CONFIDENCE``."""
    ordered = np.sort(values)
    count = len(ordered)
    # The k-th smallest lies above the true median when fewer than k of the values lie below it: a binomial tail.
    k = 0
    tail = 0.5**count
    while 2 * tail <= 1 - CONFIDENCE:
        k += 1
        tail += math.comb(count, k) * 0.5**count
    median = float(np.median(ordered))
    return _Interval(
        median,
        min(float(ordered[k - 1]), median - RESOLUTION),
        max(float(ordered[count - k]), median + RESOLUTION),
    )


# --- from models to times ---


class _Subject:
    """A model to be measured: where it is, how its sessions are set up, what it is fed."""

    def __init__(self, label: str, model: Onnx, batch: int, threads: int) -> None:
        if batch < 1 or threads < 1:
            raise OptionError(f"latency needs a batch and a number of threads of at least 1, not {batch} and {threads}")
        self.label = label
        self.model = model
        self.threads = threads
        # With one thread nothing runs outside of the calling one, so its own clock sees it all.
        self.clock = time.thread_time_ns if threads == 1 and sys.platform != "win32" else time.perf_counter_ns
        session = self.open()
        self.feed = {spec.name: _random_input(spec, batch, label) for spec in session.get_inputs()}
        self.warm_up(session)
        self.burst = 1
        single = min(self.time(session) for _ in range(3))
        self.burst = max(1, math.ceil(BURST_SECONDS / single))

    def open(self) -> Any:
        """Start a fresh session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, too
        # Threads that spin between two runs steal the core from whoever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = self.model if isinstance(self.model, bytes) else str(self.model)
        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise MeasureError(f"onnxruntime cannot load {self.label}: {_first_line(error)}") from error

    def warm_up(self, session: Any) -> None:
        """Run a few times before the clock is looked at: the first runs allocate."""
        try:
            for _ in range(WARM_UPS):
                session.run(None, self.feed)
        except Exception as error:  # as above
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in self.feed.items())
            raise MeasureError(f"onnxruntime cannot run {self.label} on {shapes}: {_first_line(error)}") from error

    def time(self, session: Any) -> float:
        """Seconds of one run: the mean of one burst."""
        start = self.clock()
        for _ in range(self.burst):
            session.run(None, self.feed)
        return max(self.clock() - start, 1) / self.burst * 1e-9


def _sample(
    subjects: Sequence[_Subject],
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


def _round(subjects: Sequence[_Subject], sweeps: int, rng: random.Random) -> Floats:
    """Seconds a run, of shape (subjects, timings): a fresh session of every subject, all of them taking turns."""
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


def _random_input(spec: Any, batch: int, label: str) -> NDArray[Any]:
    """Random values for one input of a session; the same for every model with the same input."""
    shape = [batch if n == 0 and not isinstance(size, int) else size for n, size in enumerate(spec.shape)]
    if not all(isinstance(size, int) for size in shape):
        raise MeasureError(
            f"input {spec.name!r} of {label} has the shape {spec.shape}; only its first axis, the batch, may be dynamic"
        )
    if shape and shape[0] != batch:
        raise MeasureError(
            f"input {spec.name!r} of {label} is fixed to a batch of {shape[0]}, not {batch}; "
            f"export it with a dynamic batch axis, or measure with a batch of {shape[0]}"
        )
    if spec.type not in _DTYPES:
        raise MeasureError(
            f"input {spec.name!r} of {label} is a {spec.type}; inputs can be made for {', '.join(_DTYPES)}"
        )
    dtype = np.dtype(_DTYPES[spec.type])
    rng = np.random.default_rng(0)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)  # 0 and 1 are valid as indices, classes and flags


def _label(model: Onnx, fallback: str) -> str:
    return fallback if isinstance(model, bytes) else str(model)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
