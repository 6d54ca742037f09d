"""How right the predictor is, how steady and how fast, beside AutoGO's as published, FLOPs and parameters.

python benchmarks/predictor.py accuracy      # NAS-Bench-201 after 200 epochs, 80/10/10
python benchmarks/predictor.py few           # with 78, 390 and 781 trained cells
python benchmarks/predictor.py macro         # NAS-Bench-Macro, 80/10/10
python benchmarks/predictor.py transfer      # from one to the other, with 0 and 50 labels of the target
python benchmarks/predictor.py apart         # within one, about a kind of network that was held out
python benchmarks/predictor.py choice        # the best of 200 replacements of a cell
python benchmarks/predictor.py cuts          # one network, cut in many places; and how often the truth is within bounds
python benchmarks/predictor.py speed

Prints Markdown tables. Labels are read from ``--data`` (nasbench201, nasbench_macro); networks are encoded once, in
minutes, and kept in ``--cache``; results of trainings are kept there as well, so that a run goes on where it was
stopped. Splits are by what networks compute (nasbench201.function, nasbench_macro.canonical), never by name, and what
is tested on was in no training. ``--also FILE.csv`` (a column ``arch``, then one column a score, higher is better) adds
rows to ``accuracy`` and ``macro`` on the same splits: scores that need no training, for example.
"""

from __future__ import annotations

import argparse
import csv
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import published_psc as published
import pyarrow.parquet as pq
from scipy.stats import kendalltau, norm, spearmanr

from netgraft.ir import Graph, Region
from netgraft.predictor import beyond, heads, load
from netgraft.predictor.heads import normal_scores
from netgraft.predictor.paths import drawn, read
from netgraft.predictor.predictor import trained
from netgraft.predictor.traits import TOTALS
from netgraft.spaces import families
from netgraft.spaces.families.nasbench201 import OPERATIONS, function, operations, pruned
from netgraft.spaces.families.nasbench_macro import canonical

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Method = Callable[[Ints, Ints, int], Floats]
"""Scores of some networks [n] or, in several cuts of each, [cuts, n]; after training on others, with a seed."""

EPOCHS, CUTS = 25, 25
HALVES = 0.5, 0.5
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"


@dataclass(frozen=True)
class Bench:
    """A benchmark's networks: names, labels, features, FLOPs and parameters; ``kind`` numbers what they compute."""

    name: str
    archs: list[str]
    labels: Floats
    kind: Ints
    features: Floats
    counts: dict[str, Floats]
    cache: Path

    def split(self, seed: int, shares: Sequence[float] = (0.8, 0.1)) -> list[Ints]:
        """Rows in parts of these shares of the kinds, and the rest."""
        kinds = np.random.default_rng(seed).permutation(self.kind.max() + 1)
        parts = np.split(kinds, [round(sum(shares[: i + 1]) * len(kinds)) for i in range(len(shares))])
        return [np.flatnonzero(np.isin(self.kind, part)) for part in parts]

    def kept(self, key: str, work: Callable[[], Floats], whole: bool = False) -> Floats:
        """The scores [n] that some work gives, from the cache if it was done before: the mean of its rows, where it
        gives several, or the ``whole``.
        """
        path = self.cache / f"{self.name}-{sha256(key.encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            np.save(path, work())
        found: Floats = np.load(path)
        return found.mean(0) if found.ndim == 2 and not whole else found


