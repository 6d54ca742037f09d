"""Searches over a benchmark table, in simulated time: one architecture after another, each trained by looking it up.

The algorithms are the multi-trial ones of NATS-Bench (Dong et al., TPAMI 2021, arXiv:2009.00437, section 4), with the
hyper-parameters of its released code. They ask for decisions and are told accuracies; the clock is the benchmark's: the
training of all epochs and one validation pass, and the last training may end beyond the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError, OptionError
from netgraft.spaces.tabular import Benchmark, Choices, Decisions, Training

Array = npt.NDArray[np.float64]


class Algorithm(Protocol):
    """Asked for decisions, told the accuracy (%) of what it proposed, in turn; all randomness comes from ``rng``."""

    def ask(self, rng: np.random.Generator) -> Decisions:
        """What to train next. Called again where the table has no label for it."""

    def tell(self, decisions: Decisions, accuracy: float) -> None:
        """What became of it."""


@dataclass
class RandomSearch:
    """Uniform draws."""

    choices: Choices

    def ask(self, rng: np.random.Generator) -> Decisions:
        """See :class:`Algorithm`."""
        return self.choices.draw(rng)

    def tell(self, decisions: Decisions, accuracy: float) -> None:
        """See :class:`Algorithm`."""


@dataclass
class RegularizedEvolution:
    """REA (Real et al., AAAI 2019, arXiv:1802.01548): the best of a random few has a child with one decision changed;
    the oldest dies. The few are drawn with replacement.
    """

    choices: Choices
    size: int = 10
    sample: int = 3
    population: deque[tuple[float, Decisions]] = field(default_factory=deque)

    def ask(self, rng: np.random.Generator) -> Decisions:
        """See :class:`Algorithm`."""
        if len(self.population) < self.size:
            return self.choices.draw(rng)
        drawn = [self.population[i] for i in rng.integers(self.size, size=self.sample)]
        return self.choices.mutate(max(drawn, key=lambda one: one[0])[1], rng)

    def tell(self, decisions: Decisions, accuracy: float) -> None:
        """See :class:`Algorithm`."""
        self.population.append((accuracy, decisions))
        if len(self.population) > self.size:
            self.population.popleft()


class Reinforce:
    """REINFORCE (Williams, 1992) with an independent softmax for each decision, one architecture a step.

    Adam with a rate of 0.01, a moving average of 0.9 as baseline (with Adam's bias correction), rewards in percent, as
    in NATS-Bench's code. Written out in numpy; decisions of fewer options than others leave the rest at zero chance.
    """

    def __init__(self, choices: Choices, rate: float = 0.01, momentum: float = 0.9) -> None:
        self._sizes, self._rate, self._momentum = choices.sizes, rate, momentum
        self._open = np.arange(choices.sizes.max()) < choices.sizes[:, None]
        self._logits: Array | None = None
        self._first, self._second = np.zeros(self._open.shape), np.zeros(self._open.shape)
        self._steps, self._baseline = 0, 0.0

    def _chances(self) -> Array:
        assert self._logits is not None, "asked before told"
        raised = np.where(self._open, np.exp(self._logits - self._logits.max()), 0.0)
        chances: Array = raised / raised.sum(1, keepdims=True)
        return chances

    def ask(self, rng: np.random.Generator) -> Decisions:
        """See :class:`Algorithm`."""
        if self._logits is None:
            self._logits = 1e-3 * rng.standard_normal(self._open.shape)
        return tuple((self._chances().cumsum(1) < rng.random((len(self._sizes), 1))).sum(1).tolist())

    def tell(self, decisions: Decisions, accuracy: float) -> None:
        """See :class:`Algorithm`."""
        chances = self._chances()
        assert self._logits is not None
        self._steps += 1
        self._baseline = self._momentum * self._baseline + (1 - self._momentum) * accuracy
        advantage = accuracy - self._baseline / (1 - self._momentum**self._steps)
        chosen = np.zeros(chances.shape)
        chosen[np.arange(len(decisions)), list(decisions)] = 1.0
        gradient = -advantage * (chosen - chances)
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        step = self._first / (1 - 0.9**self._steps)
        self._logits -= self._rate * step / (np.sqrt(self._second / (1 - 0.999**self._steps)) + 1e-8)


@dataclass
class DensityRatio:
    """The model of BOHB (Falkner et al., ICML 2018, arXiv:1807.01774) at one fidelity: the tree-structured Parzen
    estimator, without Hyperband, because compact tables hold the last epoch of a training only.

    Two kernel densities over categories (Aitchison and Aitken's), one of the best ``share`` and one of the rest; of
    ``samples`` draws from the first the one with the best ratio is taken. Random until both have one observation more
    than there are decisions. NATS-Bench's numbers: 4 samples, a least bandwidth of 0.3, no random fraction; its
    bandwidth factor is for numbers that are no categories.
    """

    choices: Choices
    samples: int = 4
    share: float = 0.15
    least: float = 0.3
    seen: list[Decisions] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def ask(self, rng: np.random.Generator) -> Decisions:
        """See :class:`Algorithm`."""
        least = len(self.choices.sizes) + 1
        if len(self.seen) < 2 * least:
            return self.choices.draw(rng)
        order = np.argsort(-np.array(self.accuracies), kind="stable")
        cut = max(least, int(self.share * len(order)))
        seen = np.array(self.seen)
        good, bad = seen[order[:cut]], seen[order[cut : cut + max(least, len(order) - cut)]]
        widths = [self._widths(part) for part in (good, bad)]
        centres = good[rng.integers(len(good), size=self.samples)]
        fresh = (rng.random(centres.shape) * self.choices.sizes).astype(np.int64)
        drawn = np.where(rng.random(centres.shape) < widths[0], fresh, centres)
        scores = self._log_density(drawn, good, widths[0]) - self._log_density(drawn, bad, widths[1])
        return tuple(drawn[int(np.argmax(scores))].tolist())

    def tell(self, decisions: Decisions, accuracy: float) -> None:
        """See :class:`Algorithm`."""
        self.seen.append(decisions)
        self.accuracies.append(accuracy)

    def _widths(self, points: npt.NDArray[np.int64]) -> Array:
        """The normal reference rule on the categories' numbers, as statsmodels' estimators have it, no less than the
        least bandwidth and no more than an even spread over all categories allows.
        """
        scale = 1.06 * points.std(0) * len(points) ** (-1 / (4 + points.shape[1]))
        widths: Array = np.clip(scale, self.least, 1 - 1 / self.choices.sizes)
        return widths

    def _log_density(self, at: npt.NDArray[np.int64], points: npt.NDArray[np.int64], widths: Array) -> Array:
        same = at[:, None, :] == points[None, :, :]
        kernel = np.where(same, 1 - widths, widths / (self.choices.sizes - 1)).prod(2)
        density: Array = np.log(kernel.mean(1))
        return density


ALGORITHMS: Final[Mapping[str, Callable[[Choices], Algorithm]]] = {
    "random": RandomSearch,
    "rea": RegularizedEvolution,
    "reinforce": Reinforce,
    "bohb-model": DensityRatio,
}
"""The algorithms by name; ``bohb-model`` is :class:`DensityRatio`."""


@dataclass(frozen=True)
class Outcome:
    """What a search came to: the arch that it saw the best accuracy of, what it saw and what that arch is worth.

    ``observed`` is the accuracy that the search went by, ``judged`` the one that it is judged by, both in percent;
    ``regret`` is how much the best of the table is above that. ``seconds`` are simulated, ``estimated`` where the table
    itself has no times.
    """

    arch: str
    observed: float
    judged: float
    regret: float
    evaluations: int
    seconds: float
    estimated: bool


@dataclass(frozen=True)
class Setting:
    """What a search looks at, what it is judged by, and when it ends: after ``seconds`` or ``evaluations``. ``top`` is
    the best that the table holds, by what judges.
    """

    observed: Training
    judged: Training
    top: float
    seconds: float | None
    evaluations: int | None

    @classmethod
    def of(
        cls,
        table: Benchmark,
        dataset: str = "cifar10",
        epochs: int | None = None,
        seconds: float | None = None,
        evaluations: int | None = None,
        through: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> Setting:
        """The space's own setting for a data set, changed where something is given: the budget of NATS-Bench's paper,
        where it has one, or else 150 evaluations; judged by the longest training. ``through`` is that of
        :meth:`.Benchmark.best`, which reads the whole table.
        """
        split, own = table.space.observed
        observed = table.training(dataset, split, own if epochs is None else epochs)
        judged = table.training(dataset, *table.space.judged)
        if seconds is None and evaluations is None:
            seconds = table.space.seconds.get(dataset)
        if seconds is None and evaluations is None:
            evaluations = _EVALUATIONS
        timed = table.space.clock is not None or any(
            table.labels.seconds(i, observed, None) is not None for i in range(len(table))
        )
        if seconds is not None and not timed:
            raise OptionError(f"the table of {table.name} knows no times; give a number of evaluations instead")
        return cls(observed, judged, table.best(*judged, through=through)[1], seconds, evaluations)


_EVALUATIONS: Final = 150
_MISSES: Final = 10_000


def simulate(table: Benchmark, algorithm: str, setting: Setting, seed: int) -> Outcome:
    """One search by one of :data:`ALGORITHMS`. What the table has no label of is asked for again, and costs nothing.

    Where an architecture was trained several times, one of its trials is drawn, as NATS-Bench does.
    """
    if algorithm not in ALGORITHMS:
        raise OptionError(f"there is no algorithm {algorithm!r}; there are: {', '.join(ALGORITHMS)}")
    rng = np.random.default_rng([seed, list(ALGORITHMS).index(algorithm)])
    searcher = ALGORITHMS[algorithm](table.space.choices)
    best: tuple[float, int] | None = None
    spent, count, misses, estimated = 0.0, 0, 0, False
    while (setting.seconds is None or spent < setting.seconds) and count != setting.evaluations:
        decisions = searcher.ask(rng)
        arch = table.space.choices.arch(decisions)
        if arch not in table or not (table.known(arch, setting.observed) and table.known(arch, setting.judged)):
            misses += 1
            if misses == _MISSES:
                raise DataError(f"the table of {table.name} has no label for {_MISSES:,} architectures in a row")
            continue
        index, misses = table.index(arch), 0
        seen = table.observe(index, setting.observed, rng)
        spent, count, estimated = spent + seen.seconds, count + 1, estimated or seen.estimated
        searcher.tell(decisions, seen.accuracy)
        if best is None or seen.accuracy > best[0]:
            best = seen.accuracy, index
    if best is None:
        raise OptionError("a search needs time for one evaluation at least")
    judged = table.accuracy(best[1], *setting.judged)
    return Outcome(table.arch(best[1]), best[0], judged, setting.top - judged, count, spent, estimated)
