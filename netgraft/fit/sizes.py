"""Image sizes: the cheapest strides, paddings and factors that give a signature's images, by a shortest path.

A state is how far the walk through the nodes has come and the sizes of the images that are still read. No integer
program is needed: the states of a segment are few, and most segments take the first path, on which nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from math import prod

from netgraft.ir import Batch, Graph, Node, Signature, TensorType, Value
from netgraft.ir.types import Dim

from .outcome import Misfit
from .resizing import ENLARGING, LEAST, RESIZING, Attrs, Image, channels_last, departures, faithful, image, resized

_JOINS = frozenset(["add", "mul", "sub", "div", "concat"])
_MOST_STATES = 5_000
"""States visited before the search gives up: a hundred times what segments of 16 nodes need."""


@dataclass(frozen=True, slots=True)
class _Resize:
    """A node that makes an image of class ``source`` (None: an image of its own size) into one of class ``result``."""

    node: Node
    own: TensorType
    source: int | None
    result: int
    before: Image
    after: Image
    weight: float


@dataclass(frozen=True, slots=True)
class _Equal:
    """A node that reads images of two classes, which must be equal."""

    node: Node
    first: int
    second: int


_Chosen = tuple["_Chosen", str, Attrs] | None


def fit_sizes(segment: Graph, signature: Signature) -> dict[str, Attrs]:
    """The attributes of those resizing nodes, by id, that must change for the signature's image sizes.

    The sum of their prices is the least there is; among equals, changes stand early in the segment, where they save
    the most work. Raises Misfit, with the node and the sizes at fault, where there are none.
    """
    return _Walk(segment, signature).cheapest()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value has its image: its class, and the axes of height and width."""

    index: int
    axes: tuple[int, int]


