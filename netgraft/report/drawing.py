"""A graph before and after, drawn: what went is marked in the first, what came or changed in the second.

Ids never change outside an edit's region, so nodes are compared by id. An activation or norm stands in one box with the
layer it follows, and in a large graph the long stretches in which nothing changed are folded into one box each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from enum import StrEnum
from itertools import groupby

from netgraft.ir import Graph, Node, TensorType, render
from netgraft.ir.text import render_node

from .layout import layout

SMALL = 24
"""Graphs of up to so many nodes are drawn whole."""
FOLDED = 3
"""The shortest stretch of unchanged nodes that is worth folding."""
WIDTH = 228.0
LINE = 16.0
MARGIN = 7.0


class Mark(StrEnum):
    """What became of a node."""

    SAME = "unchanged"
    REMOVED = "removed"
    ADDED = "added"
    CHANGED = "changed"
    """Kept its id, not its operation, attributes or weight shapes."""


@dataclass(frozen=True)
class Line:
    """One node in a box: what it does and its id, both shortened to fit, and where the text stands."""

    text: str
    name: str
    y: float


@dataclass(frozen=True)
class Box:
    """A rectangle with lines of text; ``kind`` is a mark, ``folded`` or ``port``, ``title`` says everything."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    lines: tuple[Line, ...]
    title: str


@dataclass(frozen=True)
class Drawing:
    """A graph as boxes and wires (an SVG path), in pixels."""

    boxes: tuple[Box, ...]
    wires: str
    width: float
    height: float


@dataclass(frozen=True)
class Comparison:
    """Two graphs drawn, how many nodes bear each mark, and the difference as lines of text."""

    before: Drawing
    after: Drawing
    counts: Mapping[Mark, int]
    text: tuple[str, ...]


def compare(before: Graph, after: Graph) -> Comparison:
    """Draws what the second graph has made of the first."""
    old, new = marks(before, after, Mark.REMOVED), marks(after, before, Mark.ADDED)
    near = _around(before, old) | _around(after, new)
    counts = Counter([*new.values(), *(mark for mark in old.values() if mark is Mark.REMOVED)])
    lines = list(unified_diff(render(before).splitlines(), render(after).splitlines(), n=1, lineterm=""))
    return Comparison(draw(before, old, near), draw(after, new, near), counts, tuple(lines[2:]))


def marks(graph: Graph, other: Graph, alone: Mark) -> dict[str, Mark]:
    """What each node of ``graph`` is compared with ``other``; ``alone`` marks those that only ``graph`` has."""

    def mark(node: Node) -> Mark:
        if node.id not in other:
            return alone
        return Mark.SAME if _nature(graph, node) == _nature(other, other[node.id]) else Mark.CHANGED

    return {node.id: mark(node) for node in graph}


def _nature(graph: Graph, node: Node) -> tuple[object, ...]:
    weights = {role: graph.weight_types[key] for role, key in node.weights.items()}
    return node.op, repr(dict(node.attrs)), weights


def _around(graph: Graph, marked: Mapping[str, Mark]) -> frozenset[str]:
    """The changed nodes and their neighbours."""
    wires = [(value.node, node.id) for node in graph for value in node.inputs]
    touched = {end for wire in wires if any(marked.get(id, Mark.SAME) != Mark.SAME for id in wire) for end in wire}
    return frozenset(touched | {id for id, mark in marked.items() if mark != Mark.SAME})


def draw(graph: Graph, marked: Mapping[str, Mark], near: frozenset[str]) -> Drawing:
    """Draws a graph; in a large one, stretches of nodes that are neither marked nor ``near`` are folded."""
    units = [*_inputs(graph), *_units(graph, marked, near), *_outputs(graph)]
    home = {id: unit.name for unit in units for id in unit.nodes}
    successors: dict[str, list[str]] = {unit.name: [] for unit in units}
    for unit in units:
        for source in dict.fromkeys(home[id] for id in unit.reads):
            if source != unit.name:
                successors[source].append(unit.name)
    sizes = {unit.name: (WIDTH, len(unit.lines) * LINE + MARGIN) for unit in units}
    found = layout(sizes, successors)
    boxes = []
    for unit in units:
        at = found.boxes[unit.name]
        lines = tuple(
            Line(text, _clipped(name, text), at.y + LINE * (n + 1)) for n, (text, name) in enumerate(unit.lines)
        )
        boxes.append(Box(unit.kind, at.x - at.width / 2, at.y, at.width, at.height, lines, unit.title))
    return Drawing(tuple(boxes), found.wires, found.width, found.height)


@dataclass(frozen=True)
class _Unit:
    """What becomes one box: ``nodes`` are the ids it stands for, ``reads`` the ids that they read."""

    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    title: str

    @property
    def name(self) -> str:
        return self.nodes[0]


