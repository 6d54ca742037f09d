"""The segment bank: what graphs are grafted with, mined from other networks, kept as a readable text file."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from netgraft.errors import GraphError, SourceError
from netgraft.ir import Builder, Graph, Region, Signature, TensorType, Value, parse, render
from netgraft.ir.text import parse_type

from .bpe import LONGEST, Vocabulary, order

_FORMAT = "netgraft segment bank 1"
_LAYERS = frozenset(["conv2d", "conv_transpose2d", "linear"])
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Segment:
    """A piece of a network: a graph without weights, as text until it is needed.

    ``provenance`` names the networks it occurs in, ``frequency`` says how often. ``place`` is where the text was read
    (``bank.jsonl, line 7``), for error messages.
    """

    digest: str
    signature: Signature
    provenance: tuple[str, ...]
    frequency: int
    text: str
    place: str = field(default="", compare=False)

    @classmethod
    def of(cls, graph: Graph, provenance: Iterable[str] = (), frequency: int = 1) -> Segment:
        """The segment of ``graph``, with its nodes renamed after their operations."""
        graph = _renamed(graph)
        return cls(graph.digest, graph.signature, tuple(provenance), frequency, render(graph))

    @cached_property
    def graph(self) -> Graph:
        """The segment's graph; GraphError says where a damaged one was read."""
        try:
            graph = parse(self.text)
        except GraphError as error:
            raise GraphError(f"{self.place or 'segment'}: {error}") from None
        if (graph.digest, graph.signature) != (self.digest, self.signature):
            raise GraphError(f"{self.place or 'segment'}: the graph is not the {self.digest} that the line promises")
        return graph