def bench(name: str, data: Path, cache: Path) -> Bench:
    """``nasbench201`` or ``nasbench_macro``."""
    macro = name == "nasbench_macro"
    rows = pq.read_table(data / name / "accuracy.parquet").to_pylist()
    archs = [row["arch"] for row in rows]
    build = families.FAMILIES[name].build
    kinds = [canonical(arch) if macro else function(arch) for arch in archs]
    encoder = drawn()
    cache.mkdir(parents=True, exist_ok=True)
    digest = sha256(encoder.node.tobytes() + encoder.turn.tobytes()).hexdigest()[:12]
    path = cache / f"{name}-{digest}.npy"
    if not path.exists():
        alike = kinds if macro else [pruned(arch) for arch in archs]
        first, at = np.unique(alike, return_index=True, return_inverse=True)[1:]
        print(f"encoding {len(first):,} networks", flush=True)
        np.save(path, np.array([read(encoder, build(archs[i])) for i in first])[at])
    features = np.load(path)
    totals = np.exp(features[:, encoder.channels :])
    counts = {"FLOPs": totals[:, TOTALS["flops"]], "parameters": totals[:, TOTALS["parameters"]]}
    labels = np.array([row["mean_acc" if macro else "cifar10_test_acc_200ep"] for row in rows])
    return Bench(name, archs, labels, np.unique(kinds, return_inverse=True)[1], features, counts, cache)


def also(path: Path | None, of: Bench) -> dict[str, Floats]:
    """The scores of a CSV file, by network; 0 ranks for those that are missing."""
    if path is None:
        return {}
    with path.open() as file:
        rows = {row.pop("arch"): row for row in csv.DictReader(file)}
    names = list(next(iter(rows.values()))) if rows else []
    found = {name: np.array([float(rows.get(arch, {}).get(name) or "nan") for arch in of.archs]) for name in names}
    return {name: np.nan_to_num(values, nan=np.nanmin(values)) for name, values in found.items()}


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


# Methods


def ours(of: Bench, rows: Ints, asked: Ints, seed: int) -> Floats:
    """The predictor of this package."""
    predictor = trained(drawn(), of.features[rows], ["g"] * len(rows), of.labels[rows], seed)
    return predictor.estimate(of.features[asked]).mean


