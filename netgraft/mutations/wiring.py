"""Wiring: which of a region's values a segment reads, and where what it returns is read.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.2, draws one matching of resolutions. Here every way is a wiring of
its own: one entering value may feed several inputs of the segment, and one output of the segment may be read in several
places; but every entering value is read, and every output of the segment is, so that a child has no loose ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import gcd, prod

import numpy as np

from netgraft.ir import Graph, Input, Node, Signature, TensorType, Value

MOST = 24
"""Wirings of one segment into regions of one signature that are looked at: all where there are no more."""
_TRIES = 4096
"""Assignments among which those are looked for: all where there are no more."""


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
        nodes = tuple([_rewired(node, values) for node in fitted])
        outputs = tuple([values.get(v, v) for v in [fitted.outputs[own] for own in self.outputs]])
        # Inputs that become one have one type, so every node returns what it did.
        return Graph.known(tuple(filter(None, inputs)), nodes, outputs, fitted.returns)


def _rewired(node: Node, values: Mapping[Value, Value]) -> Node:
    read = tuple([values.get(v, v) for v in node.inputs])
    return node if read == node.inputs else replace(node, inputs=read)


def alike(segment: TensorType, region: TensorType) -> bool:
    """Whether fitting may make one type the other: they agree in rank and element type."""
    return segment.rank == region.rank and segment.dtype == region.dtype


def wirings(
    segment: Signature,
    region: Signature,
    rng: np.random.Generator,
    match: Callable[[TensorType, TensorType], bool] = alike,
) -> tuple[Wiring, ...]:
    """The distinct ways to wire a segment into a region where ``match(own type, region's type)`` holds for each pair,
    in a random order; at most :data:`MOST`, found among :data:`_TRIES` assignments where there are more.
    """
    have, want = len(segment.inputs), len(region.inputs)
    choices = [[i for i, t in enumerate(region.inputs) if match(own, t)] for own in segment.inputs]
    choices += [[i for i, own in enumerate(segment.outputs) if match(own, t)] for t in region.outputs]
    found = (Wiring(a[:have], a[have:]) for a in islice(_assignments(choices, rng), _TRIES))
    return tuple(islice((w for w in found if _is_whole(w, want, len(segment.outputs), region)), MOST))


def _is_whole(wiring: Wiring, entering: int, returned: int, region: Signature) -> bool:
    """Whether everything is used, and what is read in several places has the same type in all of them."""
    types: dict[int, TensorType] = {}
    return (
        len(set(wiring.inputs)) == entering
        and len(set(wiring.outputs)) == returned
        and all(types.setdefault(own, region.outputs[i]) == region.outputs[i] for i, own in enumerate(wiring.outputs))
    )


def _assignments(choices: Sequence[Sequence[int]], rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """One of each of the choices, in every combination."""
    for number in shuffled(prod(map(len, choices)), rng):
        assignment = []
        for options in choices:
            number, i = divmod(number, len(options))
            assignment.append(options[i])
        yield tuple(assignment)


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
