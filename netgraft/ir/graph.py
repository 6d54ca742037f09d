"""The computation graph: frozen nodes with stable ids, in topological order; tensors live outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy.typing as npt

from netgraft.errors import GraphError, ShapeError

from .digest import Marks, Readers
from .node import Input, Node, Value
from .ops import definition
from .types import Signature, TensorType

Weights = Mapping[str, npt.NDArray[Any]]
"""Tensors by key. Keys are the names they have in the user's module (``layer1.0.conv1.weight``)."""


@dataclass(frozen=True)
class Graph:
    """A network, or a segment of one. Construct it with :class:`Builder`, or by :func:`netgraft.ir.apply`.

    ``nodes`` are in topological order. Constructing checks everything: ids, order, arity, attributes, weight roles and
    shapes; GraphError or ShapeError name the node at fault.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def __post_init__(self) -> None:
        types = self.types  # runs every shape rule
        for value in self.outputs:
            if value not in types:
                raise GraphError(f"the graph returns {value}, which nothing computes")

    @cached_property
    def types(self) -> Mapping[Value, TensorType]:
        """The type of every value, by the ops' shape rules."""
        types: dict[Value, TensorType] = {}
        seen: set[str] = set()
        for given in self.inputs:
            if given.id in seen:
                raise GraphError(f"two inputs are called {given.id!r}")
            seen.add(given.id)
            types[Value(given.id)] = given.type
        for node in self.nodes:
            if node.id in seen:
                raise GraphError(f"two nodes are called {node.id!r}")
            seen.add(node.id)
            for index, type_ in enumerate(_infer(node, types)):
                types[Value(node.id, index)] = type_
        return types

    @cached_property
    def _by_id(self) -> Mapping[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, in topological order, once each."""
        users: defaultdict[Value, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                users[value].append(node)
        return {value: tuple(nodes) for value, nodes in users.items()}

    def __getitem__(self, id: str) -> Node:
        try:
            return self._by_id[id]
        except KeyError:
            raise GraphError(f"the graph has no node {id!r}") from None

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def signature(self) -> Signature:
        """Types of inputs and outputs."""
        return Signature(tuple(i.type for i in self.inputs), tuple(self.types[v] for v in self.outputs))

    def input_types(self, node: Node) -> tuple[TensorType, ...]:
        """Types of what a node reads."""
        return tuple(self.types[v] for v in node.inputs)

    def output_types(self, node: Node) -> tuple[TensorType, ...]:
        """Types of what a node returns."""
        return node.definition.infer(self.input_types(node), node.attrs)

    @cached_property
    def weight_types(self) -> Mapping[str, TensorType]:
        """The type of every weight by key; GraphError if two nodes share a key with different shapes."""
        types: dict[str, TensorType] = {}
        for node in self.nodes:
            for role, type_ in node.definition.weights(self.input_types(node), node.attrs).items():
                key = node.weights[role]
                if types.setdefault(key, type_) != type_:
                    raise GraphError(f"{node.id}: weight {key!r} is {types[key]} elsewhere and {type_} here")
        return types

    @cached_property
    def trainable(self) -> frozenset[str]:
        """Keys of the weights that training changes."""
        return frozenset(
            key
            for node in self.nodes
            for role, key in node.weights.items()
            if role not in node.definition.buffers and (node.op != "constant" or node.attrs["trainable"])
        )

    def check_weights(self, weights: Weights) -> None:
        """GraphError unless ``weights`` holds every tensor of the graph in its shape."""
        for key, type_ in self.weight_types.items():
            if key not in weights:
                raise GraphError(f"weight {key!r} ({type_}) is missing")
            if tuple(weights[key].shape) != type_.shape:
                raise GraphError(f"weight {key!r} has shape {tuple(weights[key].shape)}, the graph needs {type_}")

    @cached_property
    def digest(self) -> str:
        """16 hex digits that name the arrangement: equal for graphs that differ only in ids, node order and the order
        of commutative inputs. Covers ops, attributes, wiring, types and which weights are shared, not the weights'
        values.
        """
        return self._marks.digest

    @cached_property
    def _marks(self) -> Marks:
        shared = {key: users for key, users in self._users_of_weights.items() if len(users) > 1}
        return Marks.of(self.inputs, self.nodes, self.outputs, shared)

    @cached_property
    def _users_of_weights(self) -> Readers:
        users: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for node in self.nodes:
            for role, key in node.weights.items():
                users[key].append((node.id, role))
        return users

    def __hash__(self) -> int:
        return hash(self.digest)


def _read(node: Node, types: Mapping[Value, TensorType]) -> list[TensorType]:
    for value in node.inputs:
        if value not in types:
            raise GraphError(f"{node.id} ({node.op}) reads {value}, which nothing before it computes")
    low, high = node.definition.arity
    if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
        raise GraphError(f"{node.id} ({node.op}) has {len(node.inputs)} inputs, needs {low} to {high or 'any number'}")
    return [types[v] for v in node.inputs]


def _outputs(node: Node, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
    try:
        return node.definition.infer(inputs, node.attrs)
    except ShapeError as error:
        raise ShapeError(f"{node.id}: {error}") from None


def _infer(node: Node, types: Mapping[Value, TensorType]) -> tuple[TensorType, ...]:
    if node.attrs.keys() != node.definition.attrs.keys():
        raise GraphError(
            f"{node.id} ({node.op}) needs the attributes {sorted(node.definition.attrs)}, has {sorted(node.attrs)}"
        )
    inputs = _read(node, types)
    outputs = _outputs(node, inputs)
    roles = node.definition.weights(inputs, node.attrs).keys()
    if node.weights.keys() != roles:
        raise GraphError(f"{node.id} ({node.op}) needs the weights {sorted(roles)}, has {sorted(node.weights)}")
    return outputs


def topological(inputs: Iterable[Input], nodes: Sequence[Node]) -> tuple[Node, ...]:
    """``nodes`` in an order in which each follows what it reads, otherwise as given; GraphError for a cycle."""
    by_id = {node.id: node for node in nodes}
    done = {given.id for given in inputs}
    ordered: list[Node] = []
    for start in nodes:
        stack = [start]
        pending: set[str] = set()
        while stack:
            node = stack[-1]
            if node.id in done:
                stack.pop()
                continue
            waiting = [by_id[v.node] for v in node.inputs if v.node not in done and v.node in by_id]
            if not waiting:
                stack.pop()
                done.add(node.id)
                ordered.append(node)
            elif node.id in pending:
                raise GraphError(f"the graph has a cycle through {node.id}")
            else:
                pending.add(node.id)
                stack.extend(reversed(waiting))
    return tuple(ordered)


class Builder:
    """Puts a graph together node by node.

    >>> b = Builder()
    >>> x = b.input("x", TensorType((Batch(), 3, 32, 32)))
    >>> y = b.add("relu", b.add("conv2d", x, out_channels=16, kernel=(3, 3), padding=(1, 1)))
    >>> graph = b.build(y)
    """

    def __init__(self) -> None:
        self._inputs: list[Input] = []
        self._nodes: list[Node] = []
        self._types: dict[Value, TensorType] = {}
        self._counts: Counter[str] = Counter()
        self._ids: set[str] = set()

    def input(self, id: str, type: TensorType) -> Value:
        """Adds a graph input."""
        self._inputs.append(Input(id, type))
        self._ids.add(id)
        self._types[Value(id)] = type
        return Value(id)

    def add(
        self, op: str, *inputs: Value, id: str | None = None, weights: Mapping[str, str] | None = None, **attrs: Any
    ) -> Value:
        """Adds a node and returns its first output (``graph[id].value(1)`` is the second).

        Attributes left out take the table's defaults; weight keys left out become ``{id}.{role}``.
        """
        if id is None:
            id = self.fresh_id(op)
        node = Node(id, op, inputs, definition(op).complete(attrs))
        read = _read(node, self._types)
        outputs = _outputs(node, read)
        if weights is None:
            weights = {role: f"{id}.{role}" for role in node.definition.weights(read, node.attrs)}
        node = replace(node, weights=dict(weights))
        for index, type_ in enumerate(outputs):
            self._types[Value(id, index)] = type_
        self._nodes.append(node)
        self._ids.add(id)
        return Value(id)

    def type(self, value: Value) -> TensorType:
        """The type of a value added so far."""
        return self._types[value]

    def fresh_id(self, stem: str) -> str:
        """An id not used yet that begins with ``stem``."""
        while True:
            self._counts[stem] += 1
            id = stem if self._counts[stem] == 1 else f"{stem}_{self._counts[stem]}"
            if id not in self._ids:
                return id

    def build(self, *outputs: Value) -> Graph:
        """The finished graph."""
        return Graph(tuple(self._inputs), tuple(self._nodes), outputs)
