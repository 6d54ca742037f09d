"""Where to put the boxes of a directed acyclic graph: layer by layer from top to bottom, as in Sugiyama, Tagawa, Toda,
"Methods for visual understanding of hierarchical system structures" (1981), in its simplest form.

A box stands one layer below the lowest of its predecessors (longest path). A wire that crosses layers has a place of
its own in each of them, so that it runs beside the boxes and not through them. The order within a layer follows the
mean place of the neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul

SWEEPS = 6
LANE = 10.0
"""Width of the place that a passing wire takes."""
GAP = 14.0
"""Free space between neighbours of one layer."""
RISE = 20.0
"""Free space between two layers."""

Slot = tuple[str, int]
"""A place in a layer: a box in its own layer, and in the layers below it the wire that comes from it."""


@dataclass(frozen=True)
class Placed:
    """A box with its centre line, its upper edge and its size."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """Boxes by name, and the wires between them as an SVG path."""

    boxes: Mapping[str, Placed]
    wires: str
    width: float
    height: float


def layout(sizes: Mapping[str, tuple[float, float]], successors: Mapping[str, Sequence[str]]) -> Layout:
    """Places boxes of the given sizes (width, height), listed in topological order."""
    layer = _layers(list(sizes), successors)
    below = _segments(layer, successors)
    rows = _rows(layer, below)
    above: dict[Slot, list[Slot]] = defaultdict(list)
    for slot, targets in below.items():
        for target in targets:
            above[target].append(slot)

    widths = {slot: sizes[slot[0]][0] if layer[slot[0]] == slot[1] else LANE for row in rows for slot in row}
    for sweep in range(SWEEPS):
        _order(rows, above if sweep % 2 == 0 else below, downwards=sweep % 2 == 0)
    x = _coordinates(rows, widths, above)

    tops: list[float] = []
    y = 0.0
    heights = [max(sizes[name][1] for name, at in row if layer[name] == at) for row in rows]
    for height in heights:
        tops.append(y)
        y += height + RISE
    boxes = {name: Placed(name, x[name, layer[name]], tops[layer[name]], *sizes[name]) for name in sizes}
    ends = {
        slot: tops[slot[1]] + (sizes[slot[0]][1] if layer[slot[0]] == slot[1] else heights[slot[1]]) for slot in widths
    }
    wires = [_wire(slot, target, x, tops, ends) for slot, targets in below.items() for target in targets]
    wires += [f"M{x[slot]:.0f} {tops[slot[1]]:.0f}V{ends[slot]:.0f}" for slot in widths if layer[slot[0]] != slot[1]]
    right = max(x[slot] + widths[slot] / 2 for slot in widths)
    return Layout(boxes, "".join(wires), right, y - RISE)


def _layers(names: Sequence[str], successors: Mapping[str, Sequence[str]]) -> dict[str, int]:
    layer = dict.fromkeys(names, 0)
    has_predecessor = {target for name in names for target in successors[name]}
    for name in names:
        for target in successors[name]:
            layer[target] = max(layer[target], layer[name] + 1)
    for name in names:
        # A stored tensor reads nothing; it belongs just above what reads it, not at the top.
        if name not in has_predecessor and successors[name]:
            layer[name] = min(layer[target] for target in successors[name]) - 1
    return layer


def _segments(layer: Mapping[str, int], successors: Mapping[str, Sequence[str]]) -> dict[Slot, list[Slot]]:
    """What each slot leads to in the next layer. All wires from one box share their slots as long as they run."""
    below: dict[Slot, list[Slot]] = {}
    for name, top in layer.items():
        targets = dict.fromkeys(successors[name])
        lowest = max((layer[target] for target in targets), default=top + 1)
        for at in range(top, lowest):
            ending = [(target, at + 1) for target in targets if layer[target] == at + 1]
            passing = [(name, at + 1)] if at + 1 < lowest else []
            below[name, at] = ending + passing
    return below


def _rows(layer: Mapping[str, int], below: Mapping[Slot, Sequence[Slot]]) -> list[list[Slot]]:
    rows: list[list[Slot]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for slot in dict.fromkeys([*((name, at) for name, at in layer.items()), *below]):
        rows[slot[1]].append(slot)
    return rows


def _order(rows: list[list[Slot]], neighbours: Mapping[Slot, Sequence[Slot]], *, downwards: bool) -> None:
    """Sorts each row by the mean place of its slots' neighbours in the row before it."""
    place = {slot: index / max(1, len(row) - 1) for row in rows for index, slot in enumerate(row)}
    for row in rows if downwards else reversed(rows):
        means = {}
        for slot in row:
            near = [place[n] for n in neighbours.get(slot, ())]
            means[slot] = sum(near) / len(near) if near else place[slot]
        row.sort(key=means.__getitem__)
        place |= {slot: index / max(1, len(row) - 1) if len(row) > 1 else 0.5 for index, slot in enumerate(row)}


def _coordinates(
    rows: Sequence[Sequence[Slot]], widths: Mapping[Slot, float], above: Mapping[Slot, Sequence[Slot]]
) -> dict[Slot, float]:
    """Centres. A box that has its layer to itself stands on the axis, wires beside it; several stand below what they
    read, as far as there is room.
    """
    x: dict[Slot, float] = {}

    def middle(slots: Sequence[Slot], values: Sequence[float]) -> float:
        # Boxes pull harder than wires.
        weights = [widths[slot] ** 2 for slot in slots]
        return sum(map(mul, weights, values)) / sum(weights) if slots else 0.0

    for row in rows:
        wanted = [middle(above.get(slot, ()), [x[n] for n in above.get(slot, ())]) for slot in row]
        placed: list[float] = []
        for index, slot in enumerate(row):
            least = placed[-1] + (widths[row[index - 1]] + widths[slot]) / 2 + GAP if placed else wanted[index]
            placed.append(max(wanted[index], least))
        boxes = [at for slot, at in zip(row, placed, strict=True) if widths[slot] > LANE]
        off = [have - want for want, have in zip(wanted, placed, strict=True)]
        shift = boxes[0] if len(boxes) == 1 else middle(row, off)
        x |= {slot: at - shift for slot, at in zip(row, placed, strict=True)}
    left = min((x[slot] - widths[slot] / 2 for slot in widths), default=0.0)
    return {slot: at - left for slot, at in x.items()}


def _wire(slot: Slot, target: Slot, x: Mapping[Slot, float], tops: Sequence[float], ends: Mapping[Slot, float]) -> str:
    start, end = ends[slot], tops[target[1]]
    if abs(x[slot] - x[target]) < 1:
        return f"M{x[slot]:.0f} {start:.0f}V{end:.0f}"
    # A box lower than its neighbours leaves straight down and turns between the layers.
    turn = end - RISE
    middle = (turn + end) / 2
    return (
        f"M{x[slot]:.0f} {start:.0f}V{turn:.0f}"
        f"C{x[slot]:.0f} {middle:.0f} {x[target]:.0f} {middle:.0f} {x[target]:.0f} {end:.0f}"
    )
