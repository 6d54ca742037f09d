"""Time within a search: a cheap estimate screens, short measurements confirm, and they correct the estimate.

What is called ``latency`` here is in the unit of the estimate for the original: a network that takes half of the
original's time has half of its score, measured or estimated. A trial holds ``estimate`` (from the graph), and, where it
was measured, ``time`` and ``time_high`` (multiples of the original's time: the median and the upper end of its
interval), from which its ``latency`` then follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt

from netgraft.candidate import Candidate, Trial
from netgraft.convert.onnx import to_onnx
from netgraft.costs.measured import Ratio, compare, measure
from netgraft.costs.measured.engines import check_known
from netgraft.costs.measured.engines import engine as engine_named
from netgraft.costs.measured.sampling import check_processors, check_runs
from netgraft.errors import ConversionError, OptionError
from netgraft.ir import Batch, Builder, Graph, Model, TensorType
from netgraft.metrics import UNITS, Limit, parse_limit
from netgraft.search import Strategy
from netgraft.spaces import Space

SHORTLY = 1.0
"""Seconds, about, for which a trial is measured against the original (ten fresh sessions of both at least)."""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a run measures latency: in which engine, on how many threads, of how many inputs at once,
    and on which machine (None: this one; see :func:`netgraft.costs.measured.compare`).
    """

    engine: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    on: str | None = None

    @classmethod
    def of(cls, limits: Sequence[Limit], on: str | None = None) -> Conditions:
        """Those that limits name, and by default onnxruntime. OptionError for an engine that is not known, and where
        limits name different conditions.
        """
        named = {(limit.engine, limit.threads, limit.batch): limit.text for limit in limits if limit.engine}
        if len(named) > 1:
            raise OptionError(f"a run measures in one way; the limits name {' and '.join(sorted(named.values()))}")
        found = cls(*next(iter(named)), on) if named else cls(on=on)
        check_known(found.engine)
        return found

    def check(self) -> None:
        """MeasureError where the machine that is to measure lacks the engine, OptionError where this one lacks
        processors, MachineError where another one does not answer.
        """
        if self.on is None:
            engine_named(self.engine)
            check_processors(self.threads)
        else:
            self.milliseconds(_least(), 0.0)

    def check_network(self, model: Model) -> None:
        """What can be heard before any work of a network that cannot be measured so at its end: a NetgraftError.
        Another machine is sent what is written for it, and not asked.
        """
        if self.on is not None:
            to_onnx(model)
            return
        try:
            check_runs(model, engine=self.engine, threads=self.threads, batch=self.batch)
        except ConversionError as error:
            raise ConversionError(
                f"{error}; with a limit such as 'latency<=1x@torch' it is measured in torch"
            ) from None

    def compare(self, models: Sequence[Model], baseline: Model, seconds: float) -> list[Ratio]:
        """See :func:`netgraft.costs.measured.compare`."""
        return compare(models, baseline, seconds=seconds, **asdict(self))

    def milliseconds(self, model: Model, seconds: float) -> float:
        """What a network takes: see :func:`netgraft.costs.measured.measure`."""
        return measure(model, seconds=seconds, **asdict(self)).median_ms


def check_limits(texts: Sequence[str]) -> None:
    """What can be said of limits before a network is known: OptionError for one that cannot be read, and what
    :meth:`Conditions.of` raises.
    """
    Conditions.of([parse_limit(text, dict.fromkeys(UNITS, 1.0)) for text in texts])


def _least() -> Model:
    """A network of one operation."""
    b = Builder()
    return Model(b.build(b.add("relu", b.input("x", TensorType((Batch(), 1))))), {})


HERE = Conditions()
"""This machine's onnxruntime, one input at a time on one thread."""


@dataclass(frozen=True)
class Clock:
    """Measures networks of one run shortly, interleaved with its original, whose estimate is ``latency``."""

    original: Model
    latency: float
    conditions: Conditions = HERE
    seconds: float = SHORTLY

    def scores(self, model: Model) -> dict[str, float]:
        """``time``, ``time_high`` and ``latency``; MeasureError for a network that cannot be measured."""
        (ratio,) = self.conditions.compare([model], self.original, self.seconds)
        return {"time": ratio.ratio, "time_high": ratio.high, "latency": ratio.ratio * self.latency}


PRIOR = 4.0
"""How many measurements the prior is worth: that the estimate is right to within ``NOISE``."""
NOISE = 0.15


@dataclass(frozen=True)
class Correction:
    """What the measurements of a run say about its estimate: Bayesian linear regression of the logarithm of their
    quotient on a constant and the logarithm of the estimated share of the original's time.

    The prior is that the estimate is right, to within 15 %; without measurements nothing is corrected.
    """

    shares: tuple[float, ...] = ()
    times: tuple[float, ...] = ()

    @classmethod
    def learned(cls, trials: Sequence[Trial]) -> Correction:
        """From every trial that was measured; trial 0 is the original."""
        whole = estimated(trials[0].scores)
        known = [trial.scores for trial in trials if "time" in trial.scores]
        return cls(tuple(estimated(s) / whole for s in known), tuple(s["time"] for s in known))

    def __call__(self, share: float) -> tuple[float, float]:
        """The corrected share of the original's time, and the standard deviation of its logarithm."""
        row = np.array([1.0, log(share)])
        mean, covariance, variance = self._posterior
        return share * exp(float(row @ mean)), sqrt(variance + float(row @ covariance @ row))

    @cached_property
    def _posterior(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
        """Mean and covariance of the two coefficients, and the variance of a single network around the line."""
        logs = np.log(np.array(self.shares, np.float64))
        rows = np.stack([np.ones_like(logs), logs], axis=1)
        wrong = np.log(np.array(self.times, np.float64)) - logs
        precision = rows.T @ rows + np.eye(2)
        mean = np.linalg.solve(precision, rows.T @ wrong)
        left = float(np.sum((wrong - rows @ mean) ** 2))
        variance = (PRIOR * NOISE**2 + left) / (PRIOR + len(wrong))
        return mean, variance * np.linalg.inv(precision), variance


def estimated(scores: Mapping[str, float]) -> float:
    """A trial's estimate, which its ``latency`` is too as long as it is not measured."""
    return scores.get("estimate", scores["latency"])


@dataclass(frozen=True)
class Screen:
    """What ``counted`` finds in a graph, with the estimate of its latency corrected, and made larger by one standard
    deviation of the correction: a network that is to keep a limit when it is measured must keep it with a margin.
    """

    counted: Callable[[Graph], Mapping[str, float]]
    correction: Correction
    whole: float

    def __call__(self, graph: Graph) -> Mapping[str, float]:
        """The scores by name; ``whole`` is the original's estimate."""
        scores = self.counted(graph)
        share, deviation = self.correction(scores["latency"] / self.whole)
        return {**scores, "latency": self.whole * share * exp(deviation)}


@dataclass(frozen=True)
class Corrected:
    """``strategy`` in a space whose estimates of latency are corrected by what was measured so far."""

    strategy: Strategy

    def propose(
        self,
        space: Space,
        trials: Sequence[Trial],
        candidate_of: Callable[[Trial], Candidate],
        first: int,
        n: int,
        rng: np.random.Generator,
    ) -> list[Candidate]:
        """See :class:`netgraft.search.Strategy`: a function of the trials, with their measurements."""
        screen = Screen(space.score, Correction.learned(trials), estimated(trials[0].scores))
        return self.strategy.propose(replace(space, score=screen), trials, candidate_of, first, n, rng)
