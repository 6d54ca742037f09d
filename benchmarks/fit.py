"""Shape fitting beside AutoGO's formulation, on the same pairs of a segment and the region it is to replace.

    pip install -e '.[bench]' && apt-get install glpk-utils
    python benchmarks/fit.py
    python benchmarks/fit.py --pairs 100 --networks resnet20 unet     # a quick look
    python benchmarks/fit.py --autogo ../shared/data/autogo_graphs    # and AutoGO's own input networks, as pickles

A pair is drawn at random: a region of a network, cut by the bank's vocabulary, and a segment of the bank with as many
inputs and outputs of the same ranks. For AutoGO's own networks the segments are cut from each other. What each way
calls a success is built and run in torch, forwards and backwards. Every call is the first of its kind (nothing is
cached), in wall-clock time; Pyomo and GLPK are what AutoGO used. Prints markdown tables.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from unittest.mock import patch

import autogo_milp
import numpy as np
import torch

from netgraft import sources, zoo
from netgraft.convert.autogo import load_autogo
from netgraft.convert.to_torch import to_module
from netgraft.errors import GraphError
from netgraft.fit import NoFit, choice, fit
from netgraft.fit.dims import Sum
from netgraft.ir import Graph, Model, Region, Signature
from netgraft.segments import Line, Segment, Vocabulary, default, head


@dataclass(frozen=True)
class Pair:
    """A segment and what it is to become."""

    segment: Graph
    signature: Signature


@dataclass(frozen=True)
class Outcome:
    """What one way of fitting did with a pair."""

    seconds: float
    fitted: bool
    ran: bool


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """A line of the table."""
    times = np.array([outcome.seconds for outcome in outcomes]) * 1e3
    fitted = sum(outcome.fitted for outcome in outcomes)
    ran = sum(outcome.ran for outcome in outcomes)
    return (
        f"| {name} | {len(outcomes)} | {fitted / len(outcomes):.1%} | {np.median(times):.3g} | "
        f"{np.quantile(times, 0.9):.3g} | {times.mean():.3g} | {f'{ran / fitted:.1%}' if fitted else '-'} |"
    )


HEADER = "| | pairs | fitted | median ms | 90 % ms | mean ms | of these run in torch |\n|---|---|---|---|---|---|---|"


def regions(graph: Graph, vocabulary: Vocabulary, rng: np.random.Generator, count: int) -> list[Region]:
    """Up to ``count`` regions of two nodes and more, from as many cuts as that takes (at most 20)."""
    apart = head(graph) | {node.id for node in graph if node.op in ("frozen", "constant")}
    found: dict[Region, None] = {}
    for _ in range(20):
        cut = vocabulary.cut(graph, rng)
        found |= dict.fromkeys(r for r in cut if len(r.nodes) > 1 and not r.nodes & apart)
        if len(found) >= count:
            break
    return [list(found)[i] for i in rng.permutation(len(found))[:count]]


def draw(
    targets: Sequence[tuple[str, Signature]], segments: Iterable[Segment], rng: np.random.Generator, count: int
) -> list[Pair]:
    """Up to ``count`` distinct pairs of a target (with the network it is from) and a random segment of the same form
    that comes from another network.
    """

    def form(s: Signature) -> object:
        return tuple((t.rank, t.dtype) for t in s.inputs), tuple((t.rank, t.dtype) for t in s.outputs)

    forms: defaultdict[object, list[Segment]] = defaultdict(list)
    for segment in segments:
        forms[form(segment.signature)].append(segment)
    pairs: dict[tuple[str, Signature], Pair] = {}
    for i in rng.permutation(len(targets)):
        name, signature = targets[i]
        candidates = [s for s in forms[form(signature)] if s.provenance != (name,) and s.signature != signature]
        if candidates and len(pairs) < count:
            segment = candidates[int(rng.integers(len(candidates)))]
            pairs[segment.digest, signature] = Pair(segment.graph, signature)
    return list(pairs.values())


def zoo_pairs(names: Sequence[str], count: int) -> list[Pair]:
    """Regions of the zoo's networks with segments of the bank that comes with netgraft."""
    rng = np.random.default_rng(0)
    bank = default()
    targets: list[tuple[str, Signature]] = []
    for name in names:
        graph = sources.load(f"zoo:{name}").graph
        each = regions(graph, bank.vocabulary, rng, 3 * count // len(names) + 1)
        targets += [(name, region.signature(graph)) for region in each]
    return draw(targets, bank, rng, count)


def autogo_pairs(folder: Path, count: int) -> list[Pair]:
    """Regions of AutoGO's input networks with segments of one another."""
    rng = np.random.default_rng(0)
    graphs = [load_autogo(path) for path in sorted(folder.glob("*.pkl"))]
    vocabulary = Vocabulary.learn((Line.of(graph) for _, graph in graphs), 500)
    targets: list[tuple[str, Signature]] = []
    segments: dict[str, Segment] = {}
    for name, graph in graphs:
        for region in regions(graph, vocabulary, rng, 3 * count // len(graphs) + 1):
            targets.append((name, region.signature(graph)))
            if any(graph[id].op in ("conv2d", "linear") for id in region.nodes):
                segment = Segment.of(region.extract(graph), [name])
                segments.setdefault(segment.digest, segment)
    return draw(targets, segments.values(), rng, count)


def runs(graph: Graph) -> bool:
    """Whether the graph runs in torch, forwards and backwards, and gives what its signature says."""
    weights = {
        key: np.full(type.concrete(), 0.01, np.float32) if type.dtype == "f32" else np.zeros(type.concrete(), np.int64)
        for key, type in graph.weight_types.items()
    }
    try:
        module = to_module(Model(graph, weights)).train()
        inputs = [torch.randn(given.type.concrete(2), requires_grad=True) for given in graph.inputs]
        outputs = module(*inputs)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        sum(out.sum() for out in outputs).backward()
    except (RuntimeError, ValueError, GraphError):
        return False
    return [tuple(out.shape) for out in outputs] == [type.concrete(2) for type in graph.signature.outputs]


def measure(pairs: Sequence[Pair], way: Callable[[Pair], Graph | None], checked: dict[str, bool]) -> list[Outcome]:
    """Runs one way of fitting over the pairs; ``checked`` remembers which graphs run, by digest."""
    outcomes = []
    for pair in pairs:
        begun = time.perf_counter()
        try:
            graph = way(pair)
            solved = graph is not None
        except GraphError:
            graph, solved = None, True  # solved, and cannot be built
        seconds = time.perf_counter() - begun
        if graph is not None and graph.digest not in checked:
            checked[graph.digest] = runs(graph)
        outcomes.append(Outcome(seconds, solved, graph is not None and checked[graph.digest]))
    return outcomes


def ours(pair: Pair) -> Graph | None:
    """The way that netgraft fits."""
    result = fit(pair.segment, pair.signature)
    return None if isinstance(result, NoFit) else result


def theirs(counted: autogo_milp.Counted) -> Callable[[Pair], Graph | None]:
    """AutoGO's formulation."""

    def way(pair: Pair) -> Graph | None:
        sizes = autogo_milp.resolve(pair.segment, pair.signature, counted)
        if isinstance(sizes, autogo_milp.Unsolved):
            return None
        return autogo_milp.build(pair.segment, pair.signature, sizes)

    return way


def compare(title: str, pairs: Sequence[Pair]) -> None:
    """Prints the table of one set of pairs."""
    solved = choice.solved
    programs = 0
    with_program = []

    def counting(pulls: choice.Pulls, sums: Sequence[Sum], names: Sequence[str]) -> dict[int, int]:
        nonlocal programs
        programs += 1
        return solved(pulls, sums, names)

    def staged(pair: Pair) -> Graph | None:
        before = programs
        result = ours(pair)
        with_program.append(programs > before)
        return result

    checked: dict[str, bool] = {}
    with patch.object(choice, "solved", counting):
        mine = measure(pairs, staged, checked)
    begun = time.perf_counter()
    for pair in pairs:
        fit(pair.segment, pair.signature)
    again = (time.perf_counter() - begun) / len(pairs)
    ways = {f"AutoGO's program, factors {c.value}": measure(pairs, theirs(c), checked) for c in autogo_milp.Counted}
    known = [autogo_milp.knows(pair.segment) for pair in pairs]
    print(f"\n### {title}\n\n{HEADER}")
    for name, outcomes in {"netgraft": mine, **ways}.items():
        print(row(name, outcomes))
        print(row("- where AutoGO knows the operations", list(compress(outcomes, known))))
    print(row("netgraft, settled directly", [o for o, program in zip(mine, with_program, strict=True) if not program]))
    if any(with_program):
        print(row("netgraft, by an integer program", list(compress(mine, with_program))))
    lost = sum(not mine[i].ran and any(other[i].ran for other in ways.values()) for i in range(len(pairs)))
    print(f"\nA program of AutoGO's gives a graph that runs where netgraft gives none: {lost} of {len(pairs)} pairs.")
    print(f"Asked again, netgraft answers in {again * 1e6:.1f} microseconds.", flush=True)


def main() -> None:
    """Draws the pairs and prints the tables."""
    parser = argparse.ArgumentParser(description="Shape fitting beside AutoGO's formulation.")
    parser.add_argument("--pairs", type=int, default=500, help="pairs a table")
    parser.add_argument("--networks", nargs="*", default=zoo.names(), help="networks of the zoo to take regions from")
    parser.add_argument("--autogo", type=Path, help="folder with AutoGO's input networks as pickles")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    pairs = zoo_pairs(arguments.networks, arguments.pairs)
    compare(f"{len(arguments.networks)} networks of the zoo, segments of the bank", pairs)
    if arguments.autogo:
        compare("AutoGO's own input networks, segments of one another", autogo_pairs(arguments.autogo, arguments.pairs))


if __name__ == "__main__":
    main()
