"""Cutting graphs into segments by byte-pair encoding.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.1: a node becomes a token of what it is and what stands around it, a
graph the line of its tokens in topological order, and byte-pair encoding finds the runs of nodes that occur often.
Deviations: neighbours in a token are sorted, so that one situation has one token; two pieces are only ever joined where
an edge of the graph joins them, so that every segment is connected; the order follows chains to their end; an entry is
the pair it was merged from, not its text; a token that a vocabulary does not know is taken for the nearest it knows.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from sys import intern
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from netgraft.ir import Graph, Node, Region
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

LONGEST = 16
"""Most nodes of a piece, a region or a segment: as long as AutoGO's longest."""

UNKNOWN = -1
"""The entry of a node whose operation a vocabulary does not know."""


def order(graph: Graph) -> tuple[Node, ...]:
    """The nodes in a topological order that follows each chain to its end before it starts another.

    Of several chains that begin at one node, that with the first token in alphabetical order goes first, so that how
    the graph happens to be written does not matter where tokens tell the chains apart.
    """
    return _order(graph, _readers(graph), tokens(graph))


def tokens(graph: Graph) -> dict[str, str]:
    """The token of every node by id: ``conv2d3x3(relu)(batch_norm)`` is a 3x3 convolution that reads a ReLU and is read
    by a batch norm. Neighbours are sorted; ``input`` and ``output`` stand for the ends of the graph.
    """
    readers = _readers(graph)
    ops = {given.id: "input" for given in graph.inputs} | {node.id: node.op for node in graph}
    returned = Counter(value.node for value in graph.outputs)
    result = {}
    for node in graph:
        before = sorted([ops[v.node] for v in node.inputs])
        after = sorted([reader.op for reader in readers[node.id]] + ["output"] * returned[node.id])
        kernel = "x".join(map(str, node.attrs["kernel"])) if node.op in CONVOLUTIONS | TRANSPOSED else ""
        result[node.id] = intern(f"{node.op}{kernel}({' '.join(before)})({' '.join(after)})")
    return result


def _readers(graph: Graph) -> dict[str, list[Node]]:
    """For every node, and every input, the nodes that read any of its outputs, once each."""
    readers: dict[str, list[Node]] = {id: [] for id in (*(i.id for i in graph.inputs), *(n.id for n in graph))}
    for node in graph:
        for id in {v.node: None for v in node.inputs}:
            readers[id].append(node)
    return readers


def _order(graph: Graph, readers: dict[str, list[Node]], names: dict[str, str]) -> tuple[Node, ...]:
    given = {i.id for i in graph.inputs}
    waiting = {node.id: len({v.node for v in node.inputs} - given) for node in graph}
    stack = sorted((node for node in graph if not waiting[node.id]), key=lambda n: names[n.id])[::-1]
    ordered: list[Node] = []
    while stack:
        node = stack.pop()
        ordered.append(node)
        ready = []
        for reader in readers[node.id]:
            waiting[reader.id] -= 1
            if not waiting[reader.id]:
                ready.append(reader)
        stack += ready if len(ready) < 2 else sorted(ready, key=lambda n: names[n.id])[::-1]
    return tuple(ordered)


class Line(NamedTuple):
    """A graph as byte-pair encoding sees it: the tokens of its nodes in order, and which of them edges join.

    ``near`` has two bytes for a node: bit ``d - 1`` is set where the node reads the one ``d`` places before it. Edges
    that are longer, and those of frozen nodes, join no piece.
    """

    tokens: tuple[str, ...]
    near: bytes

    @classmethod
    def of(cls, graph: Graph) -> Line:
        """The line of a graph."""
        return in_line(graph)[1]

    @classmethod
    def along(cls, ordered: Sequence[Node], names: dict[str, str]) -> Line:
        """The line of nodes in a given order, whose tokens are ``names``."""
        at: dict[str, int] = {}
        near = array("H")
        for i, node in enumerate(ordered):
            bits = 0
            if node.op != "frozen":
                at[node.id] = i
                for value in node.inputs:
                    distance = i - at.get(value.node, -LONGEST)
                    if distance < LONGEST:
                        bits |= 1 << distance - 1
            near.append(bits)
        return cls(tuple([names[node.id] for node in ordered]), near.tobytes())


def in_line(graph: Graph) -> tuple[tuple[Node, ...], Line]:
    """The graph's nodes in :func:`order`, and its line."""
    names = tokens(graph)
    ordered = _order(graph, _readers(graph), names)
    return ordered, Line.along(ordered, names)


