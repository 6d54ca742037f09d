"""The cells of NAS-Bench-201, NATS-Bench's topology space: which are equal, and what is counted of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from netgraft.ir import Graph
from netgraft.spaces.families.nasbench201 import (
    BENCHMARK,
    CELLS,
    EDGES,
    FAMILY,
    OPERATIONS,
    WIDTHS,
    arch_of,
    function,
    nasbench201_cells,
    operations,
)

from .benchmark import Space
from .choices import Choices
from .labels import Training


def candidates(graph: Graph) -> Iterator[str]:
    """Cells whose networks hold as many operations of each kind as ``graph``, one for each way to wire them."""
    yield from _by_counts().get(_counts(graph), ())


_Counts = tuple[int, ...]


def _counts(graph: Graph) -> _Counts | None:
    """Convolutions of both kernels, means, sums and zeros of each cell; None for what is no network of cells."""
    found: Counter[str] = Counter(
        f"conv{node.attrs['kernel'][0]}" if node.op == "conv2d" else node.op for node in graph
    )
    cells, reductions = CELLS * len(WIDTHS), len(WIDTHS) - 1
    # What is outside of the cells: the stem and, in each reduction, two convolutions, a shortcut's, its mean and a sum.
    rest = {"conv3": 1 + 2 * reductions, "conv1": reductions, "avg_pool2d": reductions, "add": reductions}
    counts = [found[op] - rest.get(op, 0) for op in ("conv1", "conv3", "avg_pool2d", "add", "mul_scalar")]
    if any(count < 0 or count % cells for count in counts):
        return None
    return tuple(count // cells for count in counts)


@lru_cache(maxsize=1)
def _by_counts() -> dict[_Counts | None, list[str]]:
    found: dict[_Counts | None, dict[str, str]] = defaultdict(dict)
    for arch in nasbench201_cells():
        counts, wiring = _wiring(arch)
        found[counts].setdefault(wiring, arch)
    return {counts: list(archs.values()) for counts, archs in found.items()}


def _wiring(arch: str) -> tuple[_Counts, str]:
    """How many operations of each kind reach a cell's output, and the expression that they make, skips included."""
    ops = operations(arch)
    edges = [(source, target, op) for (source, target), op in zip(EDGES, ops, strict=True) if op != "none"]
    read = {3}
    for source, target, _ in sorted(edges, key=lambda edge: -edge[1]):
        if target in read:
            read.add(source)
    live = [(source, target, op) for source, target, op in edges if target in read]
    kinds = Counter(op for *_, op in live)
    zeros = sum(not any(target == node for _, target, _ in live) for node in read - {0})
    sums: dict[int, Any] = {0: "x"}
    for node in sorted(read - {0}):
        sums[node] = sorted(((op, sums[source]) for source, target, op in live if target == node), key=repr)
    adds = len(live) + zeros - len(read - {0})
    counts = tuple(kinds[op] for op in ("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"))
    return (*counts, adds, zeros), repr(sums[3])


# What the benchmark counts: all operations of a cell, whether or not their result is used. A convolution of a cell
# costs the same at all three widths, because halving the map doubles the channels.
_COPIES: Final = CELLS
_CONV: Final = {
    f"nor_conv_{k}x{k}": (
        len(WIDTHS) * _COPIES * k * k * 16 * 16 * 32 * 32,
        _COPIES * sum(k * k * width * width + 2 * width for width in WIDTHS),
    )
    for k in (1, 3)
}
_OUTSIDE: Final = (7_783_050, 73_306)


def _topology_counts(arch: str) -> Mapping[str, float]:
    found = [_CONV[op] for op in operations(arch) if op in _CONV]
    return {
        "macs": _OUTSIDE[0] + sum(macs for macs, _ in found),
        "parameters": _OUTSIDE[1] + sum(count for _, count in found),
    }


class _Times(NamedTuple):
    """Seconds of one epoch of training, and of one pass over the validation split."""

    epoch: float
    judging: float


# From the benchmark's own records of its architectures 0 and 11, the two at hand.
_RECORDED: Final = (15_647_370, 113_951_370)
_TIMES: Final = {
    "cifar10": (_Times(7.221093, 2.548979), _Times(12.462057, 4.151252)),
    "cifar100": (_Times(14.442186, 0.509796), _Times(24.924114, 0.830250)),
    "imagenet16-120": (_Times(43.817592, 0.305878), _Times(75.619761, 0.498150)),
}


def topology_clock(arch: str, training: Training) -> float | None:
    """An estimate of the time that the benchmark gives, for searches (validation): on the line through the times of the
    two architectures whose official records were at hand, by multiply-accumulates. Nothing else was checked against it.
    """
    if training.dataset not in _TIMES or training.split != "valid":
        return None
    few, many = _TIMES[training.dataset]
    share = (_topology_counts(arch)["macs"] - _RECORDED[0]) / (_RECORDED[1] - _RECORDED[0])
    epoch, judging = ((1 - share) * a + share * b for a, b in zip(few, many, strict=True))
    return training.epochs * epoch + judging


TOPOLOGY: Final = Space(
    name="nats-tss",
    about="cells of NAS-Bench-201: NATS-Bench's topology space, and HW-NAS-Bench's and HELP's first",
    choices=Choices(
        (OPERATIONS,) * len(EDGES),
        arch_of,
        operations,
    ),
    families=(BENCHMARK, FAMILY),
    candidates=candidates,
    function=function,
    counts=_topology_counts,
    members=nasbench201_cells,
    observed=("valid", 12),
    seconds={"cifar10": 20_000, "cifar100": 40_000, "imagenet16-120": 120_000},
    clock=topology_clock,
)
