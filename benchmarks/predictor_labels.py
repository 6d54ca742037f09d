"""The labels that netgraft's own predictor is trained on, as files that ``netgraft predictor train`` reads.

python benchmarks/predictor_labels.py --data ../shared/data --out build/labels
netgraft predictor train build/labels MORE... --out netgraft/predictor/shipped.predictor

NAS-Bench-201 (CIFAR-10, test accuracy after 200 epochs) as the graphs that AutoGO has of it, and once a function as the
networks that the benchmark trained; NAS-Bench-Macro (CIFAR-10, mean test accuracy of three trainings). Cells of which
one graph is made are one network, with the mean of their labels.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from netgraft.spaces.families.nasbench201 import function, pruned
from netgraft.spaces.families.nasbench_macro import canonical


def labels(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each label with the name of its file."""
    cells = {
        row["arch"]: row["cifar10_test_acc_200ep"]
        for row in pq.read_table(data / "nasbench201" / "accuracy.parquet").to_pylist()
    }
    for family, alike in (("nasbench201", pruned), ("nasbench201_benchmark", function)):
        for arch, score in _means(cells, alike):
            named = {"source": f"family:{family}?arch={arch}"}
            yield "nasbench201", {"group": "nasbench201-cifar10-200-epochs", "score": score} | named
    macro = pq.read_table(data / "nasbench_macro" / "accuracy.parquet").to_pylist()
    for arch, score in _means({row["arch"]: row["mean_acc"] for row in macro}, canonical):
        named = {"source": f"family:nasbench_macro?arch={arch}"}
        yield "nasbench_macro", {"group": "nasbench-macro-cifar10", "score": score} | named


def _means(labels: Mapping[str, float], alike: Callable[[str], str]) -> Iterator[tuple[str, float]]:
    """The first network of each kind, with the mean label of the kind."""
    kinds: dict[str, list[str]] = {}
    for arch in labels:
        kinds.setdefault(alike(arch), []).append(arch)
    for archs in kinds.values():
        yield archs[0], round(sum(labels[arch] for arch in archs) / len(archs), 4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("build/labels"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for name, entry in labels(chosen.data):
        lines.setdefault(name, []).append(json.dumps(entry))
    for name, found in lines.items():
        (chosen.out / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(found).encode(), mtime=0))
        print(f"{chosen.out / name}.jsonl.gz: {len(found):,} labels")
