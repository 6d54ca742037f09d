"""The encoder: a network as sums over its paths, exact wherever it is cut.

Every path from the input of a network to its output has a weight in each of several channels: the product, over its
nodes, of weights that depend on a node's traits and on what the path met before. A channel's reading is the logarithm
of the sum over all paths,

    Z = log sum over paths p of exp( sum over nodes v of p of  w(v) + b(last(p, v), state(v)) ),

which lies between the heaviest path (large weights) and the number of paths (small ones). It is computed node by node
(a forward pass in the log semiring; Mohri, "Semiring frameworks and algorithms for shortest-distance problems", 2002),
and it factors: what enters a region (P), what leads from it to the output (C), and the paths that avoid it are all that
a segment's score needs, and

    Z = log( exp(avoiding) + sum over leaving values and states of exp(state(S(P)) + C) )

is the same number for every cut of one network. A sum of three is the same however it is bracketed, and an identity
changes nothing. Beside the paths there are totals: sums over all nodes, which factor too.

Weights are drawn at random (Rahimi and Recht, "Weighted sums of random kitchen sinks", NeurIPS 2008) and kept: what is
trained are the heads that read the channels. Two channels are not drawn: the first counts the paths, and the last,
whose weights are as good as none, gives their *depth*: how many activation functions a path meets, on the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from netgraft.ir import Graph, Node, Region, Value

from .traits import COUNTED, STATES, TOTALS, TRAITS, Base, Floats, base_of, key_of, look

Ints = npt.NDArray[np.int64]

LIMIT = 6.0
"""The greatest weight of a node, as a logarithm."""
SLIGHT = 1e-3
"""What an activation function weighs in the last channel."""
NOTHING = -1e9
"""Stands for the logarithm of 0: vanishes beside anything that there is, and is finite."""


class Encoder:
    """``node`` [channels, traits] and ``turn`` [from state, to state, channels]: the weights of a path.

    What a node does to a path is a row of three tables that grow as nodes are met: the ``weights`` that it adds
    [channels], the state into which it ``moves`` every path (-1: it does not), and its ``totals``.
    """

    def __init__(self, node: Floats, turn: Floats) -> None:
        self.node, self.turn = node, turn
        self.weights: list[Floats] = []
        self.moves: list[int] = []
        self.totals: list[Floats] = []
        self._rows: dict[Any, int] = {}
        self._tables: tuple[Floats, Ints, Floats] | None = None

    @cached_property
    def turns(self) -> Floats:
        """``turn`` as factors, by the state to which they lead."""
        return np.exp(self.turn).transpose(1, 0, 2)

    @property
    def tables(self) -> tuple[Floats, Ints, Floats]:
        """The weights as factors, the moves and the totals, as arrays."""
        if self._tables is None or len(self._tables[1]) < len(self.moves):
            self._tables = np.exp(self.weights), np.array(self.moves), np.array(self.totals)
        return self._tables

    @property
    def channels(self) -> int:
        """How many sums over paths there are."""
        return len(self.node)

    @property
    def features(self) -> int:
        """How many numbers describe a network; the last are the logarithms of its totals and of its depth."""
        return self.channels + 1 + len(TOTALS)

    def row(self, graph: Graph, node: Node, base: Base) -> int:
        """The row of a node, looked up where its like was met before."""
        key = base, key_of(graph, node)
        found = self._rows.get(key)
        if found is None:
            seen = look(node, graph.input_types(node), graph.output_types(node), base)
            weight = np.clip(self.node @ seen.traits, -LIMIT, LIMIT)
            if seen.dead:
                weight = np.full_like(weight, NOTHING)
            self.weights.append(weight)
            self.moves.append(-1 if seen.state is None else seen.state)
            self.totals.append(seen.totals)
            found = self._rows[key] = len(self.moves) - 1
        return found

    def nothing(self) -> Floats:
        """The states where no path leads [states, channels]."""
        return np.full(self.turn.shape[1:], NOTHING)

    def start(self) -> Floats:
        """The states of a path that has met nothing [states, channels]."""
        states = np.full(self.turn.shape[1:], NOTHING)
        states[0] = 0.0
        return states

    def describe(self, paths: Floats, totals: Floats) -> Floats:
        """The features of networks [n, features] from their sums over paths [n, channels] and totals [n, ...]."""
        alive = paths[:, :1] > NOTHING / 2
        logs = np.log(np.maximum(totals, 0.0) + np.where(np.isin(np.arange(len(TOTALS)), COUNTED), 1.0, 1e3))
        depth = np.where(alive, np.log1p(np.maximum(paths[:, -1:] - paths[:, :1], 0.0) / SLIGHT), 0.0)
        return np.hstack([np.where(alive, paths[:, :-1], np.nan), alive, logs, depth])


def drawn(channels: int = 193, seed: int = 0) -> Encoder:
    """An encoder with random weights; the same seed draws the same.

    Channel 0 counts paths, the last gives the depth. A quarter of the others know no order (``turn`` is 0); three in
    eight tell scales apart. Small weights read what paths are like on the whole, large ones what the heaviest is like.
    """
    rng = np.random.default_rng(seed)
    node = rng.normal(size=(channels - 1, len(TRAITS))) * [_SPREAD.get(name, 0.7) for name in TRAITS]
    turn = rng.normal(size=(len(STATES), len(STATES), channels - 1))
    scaled = np.array(["@" in name for name in TRAITS])
    for channel in range(channels - 1):
        if channel % 2:
            node[channel] *= rng.choice([1.0, 2.0])
            turn[:, :, channel] *= 2.0
            node[channel, scaled] *= channel % 8 == 1
        else:
            node[channel] *= rng.choice([0.5, 1.0, 2.0])
            turn[:, :, channel] *= channel % 8 >= 4
            node[channel, scaled] *= channel % 4 == 0
    node[0], turn[:, :, 0] = 0.0, 0.0
    depth = np.zeros((1, len(TRAITS)))
    depth[0, [TRAITS["kink"], TRAITS["smooth"]]] = SLIGHT
    return Encoder(np.vstack([node, depth]), np.concatenate([turn, np.zeros_like(turn[:, :, :1])], 2))


_SPREAD = {"norm": 0.3, "kink": 0.3, "smooth": 0.3, "noise": 0.1, "add": 0.1, "width": 0.5, "growth": 0.3}
"""Of the weights of traits that say little; 0.7 for all others."""


def log_sum(logs: Floats, axis: int) -> Floats:
    """The logarithm of a sum along an axis, of logarithms."""
    top = logs.max(axis, keepdims=True)
    total: Floats = np.log(np.exp(logs - top).sum(axis)) + top.squeeze(axis)
    return total


def enter(states: Floats, turn: Floats, state: int, weight: Floats) -> Floats:
    """The states [..., states, channels] behind a node that leaves every path in one ``state``."""
    after = np.full_like(states, NOTHING)
    after[..., state, :] = log_sum(states + turn[:, state], -2) + weight
    return after


@dataclass(frozen=True, eq=False)
class Encoding:
    """A graph encoded: the states behind every value (``before``, by node id), what leads on from every node that reads
    one (``onward``, by node id: from each state on the way in to the graph's outputs), and the totals.
    """

    graph: Graph
    base: Base
    before: Mapping[str, Floats]
    onward: Mapping[str, Floats]
    totals: Floats

    @property
    def paths(self) -> Floats:
        """The sums over all paths [channels]."""
        return log_sum(np.concatenate([self.before[value.node] for value in self.graph.outputs]), 0)


def forward(encoder: Encoder, graph: Graph, entering: Sequence[Floats], base: Base) -> tuple[dict[str, Floats], Floats]:
    """The states behind every input and node of ``graph``, from those at its inputs; and its totals."""
    states = {given.id: at for given, at in zip(graph.inputs, entering, strict=True)}
    totals = np.zeros(len(TOTALS))
    nothing = encoder.nothing()
    for node in graph:
        row = encoder.row(graph, node, base)
        totals += encoder.totals[row]
        at = states[node.inputs[0].node] if node.inputs else nothing
        for value in node.inputs[1:]:
            at = np.logaddexp(at, states[value.node])
        weight, state = encoder.weights[row], encoder.moves[row]
        states[node.id] = at + weight if state < 0 else enter(at, encoder.turn, state, weight)
    return states, totals


def encode(encoder: Encoder, graph: Graph) -> Encoding:
    """A whole network, ready to be cut anywhere."""
    base = base_of(graph)
    before, totals = forward(encoder, graph, [encoder.start()] * len(graph.inputs), base)
    onward: dict[str, Floats] = {}
    encoding = Encoding(graph, base, before, onward, totals)
    for node in reversed(graph.nodes):
        row = encoder.row(graph, node, base)
        state = encoder.moves[row]
        leaving = tails(encoding, (node.value(i) for i in range(len(graph.returns[node.id]))), frozenset())
        behind = log_sum(np.stack(leaving), 0) if leaving else encoder.nothing()
        if state >= 0:
            behind = encoder.turn[:, state] + behind[state]
        onward[node.id] = behind + encoder.weights[row]
    return encoding


def tails(encoding: Encoding, values: Iterable[Value], without: frozenset[str]) -> list[Floats]:
    """What leads from each value to the graph's outputs [states, channels], but through no node of ``without``."""
    graph = encoding.graph
    found = []
    for value in values:
        terms = [
            encoding.onward[user.id]
            for user in graph.users.get(value, ())
            if user.id not in without
            for read in user.inputs
            if read == value
        ]
        terms += [np.zeros_like(encoding.before[value.node]) for output in graph.outputs if output == value]
        found.append(log_sum(np.stack(terms), 0) if terms else np.full_like(encoding.before[value.node], NOTHING))
    return found


def avoiding(encoder: Encoder, encoding: Encoding, region: Region) -> Floats:
    """The sums over all paths that do not touch the region [channels].

    Such a path never meets what depends on the region, or goes over to it once, since from there no edge leads back.
    """
    graph = encoding.graph
    felt = set(region.nodes)
    terms = []
    for node in graph.nodes[min(region.positions(graph)) :]:
        if node.id in felt:
            continue
        outside = [value for value in node.inputs if value.node not in felt]
        if len(outside) < len(node.inputs):
            felt.add(node.id)
            terms += [encoding.before[value.node] + encoding.onward[node.id] for value in outside]
    terms += [encoding.before[value.node] for value in graph.outputs if value.node not in felt]
    return log_sum(np.concatenate(terms), 0) if terms else np.full(encoder.channels, NOTHING)


def read(encoder: Encoder, graph: Graph) -> Floats:
    """The features of a network [features]."""
    states, totals = forward(encoder, graph, [encoder.start()] * len(graph.inputs), base_of(graph))
    ways = [states[value.node] for value in graph.outputs]
    paths = log_sum(np.concatenate(ways), 0) if ways else encoder.nothing()[0]
    features: Floats = encoder.describe(paths[None], totals[None])[0]
    return features