class _Walk:
    """Values in classes of equal image size, and the steps that lead from class to class."""

    def __init__(self, segment: Graph, signature: Signature) -> None:
        self._segment = segment
        self._ends = tuple(dict.fromkeys(s for t in (*signature.inputs, *signature.outputs) if (s := image(t))))
        self._steps: list[_Resize | _Equal] = []
        self._start: list[Image] = []
        # The sizes that classes must have, with who says so; and those that they have in the segment.
        self._known: dict[int, tuple[Image, str]] = {}
        self._own: list[Image] = []
        self._places: dict[Value, _Place] = {}
        for given, type in zip(segment.inputs, signature.inputs, strict=True):
            value = Value(given.id)
            axes = (1, 2) if channels_last(segment, value) else (given.type.rank - 2, given.type.rank - 1)
            before, size = _sides(given.type, axes), _sides(type, axes)
            if before and size:
                self._demand(len(self._start), size, f"the input {given.id}")
                self._start.append(size)
                self._places[value] = _Place(self._new(before), axes)
        for position, node in enumerate(segment):
            self._add(node, position)
        for value, type in zip(segment.outputs, signature.outputs, strict=True):
            place = self._places.get(value)
            wanted = _sides(type, place.axes) if place else None
            if place and wanted:
                self._demand(place.index, wanted, f"the output {value}")
        self._spread()

    def _new(self, own: Image) -> int:
        self._own.append(own)
        return len(self._own) - 1

    def _demand(self, index: int, size: Image, who: str) -> None:
        known = self._known.setdefault(index, (size, who))
        if known[0] != size:
            raise Misfit(f"{known[1]} has images of {_text(known[0])}, and {who} of {_text(size)}: they must be equal")

    def _add(self, node: Node, position: int) -> None:
        if not node.inputs:
            return
        types, places = self._segment.types, self._places
        read, value = node.inputs[0], node.value()
        source = places.get(read)
        if node.op in RESIZING:
            own = types[read]
            before, after = image(own), image(types[value])
            # What is cut across its channels keeps its image.
            if before and after and not (node.op == "slice" and node.attrs["dim"] % 4 < 2):
                # What is made into an image inside the segment has the size it always had. A change early in the
                # segment is a little cheaper.
                known = source.index if source and source.axes == (2, 3) else None
                result = self._new(after)
                self._steps.append(_Resize(node, own, known, result, before, after, 1 + 0.01 * position))
                places[value] = _Place(result, (2, 3))
                return
        if node.op == "interpolate_like":
            like = places.get(node.inputs[1])
            if like:
                places[value] = like
        elif node.op == "unflatten_like":
            like = places.get(node.inputs[1])
            if like:
                dim = node.attrs["dim"] % types[read].rank
                places[value] = _Place(like.index, (dim, dim + 1))
        elif node.op in _JOINS:
            self._join(node)
        elif node.op == "frozen" or (node.op in ("split", "slice") and source and self._cuts(node, source)):
            self._keep(node)
        elif source:
            axes = _followed(node, types[read].shape, types[value].shape, source.axes)
            if axes:
                place = source if axes == source.axes else _Place(source.index, axes)
                for index in range(len(node.attrs["sizes"]) if node.op == "split" else 1):
                    places[node.value(index)] = place

    def _cuts(self, node: Node, place: _Place) -> bool:
        """Whether a concatenation, split or slice runs along a side of the image."""
        return int(node.attrs["dim"]) % self._segment.types[node.inputs[0]].rank in place.axes

    def _keep(self, node: Node) -> None:
        """What is hidden from us, or cut along its sides, keeps its size."""
        for value in node.inputs:
            if value in self._places:
                index = self._places[value].index
                self._demand(index, self._own[index], f"{node.id} ({node.op})")

    def _join(self, node: Node) -> None:
        """The inputs share the output's size, but for those that the join stretches."""
        types = self._segment.types
        shape = types[node.value()].shape
        first: _Place | None = None
        for value in node.inputs:
            place = self._places.get(value)
            if place is None or types[value].rank != len(shape):
                continue
            if node.op == "concat" and self._cuts(node, place):
                self._keep(node)
                return
            if self._own[place.index] != (shape[place.axes[0]], shape[place.axes[1]]):
                continue
            if first is None:
                first = self._places[node.value()] = place
            elif place.index != first.index:
                self._steps.append(_Equal(node, first.index, place.index))

    def _spread(self) -> None:
        """What is known of one side of a join is known of the other."""
        joins = [step for step in self._steps if isinstance(step, _Equal)]
        count = -1
        while count != len(self._known):
            count = len(self._known)
            for step in joins:
                name = f"{step.node.id} ({step.node.op})"
                for a, b in ((step.first, step.second), (step.second, step.first)):
                    if a not in self._known:
                        continue
                    size, who = self._known[a]
                    other = self._known.setdefault(b, (size, f"{name}, which joins {who}" if a < b else who))
                    if other[0] != size:
                        raise Misfit(
                            f"{name} would join images of {_text(size)} ({who}) with {_text(other[0])} ({other[1]})"
                        )

    def cheapest(self) -> dict[str, Attrs]:
        """The changed attributes on the cheapest path, by node."""
        steps, known = self._steps, self._known
        last = self._last_reads()
        # Price so far, minus the step to take, a number that settles ties, the classes' sizes (None: no longer read),
        # what was changed, and whether the step's own attributes were tried before.
        heap: list[tuple[float, int, int, tuple[Image | None, ...], _Chosen, bool]] = []
        seen: set[tuple[int, tuple[Image | None, ...]]] = set()
        other: dict[tuple[int, Image], list[tuple[float, Image, Attrs]]] = {}
        pushed = 0
        failed = _Failures(steps)

        def push(price: float, step: int, state: tuple[Image | None, ...], chosen: _Chosen, again: bool) -> None:
            nonlocal pushed
            pushed += 1
            heappush(heap, (price, -step, pushed, state, chosen, again))

        push(0.0, 0, tuple(self._start), None, False)
        while heap:
            price, minus, _, state, chosen, again = heappop(heap)
            at = -minus
            if pushed > _MOST_STATES:
                raise Misfit(f"no choice of strides found among the {_MOST_STATES} most faithful ones")
            if not again:
                state = tuple(None if at > last.get(i, -1) else size for i, size in enumerate(state))
                if (at, state) in seen:
                    continue
                seen.add((at, state))
            while at < len(steps):
                step = steps[at]
                if isinstance(step, _Equal):
                    if state[step.first] != state[step.second]:
                        failed.note(at, state[step.first], state[step.second])
                        break
                    at += 1
                    continue
                size = step.before if step.source is None else state[step.source]
                assert size is not None, "a class is kept until its last reader"
                wanted = known[step.result][0] if step.result in known else None
                if again:
                    if (at, size) not in other:
                        other[at, size] = self._others(step, size)
                    if not other[at, size]:
                        failed.note(at, None, size)
                    for more, out, attrs in other[at, size]:
                        if wanted is None or out == wanted:
                            chosen_now = (chosen, step.node.id, attrs)
                            push(price + (more - LEAST) * step.weight, at + 1, (*state, out), chosen_now, False)
                        else:
                            failed.note(at, out)
                    break
                if step.node.op not in _FIXED:
                    push(price + LEAST * step.weight, at, state, chosen, True)
                attrs = faithful(step.node, step.before, step.after, size)
                result = resized(step.node, attrs, step.own, size)
                if result is None or (wanted is not None and result != wanted):
                    failed.note(at, result, None if result else size)
                    break
                if attrs is not step.node.attrs:
                    chosen = (chosen, step.node.id, attrs)
                state = (*state, result)
                at += 1
            else:
                return _unrolled(chosen)
        raise Misfit(failed.reason(known, self._ends, self._segment))

    def _others(self, step: _Resize, size: Image) -> list[tuple[float, Image, Attrs]]:
        """Price, result and attributes of what the node may do with an image beside its own; one for each result."""
        cheapest: dict[Image, tuple[float, Image, Attrs]] = {}
        for price, attrs in departures(step.node, step.before, step.after, size, self._ends):
            out = resized(step.node, attrs, step.own, size)
            if out is not None and (out not in cheapest or price < cheapest[out][0]):
                cheapest[out] = (price, out, attrs)
        return list(cheapest.values())

    def _last_reads(self) -> Mapping[int, int]:
        last: dict[int, int] = {}
        for at, step in enumerate(self._steps):
            for index in (step.first, step.second) if isinstance(step, _Equal) else (step.source,):
                if index is not None:
                    last[index] = at
        return last


