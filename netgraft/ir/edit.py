"""Region and Edit: how a graph changes.

A region is a set of nodes; an edit replaces it by another graph with the same signature and says where every weight
of the replacement comes from. Ids outside the region never change, so regions, diffs and lineages stay valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from netgraft.errors import GraphError

from .carry import Carry, Fresh, Keep, resolve
from .digest import Change
from .graph import Graph, Weights
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

    @classmethod
    def hull(cls, graph: Graph, ids: Iterable[str]) -> Region:
        """The smallest convex region with the given nodes: they and all that lies on a path between two of them."""
        seeds = frozenset(ids)
        below, above = set(seeds), set(seeds)
        for node in graph.nodes:
            if any([value.node in below for value in node.inputs]):
                below.add(node.id)
        for node in reversed(graph.nodes):
            if node.id in above:
                above.update([value.node for value in node.inputs])
        return cls.of(below & above)

    def boundary(self, graph: Graph) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        """The values that enter the region (in the order in which its nodes read them) and the values of its nodes that
        are read outside or returned by the graph (in the order in which they are computed).
        """
        inside = [graph.nodes[i] for i in self.positions(graph)]
        entering = dict.fromkeys([v for node in inside for v in node.inputs if v.node not in self.nodes])
        leaving = [
            value
            for node in inside
            for value in map(node.value, range(len(graph.returns[node.id])))
            if any(user.id not in self.nodes for user in graph.users.get(value, ())) or value in graph.outputs
        ]
        return tuple(entering), tuple(leaving)

    def signature(self, graph: Graph) -> Signature:
        """The types of what enters and leaves."""
        entering, leaving = self.boundary(graph)
        return Signature(graph.types_of(entering), graph.types_of(leaving))

    def is_convex(self, graph: Graph) -> bool:
        """Whether no path leaves the region and comes back: only such a region can be replaced."""
        return _gap(graph, self) is not None

    def extract(self, graph: Graph) -> Graph:
        """The region as a graph of its own; its inputs are called ``in0``, ``in1``, ... (with primes if taken)."""
        entering, leaving = self.boundary(graph)
        names: dict[Value, Value] = {}
        inputs = []
        for i, (value, type_) in enumerate(zip(entering, graph.types_of(entering), strict=True)):
            name = f"in{i}"
            while name in self.nodes:
                name += "'"
            names[value] = Value(name)
            inputs.append(Input(name, type_))
        nodes = tuple(graph.nodes[i].reading(names) for i in self.positions(graph))
        returns = {given.id: (given.type,) for given in inputs} | {node.id: graph.returns[node.id] for node in nodes}
        return Graph.known(tuple(inputs), nodes, leaving, returns)

    def others(self, graph: Graph, key: str) -> list[tuple[str, str]]:
        """The nodes outside the region that use a weight, by id, each with the role in which it does."""
        users = graph.weight_users.get(key, ())
        return [(id, role) for id, role in users if id not in self.nodes] if users else []

    def positions(self, graph: Graph) -> list[int]:
        """Where the region's nodes stand in the graph's order."""
        missing = [id for id in self.nodes if id not in graph]
        if missing or not self.nodes:
            raise GraphError(f"the graph has no node {min(missing)!r}" if missing else "a region needs a node")
        return sorted([graph.position[id] for id in self.nodes])

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


@dataclass(frozen=True, slots=True)
class Inheritance:
    """How much of a child's weights came from its parent, in elements of trainable weights."""

    inherited: int
    total: int

    @property
    def share(self) -> float:
        """Between 0 and 1; 1 for a network without weights."""
        return self.inherited / self.total if self.total else 1.0


def apply(graph: Graph, edit: Edit) -> Graph:
    """The child graph. GraphError where the region is not convex or the signatures differ."""
    return _place(graph, edit)[0]


def inherit(
    graph: Graph, edit: Edit, weights: Weights, rng: np.random.Generator
) -> tuple[dict[str, npt.NDArray[Any]], Inheritance]:
    """The child's weights: untouched nodes keep theirs, the replacement's come as ``edit.carry`` says."""
    child, keys = _place(graph, edit)
    carry = {keys.get(key, key): edit.carry.get(key, Fresh()) for key in edit.replacement.weight_users}
    roles = {key: role for node in child for role, key in node.weights.items()}
    tensors: dict[str, npt.NDArray[Any]] = {}
    inherited = total = 0
    for key, type_ in child.weight_types.items():
        array, count = resolve(carry.get(key, Keep(key)), weights, roles[key], type_, rng)
        tensors[key] = array
        if key in child.trainable:
            inherited += count
            total += array.size
    return tensors, Inheritance(inherited, total)


