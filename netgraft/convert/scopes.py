"""How a graph falls into nested blocks: the module tree that its weights' names spell, and which places of that tree
can be blocks, with inputs and outputs of their own, that run without a break.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from netgraft.convert.expressions import BatchSize, Call, Expression, Layer, Operand
from netgraft.convert.lowering import expression
from netgraft.convert.to_torch import batch_source, placed_layers
from netgraft.ir import Graph, Node, Value

Path = tuple[str, ...]


@dataclass
class Place:
    """A place in the module tree: a layer, or what holds weights (``tensors``: key by name) and further places."""

    path: Path
    layer: Layer | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    children: dict[str, Place] = field(default_factory=dict)

    def below(self, path: Path) -> Place:
        """The place at ``path``, counted from here; made if there is none."""
        if not path:
            return self
        child = self.children.setdefault(path[0], Place((*self.path, path[0])))
        return child.below(path[1:])


@dataclass(frozen=True)
class Scope:
    """A block: where its weights are, what runs in it, in order, and the values that enter and leave."""

    place: Place
    items: tuple[Node | Scope, ...]
    entering: tuple[Value, ...]
    leaving: tuple[Value, ...]


class Flow:
    """A graph as it is written: without identities, its nodes with what they read and where they belong."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.expressions: dict[str, Expression] = {}
        self.reads: dict[str, tuple[Value, ...]] = {}
        same: dict[Value, Value] = {}
        for node in graph:
            what = expression(node, graph)
            inputs = tuple(same.get(value, value) for value in node.inputs)
            if isinstance(what, Operand):
                same[Value(node.id)] = inputs[what.index]
                continue
            self.nodes.append(node)
            self.expressions[node.id] = what
            self.reads[node.id] = (*inputs, *batch_source(graph)[:1]) if _holds_batch_size(what) else inputs
        self.outputs = tuple(same.get(value, value) for value in graph.outputs)
        self.used_by: dict[Value, list[str]] = {}
        for node in self.nodes:
            for value in self.reads[node.id]:
                self.used_by.setdefault(value, []).append(node.id)

        placed = placed_layers(graph)
        self.layers: dict[str, Path] = {id: tuple(p.prefix.split(".")) for id, p in placed.items()}
        self.root = Place(())
        for id, path in self.layers.items():
            self.root.below(path).layer = placed[id].layer
        held = {key for id in placed for key in graph[id].weights.values()}
        for key in graph.weight_types:
            if key not in held:
                *outer, name = key.split(".")
                self.root.below(tuple(outer)).tensors[name] = key
        self.homes = {node.id: self._home(node) for node in self.nodes}

    def _home(self, node: Node) -> Path:
        """The innermost place that a node can belong to: all its weights lie there; without weights, its id says."""
        if node.id in self.layers:
            return self.layers[node.id][:-1]
        if node.weights:
            return _common([tuple(key.split(".")[:-1]) for key in node.weights.values()])
        place = self.root
        for part in node.id.split("."):
            child = place.children.get(part)
            if child is None or child.layer:
                break
            place = child
        return place.path

    def outputs_of(self, item: Node | Scope) -> tuple[Value, ...]:
        """The values that an item gives."""
        if isinstance(item, Scope):
            return item.leaving
        return tuple(Value(item.id, i) for i in range(len(self.graph.output_types(item))))

    def reads_of(self, item: Node | Scope) -> tuple[Value, ...]:
        """The values that an item takes, in order."""
        return item.entering if isinstance(item, Scope) else self.reads[item.id]


def scopes(flow: Flow) -> Scope:
    """The whole network as nested blocks."""
    inputs = tuple(Value(given.id) for given in flow.graph.inputs)
    return _scope(flow, flow.root, flow.nodes, inputs, flow.outputs)


def _holds_batch_size(what: object) -> bool:
    match what:
        case BatchSize():
            return True
        case Call(_, args, kwargs):
            return any(map(_holds_batch_size, (*args, *kwargs.values())))
        case list() | tuple():
            return any(map(_holds_batch_size, what))
    return False


