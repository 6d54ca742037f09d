"""A convolution as a nest of loops: what it runs over, and what its tensors are read and written at.

A layer of one group over images is, for every example::

    for o:                          # filters
        for i:                      # input channels
            for y0, y1:             # rows and columns of the output
                for k0, k1:         # taps of the window
                    out[o, y0, y1] += weight[o, i, k0, k1] * x[i, stride y0 + dilation k0 - padding, ...]

A :class:`Nest` holds the loops, outermost first, and says where each of these places is by an :class:`Index` over
them. Rewriting (:mod:`netgraft.loops.rewrites`) turns one nest into another or into several: a :data:`Program`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from netgraft.errors import GraphError
from netgraft.ir import Carry, Graph, Keep, Node
from netgraft.ir.ops import CONVOLUTIONS
from netgraft.ir.shapes import window

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loop:
    """A loop from 0 below ``extent``. ``full`` is how far it went before it was shrunk: outputs of iteration j below
    ``full`` are given what iteration j modulo ``extent`` computes.
    """

    name: str
    extent: int
    full: int

    @property
    def is_whole(self) -> bool:
        """Whether it was never shrunk."""
        return self.extent == self.full


@dataclass(frozen=True)
class Index:
    """A place along a dimension: ``offset`` and the sum of loops, each times its factor."""

    terms: tuple[tuple[str, int], ...] = ()
    offset: int = 0

    def factor(self, loop: str) -> int:
        """What the loop is multiplied by; 0 where the place does not depend on it."""
        return dict(self.terms).get(loop, 0)

    def substituted(self, loop: str, terms: Mapping[str, int], offset: int = 0) -> Index:
        """The index with the sum of ``terms`` and ``offset`` in place of a loop."""
        factor = self.factor(loop)
        if not factor:
            return self
        others = [term for term in self.terms if term[0] != loop]
        added = [(name, factor * times) for name, times in terms.items()]
        return Index((*others, *added), self.offset + factor * offset)

    def places(self, loops: Sequence[Loop]) -> Ints:
        """The places that iterations of ``loops`` have, in an array with an axis for each loop."""
        found = np.full([loop.extent for loop in loops], self.offset, np.int64)
        for axis, loop in enumerate(loops):
            steps = self.factor(loop.name) * np.arange(loop.extent, dtype=np.int64)
            found = found + steps.reshape([-1 if a == axis else 1 for a in range(len(loops))])
        return found


@dataclass(frozen=True)
class Layer:
    """The convolution that a nest computes, or computes a part of: sizes of its images, its window, and where its
    kernel [outputs, inputs / groups, taps...] and its bias come from.
    """

    inputs: int
    outputs: int
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    weight: Carry
    bias: Carry | None

    @property
    def sides(self) -> range:
        """Numbers of the sides of its images."""
        return range(len(self.kernel))

    @property
    def places(self) -> tuple[int, ...]:
        """Sizes of the images that it gives."""
        given = zip(self.sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple([window(*one) for one in given])


@dataclass(frozen=True)
class Nest:
    """Loops, outermost first, and the places that they run over, by the names of dimensions: ``o`` (filters), ``i``
    (input channels), ``w`` (input channels as the kernel counts them: within their group), ``y0``, ``y1``, ... (places
    of the output) and ``k0``, ``k1``, ... (taps).
    """

    layer: Layer
    loops: tuple[Loop, ...]
    index: Mapping[str, Index]

    def loop(self, name: str) -> Loop:
        """The loop of a name; GraphError where there is none."""
        for loop in self.loops:
            if loop.name == name:
                return loop
        raise GraphError(f"there is no loop {name!r}; there are {', '.join(loop.name for loop in self.loops)}")

    def moved_by(self, loop: str) -> frozenset[str]:
        """The dimensions along which a loop moves."""
        return frozenset(name for name, index in self.index.items() if index.factor(loop))

    def along(self, dimension: str) -> tuple[Loop, ...]:
        """The loops that move along a dimension."""
        return tuple([loop for loop in self.loops if self.index[dimension].factor(loop.name)])

    @property
    def work(self) -> int:
        """How often the innermost statement runs, for one example."""
        return prod(loop.extent for loop in self.loops)


@dataclass(frozen=True)
class Parts:
    """Programs that compute different places along the dimension ``along`` of the same output."""

    along: str
    parts: tuple[Program, ...]


@dataclass(frozen=True)
class Sum:
    """Programs whose outputs are added."""

    parts: tuple[Program, ...]


@dataclass(frozen=True)
class Chain:
    """Two programs, the second on what the first gives; ``activated`` puts a batch norm and a ReLU between them."""

    first: Program
    second: Program
    activated: bool = False


Program = Nest | Parts | Sum | Chain


def nest_of(graph: Graph, node: Node) -> Nest:
    """The loops of a convolution of a graph. GraphError for any other operation."""
    if node.op not in CONVOLUTIONS:
        raise GraphError(f"{node.id}: {node.op} is no convolution, and has no loops to rewrite")
    _, inputs, *sizes = graph.input_types(node)[0].concrete()
    attrs = {name: node.attrs[name] for name in ("kernel", "stride", "padding", "dilation", "groups")}
    bias = Keep(node.weights["bias"]) if node.attrs["bias"] else None
    return nest(
        Layer(inputs, node.attrs["out_channels"], tuple(sizes), weight=Keep(node.weights["weight"]), bias=bias, **attrs)
    )


def nest(layer: Layer) -> Nest:
    """The loops of a layer as it is written down: groups if there are any, filters, input channels, places, taps."""
    extents = {"o": layer.outputs // layer.groups, "i": layer.inputs // layer.groups}
    index = {"o": Index((("o", 1),)), "i": Index((("i", 1),)), "w": Index((("i", 1),))}
    if layer.groups > 1:
        index["o"] = Index((("g", extents["o"]), ("o", 1)))
        index["i"] = Index((("g", extents["i"]), ("i", 1)))
        extents = {"g": layer.groups, **extents}
    for name, sizes in (("y", layer.places), ("k", layer.kernel)):
        for side, size in enumerate(sizes):
            extents[f"{name}{side}"] = size
            index[f"{name}{side}"] = Index(((f"{name}{side}", 1),))
    return Nest(layer, tuple(Loop(name, extent, extent) for name, extent in extents.items()), index)


def replaced(given: Nest, loops: Sequence[Loop], index: Mapping[str, Index] | None = None) -> Nest:
    """The nest with other loops, and other places where these are given."""
    return replace(given, loops=tuple(loops), index=given.index if index is None else index)
