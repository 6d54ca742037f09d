"""Cutting graphs into segments by byte-pair encoding.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.1: a node becomes a token of what it is and what stands around it, a
graph the string of its tokens in topological order, and byte-pair encoding finds the runs of nodes that occur often.
Deviations: neighbours in a token are sorted, so that one situation has one token; two pieces are only ever joined where
an edge of the graph joins them, so that every segment is connected; the order follows chains to their end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from netgraft.ir import Graph, Node, Region

LONGEST = 16
"""Most nodes of a piece, a region or a segment: as long as AutoGO's longest."""

_FIRST_CHARACTER = 0xE000
"""Tokens become characters from Unicode's private use areas."""
_BMP_PRIVATE, _SUPPLEMENTARY = 6400, 0xF0000


@dataclass(frozen=True)
class Piece:
    """A run of nodes that lie next to each other in a graph's order, joined by edges.

    ``text`` has one character a node, ``parts`` are the two pieces it was merged from (none for a single node).
    """

    text: str
    nodes: tuple[str, ...]
    parts: tuple[Piece, ...] = ()


def order(graph: Graph) -> tuple[Node, ...]:
    """The nodes in a topological order that follows each chain to its end before it starts another."""
    readers = _readers(graph)
    waiting = {node.id: len({v.node for v in node.inputs if v.node in graph}) for node in graph}
    stack = [node for node in reversed(graph.nodes) if not waiting[node.id]]
    ordered: list[Node] = []
    while stack:
        node = stack.pop()
        ordered.append(node)
        for reader in reversed(readers[node.id]):
            waiting[reader.id] -= 1
            if not waiting[reader.id]:
                stack.append(reader)
    return tuple(ordered)


def tokens(graph: Graph) -> dict[str, str]:
    """The token of every node by id: ``conv2d3x3(relu)(batch_norm)`` is a 3x3 convolution that reads a ReLU and is read
    by a batch norm. Neighbours are sorted; ``input`` and ``output`` stand for the ends of the graph.
    """
    readers = _readers(graph)
    returned = Counter(value.node for value in graph.outputs)
    result = {}
    for node in graph:
        before = sorted(graph[v.node].op if v.node in graph else "input" for v in node.inputs)
        after = sorted([reader.op for reader in readers[node.id]] + ["output"] * returned[node.id])
        kernel = "x".join(map(str, node.attrs["kernel"])) if node.op in ("conv2d", "conv_transpose2d") else ""
        result[node.id] = f"{node.op}{kernel}({' '.join(before)})({' '.join(after)})"
    return result


def _readers(graph: Graph) -> dict[str, list[Node]]:
    """For every node those that read any of its outputs, once each."""
    readers: dict[str, list[Node]] = {node.id: [] for node in graph}
    for node in graph:
        for id in dict.fromkeys(v.node for v in node.inputs if v.node in graph):
            readers[id].append(node)
    return readers


