"""Wiring: which of a region's values a segment reads, and where what it returns is read.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.2, draws one matching of resolutions. Here every way is a wiring of
its own: one entering value may feed several inputs of the segment, and one output of the segment may be read in several
places; but every entering value is read, and every output of the segment is, so that a child has no loose ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from netgraft.ir import Graph, Input, Signature, TensorType, Value


@dataclass(frozen=True, slots=True)
class Wiring:
    """``inputs`` has the position of the region's entering value for each input of the segment, ``outputs`` that of the
    segment's output for each of the region's leaving values.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def inside(self, region: Signature) -> Signature:
        """The signature that the segment must be fitted to, for a region of the given one."""
        leaving = {own: region.outputs[i] for i, own in enumerate(self.outputs)}
        return Signature(tuple(region.inputs[i] for i in self.inputs), tuple(leaving[own] for own in sorted(leaving)))

    def around(self, fitted: Graph, region: Signature) -> Graph:
        """The fitted segment as a graph with the region's signature."""
        if self.inputs == tuple(range(len(region.inputs))) and self.outputs == tuple(range(len(fitted.outputs))):
            return fitted
        inputs: list[Input | None] = [None] * len(region.inputs)
        values: dict[Value, Value] = {}
        for given, position in zip(fitted.inputs, self.inputs, strict=True):
            kept = inputs[position] = inputs[position] or given
            values[Value(given.id)] = Value(kept.id)
        nodes = tuple([node.reading(values) for node in fitted])
        outputs = tuple([values.get(v, v) for v in [fitted.outputs[own] for own in self.outputs]])
        # Inputs that become one have one type, so every node returns what it did.
        return Graph.known(tuple(filter(None, inputs)), nodes, outputs, fitted.returns)


def alike(segment: TensorType, region: TensorType) -> bool:
    """Whether fitting may make one type the other: they agree in rank and element type."""
    return segment.rank == region.rank and segment.dtype == region.dtype


def wirings(
    segment: Signature,
    region: Signature,
    rng: np.random.Generator,
    match: Callable[[TensorType, TensorType], bool] = alike,
) -> Iterator[Wiring]:
    """The distinct ways to wire a segment into a region where ``match(own type, region's type)`` holds for each pair:
    all of them, lazily, in a random order. ``match`` sorts types into classes, as :func:`alike` and equality do.
    """
    into = [tuple(i for i, t in enumerate(region.inputs) if match(own, t)) for own in segment.inputs]
    out = [tuple(i for i, own in enumerate(segment.outputs) if match(own, t)) for t in region.outputs]
    for inputs in _onto(into, [None] * len(into), len(region.inputs), rng):
        for outputs in _onto(out, region.outputs, len(segment.outputs), rng):
            yield Wiring(inputs, outputs)


def _onto(
    choices: Sequence[tuple[int, ...]], types: Sequence[TensorType | None], count: int, rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """One of its choices for each place, in every combination that leaves none of the ``count`` things out and gives
    none to places of different types.

    Places that have one choice in common have all of them in common. So it can be told at each step whether what is
    left over can be given away still, and no time goes into what leads nowhere, however many combinations there are.
    """
    if count == 1 and all(choices):  # most segments and regions have one input and one output
        if len(set(types)) == 1:
            yield (0,) * len(choices)
        return
    if set().union(*choices) != set(range(count)):
        return
    order = rng.permutation(len(choices)).tolist()
    chosen = [0] * len(choices)
    given: dict[int, TensorType | None] = {}

    def can_go_on(step: int) -> bool:
        for group in set(choices):
            waiting = [types[place] for place in order[step:] if choices[place] == group]
            left = [thing for thing in group if thing not in given]
            new = set(waiting) - {given[thing] for thing in group if thing in given}
            if not len(new) <= len(left) <= len(waiting):
                return False
        return True

    def from_step(step: int) -> Iterator[tuple[int, ...]]:
        if step == len(order):
            yield tuple(chosen)
            return
        place = order[step]
        for i in rng.permutation(len(choices[place])).tolist():
            thing = choices[place][i]
            is_new = thing not in given
            if not is_new and given[thing] != types[place]:
                continue
            given[thing], chosen[place] = types[place], thing
            if can_go_on(step + 1):
                yield from from_step(step + 1)
            if is_new:
                del given[thing]

    if can_go_on(0):
        yield from from_step(0)


def shuffled(count: int, rng: np.random.Generator) -> Iterator[int]:
    """The numbers below ``count``, once each, in one of many orders, without holding them in memory: from a random
    start in random equal steps.
    """
    if not count:
        return
    at, step = int(rng.integers(count)), int(rng.integers(1, count)) if count > 1 else 1
    while gcd(step, count) > 1:
        step += 1
    for _ in range(count):
        yield at
        at = (at + step) % count
