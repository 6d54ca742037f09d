"""From a program of loop nests to operations of the graph, and where their weights come from.

Every nest becomes one convolution: loops over filters *and* input channels are its groups, loops over filters or
channels alone what is in a group, loops over places its stride, loops over taps its dilation. What it reads of the
input is sliced out before, and what it writes is put where it belongs afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from netgraft.errors import GraphError
from netgraft.ir import Builder, Carry, Concat, Edit, Graph, Node, Region, Slice, Value

from .nest import Chain, Ints, Layer, Loop, Nest, Parts, Program, Sum

MOST_PIECES = 8
"""More slices than that are not put together into one tensor."""


def edit_of(graph: Graph, node: Node, program: Program, origin: str, *, exact: bool = False) -> Edit:
    """The edit that puts a program in place of a convolution. GraphError where no operations compute the program."""
    name = "in0"
    while name in graph:
        name += "'"
    builder = Builder()
    x = builder.input(name, graph.types[node.inputs[0]])
    writing = _Writing(builder, node)
    y = writing.whole(program, x, node.id)
    return Edit(Region.of([node.id]), builder.build(y), writing.carry, origin, exact)


@dataclass(frozen=True)
class _Made:
    """A tensor, and which places it has along filters and each side, in rising order."""

    value: Value
    places: tuple[tuple[int, ...], ...]


@dataclass
class _Writing:
    """A graph fragment in the making."""

    builder: Builder
    node: Node
    carry: dict[str, Carry] = field(default_factory=dict)

    def whole(self, program: Program, x: Value, name: str) -> Value:
        """A program with all of its outputs; ``name`` is free for its operations."""
        match program:
            case Chain(first, second, activated):
                y = self.whole(first, x, f"{name}.first")
                if activated:
                    y = self.builder.add("batch_norm", y, id=f"{name}.norm")
                    y = self.builder.add("relu", y, id=f"{name}.relu")
                return self.whole(second, y, f"{name}.second")
            case _:
                return self.made(program, x, name).value

    def made(self, program: Program, x: Value, name: str) -> _Made:
        """A program with the outputs that it computes."""
        match program:
            case Nest():
                return self.nest(program, x, name)
            case Chain():
                value = self.whole(program, x, name)
                _, *sizes = self.builder.type(value).concrete()
                return _Made(value, tuple(tuple(range(size)) for size in sizes))
            case Sum(parts):
                added = [self.made(part, x, f"{name}.{number}") for number, part in enumerate(parts)]
                return _Made(self.add("add", *(one.value for one in added), name=name), added[0].places)
            case Parts(along, parts):
                joined = [self.made(part, x, f"{name}.{number}") for number, part in enumerate(parts)]
                return self.joined(_axis(along), joined, name)

    def add(self, op: str, *inputs: Value, name: str, **attrs: Any) -> Value:
        return self.builder.add(op, *inputs, id=self.builder.fresh_id(f"{name}.{op}"), **attrs)

    def joined(self, axis: int, made: Sequence[_Made], name: str) -> _Made:
        value = self.add("concat", *(one.value for one in made), name=name, dim=axis)
        found = np.concatenate([one.places[axis - 1] for one in made])
        value = self.picked(value, axis, np.argsort(found), name)
        places = list(made[0].places)
        places[axis - 1] = tuple(np.sort(found).tolist())
        return _Made(value, tuple(places))

    def nest(self, nest: Nest, x: Value, name: str) -> _Made:
        """One convolution, with what has to come before and after it."""
        filters, channels = nest.along("o"), nest.along("i")
        groups = [loop for loop in filters if loop in channels]
        own = [loop for loop in filters if loop not in channels]
        read = [loop for loop in channels if loop not in filters]
        count = prod(loop.extent for loop in groups)
        rows = nest.index["o"].places([*groups, *own]).ravel()
        layer = nest.layer
        value = self.picked(x, 1, nest.index["i"].places([*groups, *read]).ravel(), name)
        inside = nest.index["w"].places([*groups, *read]).reshape(count, -1)
        sides = [_Side.of(nest, side) for side in layer.sides]
        value, padding = self.padded(value, sides, name)
        weight = _kernel(layer, rows, inside, sides)
        keys = {role: f"{name}.{role}" for role in ("weight", "bias")}
        if name == self.node.id:
            keys |= self.node.weights
        value = self.builder.add(
            self.node.op,
            value,
            id=name,
            weights=keys if layer.bias is not None else {"weight": keys["weight"]},
            out_channels=len(rows),
            kernel=tuple(len(side.taps) for side in sides),
            stride=tuple(side.stride for side in sides),
            dilation=tuple(side.dilation for side in sides),
            padding=padding,
            groups=count,
            bias=layer.bias is not None,
        )
        self.carry[keys["weight"]] = weight
        if layer.bias is not None:
            self.carry[keys["bias"]] = _some(layer.bias, 0, rows, layer.outputs)
        return self.spread(nest, value, [*groups, *own], name)

    def padded(self, x: Value, sides: Sequence[_Side], name: str) -> tuple[Value, tuple[int, ...]]:
        """What the convolution reads, and its own padding."""
        if all(side.is_even for side in sides):
            return x, tuple(side.before for side in sides)
        pads: list[int] = []
        for number, side in enumerate(sides):
            start, stop = max(0, -side.before), side.size - max(0, -side.after)
            if stop - start < side.size:
                x = self.add("slice", x, name=name, dim=2 + number, start=start, stop=stop)
            pads = [max(0, side.before), max(0, side.after), *pads]
        if any(pads):
            x = self.add("pad", x, name=name, pads=tuple(pads))
        return x, (0,) * len(sides)

    def spread(self, nest: Nest, value: Value, filters: Sequence[Loop], name: str) -> _Made:
        """What a nest computes, put into order, and given to the outputs that are copies."""
        orders = [filters, *(nest.along(f"y{side}") for side in nest.layer.sides)]
        names = ["o", *(f"y{side}" for side in nest.layer.sides)]
        places, positions = [], []
        for dimension, loops in zip(names, orders, strict=True):
            full = [Loop(loop.name, loop.full, loop.full) for loop in loops]
            found = nest.index[dimension].places(full).ravel()
            extents = [loop.extent for loop in loops]
            given = np.arange(prod(extents)).reshape(extents)
            for axis, loop in enumerate(loops):
                given = given.take(np.arange(loop.full) % loop.extent, axis)
            computed = given.ravel()
            if dimension != "o":  # a convolution gives its places in rising order
                reached = nest.index[dimension].places(loops).ravel()
                computed = np.argsort(np.argsort(reached))[computed]
            order = np.argsort(found)
            places.append(tuple(found[order].tolist()))
            positions.append(computed[order])
        value = self.picked(value, 1, positions[0], name)
        return _Made(self.enlarged(value, positions[1:], name), tuple(places))

    def enlarged(self, value: Value, positions: Sequence[Ints], name: str) -> Value:
        """Places of images, in one resize where every side repeats each of its places."""
        sizes = self.builder.type(value).concrete()[2:]
        times = [_times(given, size) for given, size in zip(positions, sizes, strict=True)]
        if len(sizes) == 2 and all(times) and max(times) > 1:
            return self.add("interpolate", value, name=name, scale=tuple(float(factor) for factor in times))
        for side, given in enumerate(positions):
            value = self.picked(value, 2 + side, given, name)
        return value

    def picked(self, x: Value, axis: int, positions: Ints, name: str) -> Value:
        """The entries of ``x`` at some positions along an axis."""
        shape = self.builder.type(x).shape
        size = self.builder.type(x).concrete()[axis]
        if np.array_equal(positions, np.arange(size)):
            return x
        before, after = shape[:axis], shape[axis + 1 :]
        each = _times(positions, size)
        if each:
            x = self.add("reshape", x, name=name, shape=(*before, size, 1, *after))
            x = self.add("expand", x, name=name, shape=(*before, size, each, *after))
            return self.add("reshape", x, name=name, shape=(*before, size * each, *after))
        if len(positions) % size == 0 and np.array_equal(positions, np.arange(len(positions)) % size):
            return self.add("concat", *[x] * (len(positions) // size), name=name, dim=axis)
        if len(positions) == size and (rows := _transposed(positions)):
            x = self.add("reshape", x, name=name, shape=(*before, rows, size // rows, *after))
            rank = len(shape) + 1
            swapped = [*range(axis), axis + 1, axis, *range(axis + 2, rank)]
            x = self.add("permute", x, name=name, dims=tuple(swapped))
            return self.add("reshape", x, name=name, shape=shape)
        runs = _runs(positions)
        if len(runs) > MOST_PIECES:
            raise GraphError(f"{name}: {len(runs)} slices would have to be put together")
        pieces = [
            self.add("slice", x, name=name, dim=axis, start=first, stop=last + 1, step=step)
            for first, last, step in runs
        ]
        return pieces[0] if len(pieces) == 1 else self.add("concat", *pieces, name=name, dim=axis)


@dataclass(frozen=True)
class _Side:
    """One side of a convolution: which taps of the kernel it has, and what it needs around the image."""

    size: int
    taps: tuple[int, ...]
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def is_even(self) -> bool:
        """Whether the convolution's own padding will do."""
        return self.before >= 0 and self.before == self.after

    @classmethod
    def of(cls, nest: Nest, side: int) -> _Side:
        layer = nest.layer
        places = np.sort(nest.index[f"y{side}"].places(nest.along(f"y{side}")).ravel())
        taps = np.sort(nest.index[f"k{side}"].places(nest.along(f"k{side}")).ravel())
        size, padding = layer.sizes[side], layer.padding[side]
        stride = layer.stride[side] * _step(places, f"places along side {side}")
        dilation = layer.dilation[side] * _step(taps, f"taps along side {side}")
        first = layer.stride[side] * int(places[0]) + layer.dilation[side] * int(taps[0]) - padding
        last = layer.stride[side] * int(places[-1]) + layer.dilation[side] * int(taps[-1]) - padding
        # As many places as there are leave room for up to stride - 1 entries that nothing reads.
        least = last - (size - 1)
        before = -first
        after = before if least <= before < least + stride else min(max(0, least), least + stride - 1)
        return cls(size, tuple(taps.tolist()), stride, dilation, before, after)