def _place(graph: Graph, edit: Edit) -> tuple[Graph, Mapping[str, str]]:
    """The child, and what those of the replacement's weights are called there that have another key.

    The replacement is well-formed and has the region's signature, so outside the region nothing is looked at but what
    reads the values that left it. Nodes that stood between those of the region come before the replacement where they
    do not depend on the region, and after it where they do.
    """
    region, new = edit.region, edit.replacement
    place: _Place | None = graph.notes.get(region)
    if place is None:
        place = graph.notes[region] = _Place.of(graph, region)
    gap = place.gap
    if new.signature != place.signature:
        raise GraphError(f"{edit.origin or 'edit'}: the replacement is {new.signature}, the region {place.signature}")
    if gap is None:
        raise GraphError(f"{edit.origin or 'edit'}: a path leaves the region {sorted(region.nodes)} and comes back")

    placed, values, keys = _named(graph, edit, place.entering)
    moved = {old: values.get(v, v) for old, v in zip(place.leaving, new.outputs, strict=True)}
    nodes = list(graph.nodes)
    rewired = []
    for i in place.readers:
        nodes[i] = nodes[i].reading(moved)
        rewired.append(nodes[i])
    before, after = ([nodes[i] for i in positions] for positions in (gap.before, gap.after))
    nodes[gap.start : gap.stop] = [*before, *placed, *after]

    returns = dict(graph.returns)
    for id in region.nodes:
        del returns[id]
    labels, reads = {}, {}
    marks = new.marks
    for node, was in zip(placed, new.nodes, strict=True):
        returns[node.id] = new.returns[was.id]
        labels[node.id] = marks.labels[was.id]
        if node is was:
            reads[node.id] = marks.reads[was.id]
    change = Change(
        gone=tuple(region.nodes),
        placed=placed,
        labels=labels,
        reads=reads,
        rewired=rewired,
        dependent=place.dependent,
        shared=_shared(graph, region, placed, [keys.get(key, key) for key in new.weight_users], bool(marks.shared)),
    )
    return (
        Graph.known(
            graph.inputs,
            tuple(nodes),
            tuple(moved.get(value, value) for value in graph.outputs),
            returns,
            graph.marks.after(change, nodes),
        ),
        keys,
    )


@dataclass(frozen=True, slots=True)
class _Gap:
    """Where the nodes of a region stand in the graph's order, from ``start`` to ``stop``, and the positions of the
    other nodes there: those that do not depend on the region (``before``) and those that do (``after``).
    """

    start: int
    stop: int
    before: Sequence[int] = ()
    after: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """What there is to know of a region, whatever comes in its place: its boundary, the gap that it leaves, where the
    nodes stand that read what leaves it, and which nodes outside depend on it, in the graph's order.
    """

    entering: tuple[Value, ...]
    leaving: tuple[Value, ...]
    signature: Signature
    gap: _Gap | None
    readers: tuple[int, ...]
    dependent: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph, region: Region) -> _Place:
        """The place of ``region`` in ``graph``."""
        entering, leaving = region.boundary(graph)
        users = {user.id for value in leaving for user in graph.users.get(value, ())} - region.nodes
        felt, dependent = set(region.nodes), []
        for node in graph.nodes[min(region.positions(graph)) :]:
            if node.id not in felt and any([value.node in felt for value in node.inputs]):
                felt.add(node.id)
                dependent.append(node.id)
        return cls(
            entering,
            leaving,
            Signature(graph.types_of(entering), graph.types_of(leaving)),
            _gap(graph, region),
            tuple(sorted([graph.position[id] for id in users])),
            tuple(dependent),
        )


def _gap(graph: Graph, region: Region) -> _Gap | None:
    """The gap that a region leaves; None where the region is not convex."""
    positions = region.positions(graph)
    start, stop = positions[0], positions[-1] + 1
    if stop - start == len(positions):
        return _Gap(start, stop)
    before, after = [], []
    dependent: set[str] = set()
    for i in range(start, stop):
        node = graph.nodes[i]
        returns = any(value.node in dependent for value in node.inputs)
        if node.id in region.nodes:
            if returns:
                return None
        elif returns or any(value.node in region.nodes for value in node.inputs):
            dependent.add(node.id)
            after.append(i)
        else:
            before.append(i)
    return _Gap(start, stop, before, after)


