"""Many replacements of one region at once: P and C are encoded once, segments in step with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netgraft.errors import GraphError
from netgraft.ir import Graph, Region

from .paths import Encoder, Encoding, Ints, avoiding, forward, log_sum, tails
from .traits import TOTALS, Floats

_TOGETHER = 96
"""Segments whose states are held at once: what fits into a processor's cache."""
_LEAST = 1e-250
"""What is smaller may have lost digits, and is computed by logarithms."""


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """A segment as numbers: for each node the slot of its first input, its row in the table of steps, and ``joins``
    [n, 2] of (node, slot) for its further inputs; and the slots of what it returns. Inputs come before nodes.
    """

    first: Ints
    steps: Ints
    joins: tuple[tuple[int, int], ...]
    returned: tuple[int, ...]


class Boundary:
    """What is around a region, whatever comes in its place."""

    def __init__(self, encoder: Encoder, encoding: Encoding, region: Region) -> None:
        graph = encoding.graph
        if not region.is_convex(graph):
            raise GraphError("a path leaves the region and comes back; only a convex region can be replaced")
        entering, leaving = region.boundary(graph)
        self.signature = region.signature(graph)
        self._encoder, self._base = encoder, encoding.base
        self._entering = [encoding.before[value.node] for value in entering]
        self._tails = tails(encoding, leaving, region.nodes)
        self._avoiding = avoiding(encoder, encoding, region)
        inside = [encoder.totals[encoder.row(graph, graph[id], encoding.base)] for id in sorted(region.nodes)]
        self._totals = encoding.totals - np.sum(inside, 0)
        # As factors rather than logarithms, each channel beside its greatest.
        self._before, top = _factors(self._entering, encoder)
        self._after, top_after = _factors(self._tails, encoder)
        self._top = top + top_after

    def describe(self, segments: Sequence[Graph]) -> Floats:
        """The features of the networks with each segment in the region's place [n, features]; GraphError for one that
        has another signature.
        """
        for segment in segments:
            if segment.signature != self.signature:
                raise GraphError(f"a segment {segment.signature} does not fit a region {self.signature}")
        programs = [self._program(segment) for segment in segments]
        order = sorted(range(len(programs)), key=lambda i: -len(programs[i].first))
        paths = np.empty((len(programs), self._encoder.channels))
        for start in range(0, len(order), _TOGETHER):
            rows = order[start : start + _TOGETHER]
            with np.errstate(over="ignore", invalid="ignore"):
                through = self._through([programs[i] for i in rows])
            paths[rows] = np.logaddexp(np.log(np.maximum(through, _LEAST)) + self._top, self._avoiding)
            for i in (rows[lost] for lost in np.flatnonzero(~((through > _LEAST) & (through < 1 / _LEAST)).all(1))):
                paths[i] = self._alone(segments[i])
        return self._encoder.describe(paths, self._totals + self._inside(programs))

    def _inside(self, programs: Sequence[_Program]) -> Floats:
        """The totals of each segment [n, totals]."""
        lengths = np.array([len(program.steps) for program in programs], int)
        rows = self._encoder.tables[2][np.concatenate([*(program.steps for program in programs), np.zeros(0, int)])]
        # A start must be that of a row, and what has none is given the row at its start.
        sums = np.add.reduceat(np.vstack([rows, np.zeros((1, len(TOTALS)))]), np.cumsum(lengths) - lengths)
        return np.where(lengths[:, None] > 0, sums, 0.0)

    def _program(self, segment: Graph) -> _Program:
        key = self._encoder, self._base
        if key not in segment.notes:
            slots = {given.id: i for i, given in enumerate(segment.inputs)}
            first, steps, joins = [], [], []
            for number, node in enumerate(segment.nodes):
                read = node.inputs
                first.append(slots[read[0].node] if read else -1)
                if len(read) > 1:
                    joins += [(number, slots[value.node]) for value in read[1:]]
                steps.append(self._encoder.row(segment, node, self._base))
                slots[node.id] = len(slots)
            returned = tuple(slots[value.node] for value in segment.outputs)
            segment.notes[key] = _Program(np.array(first, int), np.array(steps, int), tuple(joins), returned)
        program: _Program = segment.notes[key]
        return program

    def _alone(self, segment: Graph) -> Floats:
        """The sums over all paths with one segment [channels], by logarithms throughout."""
        states, _ = forward(self._encoder, segment, self._entering, self._base)
        ways = [states[value.node] + tail for value, tail in zip(segment.outputs, self._tails, strict=True)]
        return log_sum(np.concatenate([self._avoiding[None], *ways]), 0)

    def _through(self, programs: Sequence[_Program]) -> Floats:
        """The sums over all paths through each segment [n, channels], as multiples; longer programs come first."""
        encoder, count, inputs = self._encoder, len(programs), len(self._entering)
        lengths = np.array([len(program.first) for program in programs])
        longest = int(lengths.max(initial=0))
        first, steps = np.zeros((2, count, longest), int)
        joins: list[dict[int, list[tuple[int, int]]]] = [{} for _ in range(longest)]
        for row, program in enumerate(programs):
            first[row, : lengths[row]], steps[row, : lengths[row]] = program.first, program.steps
            turn: dict[int, int] = {}
            for number, slot in program.joins:
                turn[number] = turn.get(number, -1) + 1
                joins[number].setdefault(turn[number], []).append((row, slot))
        # The last slot, -1, is what a node reads that has no inputs: no path.
        states = np.zeros((count, inputs + longest + 1, *encoder.turn.shape[1:]))
        states[:, :inputs] = self._before
        rows = np.arange(count)
        factors, moves, _ = encoder.tables
        for number in range(longest):
            alive = int(np.searchsorted(-lengths, -number))  # of those longer than this
            at = states[rows[:alive], first[:alive, number]]
            for pairs in joins[number].values():
                into, slot = np.array(pairs).T
                at[into] += states[into, slot]
            step = steps[:alive, number]
            move, factor = moves[step], factors[step]
            for state in set(move.tolist()):
                some = np.flatnonzero(move == state)
                if state < 0:
                    states[some, inputs + number] = at[some] * factor[some, None]
                else:
                    entered = np.einsum("nsc,sc->nc", at[some], encoder.turns[state])
                    states[some, inputs + number, state] = entered * factor[some]
        through = np.zeros((count, encoder.channels))
        for place, tail in enumerate(self._after):
            through += np.einsum("nsc,sc->nc", states[rows, [program.returned[place] for program in programs]], tail)
        return through


def _factors(logs: Sequence[Floats], encoder: Encoder) -> tuple[Floats, Floats]:
    """Some states [n, states, channels] as multiples of the greatest of their channel, and its logarithm."""
    stacked = np.stack(logs) if logs else encoder.nothing()[None]
    top = stacked.max((0, 1))
    return np.exp(stacked - top)[: len(logs)], top
