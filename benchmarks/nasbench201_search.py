"""Simulated searches on NAS-Bench-201: what a predictor is worth, at equal numbers of queries.

    python benchmarks/nasbench201_search.py ../shared/data --out runs/nasbench201-search [--seeds 50]
        [--cache build/predictor]

Every strategy asks for one accuracy after another and is judged by its regret: how far the network that it would return
(the best it saw) is below the best of the table, in points of CIFAR-10 test accuracy after 200 epochs, at 20, 50, 100,
200 and 500 queries; mean and deviation over seeds. What the search sees is that accuracy itself (--observe 200) or the
validation accuracy after 12 epochs (--observe 12, as NATS-Bench's searches do).

12,831 of the 15,625 cells are labelled here. A cell without a label cannot be asked for: it is drawn again, and does
not count as a query. Nor does a cell that was asked for before. A strategy that asks for nothing new stands still.

Strategies: random search; regularised evolution and REINFORCE with NATS-Bench's settings, which are those of
`netgraft bench run` (netgraft/search/tabular.py);
local search (White et al., UAI 2021: the best of all neighbours, anew from a random cell at an optimum); netgraft's
Population (goal quality alone, and with FLOPs), which makes children by one to three changes; and the same Population
with 40 proposals a generation of which 4 are asked for, chosen by a score:

- a surrogate learned from the run's own queries alone (BANANAS-like: White et al., AAAI 2021, path encoding and
  independent Thompson sampling; a Gaussian process in place of the ensemble);
- the same with a prior: a score of every cell from elsewhere enters as one more feature, whose weight is learned from
  the run's queries, too. FLOPs; and, with --cache (where benchmarks/predictor.py keeps its encoded networks), the
  predictor trained on NAS-Bench-Macro alone, which saw no label of NAS-Bench-201 (the shipped one did);
- with --cache also a surrogate on what netgraft's predictor reads of a network in place of paths and edges;
- random numbers.

Runs are kept in OUT, one file a strategy and seed: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.linalg import cho_factor, cho_solve

from netgraft.candidate import Candidate, Trial, TrialState
from netgraft.costs.analytic import flops
from netgraft.ir import Graph
from netgraft.metrics import Goal
from netgraft.search import Outlook, Population
from netgraft.search.tabular import Algorithm, RegularizedEvolution, Reinforce
from netgraft.spaces import Space
from netgraft.spaces.families import nasbench201_benchmark
from netgraft.spaces.families.nasbench201 import OPERATIONS, operations
from netgraft.spaces.tabular import SPACES, Choices

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

AT = (20, 50, 100, 200, 500)
EDGES, CHOICES = 6, len(OPERATIONS)
POWERS = CHOICES ** np.arange(EDGES)[::-1]
CELLS = np.array(list(product(range(CHOICES), repeat=EDGES)))
"""The operations of all cells; a cell's number is its row."""

INITIAL, PROPOSED, KEPT, STEPS = 10, 40, 4, 3


def arch_of(cell: int) -> str:
    """The string of a cell."""
    a, b, c, d, e, f = (OPERATIONS[i] for i in CELLS[cell])
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def cell_of(arch: str) -> int:
    """The number of a cell."""
    return int(POWERS @ [OPERATIONS.index(op) for op in operations(arch)])