class Piece(NamedTuple):
    """A run of nodes that lie next to each other in a line, joined by edges.

    ``entry`` is its number in the vocabulary, ``start`` and ``stop`` say where it lies, ``parts`` are the two pieces it
    was merged from (none for a single node).
    """

    entry: int
    start: int
    stop: int
    parts: tuple[Piece, ...] = ()


def _joined(near: Sequence[int], start: int, middle: int, stop: int) -> bool:
    """Whether an edge leads from the nodes before ``middle`` to those after it."""
    inside = (1 << middle - start) - 1
    return any(near[i] >> i - middle & inside for i in range(middle, stop))


@dataclass(frozen=True)
class Encoding:
    """A line in the words of a vocabulary, ready to be cut again and again."""

    near: Sequence[int]
    pieces: tuple[Piece, ...]

    def spans(self, rng: np.random.Generator, sparsity: float = 0.5, join: int = 3) -> list[tuple[int, int]]:
        """A cut of the whole line: where each span starts and stops; see :meth:`EncodedGraph.cut`."""
        dropped = set(self._entries[rng.random(len(self._entries)) < sparsity].tolist())
        bounds = [0]
        for piece in self.pieces:
            _split(piece, dropped, bounds)
        wanted = rng.integers(join, size=len(bounds)).tolist()
        spans: list[tuple[int, int]] = []
        at, last = 0, len(bounds) - 1
        while at < last:
            start, end = bounds[at], at + 1
            for _ in range(wanted[at]):
                if end == last or bounds[end + 1] - start > LONGEST:
                    break
                if not _joined(self.near, start, bounds[end], bounds[end + 1]):
                    break
                end += 1
            spans.append((start, bounds[end]))
            at = end
        return spans

    @cached_property
    def _entries(self) -> npt.NDArray[np.int64]:
        """The multi-node entries in use."""
        found: set[int] = set()
        stack = [piece for piece in self.pieces if piece.parts]
        while stack:
            piece = stack.pop()
            found.add(piece.entry)
            stack += [part for part in piece.parts if part.parts]
        return np.array(sorted(found), dtype=np.int64)


@dataclass(frozen=True)
class EncodedGraph:
    """A graph in the words of a vocabulary: ``ids`` are its nodes in order."""

    ids: tuple[str, ...]
    frozen: frozenset[str]
    encoding: Encoding

    def cut(self, rng: np.random.Generator, sparsity: float = 0.5, join: int = 3) -> list[Region]:
        """The graph in disjoint regions, another cut at each call.

        A random share ``sparsity`` of the multi-node entries is left out (a piece left out falls apart into the two it
        was merged from), then up to ``join`` consecutive pieces become one region where edges join them. Every region
        is convex and connected; together they cover every node that is not frozen.
        """
        return [
            Region.of(self.ids[start:stop])
            for start, stop in self.encoding.spans(rng, sparsity, join)
            if self.ids[start] not in self.frozen
        ]


