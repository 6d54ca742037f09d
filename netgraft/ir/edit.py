"""Region and Edit: how a graph changes.

A region is a set of nodes; an edit replaces it by another graph with the same signature and says where every weight
of the replacement comes from. Ids outside the region never change, so regions, diffs and lineages stay valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from netgraft.errors import GraphError

from .carry import Carry, Fresh, Keep, resolve
from .graph import Graph, Weights, topological
from .node import Input, Node, Value
from .types import Signature


@dataclass(frozen=True)
class Region:
    """A set of nodes of one graph."""

    nodes: frozenset[str]

    @classmethod
    def of(cls, ids: Iterable[str]) -> Region:
        """The region of the given nodes."""
        return cls(frozenset(ids))

    def boundary(self, graph: Graph) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        """The values that enter the region (in the order in which its nodes read them) and the values of its nodes that
        are read outside or returned by the graph (in the order in which they are computed).
        """
        missing = self.nodes - {node.id for node in graph}
        if missing or not self.nodes:
            raise GraphError(f"the graph has no node {sorted(missing)[0]!r}" if missing else "a region needs a node")
        inside = [node for node in graph if node.id in self.nodes]
        entering = dict.fromkeys(v for node in inside for v in node.inputs if v.node not in self.nodes)
        read = {v for node in graph if node.id not in self.nodes for v in node.inputs} | set(graph.outputs)
        leaving = [
            Value(node.id, i)
            for node in inside
            for i in range(len(graph.output_types(node)))
            if Value(node.id, i) in read
        ]
        return tuple(entering), tuple(leaving)

    def signature(self, graph: Graph) -> Signature:
        """The types of what enters and leaves."""
        entering, leaving = self.boundary(graph)
        return Signature(tuple(graph.types[v] for v in entering), tuple(graph.types[v] for v in leaving))

    def is_convex(self, graph: Graph) -> bool:
        """Whether no path leaves the region and comes back: only such a region can be replaced."""
        tainted: set[str] = set()
        for node in graph:
            sources = {v.node for v in node.inputs}
            if node.id in self.nodes:
                if sources & tainted:
                    return False
            elif sources & (self.nodes | tainted):
                tainted.add(node.id)
        return True

    def extract(self, graph: Graph) -> Graph:
        """The region as a graph of its own; its inputs are called ``in0``, ``in1``, ... (with primes if taken)."""
        entering, leaving = self.boundary(graph)
        names: dict[Value, Value] = {}
        inputs = []
        for i, value in enumerate(entering):
            name = f"in{i}"
            while name in self.nodes:
                name += "'"
            names[value] = Value(name)
            inputs.append(Input(name, graph.types[value]))
        nodes = tuple(_rewired(node, names) for node in graph if node.id in self.nodes)
        return Graph(tuple(inputs), nodes, leaving)

    def split(self, graph: Graph) -> tuple[Region | None, Region, Region | None]:
        """The graph in three: what the region does not depend on it, the region itself, and what depends on it (the
        predecessor, segment and successor of AutoGO). None stands for an empty part.
        """
        after: set[str] = set()
        for node in graph:
            if node.id not in self.nodes and {v.node for v in node.inputs} & (self.nodes | after):
                after.add(node.id)
        before = {node.id for node in graph} - self.nodes - after
        return (Region.of(before) if before else None), self, (Region.of(after) if after else None)


@dataclass(frozen=True)
class Edit:
    """Replace ``region`` by ``replacement``, whose inputs and outputs match the region's boundary in order and type.

    ``carry`` says for each weight key *of the replacement* where it comes from; keys left out start fresh. A node of
    the replacement may reuse an id of the region, and then keeps that name. ``origin`` says in a few words what
    proposed it (``swap.kernel``, ``graft``). ``exact`` promises that the network computes the same function
    afterwards (in eval mode).
    """

    region: Region
    replacement: Graph
    carry: Mapping[str, Carry] = field(default_factory=dict)
    origin: str = ""
    exact: bool = False

    @cached_property
    def new_nodes(self) -> frozenset[str]:
        """Ids that the replacement proposes (before any renaming)."""
        return frozenset(node.id for node in self.replacement)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """How much of a child's weights came from its parent, in elements of trainable weights."""

    inherited: int
    total: int

    @property
    def share(self) -> float:
        """Between 0 and 1; 1 for a network without weights."""
        return self.inherited / self.total if self.total else 1.0