def _inputs(graph: Graph) -> Iterator[_Unit]:
    for given in graph.inputs:
        yield _Unit("port", (given.id,), (), ((f"input {given.type}", given.id),), f"{given.id}: {given.type}")


def _outputs(graph: Graph) -> Iterator[_Unit]:
    for index, value in enumerate(graph.outputs):
        type_ = graph.types[value]
        # No id of a node holds a space.
        yield _Unit("port", (f"output {index}",), (value.node,), ((f"output {type_}", ""),), f"{value}: {type_}")


def _units(graph: Graph, marked: Mapping[str, Mark], near: frozenset[str]) -> Iterator[_Unit]:
    """A stretch of the topological order is convex (no path leaves it and comes back), so folding makes no cycle."""
    for shown, stretch in groupby(graph, lambda node: len(graph) <= SMALL or node.id in near):
        nodes = list(stretch)
        if not shown and len(nodes) >= FOLDED:
            yield _folded(nodes)
        else:
            yield from (_shown(graph, stack, marked) for stack in _stacks(graph, nodes, marked))


def _stacks(graph: Graph, nodes: Iterable[Node], marked: Mapping[str, Mark]) -> Iterator[list[Node]]:
    """Nodes in order; what only reshapes the values of the node before it, which nobody else reads, joins that node."""
    stack: list[Node] = []
    for node in nodes:
        follows = stack and node.inputs == (stack[-1].value(),) and node.definition.pointwise
        if follows and len(graph.users[node.inputs[0]]) == 1 and marked[node.id] == marked[stack[-1].id]:
            stack.append(node)
            continue
        if stack:
            yield stack
        stack = [node]
    if stack:
        yield stack


def _shown(graph: Graph, nodes: Sequence[Node], marked: Mapping[str, Mark]) -> _Unit:
    lines = tuple((_words(node, graph.input_types(node), graph.output_types(node)), node.id) for node in nodes)
    return _Unit(marked[nodes[0].id], _ids(nodes), _reads(nodes), lines, "\n".join(map(render_node, nodes)))


def _folded(nodes: Sequence[Node]) -> _Unit:
    lines = ((f"{len(nodes)} unchanged", f"{nodes[0].id} …"), ("", f"… {nodes[-1].id}"))
    return _Unit("folded", _ids(nodes), _reads(nodes), lines, "\n".join(_ids(nodes)))


def _ids(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(node.id for node in nodes)


def _reads(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(value.node for node in nodes for value in node.inputs)


def _clipped(name: str, text: str) -> str:
    """As much of the end of an id as fits beside the text."""
    room = int((WIDTH - 22 - 6.9 * len(text)) / 5.8)
    if len(name) <= room:
        return name
    return f"…{name[len(name) - room + 1 :]}" if room > 3 else ""


def _words(node: Node, given: Sequence[TensorType], made: Sequence[TensorType]) -> str:
    """What a node does, in a few characters: ``conv 3×3 16→32 /2``."""
    attrs = node.attrs
    match node.op:
        case "conv2d" | "conv_transpose2d":
            kind = "conv" if node.op == "conv2d" else "deconv"
            inputs, groups = given[0].shape[1], attrs["groups"]
            parts = [kind, _by(attrs["kernel"]), f"{inputs}→{attrs['out_channels']}"]
            parts += [f"/{_step(attrs['stride'])}"] * (attrs["stride"] != (1, 1))
            parts += [f"dil {_step(attrs['dilation'])}"] * (attrs["dilation"] != (1, 1))
            parts += ["dw" if groups == inputs else f"g{groups}"] * (groups != 1)
            text = " ".join(parts)
        case "linear":
            text = f"linear {given[0].shape[-1]}→{attrs['out_features']}"
        case "max_pool2d" | "avg_pool2d":
            text = f"{node.op[:3]} pool {_by(attrs['kernel'])} /{_step(attrs['stride'])}"
        case "adaptive_avg_pool2d" | "adaptive_max_pool2d":
            text = f"{node.op[9:12]} pool to {_by(attrs['size'])}"
        case "concat" if attrs["dim"] == 1:
            text = f"concat {'+'.join(str(type_.shape[1]) for type_ in given)}"
        case "frozen":
            text = str(attrs["target"])
        case _:
            text = node.op.replace("_", " ").removesuffix("2d")
    return text if len(text) <= 29 else f"{text[:28]}…"


def _by(pair: Sequence[object]) -> str:
    """``3×1``."""
    return "×".join(map(str, pair))


def _step(pair: Sequence[object]) -> str:
    """``2`` for equal steps, else ``2×1``."""
    return str(pair[0]) if len(set(pair)) == 1 else _by(pair)