def _split(piece: Piece, dropped: set[int], bounds: list[int]) -> None:
    """Adds where the pieces end into which ``piece`` falls."""
    if piece.parts and piece.entry in dropped:
        for part in piece.parts:
            _split(part, dropped, bounds)
    else:
        bounds.append(piece.stop)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens known, and the merges learnt, most frequent first.

    An entry is a number: that of a token, or ``len(tokens)`` plus that of a merge, which is a pair of earlier entries.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[int, int], ...]

    @classmethod
    def learn(cls, lines: Iterable[Line], size: int) -> Vocabulary:
        """The vocabulary that byte-pair encoding finds in ``lines``: all tokens, and at most ``size`` merges.

        A merge must occur at least twice and hold at most :data:`LONGEST` nodes.
        Deterministic: ties go to the pair of the smaller numbers.
        """
        counted = Counter(lines)
        alphabet = tuple(sorted({token for line in counted for token in line.tokens}))
        return cls(alphabet, tuple(_Learner(alphabet, counted).merges(size))) if alphabet else cls((), ())

    @classmethod
    def union(cls, vocabularies: Iterable[Vocabulary]) -> Vocabulary:
        """All tokens and all merges of several vocabularies, the merges by their rank in turns."""
        all_ = tuple(vocabularies)
        alphabet = tuple(sorted({token for v in all_ for token in v.tokens}))
        number = {token: i for i, token in enumerate(alphabet)}
        entries = [[number[token] for token in v.tokens] for v in all_]
        merges: dict[tuple[int, int], int] = {}
        for row in zip_longest(*(v.merges for v in all_)):
            for known, pair in zip(entries, row, strict=True):
                if pair is not None:
                    merge = known[pair[0]], known[pair[1]]
                    known.append(merges.setdefault(merge, len(alphabet) + len(merges)))
        return cls(alphabet, tuple(merges))

    def encode(self, graph: Graph) -> EncodedGraph:
        """The graph as pieces, each as long as the merges make it, in the graph's :func:`order`.

        An unknown token is taken for that of the same operation (and kernel, if there is one) with the most neighbours
        in common. A node of an unknown operation, and every frozen node, is a piece of its own.
        """
        ordered, line = in_line(graph)
        frozen = frozenset([node.id for node in ordered if node.op == "frozen"])
        return EncodedGraph(tuple([node.id for node in ordered]), frozen, self.encode_line(line))

    def cut(self, graph: Graph, rng: np.random.Generator, sparsity: float = 0.5, join: int = 3) -> list[Region]:
        """One cut of ``graph``: see :meth:`EncodedGraph.cut`. For several, encode once and cut again and again."""
        return self.encode(graph).cut(rng, sparsity, join)

    def encode_line(self, line: Line) -> Encoding:
        """The pieces of a line: the merges in the order in which they were learnt, each from left to right."""
        near = array("H", line.near)
        pieces: list[Piece | None] = [Piece(self._number(token), i, i + 1) for i, token in enumerate(line.tokens)]
        before = list(range(-1, len(pieces) - 1))
        possible: list[tuple[int, int]] = []

        def consider(first: Piece) -> None:
            second = pieces[first.stop] if first.stop < len(pieces) else None
            if second is not None:
                rank = self._ranks.get((first.entry, second.entry))
                if rank is not None and _joined(near, first.start, first.stop, second.stop):
                    heapq.heappush(possible, (rank, first.start))

        for piece in list(pieces):
            assert piece is not None
            consider(piece)
        while possible:
            rank, start = heapq.heappop(possible)
            first = pieces[start]
            second = pieces[first.stop] if first is not None and first.stop < len(pieces) else None
            if first is None or second is None or (first.entry, second.entry) != self.merges[rank]:
                continue  # one of the two has become part of something else
            merged = Piece(len(self.tokens) + rank, start, second.stop, (first, second))
            pieces[start], pieces[second.start] = merged, None
            if merged.stop < len(pieces):
                before[merged.stop] = start
            left = pieces[before[start]] if start else None
            if left is not None:
                consider(left)
            consider(merged)
        return Encoding(near, tuple([piece for piece in pieces if piece is not None]))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """How many nodes each entry holds."""
        lengths = [1] * len(self.tokens)
        for first, second in self.merges:
            lengths.append(lengths[first] + lengths[second])
        return tuple(lengths)

    @cached_property
    def _ranks(self) -> dict[tuple[int, int], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def _number(self, token: str) -> int:
        number = self._numbers.get(token)
        if number is None:
            number = self._numbers[token] = self._nearest(token)
        return number

    def _nearest(self, token: str) -> int:
        op, before, after = _taken_apart(token)
        known = self._by_operation.get(op) or self._by_operation.get(_KERNEL.sub("", op), [])
        shared = [((before & b).total() + (after & a).total(), -number) for number, b, a in known]
        return -max(shared)[1] if shared else UNKNOWN

    @cached_property
    def _by_operation(self) -> dict[str, list[tuple[int, Counter[str], Counter[str]]]]:
        """The tokens' numbers and neighbours, by operation with kernel and by operation alone."""
        found: defaultdict[str, list[tuple[int, Counter[str], Counter[str]]]] = defaultdict(list)
        for number, token in enumerate(self.tokens):
            op, before, after = _taken_apart(token)
            for name in {op, _KERNEL.sub("", op)}:
                found[name].append((number, before, after))
        return dict(found)


_KERNEL = re.compile(r"\d+x\d+$")


def _taken_apart(token: str) -> tuple[str, Counter[str], Counter[str]]:
    """Operation with kernel, and the neighbours on both sides."""
    op, _, neighbours = token.partition("(")
    before, _, after = neighbours.partition(")(")
    return op, Counter(before.split()), Counter(after.removesuffix(")").split())


class _Learner:
    """Byte-pair encoding of many lines at once, one after the other in flat arrays; only what a merge touches is
    counted anew.

    Of the piece that starts at a place, ``entry`` says what it is (-1: no piece starts here), ``stop`` where it ends
    and ``before`` where the piece before it starts. Edges never lead from one line to the next, so neither do pieces.
    """

    def __init__(self, alphabet: Sequence[str], lines: Counter[Line]) -> None:
        numbers = {token: i for i, token in enumerate(alphabet)}
        self.entry = np.fromiter((numbers[token] for line in lines for token in line.tokens), np.int32)
        self.near = np.frombuffer(b"".join(line.near for line in lines), np.uint16)
        self.weight = np.repeat(np.fromiter(lines.values(), np.int64), [len(line.tokens) for line in lines])
        self.places = len(self.entry)
        self.stop = np.arange(1, self.places + 1)
        self.before = np.arange(-1, self.places - 1)
        self.next_entry = len(alphabet)
        self.counts: Counter[int] = Counter()
        self.where: defaultdict[int, list[npt.NDArray[np.int64]]] = defaultdict(list)
        self.most: list[tuple[int, int]] = []

    def merges(self, size: int) -> Iterator[tuple[int, int]]:
        """The merges in the order of their frequency, which each of them changes."""
        self._count(np.arange(self.places), +1)
        for _ in range(size):
            while self.most and -self.most[0][0] != self.counts[self.most[0][1]]:
                heapq.heappop(self.most)  # counted anew since
            if not self.most or -self.most[0][0] < 2:
                return
            _, key = heapq.heappop(self.most)
            pair = key >> 32, key & 0xFFFFFFFF
            self._merge(key, *pair)
            yield pair

    def _count(self, starts: npt.NDArray[np.int64], sign: int) -> None:
        """Adds the pairs that start at ``starts`` to the counts, or takes them away."""
        starts, keys = self._pairs(starts)
        if not len(keys):
            return
        by_key = np.argsort(keys, kind="stable")
        starts, keys = starts[by_key], keys[by_key]
        first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        totals = np.add.reduceat(self.weight[starts], first)
        ends = [*first[1:].tolist(), len(keys)]
        for key, total, begin, end in zip(keys[first].tolist(), totals.tolist(), first.tolist(), ends, strict=True):
            self.counts[key] += sign * total
            if sign > 0:
                self.where[key].append(starts[begin:end])
            heapq.heappush(self.most, (-self.counts[key], key))

    def _pairs(self, starts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Those of ``starts`` where two pieces may be joined, and the number of the pair of entries."""
        starts = starts[starts >= 0]
        starts = starts[(self.entry[starts] >= 0) & (self.stop[starts] < self.places)]
        middle = self.stop[starts]
        stop = self.stop[middle]
        fits = stop - starts <= LONGEST
        starts, middle, stop = starts[fits], middle[fits], stop[fits]
        inside = (1 << (middle - starts)) - 1
        joined = np.zeros(len(starts), dtype=bool)
        for i in range(LONGEST - 1):
            place = np.minimum(middle + i, self.places - 1)
            joined |= (middle + i < stop) & ((self.near[place] >> i & inside) != 0)
        starts, middle = starts[joined], middle[joined]
        return starts, self.entry[starts].astype(np.int64) << 32 | self.entry[middle]

    def _merge(self, key: int, first: int, second: int) -> None:
        starts = np.sort(np.concatenate(self.where.pop(key)))
        starts = starts[self.entry[starts] == first]
        starts = starts[self.entry[self.stop[starts]] == second]
        if first == second:
            starts = _alternate(starts, self.stop[starts])
        middle = self.stop[starts]
        stop = self.stop[middle]
        self._count(np.unique(np.concatenate((self.before[starts], starts, middle))), -1)
        self.entry[starts] = self.next_entry
        self.entry[middle] = -1
        self.stop[starts] = stop
        inner = stop < self.places
        self.before[stop[inner]] = starts[inner]
        self._count(np.unique(np.concatenate((self.before[starts], starts))), +1)
        self.next_entry += 1


def _alternate(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of overlapping pairs in a row, as in ``a a a``, every other one from the left."""
    follows = np.concatenate(([False], starts[1:] == stops[:-1]))
    begins = np.flatnonzero(~follows)
    in_row = np.arange(len(starts)) - np.repeat(begins, np.diff(np.append(begins, len(starts))))
    alternate: npt.NDArray[np.int64] = starts[in_row % 2 == 0]
    return alternate