def _common(paths: Sequence[Path]) -> Path:
    shortest = min(paths, key=len)
    length = next((i for i, part in enumerate(shortest) if any(p[i] != part for p in paths)), len(shortest))
    return shortest[:length]


def _scope(
    flow: Flow, place: Place, nodes: Sequence[Node], entering: tuple[Value, ...], leaving: tuple[Value, ...]
) -> Scope:
    dissolved: set[Path] = set()
    while True:
        items: list[Node | Scope] = []
        inside: set[str] = set()
        for child, region in _blocks(flow, place, nodes, dissolved):
            inside.update(node.id for node in region)
            items.append(_scope(flow, child, region, *_boundary(flow, region)))
        items.extend(node for node in nodes if node.id not in inside)
        ordered = _in_order(flow, items, nodes)
        if len(ordered) == len(items):
            return Scope(place, tuple(ordered), entering, leaving)
        # Blocks that wait for each other cannot run without a break: take one of them apart.
        dissolved.add(next(i.place.path for i in items if isinstance(i, Scope) and i not in ordered))


def _blocks(
    flow: Flow, place: Place, nodes: Sequence[Node], dissolved: set[Path]
) -> Iterator[tuple[Place, list[Node]]]:
    """The outermost places below ``place`` that can be blocks, with their nodes."""
    taken: set[str] = set()

    def search(place: Place) -> Iterator[tuple[Place, list[Node]]]:
        for child in place.children.values():
            region = None if child.layer or child.path in dissolved else _region(flow, child.path, nodes)
            if region and not any(node.id in taken for node in region):
                taken.update(node.id for node in region)
                yield child, region
            else:
                yield from search(child)

    return search(place)


def _region(flow: Flow, path: Path, nodes: Sequence[Node]) -> list[Node] | None:
    """The nodes that belong to ``path``, with those between them; None where some of these belong elsewhere."""
    members = {node.id for node in nodes if flow.homes[node.id][: len(path)] == path}
    after: set[str] = set()
    for node in nodes:
        if any(value.node in members or value.node in after for value in flow.reads[node.id]):
            after.add(node.id)
    before: set[str] = set()
    for node in reversed(nodes):
        readers = [id for value in flow.outputs_of(node) for id in flow.used_by.get(value, ())]
        if any(id in members or id in before for id in readers):
            before.add(node.id)
    between = (after & before) - members
    # A block reaches no weights outside of it, and takes nothing from another block.
    foreign = any(flow.graph[id].weights or flow.homes[id] != path[: len(flow.homes[id])] for id in between)
    # Stored tensors alone are held, not run.
    if foreign or all(flow.graph[id].op == "constant" for id in members):
        return None
    region = [node for node in nodes if node.id in members | between]
    return region if _boundary(flow, region)[1] else None


def _boundary(flow: Flow, region: Sequence[Node]) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    inside = {node.id for node in region}
    entering = dict.fromkeys(v for node in region for v in flow.reads[node.id] if v.node not in inside)
    leaving = tuple(
        value
        for node in region
        for value in flow.outputs_of(node)
        if value in flow.outputs or any(id not in inside for id in flow.used_by.get(value, ()))
    )
    return tuple(entering), leaving


def _in_order(flow: Flow, items: Sequence[Node | Scope], nodes: Sequence[Node]) -> list[Node | Scope]:
    """The items, each after those it reads, otherwise in the order of ``nodes``; cycles are left out."""
    position = {node.id: i for i, node in enumerate(nodes)}
    giver = {value: i for i, item in enumerate(items) for value in flow.outputs_of(item)}
    first = [position[item.leaving[0].node if isinstance(item, Scope) else item.id] for item in items]
    waiting = [{giver[value] for value in flow.reads_of(item) if value in giver} for item in items]
    ready = [(first[i], i) for i, needs in enumerate(waiting) if not needs]
    heapq.heapify(ready)
    ordered: list[Node | Scope] = []
    while ready:
        _, done = heapq.heappop(ready)
        ordered.append(items[done])
        for i, needs in enumerate(waiting):
            if done in needs:
                needs.discard(done)
                if not needs:
                    heapq.heappush(ready, (first[i], i))
    return ordered