@dataclass(frozen=True)
class Bank:
    """Distinct segments in a fixed order, and the vocabulary that they were cut with."""

    segments: tuple[Segment, ...]
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def exact(self, signature: Signature) -> tuple[Segment, ...]:
        """The segments that have exactly this signature."""
        return self._exact.get(signature, ())

    def alike(self, signature: Signature) -> tuple[Segment, ...]:
        """The segments with as many inputs and outputs, of the same ranks."""
        return self._alike.get(_form(signature), ())

    @cached_property
    def _exact(self) -> Mapping[Signature, tuple[Segment, ...]]:
        return _index((segment.signature, segment) for segment in self.segments)

    @cached_property
    def _alike(self) -> Mapping[tuple[tuple[int, ...], ...], tuple[Segment, ...]]:
        return _index((_form(segment.signature), segment) for segment in self.segments)

    def save(self, path: Path) -> None:
        """Writes the bank as JSON lines: the vocabulary first, then a segment a line."""
        head = {"format": _FORMAT, "tokens": self.vocabulary.tokens, "merges": self.vocabulary.merges}
        lines = [head, *(_to_data(segment) for segment in self.segments)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Bank:
        """The bank in a file that :meth:`save` wrote. Nothing in it is evaluated; SourceError names a damaged line.

        Segments' graphs are read when they are first used: see :attr:`Segment.graph`.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"cannot read the segment bank {path}: {error}") from None
        return _parse(text, path.name)


def default() -> Bank:
    """The bank that comes with netgraft, mined from its zoo at the networks' own input shapes."""
    return _packaged()


@cache
def _packaged() -> Bank:
    file = resources.files("netgraft.segments") / "zoo.jsonl"
    return _parse(file.read_text(encoding="utf-8"), file.name)


def mine(models: Iterable[tuple[str, Graph]], vocabulary: Vocabulary, cuts: int = 8) -> Bank:
    """The distinct segments of 2 to 16 nodes that ``vocabulary`` finds in the named graphs, most frequent first.

    Each graph is cut once with the whole vocabulary and ``cuts`` times at random under a fixed seed. Left out: pieces
    without a convolution or linear layer (a dropout, a blur or a lone normalisation is nothing to graft), with stored
    constants or shared weights (they mean something only where they come from), and those that reach into the
    network's :func:`head`.
    """
    found: dict[str, Segment] = {}
    for name, graph in models:
        rng = np.random.default_rng(0)
        regions = vocabulary.cut(graph, rng, sparsity=0, join=1)
        for _ in range(cuts):
            regions += vocabulary.cut(graph, rng)
        apart = head(graph)
        for region in dict.fromkeys(regions):
            if region.nodes & apart or not _is_worth_keeping(graph, region):
                continue
            segment = Segment.of(region.extract(graph), [name])
            known = found.get(segment.digest)
            if known is not None:
                provenance = tuple(dict.fromkeys([*known.provenance, name]))
                segment = replace(known, provenance=provenance, frequency=known.frequency + 1)
            found[segment.digest] = segment
    return Bank(tuple(sorted(found.values(), key=lambda s: (-s.frequency, s.digest))), vocabulary)


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


def _is_worth_keeping(graph: Graph, region: Region) -> bool:
    nodes = [graph[id] for id in region.nodes]
    ops = {node.op for node in nodes}
    keys = [key for node in nodes for key in node.weights.values()]
    return (
        1 < len(nodes) <= LONGEST
        and not ops.isdisjoint(_LAYERS)
        and ops.isdisjoint(["constant", "frozen"])
        and len(set(keys)) == len(keys)
    )


def _renamed(graph: Graph) -> Graph:
    """The graph with nodes called after their operations and inputs ``in0``, ``in1``, ..."""
    builder = Builder()
    values: dict[Value, Value] = {}
    for i, given in enumerate(graph.inputs):
        values[Value(given.id)] = builder.input(f"in{i}", given.type)
    for node in order(graph):
        first = builder.add(node.op, *(values[v] for v in node.inputs), **node.attrs)
        for i in range(len(graph.output_types(node))):
            values[node.value(i)] = Value(first.node, i)
    return builder.build(*(values[v] for v in graph.outputs))


def _form(signature: Signature) -> tuple[tuple[int, ...], ...]:
    return tuple(t.rank for t in signature.inputs), tuple(t.rank for t in signature.outputs)


def _index(pairs: Iterable[tuple[_Key, Segment]]) -> dict[_Key, tuple[Segment, ...]]:
    index: defaultdict[_Key, list[Segment]] = defaultdict(list)
    for key, segment in pairs:
        index[key].append(segment)
    return {key: tuple(segments) for key, segments in index.items()}


def _to_data(segment: Segment) -> dict[str, Any]:
    return {
        "digest": segment.digest,
        "inputs": [str(t) for t in segment.signature.inputs],
        "outputs": [str(t) for t in segment.signature.outputs],
        "provenance": segment.provenance,
        "frequency": segment.frequency,
        "graph": segment.text,
    }


def _parse(text: str, name: str) -> Bank:
    vocabulary: Vocabulary | None = None
    segments: list[Segment] = []
    read_type = cache(parse_type)
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{name}, line {number}"
        try:
            data = json.loads(line)
            if vocabulary is None:
                vocabulary = _vocabulary(data)
            else:
                segments.append(_segment(data, place, read_type))
        except (GraphError, KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{place}: this is no line of a segment bank ({error!r})") from None
    if vocabulary is None:
        raise SourceError(f"{name} is empty; a segment bank begins with its vocabulary")
    return Bank(tuple(segments), vocabulary)


def _vocabulary(data: Mapping[str, Any]) -> Vocabulary:
    if data["format"] != _FORMAT:
        raise GraphError(f"the format is {data['format']!r}; this version reads {_FORMAT!r}")
    return Vocabulary(
        _strings(data["tokens"]), tuple((first, second) for first, second in map(_strings, data["merges"]))
    )


def _segment(data: Mapping[str, Any], place: str, read_type: Callable[[str], TensorType]) -> Segment:
    inputs, outputs = (tuple(read_type(t) for t in _strings(data[end])) for end in ("inputs", "outputs"))
    digest, text = _strings([data["digest"], data["graph"]])
    provenance = _strings(data["provenance"])
    return Segment(digest, Signature(inputs, outputs), provenance, int(data["frequency"]), text, place)


def _strings(data: Any) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise GraphError(f"expected a list of strings, found {data!r}")
    return tuple(data)