_FIXED = frozenset(["pad", "mean", "sum", "slice"])
"""Resizing operations that have no choice."""


class _Failures:
    """Where paths ended, so that the furthest can be told."""

    def __init__(self, steps: list[_Resize | _Equal]) -> None:
        self._steps = steps
        self._notes: dict[int, set[tuple[Image | None, Image | None]]] = {}

    def note(self, at: int, first: Image | None, second: Image | None = None) -> None:
        """A path ended at this step: with an image made, nothing made, or two images that are not equal."""
        self._notes.setdefault(at, set()).add((first, second))

    def reason(self, known: Mapping[int, tuple[Image, str]], ends: tuple[Image, ...], segment: Graph) -> str:
        """Why there is no path, by what stopped those that went furthest."""
        step = self._steps[max(self._notes)]
        notes = self._notes[max(self._notes)]
        name = f"{step.node.id} ({step.node.op})"
        if isinstance(step, _Equal):
            pairs = sorted(f"{_text(a)} with {_text(b)}" for a, b in notes)
            return f"{name} would join images of {', or '.join(pairs[:_MOST_TOLD])}"
        made = {image for image, _ in notes if image}
        if not made:
            taken = sorted(image for _, image in notes if image)
            return f"{name} cannot take images of {' or '.join(map(_text, taken))}"
        wanted, who = known[step.result]
        nearest = sorted(made, key=lambda size: (abs(size[0] - wanted[0]) + abs(size[1] - wanted[1]), size))[
            :_MOST_TOLD
        ]
        text = f"{name} can make images of {' or '.join(map(_text, nearest))}, not of {_text(wanted)} for {who}"
        if all(max(wanted) > max(end) for end in ends if end != wanted) and not any(n.op in ENLARGING for n in segment):
            text += f"; nothing in the segment enlarges images ({', '.join(sorted(ENLARGING))} would)"
        return text


_MOST_TOLD = 4
"""So many sizes are told in a reason, those nearest to what is asked for."""


def _unrolled(chosen: _Chosen) -> dict[str, Attrs]:
    attrs: dict[str, Attrs] = {}
    while chosen is not None:
        chosen, id, changed = chosen
        attrs[id] = changed
    return attrs


def _sides(type: TensorType, axes: tuple[int, int]) -> Image | None:
    """The sizes of two axes of a tensor with at least four."""
    if type.rank < 4:
        return None
    height, width = (type.shape[axis] for axis in axes)
    return None if isinstance(height, Batch) or isinstance(width, Batch) else (height, width)


def _followed(
    node: Node, before: tuple[Dim, ...], after: tuple[Dim, ...], axes: tuple[int, int]
) -> tuple[int, int] | None:
    """Where the axes of an image are after a node that does not resize it, None if they are no more."""
    match node.op:
        case "permute":
            dims = [dim % len(before) for dim in node.attrs["dims"]]
            return dims.index(axes[0]), dims.index(axes[1])
        case "flatten" | "reshape":
            # An axis is still there if as much stands before it as did, and it is as long as it was.
            lengths = [1]
            for dim in after:
                lengths.append(lengths[-1] * _length(dim))
            found = []
            for axis in axes:
                ahead = prod(map(_length, before[:axis]))
                found += [j for j, dim in enumerate(after) if lengths[j] == ahead and dim == before[axis]][:1]
            return (found[0], found[1]) if len(found) == 2 else None
        case "linear" | "matmul" | "attention" | "expand":
            return axes if len(before) - 1 not in axes and before[:-1] == after[:-1] else None
        case _:
            return axes


def _length(dim: Dim) -> int:
    return dim.times if isinstance(dim, Batch) else dim


def _text(size: Image | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "no image"
