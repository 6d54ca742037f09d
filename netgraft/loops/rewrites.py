"""The few rewrites of loop nests that every other form of a convolution is composed of.

Turner, Crowley and O'Boyle, "Neural Architecture Search as Program Transformation Exploration", ASPLOS 2021, sections
4 and 5: what compilers do to loops keeps what is computed, and what architects do to layers does not; written as
rewrites of the same loops they mix. Each of them says whether it preserves the function (``preserves``, exactly but for
rounding), and raises GraphError where it does not apply.

Left out is what changes only how a machine runs the loops (tiling for caches, vectorising, binding to threads): that is
the engine's business here. Added is :class:`Factor`, without which low rank and separable forms cannot be composed, and
:class:`Activate`, with which BlockSwap's can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Protocol

from netgraft import ir
from netgraft.errors import GraphError

from .nest import Chain, Layer, Loop, Nest, Parts, Program, Sum, nest, replaced


class Rewrite(Protocol):
    """One step of a composition."""

    def preserves(self, program: Program) -> bool:
        """Whether ``program`` computes the same afterwards."""

    def __call__(self, program: Program) -> Program:
        """``program`` rewritten."""


class _Preserving:
    def preserves(self, program: Program) -> bool:
        """See :class:`Rewrite`."""
        return True


class _Changing:
    def preserves(self, program: Program) -> bool:
        """See :class:`Rewrite`."""
        return False


@dataclass(frozen=True)
class Interchange(_Preserving):
    """The named loops become the outermost ones, in this order. Preserves: a sum has no order."""

    loops: tuple[str, ...]

    def __call__(self, program: Program) -> Nest:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        outer = [given.loop(name) for name in self.loops]
        return replaced(given, [*outer, *(loop for loop in given.loops if loop.name not in self.loops)])


@dataclass(frozen=True)
class Split(_Preserving):
    """Loop ``j`` becomes ``j.0`` around ``j.1``, the inner one of ``size`` iterations (strip-mining). Preserves."""

    loop: str
    size: int

    def __call__(self, program: Program) -> Nest:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        loop = _whole(given, self.loop)
        if self.size < 1 or loop.extent % self.size:
            raise GraphError(f"{self}: {loop.extent} iterations cannot be cut into runs of {self.size}")
        outer, inner = f"{loop.name}.0", f"{loop.name}.1"
        count = loop.extent // self.size
        two = [Loop(outer, count, count), Loop(inner, self.size, self.size)]
        at = given.loops.index(loop)
        index = {name: one.substituted(loop.name, {outer: self.size, inner: 1}) for name, one in given.index.items()}
        return replaced(given, [*given.loops[:at], *two, *given.loops[at + 1 :]], index)


@dataclass(frozen=True)
class Fuse(_Preserving):
    """A loop and the one right inside of it become one, if they are what a split gives. Preserves."""

    outer: str
    inner: str

    def __call__(self, program: Program) -> Nest:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        outer, inner = _whole(given, self.outer), _whole(given, self.inner)
        at = given.loops.index(outer)
        runs_on = all(one.factor(outer.name) == one.factor(inner.name) * inner.extent for one in given.index.values())
        if given.loops[at + 1 : at + 2] != (inner,) or not runs_on:
            raise GraphError(f"{self}: the two are no loop that was split")
        name = f"{outer.name}+{inner.name}"
        fused = Loop(name, outer.extent * inner.extent, outer.extent * inner.extent)
        index = {
            dimension: one.substituted(outer.name, {}).substituted(inner.name, {name: 1})
            for dimension, one in given.index.items()
        }
        return replaced(given, [*given.loops[:at], fused, *given.loops[at + 2 :]], index)


@dataclass(frozen=True)
class Unroll(_Preserving):
    """A loop is cut at the iterations ``at``: each run of it becomes a nest of its own, with weights of its own. They
    compute different outputs, or parts of the same sums. Preserves (and so it does when the weights, from then on,
    learn apart).
    """

    loop: str
    at: tuple[int, ...]

    def __call__(self, program: Program) -> Program:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        loop = _whole(given, self.loop)
        ends = (0, *self.at, loop.extent)
        if len(ends) < 3 or any(stop <= start for start, stop in pairwise(ends)):
            raise GraphError(f"{self}: these are no cuts within {loop.extent} iterations")
        parts = [_run(given, loop, start, stop) for start, stop in pairwise(ends)]
        if written := _written(given, loop):
            return Parts(written, tuple(parts))
        return Sum((parts[0], *(replace(part, layer=replace(part.layer, bias=None)) for part in parts[1:])))


@dataclass(frozen=True)
class Shrink(_Changing):
    """The outermost loop runs from ``start`` below ``stop`` only: what it does not reach of a sum is left out, and
    outputs that it does not reach are copies of those that it does (of iteration j modulo how many there are).

    The paper's bottleneck is the first of B runs of the same length; its omitted outputs are omitted from what follows,
    too, where here the network around stays as it is. Does not preserve.
    """

    start: int
    stop: int

    def __call__(self, program: Program) -> Nest:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        loop = _whole(given, given.loops[0].name)
        if not 0 <= self.start < self.stop <= loop.extent or self.stop - self.start == loop.extent:
            raise GraphError(f"{self}: that is no part of {loop.extent} iterations")
        if not _written(given, loop):
            return _run(given, loop, self.start, self.stop)
        if self.start:
            raise GraphError(f"{self}: outputs are shrunk from their end")
        return _run(given, loop, self.start, self.stop, full=loop.full)


@dataclass(frozen=True)
class Group(_Changing):
    """The two outermost loops, one over filters and one over input channels, become one loop over both: each run of
    filters reads one run of channels. Does not preserve: the other runs are left out.
    """

    def __call__(self, program: Program) -> Nest:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        if len(given.loops) < 2:
            raise GraphError("a group needs two loops")
        one, other = (_whole(given, loop.name) for loop in given.loops[:2])
        sides = [set(given.moved_by(loop.name)) for loop in (one, other)]
        if sides != [{"o"}, {"i", "w"}] or one.extent != other.extent:
            raise GraphError(f"{one.name} and {other.name} do not run over as many filters as input channels")
        index = {name: place.substituted(other.name, {one.name: 1}) for name, place in given.index.items()}
        return replaced(given, [one, *given.loops[2:]], index)


@dataclass(frozen=True)
class Factor:
    """A dense layer becomes two, one after the other, whose product is the nearest to it of its ``rank``. The first has
    the window's sides ``taps``, the second the others, with the stride, padding and dilation that go with them. Where
    the outermost loop runs over input channels, each of its iterations is factored by itself, and has ``rank`` channels
    between the two: the first layer is then one in groups.

    Preserves where the rank is that of the whole kernel.
    """

    rank: int
    taps: tuple[int, ...]

    def preserves(self, program: Program) -> bool:
        """See :class:`Rewrite`."""
        return self.rank == self._most(_nest(program, self))

    def __call__(self, program: Program) -> Chain:
        """See :class:`Rewrite`."""
        given = _nest(program, self)
        layer, most = given.layer, self._most(given)
        if not 0 < self.rank <= most:
            raise GraphError(f"{self}: the kernel has a rank of {most} at most")
        blocks = self._blocks(given)
        axes = tuple(2 + side for side in sorted(self.taps))
        between = blocks * self.rank
        first, second = (
            ir.Factor(layer.weight, self.rank, blocks, axes, second=False),
            ir.Factor(layer.weight, self.rank, blocks, axes, second=True),
        )
        plain = dict.fromkeys(layer.sides, (1, 1, 0, 1))
        own = dict(enumerate(zip(layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)))
        early = plain | {side: own[side] for side in self.taps}
        late = own | {side: plain[side] for side in self.taps}
        windows = ("kernel", "stride", "padding", "dilation")
        before = Layer(
            layer.inputs, between, layer.sizes, **_columns(windows, early), groups=blocks, weight=first, bias=None
        )
        after = Layer(
            between,
            layer.outputs,
            before.places,
            **_columns(windows, late),
            groups=1,
            weight=second,
            bias=layer.bias,
        )
        return Chain(nest(before), nest(after))

    def _most(self, given: Nest) -> int:
        layer = given.layer
        if not set(self.taps) <= set(layer.sides):
            raise GraphError(f"{self}: the window has {len(layer.sides)} sides")
        inputs = layer.inputs // self._blocks(given)
        taps = [
            prod(k for side, k in enumerate(layer.kernel) if (side in self.taps) is early) for early in (True, False)
        ]
        return min(inputs * taps[0], layer.outputs * taps[1])

    def _blocks(self, given: Nest) -> int:
        """How many runs of input channels are factored by themselves. GraphError where the layer is not dense."""
        layer, outer = given.layer, given.loops[0]
        channels = given.along("i")
        whole = all(loop.is_whole for loop in given.loops) and given.work == nest(layer).work
        if layer.groups > 1 or not whole or any(loop in given.along("o") for loop in channels):
            raise GraphError(f"{self}: only a whole, dense layer can be factored")
        if outer not in channels:
            return 1
        if given.index["i"].factor(outer.name) * outer.extent != layer.inputs:
            raise GraphError(f"{self}: {outer.name} does not run over runs of channels")
        return outer.extent


@dataclass(frozen=True)
class Activate(_Changing):
    """A batch norm and a ReLU between two layers that were one, as BlockSwap has them. Does not preserve."""

    def __call__(self, program: Program) -> Chain:
        """See :class:`Rewrite`."""
        if not isinstance(program, Chain) or program.activated:
            raise GraphError("an activation stands between two layers that were factored")
        return replace(program, activated=True)


@dataclass(frozen=True)
class Step:
    """A rewrite of one part of a program: ``at`` leads there, by the numbers of parts."""

    rewrite: Rewrite
    at: tuple[int, ...] = ()


def rewritten(program: Program, steps: Sequence[Step]) -> tuple[Program, bool]:
    """The program after some steps, and whether all of them preserve what it computes. GraphError where one of them
    does not apply.
    """
    preserved = True
    for step in steps:
        program, kept = _at(program, step.at, step.rewrite)
        preserved = preserved and kept
    return program, preserved


def _at(program: Program, at: Sequence[int], rewrite: Rewrite) -> tuple[Program, bool]:
    if not at:
        return rewrite(program), rewrite.preserves(program)
    inner = parts(program)
    if not 0 <= at[0] < len(inner):
        raise GraphError(f"{rewrite}: the program has {len(inner)} parts, and no part {at[0]}")
    part, kept = _at(inner[at[0]], at[1:], rewrite)
    new = [*inner[: at[0]], part, *inner[at[0] + 1 :]]
    if isinstance(program, Chain):
        return replace(program, first=new[0], second=new[1]), kept
    assert not isinstance(program, Nest), "a nest has no parts"
    return replace(program, parts=tuple(new)), kept


def parts(program: Program) -> tuple[Program, ...]:
    """The programs that a program is made of; none for a nest."""
    match program:
        case Chain(first, second):
            return first, second
        case Parts(_, found) | Sum(found):
            return found
        case Nest():
            return ()


def work(program: Program) -> int:
    """How often the innermost statements of a program run, for one example."""
    return program.work if isinstance(program, Nest) else sum(map(work, parts(program)))


def _nest(program: Program, rewrite: object) -> Nest:
    if not isinstance(program, Nest):
        raise GraphError(f"{rewrite}: only a nest has loops, not {type(program).__name__}")
    return program


def _whole(given: Nest, name: str) -> Loop:
    loop = given.loop(name)
    if not loop.is_whole:
        raise GraphError(f"loop {name} has been shrunk, and stays as it is")
    return loop


def _written(given: Nest, loop: Loop) -> str:
    """The dimension of the output along which a loop moves; nothing where it runs over terms of sums."""
    return next((name for name in sorted(given.moved_by(loop.name)) if name[0] in "oy"), "")


def _run(given: Nest, loop: Loop, start: int, stop: int, full: int | None = None) -> Nest:
    """The nest with a loop from ``start`` below ``stop``."""
    run = Loop(loop.name, stop - start, stop - start if full is None else full)
    index = {name: one.substituted(loop.name, {loop.name: 1}, start) for name, one in given.index.items()}
    return replaced(given, [run if other is loop else other for other in given.loops], index)


def _columns(names: Sequence[str], rows: Mapping[int, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return dict(zip(names, zip(*(rows[side] for side in sorted(rows)), strict=True), strict=True))
