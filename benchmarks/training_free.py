"""How well training-free scores rank networks that were trained: NAS-Bench-201 and NAS-Bench-Macro.

    python benchmarks/training_free.py ../shared/data --out runs/training-free [--cells 300] [--macro 200] [--seeds 3]

Draws networks among the labelled ones, scores each as it is initialised, on one mini-batch of CIFAR-10 (weights, mini-
batch and scores anew for each seed), and prints Spearman's and Kendall's rank correlation with the accuracy after the
benchmark's own training (NAS-Bench-201: CIFAR-10 test, 200 epochs; Macro: mean of three trainings), beside FLOPs and
parameters, with the deviation over seeds. Networks are the full ones that the benchmarks trained: 16 channels and five
cells a stage for NAS-Bench-201.

Scores are appended to OUT/SPACE.csv (arch, seed, accuracy, flops, parameters, then a column for each score) as they
come: the same command goes on where it was stopped, and all networks are scored with one seed before the next.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.stats import kendalltau, spearmanr

from netgraft.costs.analytic import flops, parameters
from netgraft.data import task as load_data
from netgraft.ir import Graph, untrained
from netgraft.proxies import PROXIES, of_task, proxies
from netgraft.spaces.families import nasbench201_benchmark, nasbench_macro
from netgraft.tasks import Task

SPACES: Mapping[str, tuple[str, str, Callable[[str], Graph]]] = {
    "nasbench201": ("nasbench201/accuracy.parquet", "cifar10_test_acc_200ep", nasbench201_benchmark),
    "nasbench_macro": ("nasbench_macro/accuracy.parquet", "mean_acc", nasbench_macro),
}
COUNTED = ("flops", "parameters")


def drawn(data: Path, space: str, count: int) -> list[tuple[str, float]]:
    """``count`` labelled networks, always the same ones: a longer list begins with the shorter one."""
    file, label, _ = SPACES[space]
    table = pq.read_table(data / file, columns=["arch", label])
    order = np.random.default_rng(0).permutation(table.num_rows)[:count]
    archs, labels = table["arch"].to_pylist(), table[label].to_pylist()
    return [(archs[i], labels[i]) for i in order]


def score(arch: str, graph: Graph, task: Task, batch_size: int, seed: int) -> dict[str, float]:
    """What is counted of a network, and its scores as initialised by ``seed``; NaN for one that it has not."""
    found = proxies(untrained(graph, arch, seed), of_task(task, batch_size, seed), seed=seed)
    return {
        "flops": flops(graph),
        "parameters": parameters(graph),
        **{name: found.get(name, np.nan) for name in PROXIES},
    }


def fill(path: Path, data: Path, space: str, count: int, seed: int, batch_size: int, task: Task) -> None:
    """Scores with one seed what ``path`` does not hold yet."""
    done = {(row["arch"], int(row["seed"])) for row in read(path)} if path.exists() else set()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["arch", "seed", "accuracy", *COUNTED, *PROXIES])
        if not file.tell():
            writer.writeheader()
        for number, (arch, accuracy) in enumerate(drawn(data, space, count), 1):
            if (arch, seed) in done:
                continue
            scores = score(arch, SPACES[space][2](arch), task, batch_size, seed)
            writer.writerow({"arch": arch, "seed": seed, "accuracy": accuracy, **scores})
            file.flush()
            if number % 50 == 0:
                print(f"{space}: seed {seed}, {number} of {count}", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file of scores."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(space: str, rows: Sequence[Mapping[str, str]], batch_size: int) -> None:
    """Prints the table of a space: only seeds that scored as many networks as the first one take part."""
    seeds = sorted({row["seed"] for row in rows}, key=int)
    by_seed = {seed: [row for row in rows if row["seed"] == seed] for seed in seeds}
    whole = {seed: found for seed, found in by_seed.items() if len(found) == len(by_seed[seeds[0]])}
    count = len(by_seed[seeds[0]])
    print(f"\n**{space}**: {count} networks, {len(whole)} seeds, mini-batches of {batch_size}\n")
    print("| score | Spearman | over seeds | Kendall | over seeds | Spearman of the best tenth |")
    print("|---|---|---|---|---|---|")
    for name in (*COUNTED, *PROXIES):
        found = np.array([correlations(rows, name) for rows in whole.values()])
        mean, spread = found.mean(0), found.std(0)
        print(f"| {name} | {mean[0]:.3f} | ±{spread[0]:.3f} | {mean[1]:.3f} | ±{spread[1]:.3f} | {mean[2]:.3f} |")


def correlations(rows: Sequence[Mapping[str, str]], name: str) -> tuple[float, float, float]:
    """Spearman's and Kendall's correlation with the accuracy, and Spearman's among the tenth that is most accurate."""
    accuracy = np.array([float(row["accuracy"]) for row in rows])
    values = np.array([float(row[name]) for row in rows])
    values = np.where(np.isnan(values), -np.inf, values)
    ranks = np.unique(values, return_inverse=True)[1]  # infinite ones are ranked last
    best = accuracy >= np.quantile(accuracy, 0.9)
    return (
        float(spearmanr(ranks, accuracy).statistic),
        float(kendalltau(ranks, accuracy).statistic),
        float(spearmanr(ranks[best], accuracy[best]).statistic),
    )


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with nasbench201, nasbench_macro and cifar10")
    parser.add_argument("--out", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--cells", type=int, default=300, help="networks of NAS-Bench-201")
    parser.add_argument("--macro", type=int, default=200, help="networks of NAS-Bench-Macro")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="examples in a mini-batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    reader = untrained(nasbench_macro("00000000"))
    task = load_data(args.data / "cifar10", reader, subset=2000)
    for seed in range(args.seeds):
        for space, count in (("nasbench201", args.cells), ("nasbench_macro", args.macro)):
            fill(args.out / f"{space}.csv", args.data, space, count, seed, args.batch, task)
    for space in SPACES:
        report(space, read(args.out / f"{space}.csv"), args.batch)


if __name__ == "__main__":
    main()