@dataclass(frozen=True)
class _Placed:
    graph: Graph
    carry: dict[str, Carry]


def apply(graph: Graph, edit: Edit) -> Graph:
    """The child graph. GraphError where the region is not convex, the signatures differ, or a cycle would arise."""
    return _place(graph, edit).graph


def inherit(
    graph: Graph, edit: Edit, weights: Weights, rng: np.random.Generator
) -> tuple[dict[str, npt.NDArray[Any]], Inheritance]:
    """The child's weights: untouched nodes keep theirs, the replacement's come as ``edit.carry`` says."""
    placed = _place(graph, edit)
    roles = {key: role for node in placed.graph for role, key in node.weights.items()}
    child: dict[str, npt.NDArray[Any]] = {}
    inherited = total = 0
    for key, type_ in placed.graph.weight_types.items():
        array, count = resolve(placed.carry.get(key, Keep(key)), weights, roles[key], type_, rng)
        child[key] = array
        if key in placed.graph.trainable:
            inherited += count
            total += array.size
    return child, Inheritance(inherited, total)


def _place(graph: Graph, edit: Edit) -> _Placed:
    region, new = edit.region, edit.replacement
    entering, leaving = region.boundary(graph)
    have = Signature(tuple(graph.types[v] for v in entering), tuple(graph.types[v] for v in leaving))
    if new.signature != have:
        raise GraphError(f"{edit.origin or 'edit'}: the replacement is {new.signature}, the region {have}")
    if not region.is_convex(graph):
        raise GraphError(f"{edit.origin or 'edit'}: a path leaves the region {sorted(region.nodes)} and comes back")

    rest = [node for node in graph if node.id not in region.nodes]
    outer_ids = {node.id for node in rest} | {given.id for given in graph.inputs}
    outer_keys = {key for node in rest for key in node.weights.values()}
    # A name given to one node must not be one that another node of the replacement is going to keep.
    taken_ids = outer_ids | edit.new_nodes
    taken_keys = outer_keys | {key for node in new for key in node.weights.values()}
    values = {Value(given.id): outer for given, outer in zip(new.inputs, entering, strict=True)}
    keys: dict[str, str] = {}
    carry: dict[str, Carry] = {}
    placed: list[Node] = []
    for node in new:
        id = _unused(node.id, taken_ids) if node.id in outer_ids else node.id
        taken_ids.add(id)
        for i in range(len(new.output_types(node))):
            values[Value(node.id, i)] = Value(id, i)
        for role, key in node.weights.items():
            if key in keys:
                continue
            source = edit.carry.get(key, Fresh())
            if key in outer_keys and source != Keep(key):
                keys[key] = _unused(f"{id}.{role}", taken_keys)
            else:
                keys[key] = key
            taken_keys.add(keys[key])
            carry[keys[key]] = source
        renamed = replace(node, id=id, weights={role: keys[key] for role, key in node.weights.items()})
        placed.append(_rewired(renamed, values))
    moved = {old: values[v] for old, v in zip(leaving, new.outputs, strict=True)}
    first = next(i for i, node in enumerate(graph) if node.id in region.nodes)
    before = sum(node.id not in region.nodes for node in graph.nodes[:first])
    nodes = [_rewired(node, moved) for node in rest]
    ordered = topological(graph.inputs, [*nodes[:before], *placed, *nodes[before:]])
    return _Placed(Graph(graph.inputs, ordered, tuple(moved.get(v, v) for v in graph.outputs)), carry)


def _rewired(node: Node, values: Mapping[Value, Value]) -> Node:
    inputs = tuple(values.get(v, v) for v in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)


def _unused(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