@dataclass(frozen=True)
class Table:
    """What was measured of the cells, by their numbers; NaN where nothing was. The only place that reads labels."""

    observed: Floats
    judged: Floats

    @classmethod
    def read(cls, file: Path, observe: str) -> Table:
        """A table from ``accuracy.parquet``."""
        columns = {"200": "cifar10_test_acc_200ep", "12": "cifar10_valid_acc_12ep"}
        found = pq.read_table(file).to_pydict()
        cells = [cell_of(arch) for arch in found["arch"]]
        observed, judged = np.full(len(CELLS), np.nan), np.full(len(CELLS), np.nan)
        observed[cells], judged[cells] = found[columns[observe]], found[columns["200"]]
        return cls(observed, judged)

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which cells can be asked for."""
        return ~np.isnan(self.observed)

    def regrets(self, asked: Sequence[int]) -> Floats:
        """The regret after each query."""
        seen = self.observed[list(asked)]
        best = np.maximum.accumulate(seen)
        returned = [asked[int(np.flatnonzero(seen == value)[0])] for value in best]
        return float(np.nanmax(self.judged)) - self.judged[returned]


class Spent(Exception):
    """The budget of queries is spent."""


@dataclass
class Queries:
    """The queries of one run, in order; Spent is raised once there are as many as the budget allows."""

    table: Table
    budget: int
    asked: dict[int, float] = field(default_factory=dict)

    def ask(self, cell: int) -> float:
        """The accuracy of a cell that is known; one that was asked for before is free."""
        if cell not in self.asked:
            if len(self.asked) == self.budget:
                raise Spent
            self.asked[cell] = float(self.table.observed[cell])
        return self.asked[cell]

    def draw(self, rng: np.random.Generator) -> int:
        """A random cell that can be asked for."""
        return int(rng.choice(np.flatnonzero(self.table.known)))

    def changed(self, cell: int, steps: int, rng: np.random.Generator) -> int:
        """A known cell with other operations on ``steps`` edges."""
        while True:
            ops = CELLS[cell].copy()
            for edge in rng.permutation(EDGES)[:steps]:
                ops[edge] = (ops[edge] + rng.integers(1, CHOICES)) % CHOICES
            if self.table.known[child := int(POWERS @ ops)]:
                return child


Strategy = Callable[[Queries, np.random.Generator], None]
"""Asks until the budget is spent, or until nothing more will be found."""


def random_search(queries: Queries, rng: np.random.Generator) -> None:
    """One known cell after another."""
    for cell in rng.permutation(np.flatnonzero(queries.table.known)):
        queries.ask(int(cell))


def told(algorithm: Callable[[Choices], Algorithm], queries: Queries, rng: np.random.Generator) -> None:
    """One of netgraft's algorithms over tables."""
    searcher = algorithm(SPACES["nats-tss"].choices)
    for _ in range(50 * queries.budget):
        decisions = searcher.ask(rng)
        cell = int(POWERS @ decisions)
        if queries.table.known[cell]:
            searcher.tell(decisions, queries.ask(cell))


def local_search(queries: Queries, rng: np.random.Generator) -> None:
    """To the best of all neighbours, until none is better; then from a new cell."""
    while True:
        cell = queries.draw(rng)
        best = queries.ask(cell)
        while True:
            found = [(queries.ask(n), n) for n in rng.permutation(neighbours(cell)) if queries.table.known[n]]
            if not found or max(found)[0] <= best:
                break
            best, cell = max(found)
        if len(queries.asked) == int(queries.table.known.sum()):
            return


def neighbours(cell: int) -> list[int]:
    """The 24 cells that differ in one edge."""
    ops = CELLS[cell]
    return [int(cell + (op - ops[e]) * POWERS[e]) for e in range(EDGES) for op in range(CHOICES) if op != ops[e]]


# --- netgraft's own strategy, on cells in place of graphs ---

Score = Callable[[Sequence[int], Floats, Ints, np.random.Generator], Floats]
"""Of cells asked for, their accuracies, and candidates: a score for each candidate, higher is better."""


@dataclass(frozen=True)
class Cells:
    """Stands for :class:`netgraft.spaces.Space`: a cell is a network, a child one to three changes away."""

    queries: Queries
    limits: tuple[()] = ()

    def child(self, parent: Candidate, number: int, rng: np.random.Generator) -> Candidate:
        """A random child."""
        cell = self.queries.changed(int(parent.model.graph.digest), 1 + int(rng.integers(STEPS)), rng)
        return candidate(number, cell, parent.number)


def candidate(number: int, cell: int, parent: int | None = None) -> Candidate:
    """A candidate of which Population sees no more than the digest, here the cell's number."""
    return Candidate(number, cast(Any, SimpleNamespace(graph=SimpleNamespace(digest=str(cell)))), parent)


def population(
    queries: Queries,
    rng: np.random.Generator,
    goals: Sequence[Goal],
    costs: Floats,
    score: Score | None = None,
) -> None:
    """Population, from random cells on; with a ``score`` the best ``KEPT`` of ``PROPOSED`` are asked for."""
    quality = Goal("quality", True)
    trials: list[Trial] = []

    def judge(cell: int, parent: int | None) -> None:
        scores = {"quality": queries.ask(cell), "flops": float(costs[cell])}
        trials.append(Trial(len(trials), 0, str(cell), TrialState.COMPLETE, parent, scores=scores))

    for _ in range(INITIAL):
        judge(queries.draw(rng), None)
    strategy = Population(goals, Outlook(quality, 0.0), tolerance=1.0)
    space = cast(Space, Cells(queries))
    while True:
        wanted = KEPT if score is None else PROPOSED
        children = strategy.propose(space, trials, revived, len(trials), wanted, rng)
        if not children:
            return
        cells = np.array([int(child.model.graph.digest) for child in children])
        order = np.arange(len(cells))
        if score is not None:
            asked = list(queries.asked)
            order = np.argsort(-score(asked, np.array([queries.asked[cell] for cell in asked]), cells, rng))
        for i in order[:KEPT]:
            judge(int(cells[i]), children[i].parent)


