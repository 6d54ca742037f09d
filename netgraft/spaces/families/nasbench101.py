"""NAS-Bench-101 (Ying et al., ICML 2019, arXiv:1902.09635): cells that are directed graphs of up to seven vertices."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5

import numpy as np
import numpy.typing as npt

from netgraft.errors import SourceError
from netgraft.ir import Graph, Value

from .family import Family
from .layers import Network

OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")
"""What a vertex can be."""

WIDTHS = (128, 256, 512)
CELLS = 3
_VERTICES, _EDGES = 7, 9
_EXAMPLE = "0-1,0-2,1-3,2-3;conv3x3,maxpool3x3"

Matrix = npt.NDArray[np.bool_]


def nasbench101(matrix: npt.ArrayLike, ops: Sequence[str]) -> Graph:
    """The network of a cell: ``matrix[i, j]`` where vertex ``i`` feeds ``j``, and what the vertices are.

    The first vertex is the cell's input and the last its output; ``ops`` are those between them, or all with "input"
    and "output", and may have the benchmark's ending ``-bn-relu``. Vertices that lead nowhere are left out. SourceError
    for what is no cell. Where a wider output is cut, there is a slice.
    """
    return _build(*_pruned(*_checked(matrix, ops)))


def _checked(matrix: npt.ArrayLike, ops: Sequence[str]) -> tuple[Matrix, tuple[str, ...]]:
    edges = np.asarray(matrix).astype(bool)
    names = tuple(op.removesuffix("-bn-relu") for op in ops)
    if names[:1] == ("input",) and names[-1:] == ("output",):
        names = names[1:-1]
    for name in names:
        if name not in OPERATIONS:
            raise SourceError(f"NAS-Bench-101 has no operation {name!r}; it has: {', '.join(OPERATIONS)}")
    if edges.shape != (len(names) + 2,) * 2 or np.tril(edges).any():
        raise SourceError(
            f"a cell of {len(names)} vertices needs an upper triangular {len(names) + 2}x{len(names) + 2} matrix"
        )
    return edges, names


def _pruned(matrix: Matrix, ops: tuple[str, ...]) -> tuple[Matrix, tuple[str, ...]]:
    """Without the vertices that do not lie on a way from the input to the output."""
    if (kept := _connected(matrix)) is None:
        raise SourceError("in this cell of NAS-Bench-101 no way leads from the input to the output")
    matrix, ops = matrix[np.ix_(kept, kept)], tuple(ops[vertex - 1] for vertex in kept[1:-1])
    if len(kept) > _VERTICES or matrix.sum() > _EDGES:
        most = f"at most {_VERTICES} vertices and {_EDGES} edges"
        raise SourceError(f"a cell of NAS-Bench-101 has {most}, not {len(kept)} and {matrix.sum()}")
    return matrix, ops


def _connected(matrix: Matrix) -> list[int] | None:
    """The vertices between input and output, both included; None where they are not connected."""
    count = len(matrix)
    forward, backward = {0}, {count - 1}
    for vertex in range(1, count):
        if any(matrix[other, vertex] for other in forward):
            forward.add(vertex)
    for vertex in range(count - 2, -1, -1):
        if any(matrix[vertex, other] for other in backward):
            backward.add(vertex)
    kept = sorted(forward & backward)
    return kept if len(kept) > 1 else None


def _build(matrix: Matrix, ops: tuple[str, ...]) -> Graph:
    net = Network(eps=1e-5, momentum=0.003)
    x = net.unit("stem", net.image, WIDTHS[0], 3, 1, "relu")
    for stack, width in enumerate(WIDTHS):
        if stack:
            x = net.pool(f"pool{stack}", "max_pool2d", x, 2, 2)
        for cell in range(CELLS):
            x = _cell(net, f"stack{stack}.cell{cell}", x, matrix, ops, width)
    return net.classify(x, identity=False)


def _cell(net: Network, at: str, x: Value, matrix: Matrix, ops: tuple[str, ...], width: int) -> Value:
    last = len(matrix) - 1
    widths = _widths(matrix, width)
    vertices: dict[int, Value] = {}
    for vertex in range(1, last):
        here, channels = f"{at}.v{vertex}", widths[vertex]
        terms = [
            _cut(net, f"{here}.cut{source}", vertices[source], channels)
            for source in range(1, vertex)
            if matrix[source, vertex]
        ]
        if matrix[0, vertex]:
            terms.append(net.unit(f"{here}.project", x, channels, 1, 1, "relu"))
        y = terms[0] if len(terms) == 1 else net.add(f"{here}.add", "add", *terms)
        op = ops[vertex - 1]
        if op == "maxpool3x3":
            vertices[vertex] = net.pool(f"{here}.pool", "max_pool2d", y)
        else:
            vertices[vertex] = net.unit(here, y, channels, int(op[-1]), 1, "relu")
    ends = [vertices[vertex] for vertex in range(1, last) if matrix[vertex, last]]
    if not matrix[0, last]:
        return net.concat(f"{at}.concat", ends)
    project = net.unit(f"{at}.project", x, width, 1, 1, "relu")
    return net.total(f"{at}.add", net.concat(f"{at}.concat", ends), project) if ends else project


def _cut(net: Network, at: str, x: Value, channels: int) -> Value:
    return x if net.channels(x) == channels else net.add(at, "slice", x, dim=1, start=0, stop=channels)


def _widths(matrix: Matrix, width: int) -> dict[int, int]:
    """Channels of the vertices between input and output."""
    last = len(matrix) - 1
    ends = [vertex for vertex in range(1, last) if matrix[vertex, last]]
    widths = {vertex: width // len(ends) + (number < width % len(ends)) for number, vertex in enumerate(ends)}
    for vertex in range(last - 1, 0, -1):
        if vertex not in widths:
            widths[vertex] = max(widths[after] for after in range(vertex + 1, last) if matrix[vertex, after])
    return widths


def draw(rng: np.random.Generator) -> str:
    """Every edge of seven vertices with probability one half, uniform operations; drawn again where that is no cell."""
    while True:
        matrix = np.triu(rng.random((_VERTICES, _VERTICES)) < 0.5, 1)
        ops = tuple(OPERATIONS[i] for i in rng.integers(len(OPERATIONS), size=_VERTICES - 2))
        try:
            return _text(*_pruned(matrix, ops))
        except SourceError:
            continue


def _text(matrix: Matrix, ops: tuple[str, ...]) -> str:
    return ",".join(f"{i}-{j}" for i, j in np.argwhere(matrix).tolist()) + ";" + ",".join(ops)


def _parse(arch: str) -> tuple[Matrix, tuple[str, ...]]:
    edges, _, names = arch.partition(";")
    ops = tuple(names.split(",")) if names else ()
    matrix = np.zeros((len(ops) + 2, len(ops) + 2), bool)
    try:
        for edge in edges.split(","):
            source, target = map(int, edge.split("-"))
            if not 0 <= source < target:
                raise ValueError
            matrix[source, target] = True
    except (ValueError, IndexError):
        raise SourceError(f"{arch!r} is no cell of NAS-Bench-101; write edges and operations like {_EXAMPLE}") from None
    return matrix, ops


def parse(arch: str) -> Graph:
    """The network of a text like ``0-1,0-2,1-3,2-3;conv3x3,maxpool3x3``: edges, then the vertices between the ends."""
    return nasbench101(*_parse(arch))


def _key(arch: str) -> str:
    """Equal for isomorphic cells: the benchmark's iterated hash of the vertices' neighbourhoods."""
    matrix, ops = _parse(arch)
    count = len(matrix)
    labels = ["input", *ops, "output"]
    hashes = [_md5(f"{matrix[v].sum()},{matrix[:, v].sum()},{labels[v]}") for v in range(count)]
    for _ in range(count):
        hashes = [
            _md5(
                "".join(sorted(hashes[w] for w in range(count) if matrix[w, v]))
                + "|"
                + "".join(sorted(hashes[w] for w in range(count) if matrix[v, w]))
                + "|"
                + hashes[v]
            )
            for v in range(count)
        ]
    return _md5(",".join(sorted(hashes)))


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


FAMILY = Family("nasbench101", "Ying et al., ICML 2019, arXiv:1902.09635", draw, parse, _key)
