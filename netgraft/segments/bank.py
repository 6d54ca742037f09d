"""The segment bank: what graphs are grafted with, and how it is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from netgraft.costs.analytic import flops, parameters
from netgraft.errors import GraphError
from netgraft.ir import Builder, Graph, Signature, TensorType, Value, parse, render

from .bpe import Vocabulary

Numbers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]

_KEPT = 1024
"""Segments whose graphs are kept in memory."""


@dataclass(frozen=True)
class Segment:
    """A piece of a network: a graph without weights, as text until it is needed.

    ``nodes`` counts its nodes; ``flops`` and ``parameters`` are its costs at batch 1; ``frequency`` says in how many
    places it was found, ``provenance`` in which networks or families. ``place`` is where the text was read
    (``my.bank, segment 7``), for error messages.
    """

    digest: str
    signature: Signature
    ops: frozenset[str]
    nodes: int
    flops: int
    parameters: int
    frequency: int
    provenance: tuple[str, ...]
    text: str
    place: str = field(default="", compare=False)

    @classmethod
    def of(cls, graph: Graph, provenance: Iterable[str] = (), frequency: int = 1) -> Segment:
        """The segment of ``graph``, with its nodes renamed after their operations."""
        return cls.named(_renamed(graph), provenance, frequency)

    @classmethod
    def named(cls, graph: Graph, provenance: Iterable[str] = (), frequency: int = 1) -> Segment:
        """The segment of a graph whose nodes are called after their operations already."""
        return cls(
            graph.digest,
            graph.signature,
            frozenset(node.op for node in graph),
            len(graph),
            flops(graph),
            parameters(graph),
            frequency,
            tuple(provenance),
            render(graph),
        )

    @cached_property
    def graph(self) -> Graph:
        """The segment's graph; GraphError says where a damaged one was read.

        It has the signature and the operations that it was chosen for; :meth:`check` looks at all else.
        """
        try:
            graph = parse(self.text)
        except GraphError as error:
            raise GraphError(f"{self.place or 'segment'}: {error}") from None
        if graph.signature != self.signature or {node.op for node in graph} != self.ops:
            raise self._broken()
        return graph

    def check(self) -> None:
        """GraphError where the text is damaged or is not the graph of the given digest and costs."""
        graph = self.graph
        found = graph.digest, len(graph), flops(graph), parameters(graph)
        if found != (self.digest, self.nodes, self.flops, self.parameters):
            raise self._broken()

    def _broken(self) -> GraphError:
        return GraphError(f"{self.place or 'segment'}: the graph is not the {self.digest} that the bank promises")


NUMBERS = ("signature", "ops", "provenance", "nodes", "flops", "parameters", "frequency")


class Columns(NamedTuple):
    """Segments side by side: as many as a bank has, without an object for each.

    A segment has its own digest and text, and shares its signature, set of operations and provenance with others: of
    its :data:`NUMBERS`, the first three say where in ``signatures``, ``opsets`` and ``provenances`` these stand.
    """

    digests: list[str]
    texts: list[str]
    numbers: Mapping[str, Numbers]
    signatures: tuple[Signature, ...]
    opsets: tuple[frozenset[str], ...]
    provenances: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> Columns:
        """The columns of ``segments``."""
        rows = list(segments)
        signatures: dict[Signature, int] = {}
        opsets: dict[frozenset[str], int] = {}
        provenances: dict[tuple[str, ...], int] = {}
        numbers = [
            [signatures.setdefault(s.signature, len(signatures)) for s in rows],
            [opsets.setdefault(s.ops, len(opsets)) for s in rows],
            [provenances.setdefault(s.provenance, len(provenances)) for s in rows],
            [s.nodes for s in rows],
            [s.flops for s in rows],
            [s.parameters for s in rows],
            [s.frequency for s in rows],
        ]
        return cls(
            [s.digest for s in rows],
            [s.text for s in rows],
            {name: np.array(column, dtype=np.int64) for name, column in zip(NUMBERS, numbers, strict=True)},
            tuple(signatures),
            tuple(opsets),
            tuple(provenances),
        )

    def take(self, rows: Rows) -> Columns:
        """The columns of some of the segments."""
        chosen = rows.tolist()
        return self._replace(
            digests=[self.digests[i] for i in chosen],
            texts=[self.texts[i] for i in chosen],
            numbers={name: column[rows] for name, column in self.numbers.items()},
        )

    def segment(self, row: int, place: str) -> Segment:
        """One segment."""
        signature, ops, provenance, nodes, flops, parameters, frequency = (
            int(self.numbers[name][row]) for name in NUMBERS
        )
        return Segment(
            self.digests[row],
            self.signatures[signature],
            self.opsets[ops],
            nodes,
            flops,
            parameters,
            frequency,
            self.provenances[provenance],
            self.texts[row],
            place,
        )


class Bank(Sequence[Segment]):
    """Distinct segments in a fixed order, most frequent first, and the vocabulary that they were cut with.

    ``name`` is the file it came from, if any. Read one with :func:`netgraft.segments.load`.
    """

    def __init__(self, columns: Columns, vocabulary: Vocabulary, name: str = "") -> None:
        self.columns = columns
        self.vocabulary = vocabulary
        self.name = name
        self._made: dict[int, Segment] = {}
        self._found: dict[object, Rows] = {}

    @classmethod
    def of(cls, segments: Iterable[Segment], vocabulary: Vocabulary) -> Bank:
        """The bank of ``segments``, which must be distinct."""
        ordered = sorted(segments, key=lambda s: (-s.frequency, s.digest))
        return cls(Columns.of(ordered), vocabulary)

    def __len__(self) -> int:
        return len(self.columns.digests)

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...

    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        if isinstance(index, slice):
            return Found(self, np.arange(len(self), dtype=np.int32)[index])
        row = range(len(self))[index]
        segment = self._made.get(row)
        if segment is None:
            if len(self._made) >= _KEPT:  # the one made first goes
                del self._made[next(iter(self._made))]
            place = f"{self.name}, segment {row + 1}" if self.name else ""
            segment = self._made[row] = self.columns.segment(row, place)
        return segment

    def __iter__(self) -> Iterator[Segment]:
        return (self[i] for i in range(len(self)))

    def exact(self, signature: Signature) -> Found:
        """The segments whose inputs and outputs have exactly these types, in whatever order."""
        key = _sorted(signature)
        if key not in self._found:
            self._found[key] = self._of_signatures(self._exact.get(key, []))
        return Found(self, self._found[key])

    def alike(self, signature: Signature) -> Found:
        """The segments that wiring and fitting could put in a place of this signature.

        Of each rank and element type they have as many inputs or more, since one value may feed several, and as many
        outputs or fewer, since one may be read in several places; and none of which the place has none.
        """
        form = _form(signature)
        if form not in self._found:
            alike = [numbers for other, numbers in self._forms.items() if _covers(other, form)]
            self._found[form] = self._of_signatures([number for numbers in alike for number in numbers])
        return Found(self, self._found[form])

    def only(self, ops: Iterable[str]) -> Bank:
        """The segments made of ``ops`` alone; perhaps none."""
        allowed = frozenset(ops)
        fits = np.array([opset <= allowed for opset in self.columns.opsets], dtype=bool)
        rows = np.flatnonzero(fits[self.columns.numbers["ops"]]).astype(np.int32)
        return Bank(self.columns.take(rows), self.vocabulary, self.name)

    def check(self) -> None:
        """Read every segment now, not when it is first used, and compare all that is said of it: GraphError says where
        a damaged one stands.

        For a bank from elsewhere, before long work begins: a thousand segments take about half a second.
        """
        for segment in self:
            segment.check()

    @property
    def opsets(self) -> Counter[frozenset[str]]:
        """How many segments there are of each set of operations."""
        counts = np.bincount(self.columns.numbers["ops"], minlength=len(self.columns.opsets))
        return Counter(dict(zip(self.columns.opsets, counts.tolist(), strict=True)))

    def _of_signatures(self, numbers: list[int]) -> Rows:
        chosen = np.zeros(len(self.columns.signatures), dtype=bool)
        chosen[numbers] = True
        return np.flatnonzero(chosen[self.columns.numbers["signature"]]).astype(np.int32)

    @cached_property
    def _exact(self) -> Mapping[_Ends, list[int]]:
        """The numbers of the signatures by their types in order."""
        index: dict[_Ends, list[int]] = {}
        for number, signature in enumerate(self.columns.signatures):
            index.setdefault(_sorted(signature), []).append(number)
        return index

    @cached_property
    def _forms(self) -> Mapping[_Form, list[int]]:
        """The numbers of the signatures by their form."""
        index: dict[_Form, list[int]] = {}
        for number, signature in enumerate(self.columns.signatures):
            index.setdefault(_form(signature), []).append(number)
        return index


class Found(Sequence[Segment]):
    """Some segments of a bank, made when they are looked at."""

    def __init__(self, bank: Bank, rows: Rows) -> None:
        self._bank = bank
        self._rows = rows

    def signature(self, index: int) -> Signature:
        """That of one of the segments, which is not made for it."""
        columns = self._bank.columns
        return columns.signatures[int(columns.numbers["signature"][self._rows[index]])]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Segment: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Segment]: ...

    def __getitem__(self, index: int | slice) -> Segment | Sequence[Segment]:
        if isinstance(index, slice):
            return Found(self._bank, self._rows[index])
        return self._bank[int(self._rows[index])]


_Ends = tuple[tuple[str, ...], tuple[str, ...]]
_Kinds = tuple[tuple[tuple[int, str], int], ...]
_Form = tuple[_Kinds, _Kinds]


def _sorted(signature: Signature) -> _Ends:
    return tuple(sorted(map(str, signature.inputs))), tuple(sorted(map(str, signature.outputs)))


def _form(signature: Signature) -> _Form:
    """How many inputs and outputs of each rank and element type."""
    return _kinds(signature.inputs), _kinds(signature.outputs)


def _kinds(types: Iterable[TensorType]) -> _Kinds:
    return tuple(sorted(Counter((t.rank, str(t.dtype)) for t in types).items()))


def _covers(segment: _Form, place: _Form) -> bool:
    (fed, given), (entering, leaving) = map(dict, segment), map(dict, place)
    return (
        fed.keys() == entering.keys()
        and given.keys() == leaving.keys()
        and all(fed[kind] >= count for kind, count in entering.items())
        and all(given[kind] <= count for kind, count in leaving.items())
    )


def _renamed(graph: Graph) -> Graph:
    """The graph with nodes called after their operations and inputs ``in0``, ``in1``, ..."""
    builder = Builder()
    values: dict[Value, Value] = {}
    for i, given in enumerate(graph.inputs):
        values[Value(given.id)] = builder.input(f"in{i}", given.type)
    for node in graph:
        first = builder.add(node.op, *(values[v] for v in node.inputs), **node.attrs)
        for i in range(len(graph.output_types(node))):
            values[node.value(i)] = Value(first.node, i)
    return builder.build(*(values[v] for v in graph.outputs))
