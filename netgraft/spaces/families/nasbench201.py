"""NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326): cells of four nodes and six edges, each with one of five
operations.

Two networks are made of a cell. :func:`nasbench201` is the one whose graphs GENNAPE and AutoGO publish: the residual
blocks between the stages have no batch norm, average pooling has one, and nothing follows the last cell.
:func:`nasbench201_benchmark` is the one that the benchmark trained and counted (section 2.2, and its released code).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from math import gcd

import numpy as np

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .family import Family
from .layers import Network

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What an edge can hold, in the benchmark's order."""

WIDTHS = (16, 32, 64)
CELLS = 5

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Source and target of the six edges, in the order of an arch string."""

_ARCH = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")
_SHUFFLED = 88
_EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"

Expansion = Callable[[Network, str, Value], Value]


def nasbench201(arch: str) -> Graph:
    """The network of a cell as GENNAPE builds it, from its string ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

    An edge that is ``none`` adds nothing and is left out; a node that nothing else enters is zero, written as its input
    times 0. What then does not reach the cell's output is left out too. GENNAPE itself has only cells without ``none``.
    SourceError for a string that is no cell.
    """
    ops = operations(arch)
    net = Network(eps=1e-3, momentum=0.01)
    x = net.norm("stem.bn", net.conv("stem.conv", net.image, WIDTHS[0], 3))
    for stage, width in enumerate(WIDTHS):
        if stage:
            x = _reduction(net, f"reduce{stage}", x, width)
        for number in range(CELLS):
            x = cell(net, f"stage{stage}.cell{number}", x, ops, _EXPANSIONS)
    return net.classify(x, identity=True)


def nasbench201_benchmark(arch: str) -> Graph:
    """The network of a cell as the benchmark trained it for CIFAR-10; ``none`` as in :func:`nasbench201`.

    The multiply-accumulates and parameters that the benchmark publishes are this network's, but count what does not
    reach the output as well.
    """
    ops = operations(arch)
    net = Network(eps=1e-5, momentum=0.1)
    x = net.norm("stem.bn", net.conv("stem.conv", net.image, WIDTHS[0], 3))
    for stage, width in enumerate(WIDTHS):
        if stage:
            x = residual_reduction(net, f"reduce{stage}", x, width)
        for number in range(CELLS):
            x = cell(net, f"stage{stage}.cell{number}", x, ops, _EXPANSIONS | {"avg_pool_3x3": _average})
    x = net.add("last.relu", "relu", net.norm("last.bn", x))
    return net.classify(x, identity=False)


def nasbench201_cells() -> tuple[str, ...]:
    """All 15,625 cells as strings; the position is the architecture's index in the benchmark."""
    cells = [arch_of(ops) for ops in product(OPERATIONS, repeat=len(EDGES))]
    # The benchmark's authors shuffled them so, with Python's generator; their first cell is |avg_pool_3x3~0|+...
    random.Random(_SHUFFLED).shuffle(cells)
    return tuple(cells)


def draw(rng: np.random.Generator) -> str:
    """A cell without ``none``: six independent uniform draws over the other four operations."""
    return arch_of([OPERATIONS[1:][i] for i in rng.integers(4, size=len(EDGES))])


def operations(arch: str) -> tuple[str, ...]:
    """The operations of a cell's six edges, in the order of its string; SourceError where it is none."""
    match = _ARCH.fullmatch(arch)
    if not match:
        raise SourceError(f"{arch!r} is no cell of NAS-Bench-201; write it like {_EXAMPLE}")
    for op in match.groups():
        if op not in OPERATIONS:
            raise SourceError(f"NAS-Bench-201 has no operation {op!r}; it has: {', '.join(OPERATIONS)}")
    return match.groups()


def pruned(arch: str) -> str:
    """The cell with ``none`` for the edges that do not lead to its output: its graph is the same."""
    ops = dict(zip(EDGES, operations(arch), strict=True))
    reached = {3}
    for source, target in sorted(ops, key=lambda edge: -edge[1]):
        if target in reached and ops[source, target] != "none":
            reached.add(source)
    return arch_of([op if target in reached else "none" for (_, target), op in ops.items()])


