"""How many mutants a second: distinct children of a network by grafting, from the drawing to the counted costs.

    python benchmarks/mutants.py SOURCE ... [--count 3000] [--runs 3] [--memory 100000] [--bank FILE] [--seed 0]

A SOURCE is what ``netgraft inspect`` takes (``nb201_best.pkl``, ``zoo:resnet50``). For each child: a region and a
segment are drawn, the segment is fitted and wired, the child is put together, its digest is compared with all others',
its FLOPs and parameters are counted. Weights take no part. Everything on one core, in seconds of processor time.

Prints four tables: mutants per second beside AutoGO's, and beside checking, digesting and counting each of these
children from scratch in the same run; where the time goes; memory; and how the time grows with the network.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, wraps
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from netgraft import segments, sources
from netgraft.costs.analytic import flops, flops_change, parameters, parameters_change
from netgraft.engine import collect_rarely
from netgraft.fit import choice
from netgraft.ir import Batch, Builder, Graph, Region, TensorType, Value
from netgraft.mutations import graft
from netgraft.mutations.graft import Graft, Proposal

# Mutants per second of AutoGO's published code on 2 cores; for hiaml_best between 11 and 32.3, by its settings.
AUTOGO = {"nb201_best": 4.6, "hiaml_best": 32.3, "resnet50": 5.8, "vgg16_bn": 30.0, "inception_best": 0.9}


def mutants(parent: Graph, grafting: Graft, seed: int) -> Iterator[tuple[Proposal, int, int]]:
    """Children of ``parent`` with their FLOPs and parameters."""
    base = flops(parent), parameters(parent)
    for proposal in grafting.proposals(parent, np.random.default_rng(seed)):
        yield (
            proposal,
            base[0] + flops_change(parent, proposal.edit),
            base[1] + parameters_change(parent, proposal.edit),
        )


def spent(work: Iterable[object]) -> float:
    """Seconds of processor time for each item of ``work``."""
    start, count = time.process_time(), 0
    for _ in work:
        count += 1
    return (time.process_time() - start) / count


def speed(parents: dict[str, Graph], grafting: Graft, count: int, runs: int, seed: int) -> None:
    """Mutants per second, the median and range of several runs with other seeds."""
    print("| network | nodes | mutants per second | AutoGO's | ratio | from scratch | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, parent in parents.items():
        rates, slow = [], []
        for run in range(seed, seed + runs):
            rates.append(1 / spent(islice(mutants(parent, grafting, run), count)))
            children = [proposal.child for proposal, _, _ in islice(mutants(parent, grafting, run), 100)]
            slow.append(1 / spent(map(_counted_anew, children)))
        rate, scratch, known = median(rates), median(slow), AUTOGO.get(name)
        beside = f"{known:g} | {rate / known:.0f}x" if known else "- | -"
        print(
            f"| {name} | {len(parent)} | {rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {beside} "
            f"| {scratch:,.0f} | {rate / scratch:.1f}x |",
            flush=True,
        )


def _counted_anew(child: Graph) -> tuple[str, int, int]:
    again = Graph(child.inputs, child.nodes, child.outputs)
    return again.digest, flops(again), parameters(again)


class Stopwatch:
    """Processor time by stage, without that of the stages within it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._running: list[str] = []
        self._last = time.process_time()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time spent in here belongs to ``name``."""
        self._lap()
        self._running.append(name)
        self.calls[name] += 1
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def _lap(self) -> None:
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._last
        self._last = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time is that of a stage."""

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return wrapper