@dataclass(frozen=True)
class Vocabulary:
    """The tokens known, one character each in this order, and the merges learnt, most frequent first."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    @classmethod
    def learn(cls, graphs: Iterable[Graph], size: int) -> Vocabulary:
        """The vocabulary of at most ``size`` entries (tokens and merges) that byte-pair encoding finds in ``graphs``.

        A merge must occur at least twice and hold at most :data:`LONGEST` nodes.
        Deterministic: ties go to the pair that comes first in string order.
        """
        graphs = tuple(graphs)
        alphabet = tuple(sorted({token for graph in graphs for token in tokens(graph).values()}))
        vocabulary = cls(alphabet, ())
        lines = [(vocabulary._singles(graph), _edges(graph)) for graph in graphs]
        merges: list[tuple[str, str]] = []
        while len(alphabet) + len(merges) < size:
            pairs = Counter(pair for line, edges in lines for pair in _pairs(line, edges))
            pairs = Counter({pair: n for pair, n in pairs.items() if len("".join(pair)) <= LONGEST})
            if not pairs or max(pairs.values()) < 2:
                break
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            merges.append(best)
            lines = [(_merge(line, best, edges), edges) for line, edges in lines]
        return cls(alphabet, tuple(merges))

    def encode(self, graph: Graph) -> list[Piece]:
        """The graph as pieces, each as long as the merges make it, in the graph's :func:`order`.

        A node whose token is unknown, and every frozen node, is a piece of its own.
        """
        line, edges = self._singles(graph), _edges(graph)
        while True:
            pairs = [pair for pair in _pairs(line, edges) if pair in self._ranks]
            if not pairs:
                return line
            line = _merge(line, min(pairs, key=self._ranks.__getitem__), edges)

    def cut(self, graph: Graph, rng: np.random.Generator, sparsity: float = 0.5, join: int = 3) -> list[Region]:
        """The graph in disjoint regions, another cut at each call.

        A random share ``sparsity`` of the multi-node entries is left out (a piece left out falls apart into the two it
        was merged from), then up to ``join`` consecutive pieces become one region where edges join them. Every region
        is convex and connected; together they cover every node that is not frozen.
        """
        dropped = {a + b for a, b in self.merges if rng.random() < sparsity}
        pieces = [part for piece in self.encode(graph) for part in _split(piece, dropped)]
        edges = _edges(graph)
        regions: list[Region] = []
        at = 0
        while at < len(pieces):
            nodes = pieces[at].nodes
            end = at + 1
            for _ in range(int(rng.integers(join))):
                if end == len(pieces) or len(nodes) + len(pieces[end].nodes) > LONGEST:
                    break
                if not _joined(nodes, pieces[end].nodes, edges):
                    break
                nodes += pieces[end].nodes
                end += 1
            at = end
            if graph[nodes[0]].op != "frozen":
                regions.append(Region.of(nodes))
        return regions

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _characters(self) -> dict[str, str]:
        return {token: _character(i) for i, token in enumerate(self.tokens)}

    def _singles(self, graph: Graph) -> list[Piece]:
        # The replacement character is in no vocabulary, so unknown tokens never merge.
        names = tokens(graph)
        return [Piece(self._characters.get(names[node.id], "\ufffd"), (node.id,)) for node in order(graph)]


def _character(index: int) -> str:
    return chr(_FIRST_CHARACTER + index if index < _BMP_PRIVATE else _SUPPLEMENTARY + index - _BMP_PRIVATE)


def _edges(graph: Graph) -> dict[str, frozenset[str]]:
    """For every node the nodes it reads; frozen nodes take no part."""
    frozen = {node.id for node in graph if node.op == "frozen"}
    return {n.id: frozenset() if n.id in frozen else frozenset(v.node for v in n.inputs) - frozen for n in graph}


def _joined(first: Sequence[str], second: Sequence[str], edges: dict[str, frozenset[str]]) -> bool:
    return any(not edges[node].isdisjoint(first) for node in second)


def _pairs(line: Sequence[Piece], edges: dict[str, frozenset[str]]) -> Iterator[tuple[str, str]]:
    for a, b in pairwise(line):
        if _joined(a.nodes, b.nodes, edges):
            yield a.text, b.text


def _merge(line: Sequence[Piece], pair: tuple[str, str], edges: dict[str, frozenset[str]]) -> list[Piece]:
    """``line`` with every occurrence of ``pair`` made one piece, from left to right."""
    merged: list[Piece] = []
    for piece in line:
        last = merged[-1] if merged else None
        if last and (last.text, piece.text) == pair and _joined(last.nodes, piece.nodes, edges):
            merged[-1] = Piece(last.text + piece.text, last.nodes + piece.nodes, (last, piece))
        else:
            merged.append(piece)
    return merged


def _split(piece: Piece, dropped: set[str]) -> Iterator[Piece]:
    if piece.parts and piece.text in dropped:
        for part in piece.parts:
            yield from _split(part, dropped)
    else:
        yield piece