def _kernel(layer: Layer, rows: Ints, inside: Ints, sides: Sequence[_Side]) -> Carry:
    """The kernel of filters ``rows``; ``inside`` has a row of input channels for each group."""
    inputs = layer.inputs // layer.groups
    if (inside == inside[0]).all():
        kernel = _some(_some(layer.weight, 0, rows, layer.outputs), 1, inside[0], inputs)
    else:
        runs = rows.reshape(len(inside), -1)
        kernel = Concat(
            tuple(
                _some(_some(layer.weight, 0, run, layer.outputs), 1, channels, inputs)
                for run, channels in zip(runs, inside, strict=True)
            ),
            0,
        )
    for number, side in enumerate(sides):
        kernel = _some(kernel, 2 + number, np.array(side.taps), layer.kernel[number])
    return kernel


def _some(source: Carry, axis: int, indices: Ints, size: int) -> Carry:
    """Entries along an axis of ``size``."""
    return source if np.array_equal(indices, np.arange(size)) else Slice(source, axis, tuple(indices.tolist()))


def _axis(along: str) -> int:
    return 1 if along == "o" else 2 + int(along[1:])


def _step(places: Ints, what: str) -> int:
    """The distance between places; GraphError where they have several."""
    steps = {int(b - a) for a, b in pairwise(places.tolist())}
    if len(steps) > 1:
        raise GraphError(f"{what} are at uneven distances")
    return steps.pop() if steps else 1


def _times(positions: Ints, size: int) -> int:
    """How often each of ``size`` entries stands beside itself; 0 where positions are anything else."""
    times = len(positions) // size
    return times if np.array_equal(positions, np.repeat(np.arange(size), times)) else 0


def _transposed(positions: Ints) -> int:
    """The rows of the matrix whose transpose the positions read, row by row; 0 where they read anything else."""
    if len(positions) < 4 or positions[0] != 0:
        return 0
    columns = int(positions[1])
    if columns < 2 or len(positions) % columns:
        return 0
    rows = len(positions) // columns
    return rows if np.array_equal(positions, np.arange(len(positions)).reshape(rows, columns).T.ravel()) else 0


def _runs(positions: Ints) -> list[tuple[int, int, int]]:
    """First, last and distance of runs of rising positions at even distances."""
    runs: list[tuple[int, int, int]] = []
    for at in positions.tolist():
        if runs:
            first, last, step = runs[-1]
            if at > last and (first == last or at - last == step):
                runs[-1] = (first, at, at - last)
                continue
        runs.append((at, at, 1))
    return runs