def _named(
    graph: Graph, edit: Edit, entering: Sequence[Value]
) -> tuple[tuple[Node, ...], Mapping[Value, Value], Mapping[str, str]]:
    """The replacement's nodes under names that are free in the graph; and what those of its values, and of its weights'
    keys, are that are called otherwise there.
    """
    region, new = edit.region, edit.replacement
    # A name given to one node must not be one that another node of the replacement is going to keep.
    own_ids, own_keys = new.position.keys(), new.weight_users.keys()
    new_ids: set[str] = set()
    new_keys: set[str] = set()
    keys: dict[str, str] = {}
    outer_ids, outer_keys = graph.returns.keys(), graph.weight_users.keys()

    def is_outer(id: str) -> bool:
        return id in outer_ids and id not in region.nodes

    def is_outer_key(key: str) -> bool:
        return key in outer_keys and bool(region.others(graph, key))

    def is_tensor(path: str) -> bool:
        # Keys are paths in a module, where what is called ``token`` can be a tensor or hold ``token.value``, not both.
        above = _paths(path)
        return not outer_keys.isdisjoint(above) and any(map(is_outer_key, above))

    def is_id(name: str) -> bool:
        return name in own_ids or name in new_ids or is_outer(name)

    def is_key(name: str) -> bool:
        return name in own_keys or name in new_keys or is_outer_key(name)

    def key_of(id: str, role: str, key: str) -> str:
        if key not in keys:
            keys[key] = key
            if edit.carry.get(key) != Keep(key) and (is_outer_key(key) or is_tensor(key.rpartition(".")[0])):
                keys[key] = _unused(f"{_unused(id, is_tensor)}.{role}", is_key)
                new_keys.add(keys[key])
        return keys[key]

    values = {Value(given.id): outer for given, outer in zip(new.inputs, entering, strict=True)}
    has_free_keys = outer_keys.isdisjoint(_key_paths(new))
    placed: list[Node] = []
    for node in new:
        id, inputs, weights = node.id, node.inputs, node.weights
        if id in outer_ids and id not in region.nodes:
            id = _unused(id, is_id)
            new_ids.add(id)
            values |= {node.value(i): Value(id, i) for i in range(len(new.returns[node.id]))}
        if not has_free_keys:
            weights = {role: key_of(id, role, key) for role, key in weights.items()}
        if not values.keys().isdisjoint(inputs):
            inputs = tuple([values.get(v, v) for v in inputs])
        changed = id is not node.id or inputs is not node.inputs or weights is not node.weights
        placed.append(Node(id, node.op, inputs, node.attrs, weights) if changed else node)
    return tuple(placed), values, keys


def _key_paths(graph: Graph) -> frozenset[str]:
    """The graph's weight keys, and the paths of modules that hold them."""
    note = "key paths"
    if note not in graph.notes:
        graph.notes[note] = frozenset([path for key in graph.weight_users for path in _paths(key)])
    paths: frozenset[str] = graph.notes[note]
    return paths


def _shared(
    graph: Graph, region: Region, placed: Iterable[Node], keys: Iterable[str], inside: bool
) -> dict[str, tuple[tuple[str, str], ...]]:
    """The weights that are used more than once when ``placed`` is in place of the region, and who uses them. ``keys``
    are those of ``placed``; ``inside`` says whether any of them is used more than once there.
    """
    known = graph.weight_users.keys()
    if not graph.marks.shared and not inside and known.isdisjoint(keys):
        return {}
    users = {key: region.others(graph, key) for key in graph.marks.shared}
    for node in placed:
        for role, key in node.weights.items():
            if key not in users:
                users[key] = region.others(graph, key) if key in known else []
            users[key].append((node.id, role))
    return {key: tuple(found) for key, found in users.items() if len(found) > 1}


@lru_cache(maxsize=4096)
def _paths(path: str) -> tuple[str, ...]:
    """``a``, ``a.b`` and ``a.b.c`` for ``a.b.c``."""
    parts = path.split(".")
    return tuple([".".join(parts[:end]) for end in range(1, len(parts) + 1)])


def _unused(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name itself if it is free, or else with a number behind it: the lowest one where those before it are taken,
    which takes few looks even where there are hundreds.
    """
    if not is_taken(name):
        return name
    taken, free = 1, 2
    while is_taken(f"{name}_{free}"):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        if is_taken(f"{name}_{middle}"):
            taken = middle
        else:
            free = middle
    return f"{name}_{free}"