def breakdown(parents: dict[str, Graph], grafting: Graft, count: int, seed: int) -> None:
    """The share of every stage in the time of a mutant."""
    stages = ["cut", "regions", "segments", "fit", "integer programs", "apply", "digest", "counts", "draw and the rest"]
    print(f"\n| network | microseconds | {' | '.join(stages)} |\n|---|---|{'---|' * len(stages)}")
    for name, parent in parents.items():
        watch = Stopwatch()
        places: list[tuple[Any, str, str]] = [
            (segments.EncodedGraph, "cut", "cut"),
            (Region, "signature", "regions"),
            (graft, "fit", "fit"),
            (choice, "milp", "integer programs"),
            (graft, "apply", "apply"),
        ]
        with ExitStack() as stack:
            for owner, attribute, stage in places:
                stack.enter_context(patch.object(owner, attribute, watch.timed(stage, getattr(owner, attribute))))
            for owner, attribute, stage in ((Graph, "digest", "digest"), (segments.Segment, "graph", "segments")):
                timed = cached_property(watch.timed(stage, vars(owner)[attribute].func))
                timed.__set_name__(owner, attribute)
                stack.enter_context(patch.object(owner, attribute, timed))
            with watch.stage("draw and the rest"):
                for proposal in islice(grafting.proposals(parent, np.random.default_rng(seed)), count):
                    with watch.stage("counts"):
                        flops_change(parent, proposal.edit)
                        parameters_change(parent, proposal.edit)
        total = sum(watch.seconds.values())
        shares = " | ".join(f"{watch.seconds[stage] / total:.0%}" for stage in stages)
        print(f"| {name} | {1e6 * total / watch.calls['counts']:,.0f} | {shares} |", flush=True)


def memory(name: str, parent: Graph, grafting: Graft, most: int, seed: int) -> None:
    """The process's memory while mutants are made and dropped."""
    print(f"\n| mutants of {name} | memory, MB | mutants per second since |\n|---|---|---|")
    marks = [mark for mark in (1, 1000, 10_000, 100_000, 1_000_000) if mark < most] + [most]
    start, before = time.process_time(), 0
    for number, _ in enumerate(mutants(parent, grafting, seed), 1):
        if number == marks[0]:
            rate = (number - before) / (time.process_time() - start)
            print(f"| {number:,} | {_megabytes():.0f} | {rate:,.0f} |", flush=True)
            start, before = time.process_time(), number
            if not marks[1:]:
                return
            marks.pop(0)
    print(f"| no more than {number:,} were found | {_megabytes():.0f} | |")


def _megabytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def growth(grafting: Graft, count: int, seed: int) -> None:
    """Time per mutant of residual networks that differ only in their length."""
    print("\n| residual blocks | nodes | microseconds a mutant | of the first |\n|---|---|---|---|")
    first = None
    # All have the same few signatures: what fits them is found before the clock starts, most of it by the shortest.
    spent(islice(mutants(residual(9), grafting, seed), count))
    for blocks in (9, 18, 36, 72, 144):
        parent = residual(blocks)
        each = spent(islice(mutants(parent, grafting, seed), count))
        first = first or each
        print(f"| {blocks} | {len(parent)} | {1e6 * each:,.0f} | {each / first:.2f}x |", flush=True)


def residual(blocks: int) -> Graph:
    """A plain residual network for 32x32 images, of basic blocks that all have 16 channels."""
    b = Builder()

    def convolved(x: Value) -> Value:
        return b.add("conv2d", x, out_channels=16, kernel=(3, 3), padding=(1, 1), bias=False)

    x = convolved(b.input("image", TensorType((Batch(), 3, 32, 32))))
    for _ in range(blocks):
        y = b.add("relu", b.add("batch_norm", convolved(x)))
        x = b.add("relu", b.add("add", x, b.add("batch_norm", convolved(y))))
    pooled = b.add("flatten", b.add("adaptive_avg_pool2d", x, size=(1, 1)))
    return b.build(b.add("linear", pooled, out_features=10))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="what netgraft inspect takes")
    parser.add_argument("--count", type=int, default=3000, help="mutants a run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=int, default=100_000, help="mutants while memory is looked at; 0 for none")
    parser.add_argument("--bank", type=Path, help="the bank to graft from, instead of the one that comes with netgraft")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    grafting = Graft(segments.load(args.bank)) if args.bank else Graft()
    parents = {Path(source.removeprefix("zoo:")).stem: sources.load(source).graph for source in args.source}
    collect_rarely()  # as the command line does
    print(f"{len(grafting.bank):,} segments, {args.count:,} mutants a run, {args.runs} runs\n")
    speed(parents, grafting, args.count, args.runs, args.seed)
    breakdown(parents, grafting, args.count, args.seed + args.runs)
    growth(grafting, args.count, args.seed)
    if args.memory:
        memory(*next(iter(parents.items())), grafting, args.memory, args.seed)


if __name__ == "__main__":
    main()
