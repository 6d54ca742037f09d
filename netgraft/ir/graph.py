"""The computation graph: frozen nodes with stable ids, in topological order; tensors live outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from netgraft.errors import GraphError, ShapeError

from .digest import Marks
from .node import Input, Node, Value
from .ops import definition
from .types import Signature, TensorType

Weights = Mapping[str, npt.NDArray[Any]]
"""Tensors by key. Keys are the names they have in the user's module (``layer1.0.conv1.weight``)."""

Returns = Mapping[str, tuple[TensorType, ...]]
"""The types of what nodes return, by their ids; an input returns itself."""


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
        returns = self.returns  # runs every check
        for value in self.outputs:
            if not 0 <= value.index < len(returns.get(value.node, ())):
                raise GraphError(f"the graph returns {value}, which nothing computes")

    @classmethod
    def known(
        cls,
        inputs: tuple[Input, ...],
        nodes: tuple[Node, ...],
        outputs: tuple[Value, ...],
        returns: Returns,
        marks: Marks | None = None,
    ) -> Graph:
        """A graph made of parts of checked graphs, where its maker answers for how they are joined: nothing is checked.
        ``returns`` and ``marks`` are what the properties of these names would compute.
        """
        graph = object.__new__(cls)
        graph.__dict__.update(inputs=inputs, nodes=nodes, outputs=outputs, returns=returns)
        if marks is not None:
            graph.__dict__["marks"] = marks
        return graph

    @cached_property
    def returns(self) -> Returns:
        """The types of what every node returns, by the ops' shape rules, and of every input; by their ids."""
        returns: dict[str, tuple[TensorType, ...]] = {}
        for given in self.inputs:
            if given.id in returns:
                raise GraphError(f"two inputs are called {given.id!r}")
            returns[given.id] = (given.type,)
        for node in self.nodes:
            if node.id in returns:
                raise GraphError(f"two nodes are called {node.id!r}")
            returns[node.id] = _infer(node, returns)
        return returns

    @cached_property
    def types(self) -> Mapping[Value, TensorType]:
        """The type of every value, in the graph's order."""
        ids = [*(given.id for given in self.inputs), *self.position]
        return {Value(id, index): type_ for id in ids for index, type_ in enumerate(self.returns[id])}

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Where each node stands in the graph's order."""
        return {node.id: i for i, node in enumerate(self.nodes)}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, in topological order, once each."""
        users: defaultdict[Value, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                users[value].append(node)
        return {value: tuple(nodes) for value, nodes in users.items()}

    @cached_property
    def notes(self) -> dict[Hashable, Any]:
        """What was found out about the graph and will be asked again as long as there is the graph, by whoever asks."""
        return {}

    def __getitem__(self, id: str) -> Node:
        try:
            return self.nodes[self.position[id]]
        except KeyError:
            raise GraphError(f"the graph has no node {id!r}") from None

    def __contains__(self, id: object) -> bool:
        return id in self.position

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @cached_property
    def signature(self) -> Signature:
        """Types of inputs and outputs."""
        return Signature(tuple(given.type for given in self.inputs), self.types_of(self.outputs))

    def types_of(self, values: Iterable[Value]) -> tuple[TensorType, ...]:
        """Types of some values."""
        returns = self.returns
        return tuple([returns[value.node][value.index] for value in values])

    def input_types(self, node: Node) -> tuple[TensorType, ...]:
        """Types of what a node reads."""
        return self.types_of(node.inputs)

    def output_types(self, node: Node) -> tuple[TensorType, ...]:
        """Types of what a node returns."""
        return self.returns[node.id]

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
    def weight_users(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """For every weight key the nodes that use it, by id, each with the role in which it does."""
        users: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for node in self.nodes:
            for role, key in node.weights.items():
                users[key].append((node.id, role))
        return {key: tuple(found) for key, found in users.items()}

    @cached_property
    def trainable(self) -> frozenset[str]:
        """Keys of the weights that training changes."""
        return frozenset(key for node in self.nodes for role, key in node.weights.items() if node.trains(role))

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
        return self.marks.digest(self.nodes, self.outputs)

    @cached_property
    def marks(self) -> Marks:
        """What the digest is made of."""
        shared = {key: users for key, users in self.weight_users.items() if len(users) > 1}
        return Marks.of(self.inputs, self.nodes, shared)

    def __hash__(self) -> int:
        return hash(self.digest)


def _read(node: Node, returns: Returns) -> list[TensorType]:
    for value in node.inputs:
        if not 0 <= value.index < len(returns.get(value.node, ())):
            raise GraphError(f"{node.id} ({node.op}) reads {value}, which nothing before it computes")
    low, high = node.definition.arity
    if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
        raise GraphError(f"{node.id} ({node.op}) has {len(node.inputs)} inputs, needs {low} to {high or 'any number'}")
    return [returns[value.node][value.index] for value in node.inputs]


def _outputs(node: Node, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
    try:
        return node.definition.infer(inputs, node.attrs)
    except ShapeError as error:
        raise ShapeError(f"{node.id}: {error}") from None


def _infer(node: Node, returns: Returns) -> tuple[TensorType, ...]:
    if node.attrs.keys() != node.definition.attrs.keys():
        raise GraphError(
            f"{node.id} ({node.op}) needs the attributes {sorted(node.definition.attrs)}, has {sorted(node.attrs)}"
        )
    inputs = _read(node, returns)
    outputs = _outputs(node, inputs)
    roles = node.definition.weights(inputs, node.attrs).keys()
    if node.weights.keys() != roles:
        raise GraphError(f"{node.id} ({node.op}) needs the weights {sorted(roles)}, has {sorted(node.weights)}")
    return outputs


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
        self._returns: dict[str, tuple[TensorType, ...]] = {}
        self._counts: Counter[str] = Counter()

    def input(self, id: str, type: TensorType) -> Value:
        """Adds a graph input."""
        if id in self._returns:
            raise GraphError(f"two inputs are called {id!r}")
        self._inputs.append(Input(id, type))
        self._returns[id] = (type,)
        return Value(id)

    def add(
        self, op: str, *inputs: Value, id: str | None = None, weights: Mapping[str, str] | None = None, **attrs: Any
    ) -> Value:
        """Adds a node and returns its first output (``graph[id].value(1)`` is the second).

        Attributes left out take the table's defaults; weight keys left out become ``{id}.{role}``. What is wrong with
        a node is said here and by the same errors as by a graph.
        """
        if id is None:
            id = self.fresh_id(op)
        return self.append(Node(id, op, inputs, definition(op).complete(attrs), weights or {}))

    def append(self, node: Node) -> Value:
        """Adds a node whose attributes are complete, and returns its first output; as :meth:`add` in all else."""
        id, op, weights = node.id, node.op, node.weights
        if id in self._returns:
            raise GraphError(f"two nodes are called {id!r}")
        read = _read(node, self._returns)
        outputs = _outputs(node, read)
        roles = node.definition.weights(read, node.attrs)
        if weights and not weights.keys() <= roles.keys():
            raise GraphError(f"{id} ({op}) needs the weights {sorted(roles)}, has {sorted(weights)}")
        if roles:
            node = Node(id, op, node.inputs, node.attrs, {role: weights.get(role, f"{id}.{role}") for role in roles})
        self._returns[id] = outputs
        self._nodes.append(node)
        return Value(id)

    def type(self, value: Value) -> TensorType:
        """The type of a value added so far."""
        return self._returns[value.node][value.index]

    def fresh_id(self, stem: str) -> str:
        """An id not used yet that begins with ``stem``."""
        while True:
            self._counts[stem] += 1
            id = stem if self._counts[stem] == 1 else f"{stem}_{self._counts[stem]}"
            if id not in self._returns:
                return id

    def build(self, *outputs: Value) -> Graph:
        """The finished graph."""
        ids = [*(given.id for given in self._inputs), *(node.id for node in self._nodes)]
        graph = Graph.known(tuple(self._inputs), tuple(self._nodes), outputs, {id: self._returns[id] for id in ids})
        graph.__post_init__()  # of what is left to check, the outputs: nodes were when they were added
        return graph
