"""What predicts measured latency: FLOPs, parameters, memory, the analytic estimate, a table of kernels.

    python benchmarks/latency_truth.py measure --out truth.jsonl [--seed 1]
    python benchmarks/latency_truth.py report truth.jsonl --collection zoo.table.part

``measure`` takes more than 300 networks (networks of the zoo in narrow widths and for small images, random children of
these, and of a few parents 32 children each) beside a ResNet-20, in onnxruntime on one thread, with fresh
sessions that take turns; it goes on where it was stopped. ``report`` fits tables to a collection of ``netgraft table
build`` (its .part file) and prints how close each predictor comes.

No network is predicted by a table that saw it (none with an equal digest is kept). *unseen family*: the table was
fitted without all networks of the zoo file that the network (or its ancestor) comes from, in four parts. *whole
collection*: by all of it, which holds other sizes and other children of some of the architectures.
FLOPs, parameters, memory and the analytic estimate are turned into milliseconds by one factor each (the median quotient
over all networks), the tables by how fast the reference runs now: what they are off beyond that is their own fault.

*as in a run*: a search measures its original and some children, and corrects its estimate by them
(:class:`netgraft.recipes.clock.Correction`). Here the parent and its first children of each group are measured, and the
rest of the group estimated: what was measured is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from netgraft import sources, zoo
from netgraft.convert.onnx import to_onnx
from netgraft.costs.analytic import activation_memory, flops, latency_estimate, parameters
from netgraft.costs.measured import compare
from netgraft.costs.tables import Table, fitted
from netgraft.costs.tables.kernels import Key, kernels
from netgraft.costs.tables.observed import Observed
from netgraft.errors import NetgraftError
from netgraft.ir import untrained
from netgraft.recipes.clock import Correction
from netgraft.recipes.optimize import default_mutations
from netgraft.recipes.table import AT_ONCE, LONGEST, REFERENCE, Drawn, around, batched, collection, descendant

PARENTS = (
    "zoo:resnet20",
    "zoo:mobilenet_v3_small?input=3x64x64",
    "zoo:wrn_16_4?width=0.5",
    "zoo:densenet40?input=3x16x16",
    "zoo:shufflenet_v2?input=3x64x64",
    "family:hiaml?seed=3",
    "family:nasbench201?seed=4",
)
ZOO = 24
"""Networks of the zoo that take part, drawn at random: reading one takes several times as long as measuring it."""
PARTS = 4
SHARP = 0.1
FIRST = 8
"""Children that a run has measured before it is asked about others."""
Floats = npt.NDArray[np.float64]


def networks(seed: int, children: int) -> Iterator[tuple[str, Drawn]]:
    """Every network with the group that it is reported in."""
    mutation = default_mutations()
    for source in PARENTS:
        parent = sources.load(source)
        rng = np.random.default_rng([seed, *source.encode()])
        origin = source.partition(":")[2].partition("?")[0]
        yield f"children of {origin}", Drawn(source, origin, parent.graph)
        for number in range(children):
            child = descendant(parent.graph, mutation, rng, 1 + int(rng.integers(6)))
            if child is not None and latency_estimate(child) <= LONGEST:
                yield f"children of {origin}", Drawn(f"{source}#{number}", origin, child)
    for name in np.random.default_rng(seed).permutation(zoo.names())[:ZOO].tolist():
        for found in around(name, seed, variants=3, children=3):
            yield ("children, all" if "#" in found.name else "zoo"), found


def measure(out: Path, seed: int, children: int, seconds: float) -> None:
    """Measures what ``out`` does not hold yet, and says how long a network takes."""
    started, count = time.monotonic(), 0
    done = {line["digest"] for line in _lines(out)}
    reference = to_onnx(sources.load(REFERENCE))

    def new() -> Iterator[tuple[str, Drawn]]:
        for group, found in networks(seed, children):
            if found.graph.digest not in done:
                done.add(found.graph.digest)
                yield group, found

    with out.open("a", encoding="utf-8") as file:
        for together in batched(new(), AT_ONCE):
            runnable = []
            for group, found in together:
                try:
                    model = to_onnx(untrained(found.graph, found.name))
                    runnable.append((group, found, model))
                except NetgraftError:
                    continue
            try:
                ratios = compare([model for *_, model in runnable], reference, seconds=seconds * len(runnable))
            except NetgraftError as error:
                print(f"left out {[found.name for _, found, _ in runnable]}: {error}", flush=True)
                continue
            for (group, found, _), ratio in zip(runnable, ratios, strict=True):
                line = {
                    "group": group,
                    "name": found.name,
                    "origin": found.origin,
                    "digest": found.graph.digest,
                    "ratio": ratio.ratio,
                    "low": ratio.low,
                    "high": ratio.high,
                    "reference_ms": ratio.baseline_ms,
                    "null": ratio.null,
                    "noisy": ratio.noisy,
                    "FLOPs": flops(found.graph),
                    "parameters": parameters(found.graph),
                    "activation memory": activation_memory(found.graph),
                    "analytic estimate": latency_estimate(found.graph),
                    "kernels": [kernel.key for kernel in kernels(found.graph)],
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
                count += 1
                each = (time.monotonic() - started) / count
                print(
                    f"{count}, {each:.1f} s each: {found.name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] "
                    f"of the reference's {ratio.baseline_ms:.3f} ms",
                    flush=True,
                )


def report(truth: Path, journal: Path) -> None:
    """Prints the tables."""
    observed = collection(journal)
    known = {one.digest for one in observed}
    lines = [line for line in _lines(truth) if line["digest"] not in known]
    reference = float(np.median([line["reference_ms"] for line in lines]))
    measured = np.array([line["ratio"] * reference for line in lines])
    predicted: dict[str, Floats] = {}
    for name in ("FLOPs", "parameters", "activation memory", "analytic estimate"):
        counted = np.array([line[name] for line in lines], np.float64)
        predicted[name] = counted * np.median(measured / counted)
    whole = _fitted(observed)
    scale = reference / whole.reference_ms  # the machine may be faster or slower than when the table was made
    predicted["table, whole collection"] = scale * _estimates(whole, lines)
    unseen = np.empty(len(lines))
    families = sorted({_family(one.origin) for one in observed})
    for part in range(PARTS):
        held = set(families[part::PARTS])
        mine = [i for i, line in enumerate(lines) if _part(line["origin"], families) == part]
        table = _fitted([one for one in observed if _family(one.origin) not in held])
        unseen[mine] = scale * _estimates(table, [lines[i] for i in mine])
    predicted["table, unseen family"] = unseen

    nulls = np.abs(np.log([line["null"] for line in lines]))
    widths = np.log([line["high"] / line["low"] for line in lines]) / 2
    print(
        f"{len(lines)} networks, {measured.min():.3f} to {measured.max():.2f} ms; the collection: {len(observed)}. "
        f"The reference against its twin is off by {np.median(nulls):.1%} (median), {np.percentile(nulls, 90):.1%} "
        f"(90th percentile); half-width of a network's 99 % interval {np.median(widths):.1%} (median).\n"
    )
    groups: dict[str, list[int]] = {"all": list(range(len(lines))), "zoo": [], "children, all": []}
    groups[f"measured to within {SHARP:.0%} (half-width of the 99 % interval)"] = np.flatnonzero(
        widths <= SHARP
    ).tolist()
    for i, line in enumerate(lines):
        groups.setdefault(line["group"], []).append(i)
        if line["group"] not in ("zoo", "children, all"):
            groups["children, all"].append(i)
    for group, members in groups.items():
        if len(members) < 2:  # nothing to put in order, as long as measuring has not come to them
            continue
        print(f"\n{group}: {len(members)} networks\n")
        print("| predictor | Spearman | median error | 90 % | bias |\n|---|---|---|---|---|")
        for name, values in predicted.items():
            print(f"| {name} | {_row(values[members], measured[members])} |")
    _as_in_a_run(lines, predicted, measured)
    inside = _inside(whole, lines, measured / scale)
    print(f"\nthe table's 90 % interval holds the measured time of {inside:.0%} of the networks (whole collection)")
    worst = np.argsort(-np.abs(np.log(predicted["table, unseen family"] / measured)))[:8]
    print(
        "furthest off (unseen family): "
        + "; ".join(f"{lines[i]['name']} {unseen[i]:.3f} for {measured[i]:.3f} ms" for i in worst)
    )


def _as_in_a_run(lines: Sequence[Mapping[str, Any]], predicted: Mapping[str, Floats], measured: Floats) -> None:
    """Prints how far estimates are right that the parent and a few children of each group have corrected."""
    siblings: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        siblings.setdefault(line["group"], []).append(i)
    asked: list[int] = []
    names = ("analytic estimate", "table, whole collection", "table, unseen family")
    corrected = {name: predicted[name].copy() for name in names}
    for group, members in siblings.items():
        known = members[: 1 + FIRST] if group.startswith("children of ") else []
        asked += members[len(known) :]
        for name in names if known else ():
            values, parent = predicted[name], known[0]
            shares = tuple(values[i] / values[parent] for i in known)
            learned = Correction(shares, tuple(measured[i] / measured[parent] for i in known))
            for i in members[len(known) :]:
                corrected[name][i] = measured[parent] * learned(values[i] / values[parent])[0]
    print(f"\nas in a run, each parent and {FIRST} of its children measured: {len(asked)} other networks\n")
    print("| predictor | Spearman | median error | 90 % | bias |\n|---|---|---|---|---|")
    for name in names:
        print(f"| {name} | {_row(predicted[name][asked], measured[asked])} |")
        print(f"| {name}, corrected | {_row(corrected[name][asked], measured[asked])} |")


def _row(predicted: Floats, measured: Floats) -> str:
    logs = np.log(predicted / measured)
    off = np.exp(np.abs(logs)) - 1
    rank = spearmanr(predicted, measured).statistic
    return f"{rank:.3f} | {np.median(off):.1%} | {np.percentile(off, 90):.1%} | {np.expm1(np.median(logs)):+.1%}"


def _fitted(observed: Sequence[Observed]) -> Table:
    return fitted(observed, REFERENCE, "onnxruntime", {})


def _estimates(table: Table, lines: Sequence[Mapping[str, Any]]) -> Floats:
    return np.array([table.total(_keys(line)) / 1e3 for line in lines])


def _inside(table: Table, lines: Sequence[Mapping[str, Any]], measured: Floats) -> float:
    found = [table.interval(_keys(line)) for line in lines]
    return float(np.mean([one.low <= ms <= one.high for one, ms in zip(found, measured, strict=True)]))


def _keys(line: Mapping[str, Any]) -> list[Key]:
    return [(kind, tuple(sizes)) for kind, sizes in line["kernels"]]


def _family(origin: str) -> str:
    """The file of the zoo that a network comes from; other families are never in a collection of the zoo."""
    return zoo.entry(origin).build.__module__ if origin in zoo.names() else origin


def _part(origin: str, families: Sequence[str]) -> int:
    return families.index(_family(origin)) % PARTS if _family(origin) in families else 0


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("measure")
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--seed", type=int, default=1)
    first.add_argument("--children", type=int, default=32, help="children of each of the parents")
    first.add_argument("--seconds", type=float, default=1.0, help="about how long each network is measured")
    second = commands.add_parser("report")
    second.add_argument("truth", type=Path)
    second.add_argument("--collection", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if args.command == "measure":
        measure(args.out, args.seed, args.children, args.seconds)
    else:
        report(args.truth, args.collection)


if __name__ == "__main__":
    main()