def function(arch: str) -> str:
    """A text that cells have in common which compute the same in the benchmark's own network; SourceError for no cell.

    Nothing that is zero is added; skips and the order of sums do not show; an average of a sum is the sum of averages;
    a convolution brings its batch norm, so that a multiple of its input changes nothing, and one of zero is a constant.
    Labels of such cells differ by chance alone: they belong on one side of a split. The 15,625 cells are 4,610
    functions (fewer rules make more: with zeros, skips and the order of sums alone there are 5,545).
    """
    ops = operations(arch)
    values: list[tuple[str, ...]] = [("x",)]
    for node in range(1, 4):
        terms: list[str] = []
        for op, (source, target) in zip(ops, EDGES, strict=True):
            if target == node and op != "none":
                terms += _terms(op, values[source])
        # Constants, which training chooses, add up to one.
        values.append(tuple(sorted(term for term in terms if term != "1") + ["1"] * ("1" in terms)))
    return " + ".join(values[3])


def _terms(op: str, read: tuple[str, ...]) -> list[str]:
    """What an operation makes of a sum, as a sum; "1" is a constant."""
    if op == "skip_connect":
        return list(read)
    if op == "avg_pool_3x3":
        return [term if term == "1" else f"avg({term})" for term in read]
    if not read:
        return ["1"]
    counts = Counter(read)
    common = gcd(*counts.values())
    kernel = op.removeprefix("nor_conv_")
    return [f"conv{kernel}({' + '.join(term for term in sorted(counts) for _ in range(counts[term] // common))})"]


def arch_of(ops: Sequence[str]) -> str:
    """The string of a cell with these operations on its six edges."""
    a, b, c, d, e, f = ops
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def cell(net: Network, at: str, x: Value, ops: Sequence[str], expansions: Mapping[str, Expansion]) -> Value:
    """A cell on ``x``: what its edges do is looked up in ``expansions``, what does not reach its output is left out."""
    edges = [(slot, source, target) for slot, (source, target) in enumerate(EDGES) if ops[slot] != "none"]
    read = {3}
    for _, source, target in sorted(edges, key=lambda edge: -edge[2]):
        if target in read:
            read.add(source)
    nodes = {0: x}
    for node in sorted(read - {0}):
        entering = ((slot, source) for slot, source, target in edges if target == node)
        terms = [expansions[ops[slot]](net, f"{at}.o{slot + 1}", nodes[source]) for slot, source in entering]
        if node == 3:
            terms.reverse()  # the order in which the published graphs sum
        sum_at = f"{at}.n{node}"
        nodes[node] = net.total(sum_at, *terms) if terms else net.add(sum_at, "mul_scalar", x, value=0.0)
    return nodes[3]


def _convolution(net: Network, at: str, x: Value, kernel: int) -> Value:
    x = net.add(f"{at}.relu", "relu", x)
    return net.unit(at, x, net.channels(x), kernel)


def _average(net: Network, at: str, x: Value) -> Value:
    return net.pool(f"{at}.pool", "avg_pool2d", x)


def _normed_average(net: Network, at: str, x: Value) -> Value:
    return net.norm(f"{at}.bn", _average(net, at, x))


def _skip(net: Network, at: str, x: Value) -> Value:
    return net.add(f"{at}.identity", "identity", x)


_EXPANSIONS: dict[str, Expansion] = {
    "skip_connect": _skip,
    "nor_conv_1x1": partial(_convolution, kernel=1),
    "nor_conv_3x3": partial(_convolution, kernel=3),
    "avg_pool_3x3": _normed_average,
}


def _reduction(net: Network, at: str, x: Value, width: int) -> Value:
    main = net.add(f"{at}.relu1", "relu", net.conv(f"{at}.conv1", x, net.channels(x), 3))
    main = net.conv(f"{at}.conv2", main, width, 3, 2)
    short = net.conv(f"{at}.short", net.pool(f"{at}.pool", "avg_pool2d", x, 3, 2), width, 1)
    return net.add(f"{at}.relu2", "relu", net.total(f"{at}.add", main, short))


def residual_reduction(net: Network, at: str, x: Value, width: int) -> Value:
    """The benchmark's residual block that halves the map."""
    main = net.unit(f"{at}.a", net.add(f"{at}.a.relu", "relu", x), width, 3, 2)
    main = net.unit(f"{at}.b", net.add(f"{at}.b.relu", "relu", main), width, 3)
    short = net.conv(f"{at}.short", net.pool(f"{at}.pool", "avg_pool2d", x, 2, 2), width, 1)
    return net.total(f"{at}.add", short, main)


_PAPER = "Dong and Yang, ICLR 2020, arXiv:2001.00326"
_DRAWN = (len(OPERATIONS) - 1) ** len(EDGES)

FAMILY = Family("nasbench201", _PAPER, draw, nasbench201, size=_DRAWN, members=nasbench201_cells)
BENCHMARK = Family("nasbench201_benchmark", _PAPER, draw, nasbench201_benchmark, size=_DRAWN, members=nasbench201_cells)
