"""Mining a bank: reading networks once, learning the vocabulary, cutting, and counting what is the same.

A network is reduced to an :class:`Outline` of a few kilobytes, from which lines, cuts and segments are made, so that
50,000 networks fit into memory. A region is first known by a key of its nodes in order (equal keys, equal segments);
a graph is built, and compared up to isomorphism by its digest, only once for each key.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from netgraft.ir import OPS, Graph, Input, Node, TensorType, Value
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

from .bank import Bank, Segment
from .bpe import Line, Vocabulary, in_line

_LAYERS = CONVOLUTIONS | TRANSPOSED | {"linear"}
_SUBSTANCE = _LAYERS | {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "matmul", "attention"}
_TRAINING = {"batch_norm": "momentum"}
"""Attributes that say how a network was trained, not what it is: segments have the table's default. With the 0.003 of
NAS-Bench-101 a short fine-tuning would never get the running statistics right."""
_BARRED = -1
_MOST_NAMES = 64
"""Networks that a segment names as its provenance."""


def head(graph: Graph) -> frozenset[str]:
    """The nodes that give the network's outputs their meaning: from each output back to the first convolution or linear
    layer, that included.
    """
    found: set[str] = set()
    stack = [value.node for value in graph.outputs]
    while stack:
        id = stack.pop()
        if id in found or id not in graph:
            continue
        found.add(id)
        if graph[id].op not in _LAYERS:
            stack.extend(value.node for value in graph[id].inputs)
    return frozenset(found)


def _quietly(done: int, total: int) -> None:
    pass


class Label(NamedTuple):
    """What a node computes, wherever it stands."""

    op: str
    attrs: tuple[tuple[str, Any], ...]
    weights: tuple[str, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]


class Outline(NamedTuple):
    """What mining needs of a network, in order.

    Values are numbered: first the graph's inputs, then what each node gives. ``labels`` has a number for each node
    (:data:`_BARRED`: in no segment), ``first`` the number of its first value, ``reads`` the values that it reads
    (``reads_end`` says where a node's end), ``last`` where each value is read last. ``twins`` are pairs of nodes that
    share a weight.
    """

    name: int
    line: Line
    labels: array[int]
    first: array[int]
    reads: array[int]
    reads_end: array[int]
    last: array[int]
    twins: tuple[tuple[int, int], ...]


class Quarry:
    """The networks to mine, in outline: ``add`` them, ``learn`` their vocabulary, ``mine`` their segments."""

    def __init__(self) -> None:
        self.outlines: list[Outline] = []
        self._labels: dict[Label, int] = {}
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.outlines)

    @property
    def names(self) -> frozenset[str]:
        """What the networks are called."""
        return frozenset(self._names)

    def add(self, name: str, graph: Graph) -> None:
        """Takes a network in; ``name`` is what its segments will say they come from."""
        ordered, line = in_line(graph)
        apart = head(graph)
        types = graph.types
        numbers = {Value(given.id): i for i, given in enumerate(graph.inputs)}
        last = array("i", [0] * len(numbers))
        labels, first, reads, reads_end = array("i"), array("i"), array("i"), array("i")
        keys: dict[str, list[int]] = {}
        for at, node in enumerate(ordered):
            first.append(len(last))
            for value in node.inputs:
                number = numbers[value]
                reads.append(number)
                last[number] = at
            reads_end.append(len(reads))
            outputs: list[TensorType] = []
            while (value := Value(node.id, len(outputs))) in types:
                numbers[value] = len(last)
                last.append(0)
                outputs.append(types[value])
            if node.op in ("constant", "frozen") or node.id in apart:
                labels.append(_BARRED)
            else:
                label = Label(
                    node.op,
                    _attributes(node),
                    tuple(node.weights),
                    tuple([types[v] for v in node.inputs]),
                    tuple(outputs),
                )
                labels.append(self._labels.setdefault(label, len(self._labels)))
            for key in node.weights.values():
                keys.setdefault(key, []).append(at)
        first.append(len(last))
        for value in graph.outputs:
            last[numbers[value]] = len(ordered)
        twins = tuple((at[0], other) for at in keys.values() for other in at[1:])
        name_ = self._names.setdefault(name, len(self._names))
        self.outlines.append(Outline(name_, line, labels, first, reads, reads_end, last, twins))

    def learn(self, size: int) -> Vocabulary:
        """The vocabulary of these networks, with at most ``size`` merges."""
        return Vocabulary.learn((outline.line for outline in self.outlines), size)

    def mine(
        self,
        vocabulary: Vocabulary,
        cuts: int = 8,
        seed: int = 0,
        at_least: int = 1,
        on_step: Callable[[int, int], None] = _quietly,
    ) -> Bank:
        """The distinct segments of 2 to 16 nodes that ``vocabulary`` finds in the networks.

        Each is cut once with the whole vocabulary and ``cuts`` times at random. Left out: pieces without anything that
        computes (a dropout, a blur or a lone normalisation is nothing to graft), with stored constants or shared
        weights (they mean something only where they come from), those that reach into the network's :func:`head`, and
        those found in fewer than ``at_least`` places. ``on_step(done, total)`` is told of the progress.
        """
        found = self._keys(vocabulary, cuts, seed, on_step)
        found = {key: places for key, places in found.items() if places[0] >= at_least}
        names = list(self._names)
        labels = list(self._labels)
        stable = [_hash(repr(label)) for label in labels]
        segments: dict[str, Segment] = {}
        total = len(self) + len(found)
        for done, (key, (frequency, where)) in enumerate(found.items(), len(self) + 1):
            segment = Segment.named(_build(key, labels, stable), [names[i] for i in where], frequency)
            known = segments.get(segment.digest)
            segments[segment.digest] = segment if known is None else together(known, segment)
            on_step(done, total)
        return Bank.of(segments.values(), vocabulary)

    def _keys(
        self, vocabulary: Vocabulary, cuts: int, seed: int, on_step: Callable[[int, int], None]
    ) -> dict[bytes, tuple[int, list[int]]]:
        """How often each key was found, and in which networks."""
        substance = [label.op in _SUBSTANCE for label in self._labels]
        counts: dict[bytes, int] = {}
        where: dict[bytes, list[int]] = {}
        for number, outline in enumerate(self.outlines):
            rng = np.random.default_rng((seed, number))
            encoding = vocabulary.encode_line(outline.line)
            spans = dict.fromkeys(encoding.spans(rng, sparsity=0, join=1))
            for _ in range(cuts):
                spans.update(dict.fromkeys(encoding.spans(rng)))
            for key in _keys_of(outline, spans, substance):
                counts[key] = counts.get(key, 0) + 1
                names = where.setdefault(key, [])
                if outline.name not in names and len(names) < _MOST_NAMES:
                    names.append(outline.name)
            on_step(number + 1, len(self) + len(counts))
        return {key: (count, where[key]) for key, count in counts.items()}


def _attributes(node: Node) -> tuple[tuple[str, Any], ...]:
    name = _TRAINING.get(node.op)
    attrs = node.attrs if name is None else {**node.attrs, name: node.definition.attrs[name]}
    return tuple(attrs.items())


def _keys_of(outline: Outline, spans: Iterable[tuple[int, int]], substance: Sequence[bool]) -> Iterator[bytes]:
    """The keys of those spans that are worth keeping.

    A key lists the number of nodes, their labels, what each reads and what leaves: values of the span by their number
    in it, others -1, -2, ... in the order in which they are first read.
    """
    labels, first, last = outline.labels.tolist(), outline.first.tolist(), outline.last.tolist()
    reads, reads_end = outline.reads.tolist(), [0, *outline.reads_end.tolist()]
    for start, stop in spans:
        if stop - start < 2:
            continue
        inside = labels[start:stop]
        if min(inside) == _BARRED or not any([substance[label] for label in inside]):
            continue
        if any(start <= a < stop and start <= b < stop for a, b in outline.twins):
            continue
        base, end = first[start], first[stop]
        outer: dict[int, int] = {}
        key = [stop - start, *inside]
        for value in reads[reads_end[start] : reads_end[stop]]:
            key.append(value - base if value >= base else outer.setdefault(value, ~len(outer)))
        key += [value - base for value in range(base, end) if last[value] >= stop]
        yield array("i", key).tobytes()


def _build(key: bytes, labels: Sequence[Label], stable: Sequence[str]) -> Graph:
    """The segment that a key stands for, with its inputs and outputs in an order that depends on their use alone."""
    numbers = array("i", key).tolist()
    count, at = numbers[0], 1 + numbers[0]
    nodes: list[tuple[int, list[int]]] = []
    sources: list[tuple[int, int]] = []
    types: dict[int, TensorType] = {}
    for i, number in enumerate(numbers[1:at]):
        label = labels[number]
        reads = numbers[at : at + len(label.inputs)]
        at += len(reads)
        types |= zip(reads, label.inputs, strict=True)
        nodes.append((number, reads))
        sources += [(i, index) for index in range(len(label.outputs))]
    leaving = numbers[at:]
    assert len(nodes) == count
    colours = _colours(nodes, sources, leaving, labels, stable)
    outer = sorted((v for v in types if v < 0), key=lambda v: (colours[v], ~v))
    values = {v: Value(f"in{i}") for i, v in enumerate(outer)}
    seen: Counter[str] = Counter()
    built = []
    for number, reads in nodes:
        label = labels[number]
        seen[label.op] += 1
        id = label.op if seen[label.op] == 1 else f"{label.op}_{seen[label.op]}"
        roles = {role: f"{id}.{role}" for role in label.weights}
        built.append(Node(id, label.op, tuple([values[v] for v in reads]), dict(label.attrs), roles))
        inner = len(values) - len(outer)
        values |= {inner + index: Value(id, index) for index in range(len(label.outputs))}
    return Graph(
        tuple([Input(values[v].node, types[v]) for v in outer]),
        tuple(built),
        tuple([values[v] for v in sorted(leaving, key=lambda v: (colours[v], v))]),
    )


def _colours(
    nodes: Sequence[tuple[int, list[int]]],
    sources: Sequence[tuple[int, int]],
    leaving: Sequence[int],
    labels: Sequence[Label],
    stable: Sequence[str],
) -> dict[int, str]:
    """For every value a name for what it comes from and how it is used (Weisfeiler-Lehman style), the order of inputs
    and outputs left aside.
    """
    down: dict[int, str] = {}
    for value, (i, index) in enumerate(sources):
        number, reads = nodes[i]
        from_ = [down.get(v, "input") for v in reads]
        down[value] = _hash(stable[number], sorted(from_) if _commutes(labels[number]) else from_, index)
    uses: dict[int, list[str]] = {v: ["output"] for v in leaving}
    first_value = {i: value for value, (i, index) in enumerate(sources) if index == 0}
    for i in reversed(range(len(nodes))):
        number, reads = nodes[i]
        given = range(first_value[i], first_value[i] + len(labels[number].outputs))
        up = _hash(*(part for v in given for part in (down[v], sorted(uses.get(v, ())))))
        for position, value in enumerate(reads):
            uses.setdefault(value, []).append(up if _commutes(labels[number]) else f"{position} {up}")
    return {v: _hash(down.get(v, "input"), sorted(found)) for v, found in uses.items()}


def _commutes(label: Label) -> bool:
    return OPS[label.op].commutative


def _hash(*parts: object) -> str:
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def mine(models: Iterable[tuple[str, Graph]], vocabulary: Vocabulary, cuts: int = 8, seed: int = 0) -> Bank:
    """The bank of the named graphs, cut with a vocabulary at hand: see :class:`Quarry`."""
    quarry = Quarry()
    for name, graph in models:
        quarry.add(name, graph)
    return quarry.mine(vocabulary, cuts, seed)


def merge(banks: Iterable[Bank]) -> Bank:
    """All segments of several banks, with frequencies added up and provenances put together, and all vocabularies."""
    found: dict[str, Segment] = {}
    all_ = tuple(banks)
    for bank in all_:
        for segment in bank:
            known = found.get(segment.digest)
            found[segment.digest] = segment if known is None else together(known, segment)
    return Bank.of(found.values(), Vocabulary.union(bank.vocabulary for bank in all_))


def together(first: Segment, second: Segment) -> Segment:
    """What two findings of the same segment say together."""
    names = tuple(dict.fromkeys(first.provenance + second.provenance))[:_MOST_NAMES]
    return replace(first, provenance=names, frequency=first.frequency + second.frequency)