def revived(trial: Trial) -> Candidate:
    """The candidate that a trial was made of."""
    return candidate(trial.number, int(trial.digest), trial.parent)


# --- scores ---


def nothing(asked: Sequence[int], accuracy: Floats, cells: Ints, rng: np.random.Generator) -> Floats:
    """Random numbers."""
    return rng.standard_normal(len(cells))


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process on an encoding of cells, with a prior score as a linear feature.

    Accuracies are read as normal scores of their ranks. Length scale, noise and the prior's weight are those of a small
    grid with the greatest likelihood on the last ``LOOKED_AT`` queries. What is chosen by is a draw from each
    candidate's own posterior.
    """

    encoding: Floats
    prior: Floats | None = None

    def __call__(self, asked: Sequence[int], accuracy: Floats, cells: Ints, rng: np.random.Generator) -> Floats:
        """A score for each candidate."""
        y, seen = normal_scores(accuracy), np.array(asked)
        last = slice(-LOOKED_AT, None)
        weights = (0.0,) if self.prior is None else (0.0, 0.5, 2.0)
        grid = list(product((2.0, 6.0, 18.0), (0.03, 0.2), weights))
        scale, noise, weight = max(grid, key=lambda at: self._likelihood(seen[last], y[last], *at))
        factor = cho_factor(self._kernel(seen, seen, scale, weight) + noise * np.eye(len(seen)))
        across = self._kernel(cells, seen, scale, weight)
        own = 1 + weight * (self.prior[cells] ** 2 if self.prior is not None else 0.0)
        variance = own - (across * cho_solve(factor, across.T).T).sum(1)
        mean = across @ cho_solve(factor, y)
        draw: Floats = mean + np.sqrt(np.maximum(variance, 0)) * rng.standard_normal(len(cells))
        return draw

    def _kernel(self, a: Ints, b: Ints, scale: float, weight: float) -> Floats:
        x, y = self.encoding[a], self.encoding[b]
        apart = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
        linear = 0.0 if self.prior is None else weight * np.outer(self.prior[a], self.prior[b])
        kernel: Floats = np.exp(-np.maximum(apart, 0) / scale) + linear
        return kernel

    def _likelihood(self, seen: Ints, y: Floats, scale: float, noise: float, weight: float) -> float:
        factor = cho_factor(self._kernel(seen, seen, scale, weight) + noise * np.eye(len(seen)))
        return -0.5 * float(y @ cho_solve(factor, y)) - float(np.log(np.diag(factor[0])).sum())


def normal_scores(values: Floats) -> Floats:
    """Ranks as quantiles of a normal distribution."""
    ranks = values.argsort().argsort()
    return np.array([NormalDist().inv_cdf((rank + 0.5) / len(values)) for rank in ranks])


def encoded() -> Floats:
    """For every cell: which sequences of operations lead from its input to its output (White et al., AAAI 2021, path
    encoding; none ends a path, skips stay), and what each edge holds.
    """
    a, b, c, d, e, f = CELLS.T
    edges = np.eye(CHOICES)[CELLS].reshape(len(CELLS), -1)
    columns: list[Floats] = [edges]
    rows = np.arange(len(CELLS))
    for paths in (((d,),), ((a, e), (b, f)), ((a, c, f),)):
        length = len(paths[0])
        there = np.zeros((len(CELLS), CHOICES**length))
        for path in paths:
            number = sum(op * CHOICES**i for i, op in enumerate(path))
            there[rows, number] += np.all([op != 0 for op in path], axis=0)
        columns.append(there)
    return np.concatenate(columns, axis=1)


LOOKED_AT = 100


def counted(file: Path) -> Floats:
    """The FLOPs of every cell's network, kept in ``file``."""
    if not file.exists():
        graphs: Iterator[Graph] = (nasbench201_benchmark(arch_of(cell)) for cell in range(len(CELLS)))
        np.save(file, np.array([flops(graph) for graph in graphs], np.float64))
    found: Floats = np.load(file)
    return found


def standardised(scores: Floats) -> Floats:
    """With mean 0 and deviation 1; 0 where there is no score."""
    centred: Floats = (scores - np.nanmean(scores)) / np.nanstd(scores)
    return np.nan_to_num(centred)