def psc(of: Bench, split: bool, rows: Ints, asked: Ints, seed: int) -> Floats:
    """AutoGO's predictor as published (``split``), or its graph network over whole graphs."""
    cells = cells_of(of)
    targets = np.zeros(len(of.labels))
    targets[rows] = normal_scores(["g"] * len(rows), of.labels[rows])
    epochs = EPOCHS if len(rows) > 2000 else min(300, 60_000 // len(rows))
    return published.scores(published.trained(split, cells, rows, targets, seed, epochs), cells, asked, CUTS)


_CELLS: dict[str, published.Cells] = {}


def cells_of(of: Bench) -> published.Cells:
    """The cells of NAS-Bench-201 alone, as graphs: all else is the same in all networks."""
    if of.name not in _CELLS:
        _CELLS[of.name] = published.Cells.of([cell(arch) for arch in of.archs])
    return _CELLS[of.name]


def cell(arch: str) -> Graph:
    """One cell of a network, as a graph of its own."""
    graph = families.nasbench201(arch)
    nodes = [node.id for node in graph if node.id.startswith("stage1.cell2.")]
    return Region.of(nodes).extract(graph)


def methods(of: Bench, baselines: bool) -> dict[str, Method]:
    """What is compared, by name."""
    found: dict[str, Method] = {"netgraft": partial(ours, of)}
    if baselines:
        found["PSC as published"] = partial(psc, of, True)
        found["the same GNN, whole graph"] = partial(psc, of, False)
    for name, counts in of.counts.items():
        found[name] = partial(counted, counts)
    return found


def counted(counts: Floats, rows: Ints, asked: Ints, seed: int) -> Floats:
    """Sizes as scores, which no training changes."""
    return counts[asked]


def by_kind(of: Bench, rows: Ints, values: Floats) -> Floats:
    """The mean of values [rows] over networks that compute the same, in the order of their numbers."""
    _, at = np.unique(of.kind[rows], return_inverse=True)
    return np.bincount(at, values) / np.bincount(at)


# Tables


def accuracy(options: argparse.Namespace, name: str = "nasbench201") -> None:
    """80/10/10."""
    of = bench(name, options.data, options.cache)
    results: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(options.seeds):
        rows, _, asked = of.split(seed)
        truth, once = of.labels[asked], by_kind(of, asked, of.labels[asked])

        def judge(said: Floats, truth: Floats = truth, once: Floats = once, asked: Ints = asked) -> tuple[float, ...]:
            alone = by_kind(of, asked, said)
            return spearmanr(said, truth)[0], spearmanr(alone, once)[0], kendalltau(alone, once)[0]

        wanted = methods(of, name == "nasbench201" and seed < options.baselines)
        for method, work in wanted.items():
            said = of.kept(key_of(method, 80, seed), partial(work, rows, asked, seed))
            results.setdefault(method, []).append(judge(said))
        for method, values in also(options.also, of).items():
            results.setdefault(method, []).append(judge(values[asked]))
        _, at = np.unique(of.kind[asked], return_inverse=True)
        results.setdefault("(the mean label of each function)", []).append(judge(once[at]))
    table(
        f"{name}: trained on 80 % of the functions, tested on 10 %",
        ["method", "seeds", "Spearman, all", "Spearman, each function once", "Kendall, each function once"],
        ([method, len(got), *(spread(column) for column in zip(*got, strict=True))] for method, got in results.items()),
    )


def few(options: argparse.Namespace) -> None:
    """Few labels of NAS-Bench-201."""
    of = bench("nasbench201", options.data, options.cache)
    results: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for count in (78, 390, 781):
        for seed in range(options.seeds):
            rows = np.random.default_rng(seed).permutation(len(of.labels))[:count]
            others = np.setdiff1d(np.arange(len(of.labels)), rows)
            unseen = ~np.isin(of.kind[others], of.kind[rows])
            for method, work in methods(of, seed < options.baselines).items():
                key = key_of(method, "few", count, seed)
                said = of.kept(key, partial(work, rows, others, seed))
                truth = of.labels[others]
                got = kendalltau(said[unseen], truth[unseen])[0], kendalltau(said, truth)[0]
                results.setdefault((count, method), []).append(got)
    table(
        "nasbench201 with few labels: Kendall's tau",
        ["labels", "method", "seeds", "of functions not trained on", "of all other cells"],
        ([*key, len(got), *(spread(column) for column in zip(*got, strict=True))] for key, got in results.items()),
    )


def transfer(options: argparse.Namespace) -> None:
    """From one benchmark to the other: Spearman, and how often the truth lay within one and two stated deviations."""
    both = [bench(name, options.data, options.cache) for name in ("nasbench201", "nasbench_macro")]
    rows = []
    for source, target in (both, both[::-1]):
        for count in (0, 50):
            got: dict[str, list[tuple[float, ...]]] = {}
            for seed in range(options.seeds):
                kinds = np.random.default_rng(seed).permutation(target.kind.max() + 1)
                taken = np.flatnonzero(np.isin(target.kind, kinds[:count]))
                taken = taken[np.unique(target.kind[taken], return_index=True)[1]]
                asked = np.flatnonzero(~np.isin(target.kind, kinds[:count]))
                truth = normal_scores(["g"] * len(asked), target.labels[asked])
                both_ways = {f"trained on {source.name}, {count} labels of {target.name}": True}
                both_ways |= {f"{count} labels of {target.name} alone": False} if count else {}
                for method, with_source in both_ways.items():
                    said, deviation = target.kept(
                        key_of("netgraft", method, "with deviations", seed),
                        partial(_moved, source, target, with_source, taken, asked, seed),
                        whole=True,
                    )
                    off = np.abs(said - truth) / deviation
                    right = spearmanr(said, truth)[0]
                    got.setdefault(method, []).append((right, float((off <= 1).mean()), float((off <= 2).mean())))
                for name, values in target.counts.items():
                    got.setdefault(name, []).append((spearmanr(values[asked], truth)[0],))
            rows += [
                [target.name, count, method, *map(spread, zip(*values, strict=True))] for method, values in got.items()
            ]
    header = ["target", "its labels", "method", "rank correlation", "within 1 deviation", "within 2"]
    table("From one benchmark to the other", header, rows)


def _moved(source: Bench, target: Bench, with_source: bool, taken: Ints, asked: Ints, seed: int) -> Floats:
    """Estimates and their deviations [2, asked]."""
    features, labels, groups = target.features[taken], target.labels[taken], ["target"] * len(taken)
    if with_source:
        features, labels = np.vstack([source.features, features]), np.concatenate([source.labels, labels])
        groups = ["source"] * len(source.labels) + groups
    said = trained(drawn(), features, groups, labels, seed).estimate(target.features[asked])
    return np.stack([said.mean, said.deviation])


def apart(options: argparse.Namespace) -> None:
    """Within one benchmark, a kind of network held out: at most 1,400 of the others are trained on."""
    rows = []
    for name in ("nasbench201", "nasbench_macro"):
        of = bench(name, options.data, options.cache)
        once = np.unique(of.kind, return_index=True)[1]
        for what, (given, asked) in kinds_of(of, once).items():
            taken = once[np.random.default_rng(0).permutation(np.flatnonzero(given))[:1400]]
            asked = once[asked]
            predictor = trained(drawn(), of.features[taken], ["g"] * len(taken), of.labels[taken])
            features = of.features[asked]
            said = {
                "netgraft": predictor.estimate(features),
                "its heads": predictor.heads.estimate(features),
                "its size": predictor.beyond.estimate(features),
            }
            right = [spearmanr(found.mean, of.labels[asked])[0] for found in said.values()]
            right += [spearmanr(counts[asked], of.labels[asked])[0] for counts in of.counts.values()]
            share = np.median(predictor.beyond.shares(predictor.beyond.places(features)))
            rows.append([name, what, *(f"{value:.3f}" for value in right), f"{share:.2f}"])
    header = ["benchmark", "trained on; asked about", "netgraft", "its heads alone", "its size alone", *of.counts]
    table("A kind of network held out: Spearman", [*header, "the heads' share, median"], rows)


def kinds_of(of: Bench, once: Ints) -> dict[str, tuple[Floats, Floats]]:
    """Which of some networks are trained on and which are asked about, for kinds that differ."""
    work = of.counts["FLOPs"][once]
    low, high = np.quantile(work, [1 / 3, 2 / 3])
    found = {
        "lowest third of FLOPs; highest": (work < low, work > high),
        "highest third of FLOPs; lowest": (work > high, work < low),
    }
    if of.name == "nasbench201":
        ops = np.array([operations(of.archs[i]) for i in once])
        skip, one, three, pool = ((ops == op).sum(1) for op in OPERATIONS if op != "none")
        return found | {
            "at most one 3x3 convolution; three or more": (three <= 1, three >= 3),
            "two or more 3x3 convolutions; none": (three >= 2, three == 0),
            "no pooling; three or more": (pool == 0, pool >= 3),
            "no 1x1 convolution; three or more": (one == 0, one >= 3),
            "no skip; two or more": (skip == 0, skip >= 2),
        }
    blocks = np.array([list(of.archs[i]) for i in once])
    none, wide = (blocks == "0").sum(1), (blocks == "2").sum(1)
    return found | {
        "at most one 5x5 block; five or more": (wide <= 1, wide >= 5),
        "at most one identity; four or more": (none <= 1, none >= 4),
        "three identities or more; at most one": (none >= 3, none <= 1),
    }


def choice(options: argparse.Namespace) -> None:
    """The best of 200 replacements, and the ranks of all that were not trained on.

    Half of the functions are trained on. A network is a cell; what replaces it are cells that share two of its six
    edges (so a region of up to four edges changes), of functions not trained on, 200 of them at random. The truth is
    the benchmark's label of the cell that results: in a network, all of its cells are replaced.
    """
    of = bench("nasbench201", options.data, options.cache)
    ops = np.array([[OPERATIONS.index(op) for op in operations(arch)] for arch in of.archs])
    results: dict[str, list[tuple[float, float, float]]] = {}
    ranks: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        rows, asked = of.split(seed, HALVES)[:2]
        rng = np.random.default_rng(seed)
        said = {
            method: of.kept(key_of(method, "half", seed), partial(work, rows, asked, seed))
            for method, work in methods(of, seed < options.baselines).items()
        }
        said["random"] = rng.random(len(asked))
        once = by_kind(of, asked, of.labels[asked])
        for method, values in said.items():
            ranks.setdefault(method, []).append(spearmanr(by_kind(of, asked, values), once)[0])
        cases = 0
        while cases < 40:
            base, kept = rng.integers(len(ops)), rng.choice(6, 2, replace=False)
            like = np.flatnonzero((ops[asked][:, kept] == ops[base, kept]).all(1))
            if len(like) < 200:
                continue
            cases += 1
            like = rng.choice(like, 200, replace=False)
            truth = of.labels[asked[like]]
            best = set(np.argsort(-truth, kind="stable")[:20].tolist())
            for method, values in said.items():
                order = np.argsort(-values[like], kind="stable")
                hit = len(best & set(order[:20].tolist())) / 20
                regret = truth.max() - truth[order[0]], truth.max() - truth[order[:20]].max()
                results.setdefault(method, []).append((hit, *regret))
    shown = ["precision at 10 %", "regret of the first, points", "regret of the best of 20"]
    header = ["method", "cases", "Spearman, each function of the tested half once", *shown]
    rows_of = (
        [
            method,
            len(got),
            spread(ranks[method]),
            *(f"{np.mean(c):.3f} (median {np.median(c):.3f})" for c in zip(*got, strict=True)),
        ]
        for method, got in results.items()
    )
    table("The best decile of 200 replacements", header, rows_of)


def cuts(options: argparse.Namespace) -> None:
    """One network cut in many places; and how often the truth is within the stated bounds."""
    of = bench("nasbench201", options.data, options.cache)
    rows, asked = of.split(0, HALVES)[:2]
    predictor = trained(drawn(), of.features[rows], ["g"] * len(rows), of.labels[rows], 0)
    rng = np.random.default_rng(0)
    some = rng.choice(asked, 20, replace=False)
    ranges = []
    for i in some:
        graph = families.nasbench201(of.archs[i])
        said = []
        for _ in range(25):
            start, size = rng.integers(len(graph)), rng.integers(1, 20)
            region = Region.of(node.id for node in graph.nodes[start : start + size])
            said.append(predictor.region(graph, region).unchanged().mean[0])
        ranges.append(np.ptp(said))
    found = [["netgraft", f"{np.mean(ranges):.1e}", f"{np.max(ranges):.1e}", "whole networks"]]
    all_cuts = of.kept(key_of("PSC as published", "half", 0), lambda: psc(of, True, rows, asked, 0), whole=True)
    wide = np.ptp(all_cuts, 0)
    found.append(["PSC as published", f"{wide.mean():.2f}", f"{wide.max():.2f}", "single cells"])
    header = ["method", "range over 25 cuts, mean", "greatest", "of"]
    table("One unchanged network cut in many places (units: standard deviations of the labels)", header, found)
    got = []
    for seed in range(min(2, options.seeds)):
        rows, _, asked = of.split(seed)
        predictor = trained(drawn(), of.features[rows], ["g"] * len(rows), of.labels[rows], seed)
        estimates = predictor.estimate(of.features[asked])
        ordered = np.sort(of.labels[rows])
        truth = norm.ppf((np.searchsorted(ordered, of.labels[asked]) + 0.5) / (len(ordered) + 1))
        off = np.abs(truth - estimates.mean)
        errors, wrong = off / estimates.deviation, spearmanr(off, estimates.deviation)[0]
        got.append(((errors <= 1).mean(), (errors <= 2).mean(), estimates.deviation.mean(), wrong))
    header = ["within 1 deviation", "within 2", "mean deviation", "rank correlation of error and deviation"]
    table(
        "How often the truth is within the stated deviation (normal: 0.683, 0.954)",
        header,
        [[spread(c) for c in zip(*got, strict=True)]],
    )


def speed(options: argparse.Namespace) -> None:
    """Replacements a second for the network of 304 nodes, one core, processor time."""
    predictor = load()
    graph = families.nasbench201(BEST)
    rng = np.random.default_rng(0)
    window = [node.id for node in graph if node.id.startswith("stage1.cell2.")]
    region = Region.of(window[3:6])  # relu, convolution, batch norm
    signature = region.signature(graph)
    segments: list[Graph] = []
    while len(segments) < options.segments:
        other = families.nasbench201(families.nasbench201_cells()[rng.integers(15625)])
        nodes = [node.id for node in other if node.id.startswith("stage1.cell2.")]
        for start, size in product(range(len(nodes)), range(2, 9)):
            part = Region.of(nodes[start : start + size])
            if part.signature(other) == signature and part.is_convex(other):
                segments.append(part.extract(other))
    sizes = [len(segment) for segment in segments]
    gc.freeze()  # the command line looks for garbage rarely, too; here all networks drawn are still in memory
    rows = []
    cut, took = timed(lambda: predictor.region(graph, region))
    rows.append(["P and C of a network met first", "", f"{took * 1e3:.1f} ms"])
    cut, took = timed(lambda: predictor.region(graph, region))
    rows.append(["P and C of another region of it", "", f"{took * 1e3:.2f} ms"])
    for what in ("segments met first", "segments met before", "segments met before, again"):
        said, took = timed(lambda: cut.replacements(segments).mean)
        rows.append([what, f"{len(segments) / took:,.0f} a second", f"{took / len(segments) * 1e6:.1f} us each"])
    alone, took = timed(lambda: np.array([cut.replacements([segment]).mean[0] for segment in segments[:300]]))
    rows.append(
        ["one by one", f"{300 / took:,.0f} a second", f"greatest difference {np.abs(alone - said[:300]).max():.1e}"]
    )
    long = f"{min(sizes)} to {max(sizes)} nodes (mean {np.mean(sizes):.1f})"
    kinds = len({segment.digest for segment in segments})
    title = f"Scoring {len(segments):,} segments ({kinds} different) of {long} in a network of {len(graph)}"
    table(title, ["", "speed", "time"], rows)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the processor time that it took."""
    start = time.process_time()
    return work(), time.process_time() - start


TABLES = {
    "accuracy": accuracy,
    "few": few,
    "macro": lambda options: accuracy(options, "nasbench_macro"),
    "transfer": transfer,
    "apart": apart,
    "choice": choice,
    "cuts": cuts,
    "speed": speed,
}


def _version(*contents: bytes) -> str:
    """Names how what is compared is trained, by what it is made of: results of others are not taken from the cache."""
    return sha256(b"".join(contents)).hexdigest()[:8]


def _source(module: Any) -> bytes:
    return Path(module.__file__).read_bytes()


VERSIONS = {
    "netgraft": _version(drawn().node.tobytes(), drawn().turn.tobytes(), _source(heads), _source(beyond)),
    **dict.fromkeys(("FLOPs", "parameters"), ""),
}
PUBLISHED = _version(_source(published))


def key_of(method: str, *what: object) -> str:
    """What a result of a method is kept under."""
    return " ".join(map(str, (VERSIONS.get(method, PUBLISHED), method, *what)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="which tables (default: all)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("build/predictor"))
    parser.add_argument("--also", type=Path, help="a CSV file of other scores")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baselines", type=int, default=5, help="seeds for which AutoGO's predictor is trained")
    parser.add_argument("--segments", type=int, default=1000, help="how many are scored for speed")
    chosen = parser.parse_args()
    for wanted in chosen.tables or TABLES:
        TABLES[wanted](chosen)
