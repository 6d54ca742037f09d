"""A benchmark table: a space of architectures, and what somebody measured of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from netgraft.errors import DataError, SourceError
from netgraft.ir import Graph, Node, Value
from netgraft.spaces.families import Family

from .choices import Choices
from .hardware import Price
from .labels import Labels, Training

Clock = Callable[[str, Training], float | None]
"""The time (s) that training an arch and judging it takes, where the table does not know it; None: cannot say."""


@dataclass(frozen=True)
class Space:
    """What is known of a space without any measurement.

    ``families`` make the networks of its archs, the first the ones that were measured; ``candidates`` are archs that a
    graph could be of, ``function`` names what an arch computes, ``counts`` are costs that follow from an arch alone.
    ``observed`` is what a search looks at by default, ``judged`` what its answer is judged by. ``seconds`` are budgets
    by data set.
    """

    name: str
    about: str
    choices: Choices
    families: Sequence[Family]
    candidates: Callable[[Graph], Iterable[str]]
    function: Callable[[str], str]
    counts: Callable[[str], Mapping[str, float]]
    members: Callable[[], Sequence[str]] | None
    observed: tuple[str, int | None]
    judged: tuple[str, int | None] = ("test", None)
    seconds: Mapping[str, float] = field(default_factory=dict)
    clock: Clock | None = None

    def arch_of(self, graph: Graph) -> str | None:
        """An arch whose network is ``graph``, identities aside, or None where there is none."""
        digest = _plain(graph).digest
        for arch in self.candidates(graph):
            if any(_plain(family.build(arch)).digest == digest for family in self.families):
                return arch
        return None


class Observation(NamedTuple):
    """One simulated training: its accuracy in percent, its time in seconds, and whether that is an estimate."""

    accuracy: float
    seconds: float
    estimated: bool


Which = int | str | Graph
"""An architecture: its index, its arch string, or its network."""


class Benchmark:
    """A space with its measurements.

    An architecture is named by its index, by its arch or by its network (a graph; the arch with the same digest is
    looked for, among those that it could be). ``dataset`` is cifar10, cifar100 or imagenet16-120, ``split`` valid or
    test; ``epochs`` is how long a network was trained, the longest where None. What was not measured is a DataError.
    ``prices`` are costs that follow from an arch, whether or not the table lists it, by metric.
    """

    def __init__(
        self, space: Space, archs: Sequence[str], labels: Labels, prices: Mapping[str, Price] | None = None
    ) -> None:
        self.space, self.archs, self.labels, self.prices = space, archs, labels, prices or {}
        self._number = {arch: i for i, arch in enumerate(archs)}
        self._found: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Of the space."""
        return self.space.name

    def __len__(self) -> int:
        return len(self.archs)

    def __contains__(self, arch: object) -> bool:
        return arch in self._number

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {len(self):,} architectures; {', '.join(map(str, self.labels.trainings)) or 'costs only'}>"
        )

    def index(self, which: Which) -> int:
        """The index of an architecture."""
        arch = self.spelling(which)
        if arch not in self._number:
            raise DataError(f"the table of {self.name} does not hold {arch}")
        return self._number[arch]

    def spelling(self, which: Which) -> str:
        """The arch of an architecture of the space, whether or not the table holds it; SourceError for any other."""
        if isinstance(which, int | np.integer):
            if not 0 <= which < len(self):
                holds = f"architectures 0 to {len(self) - 1}" if self.archs else "no list of architectures"
                raise DataError(f"{self.name} has {holds}, not {which}")
            return self.archs[int(which)]
        arch = which if isinstance(which, str) else self._arch_of(which)
        if arch in self._number:
            return arch
        if not isinstance(which, str):  # perhaps another spelling of the same
            return next(iter(self._classes.get(self.space.function(arch), ())), arch)
        self.space.choices.read(arch)  # says what is wrong with it, if anything is
        return arch

    def arch(self, which: Which) -> str:
        """The arch of an architecture."""
        return self.archs[self.index(which)]

    def graph(self, which: Which) -> Graph:
        """The network of an architecture, as it was measured."""
        return self.space.families[0].build(self.arch(which))

    def equals(self, which: Which) -> list[str]:
        """All archs of the table that compute the same function, this one among them."""
        return list(self._classes[self.space.function(self.arch(which))])

    @cached_property
    def _classes(self) -> Mapping[str, list[str]]:
        """The archs of the table by what they compute."""
        found: dict[str, list[str]] = {}
        for arch in self.archs:
            found.setdefault(self.space.function(arch), []).append(arch)
        return found

    def training(self, dataset: str = "cifar10", split: str = "test", epochs: int | None = None) -> Training:
        """The training of these; DataError, with those that there are, where the table has none."""
        found = [t for t in self.labels.trainings if t[:2] == (dataset, split) and epochs in (None, t.epochs)]
        if not found:
            asked = f"{dataset} {split}" + ("" if epochs is None else f" after {epochs} epochs")
            has = ", ".join(map(str, self.labels.trainings)) or "no accuracies at all"
            raise DataError(f"the table of {self.name} has no accuracies for {asked}; it has: {has}")
        return max(found, key=lambda t: t.epochs)

    def known(self, which: Which, training: Training) -> bool:
        """Whether the table has an accuracy of this architecture."""
        return self.labels.accuracy(self.index(which), training, None, None) is not None

    def accuracy(
        self,
        which: Which,
        dataset: str = "cifar10",
        split: str = "test",
        epochs: int | None = None,
        *,
        at: int | None = None,
        trial: int | None = None,
    ) -> float:
        """Accuracy in percent: the mean of all trials, or that of one; after the last epoch, or after epoch ``at``."""
        training = self.training(dataset, split, epochs)
        index = self.index(which)
        trials = self.labels.trials(index, training)
        if trial is not None and not 0 <= trial < trials:
            raise DataError(f"{self.archs[index]} was trained {trials} times for {training}; trials count from 0")
        found = self.labels.accuracy(index, training, at, trial)
        if found is None:
            when = "" if at is None else f", at epoch {at}"
            raise DataError(f"the table of {self.name} has no accuracy of {self.archs[index]} ({training}{when})")
        return found

    def cost(self, which: Which, metric: str) -> float:
        """``macs``, ``parameters``, ``latency`` (ms), ``latency@DEVICE`` (ms) or what else the benchmark has."""
        arch = self.spelling(which)
        found = self._cost(arch, metric)
        if found is not None:
            return found
        if metric in self._metrics(arch):
            self.index(arch)  # says so where the table does not hold it at all
            raise DataError(f"the table of {self.name} has no {metric} of {arch}")
        raise DataError(f"the table of {self.name} has no {metric!r}; it has: {', '.join(self._metrics(arch))}")

    def costs(self, which: Which) -> dict[str, float]:
        """Every cost that is known of an architecture."""
        arch = self.spelling(which)
        found = ((metric, self._cost(arch, metric)) for metric in self._metrics(arch))
        return {metric: cost for metric, cost in found if cost is not None}

    def _metrics(self, arch: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.space.counts(arch), *self.labels.metrics, *self.prices]))

    def _cost(self, arch: str, metric: str) -> float | None:
        """What was measured, or else what follows from the arch."""
        if metric in self.labels.metrics and arch in self._number:
            found = self.labels.cost(self._number[arch], metric)
            if found is not None:
                return found
        if metric in self.prices:
            return self.prices[metric](arch)
        return self.space.counts(arch).get(metric)

    def simulate(
        self,
        which: Which,
        dataset: str = "cifar10",
        split: str | None = None,
        epochs: int | None = None,
        *,
        rng: np.random.Generator | None = None,
    ) -> Observation:
        """Trains and judges an architecture, by looking it up: one of its trials (``rng`` chooses; else their mean) and
        the time that it took (Dong et al., 2021: the training of all epochs, and one pass over the validation split).

        Where the table has no times, the space's clock estimates them; where it has no clock, a training takes 0 s.
        """
        default_split, default_epochs = self.space.observed
        training = self.training(dataset, split or default_split, epochs if epochs is not None else default_epochs)
        return self.observe(self.index(which), training, rng)

    def observe(self, index: int, training: Training, rng: np.random.Generator | None) -> Observation:
        """:meth:`simulate` by index and training."""
        labels, arch = self.labels, self.archs[index]
        trials = labels.trials(index, training)
        trial = int(rng.integers(trials)) if rng is not None and trials > 1 else None
        accuracy = labels.accuracy(index, training, None, trial)
        if accuracy is None:
            raise DataError(f"the table of {self.name} has no accuracy of {arch} ({training})")
        seconds = labels.seconds(index, training, None)
        if seconds is not None:
            return Observation(accuracy, seconds, False)
        estimate = self.space.clock(arch, training) if self.space.clock else None
        return Observation(accuracy, estimate or 0.0, True)

    def best(
        self,
        dataset: str = "cifar10",
        split: str = "test",
        epochs: int | None = None,
        *,
        through: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> tuple[str, float]:
        """The architecture of the highest accuracy that the table has, and that accuracy.

        All indices are passed through ``through``, a progress bar for example: a folder of NATS-Bench takes minutes.
        """
        training = self.training(dataset, split, epochs)
        found = ((self.labels.accuracy(i, training, None, None), i) for i in through(range(len(self))))
        known = [(accuracy, -i) for accuracy, i in found if accuracy is not None]
        if not known:
            raise DataError(f"the table of {self.name} has no accuracy at all for {training}")
        accuracy, i = max(known)
        return self.archs[-i], accuracy

    def _arch_of(self, graph: Graph) -> str:
        if graph.digest not in self._found:
            arch = self.space.arch_of(graph)
            if arch is None:
                raise SourceError(f"the graph {graph.digest} is no network of {self.name}")
            self._found[graph.digest] = arch
        return self._found[graph.digest]


def _plain(graph: Graph) -> Graph:
    """The graph without identities: a skip may be one, or nothing at all where a module was read."""
    nodes: list[Node] = []
    through: dict[Value, Value] = {}
    for node in graph:
        read = node.reading(through)
        if node.op == "identity":
            through[node.value()] = read.inputs[0]
        else:
            nodes.append(read)
    return Graph(graph.inputs, tuple(nodes), tuple(through.get(value, value) for value in graph.outputs))