def learned(data: Path, cache: Path) -> tuple[Floats, Floats]:
    """What the predictor reads of every labelled cell, as far apart as :func:`encoded` has them, and what it says of
    them after training on NAS-Bench-Macro alone.
    """
    from predictor import bench  # the benchmark beside this one

    from netgraft.predictor.paths import drawn
    from netgraft.predictor.predictor import trained

    macro, cells = bench("nasbench_macro", data, cache), bench("nasbench201", data, cache)
    said = trained(drawn(), macro.features, ["macro"] * len(macro.labels), macro.labels).estimate(cells.features)
    at = [cell_of(arch) for arch in cells.archs]
    prior = np.full(len(CELLS), np.nan)
    prior[at] = said.mean
    spread = np.maximum(np.nanstd(cells.features, 0), 1e-6)
    read = np.nan_to_num((cells.features - np.nanmean(cells.features, 0)) / spread)
    encoding = np.zeros((len(CELLS), read.shape[1]))
    encoding[at] = np.clip(read, -5, 5) * np.sqrt(encoded().var(0).sum() / read.shape[1])
    return encoding, standardised(prior)


def strategies(costs: Floats, predictor: tuple[Floats, Floats] | None) -> dict[str, Strategy]:
    """The strategies by name."""
    quality = (Goal("quality", True),)
    ours = partial(population, goals=quality, costs=costs)
    paths, by_flops = encoded(), standardised(np.log(costs))
    found: dict[str, Strategy] = {
        "random search": random_search,
        "REINFORCE": partial(told, Reinforce),
        "regularised evolution": partial(told, RegularizedEvolution),
        "local search": local_search,
        "Population": ours,
        "Population, quality and FLOPs": partial(population, goals=(*quality, Goal("flops")), costs=costs),
        "Population, random scores": partial(ours, score=nothing),
        "Population, surrogate": partial(ours, score=Surrogate(paths)),
        "Population, surrogate + FLOPs": partial(ours, score=Surrogate(paths, by_flops)),
    }
    if predictor is not None:
        encoding, prior = predictor
        found["Population, surrogate on the predictor's features"] = partial(ours, score=Surrogate(encoding))
        found["Population, surrogate + predictor trained on Macro"] = partial(ours, score=Surrogate(paths, prior))
        found["Population, predictor trained on Macro alone"] = partial(
            ours, score=lambda asked, accuracy, cells, rng: prior[cells]
        )
    return found


def run(table: Table, strategy: Strategy, budget: int, seed: int) -> Floats:
    """The regret after each of ``budget`` queries."""
    queries = Queries(table, budget)
    with suppress(Spent):
        strategy(queries, np.random.default_rng(seed))
    regrets = table.regrets(list(queries.asked))
    return np.concatenate([regrets, np.full(budget - len(regrets), regrets[-1])])


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with nasbench201/accuracy.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=AT[-1], help="queries of a run")
    parser.add_argument("--observe", choices=("200", "12"), default="200", help="epochs of the accuracy that is seen")
    parser.add_argument("--cache", type=Path, help="where benchmarks/predictor.py keeps encoded networks")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = Table.read(args.data / "nasbench201/accuracy.parquet", args.observe)
    at = [n for n in AT if n <= args.budget]
    print(
        f"{int(table.known.sum())} cells can be asked for; the best has {np.nanmax(table.judged):.2f} %. Seen: "
        f"accuracy after {args.observe} epochs; {args.seeds} seeds\n"
    )
    print("| strategy | " + " | ".join(f"{n} queries" for n in at) + " | best found |")
    print("|---|" + "---|" * (len(at) + 1))
    costs = counted(args.out / "flops.npy")
    for name, strategy in strategies(costs, learned(args.data, args.cache) if args.cache else None).items():
        curves, slug = [], re.sub(r"\W+", "_", name)
        for seed in range(args.seeds):
            file = args.out / f"{args.observe}-{args.budget}-{slug}-{seed}.npy"
            if not file.exists():
                np.save(file, run(table, strategy, args.budget, seed))
            curves.append(np.load(file))
        found = np.array(curves)
        figures = [f"{found[:, n - 1].mean():.2f} ± {found[:, n - 1].std():.2f}" for n in at]
        print(f"| {name} | " + " | ".join(figures) + f" | {np.mean(found[:, -1] == 0):.0%} |", flush=True)


if __name__ == "__main__":
    main()
