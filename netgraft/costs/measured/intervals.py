"""From times to medians and their intervals: everything in logarithms, where a ratio and its inverse are alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
NOISY = 0.03  # half-width, as a fraction, beyond which the machine was too noisy to say much
RESOLUTION = 0.005  # no interval is narrower than this to either side
PERCENTILE = 20

Floats = NDArray[np.float64]
ClockName = Literal["thread", "process", "wall"]
"""What a time was read from: the processor clock of the calling thread or of the whole process, or the wall clock."""


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
    clock: ClockName = "thread"


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
    clock: ClockName = "thread"

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


@dataclass(frozen=True)
class Interval:
    """A median and what encloses it, all three as logarithms."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the ends: 0.01 is about one percent."""
        return (self.high - self.low) / 2

    def distance(self, value: float) -> float:
        """How far outside of the interval a value lies."""
        return max(self.low - value, value - self.high, 0.0)


def low_percentile(times: Floats) -> Floats:
    """Of times (sessions, subjects, timings): the logarithm of each session's low percentile (sessions, subjects)."""
    return np.log(np.percentile(times, PERCENTILE, axis=-1))


def ratios(logs: Floats) -> list[Interval]:
    """One interval for every subject but the first, which is the baseline of them all."""
    return [median_interval(logs[:, n] - logs[:, 0]) for n in range(1, logs.shape[1])]


def median_interval(values: Floats) -> Interval:
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
    return Interval(
        median,
        min(float(ordered[k - 1]), median - RESOLUTION),
        max(float(ordered[count - k]), median + RESOLUTION),
    )
