"""Swap: one operation for another, or for nothing, with the weights that still mean something.

What rewrites the loops of a convolution (groups, separable windows, ...) is :mod:`netgraft.mutations.program`'s. Each
kind is one function of the table :data:`KINDS`: it says what can be put in place of one node, or None.
To add a kind, write such a function and its line in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from netgraft.ir import Builder, Carry, Edit, Graph, Keep, Node, Pad, Region, Slice, Value, Weights
from netgraft.ir.ops import ACTIVATIONS

from .fixed import delicate, tears
from .mutation import Mix

# What gates another tensor, or ends a network, is no hidden activation.
_GATES: Final = frozenset({"sigmoid", "hardsigmoid", "tanh"})
_HIDDEN: Final = ACTIVATIONS - _GATES


@dataclass(frozen=True)
class Swap:
    """Operation swaps of the given kinds (``swap.kernel``, ``swap.block``, ...); every kind is equally likely."""

    kinds: tuple[str, ...] = ()
    name: str = "swap"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """All swaps of every kind, the kinds interleaved at random. No ``kinds`` means all of :data:`KINDS`.

        What a root or a division hangs on (:func:`~netgraft.mutations.fixed.delicate`) stays whole or goes whole.
        """
        kinds = [_Kind(f"{self.name}.{kind}", *KINDS[kind]) for kind in self.kinds or KINDS]
        whole = delicate(graph)
        return (edit for edit in Mix(kinds).edits(graph, weights, rng) if not tears(edit.region, whole))


@dataclass(frozen=True)
class _Kind:
    """All swaps of one kind: every variant at every node."""

    name: str
    variants: tuple[Any, ...]
    swap: Callable[[Graph, Node, Any], _Swapped | None]

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        sites = [(node, variant) for node in graph for variant in self.variants]
        for i in rng.permutation(len(sites)):
            swapped = self.swap(graph, *sites[i])
            if swapped is not None:
                yield Edit(swapped.region, swapped.replacement, swapped.carry, self.name, swapped.exact)


@dataclass(frozen=True)
class _Swapped:
    region: Region
    replacement: Graph
    carry: Mapping[str, Carry]
    exact: bool = False


def _kernel(graph: Graph, node: Node, size: int) -> _Swapped | None:
    """Another window size with the same output size; a larger window starts with zeros around the old one (exact), a
    smaller one with the centre of it.
    """
    if node.op != "conv2d" or node.attrs["dilation"] != (1, 1):
        return None
    old, padding = node.attrs["kernel"], node.attrs["padding"]
    if old not in ((1, 1), (3, 3), (5, 5)) or abs(size - old[0]) != 2:
        return None
    step = (size - old[0]) // 2
    if min(padding) + step < 0:
        return None
    weight = Keep(node.weights["weight"])
    around = (0, 0, step, step)
    carry = Pad(weight, around, around) if step > 0 else _centre(weight, old[0], size)
    changed = {"kernel": (size, size), "padding": (padding[0] + step, padding[1] + step)}
    return _changed(graph, node, node.op, dict(node.attrs) | changed, {"weight": carry}, exact=step > 0)


def _activation(graph: Graph, node: Node, op: str) -> _Swapped | None:
    """Another activation function."""
    if node.op not in _HIDDEN or node.op == op:
        return None
    return _changed(graph, node, op, {}, {})


def _pool(graph: Graph, node: Node, op: str) -> _Swapped | None:
    """Maximum in place of average, or the other way round."""
    if {node.op, op} not in ({"max_pool2d", "avg_pool2d"}, {"adaptive_max_pool2d", "adaptive_avg_pool2d"}):
        return None
    if node.op == op or node.attrs.get("dilation", (1, 1)) != (1, 1):
        return None
    shared = {"kernel", "stride", "padding", "ceil_mode", "size"} & node.attrs.keys()
    return _changed(graph, node, op, {name: node.attrs[name] for name in shared}, {})


def _branch(graph: Graph, node: Node, index: int) -> _Swapped | None:
    """A sum or product without one of its inputs, and without what only that input needs."""
    if node.op not in ("add", "mul") or index >= len(node.inputs) or len(set(node.inputs)) < len(node.inputs):
        return None
    rest = tuple(value for i, value in enumerate(node.inputs) if i != index)
    if node.op == "mul" and graph.types[node.inputs[index]] == graph.types[node.value()] and len(rest) == 1:
        return None  # what is gated stays, only its gate may go
    idle = _only_for(graph, node, node.inputs[index])
    region = Region.of({node.id, *idle})
    if len(rest) == 1:
        return None if _is_block(graph, region, node, rest[0]) else _passed(graph, region, rest[0])
    entering, _ = region.boundary(graph)
    builder, inputs = _opened(graph, entering)
    kept = [inputs[entering.index(value)] for value in rest]
    replacement = builder.build(builder.add(node.op, *kept, id=node.id))
    return _Swapped(region, replacement, {}) if replacement.signature == region.signature(graph) else None


def _block(graph: Graph, node: Node, index: int) -> _Swapped | None:
    """A residual block gives way to its shortcut, with the activation after the sum."""
    if node.op != "add" or len(node.inputs) != 2 or index >= 2:
        return None
    shortcut = node.inputs[1 - index]
    region = Region.of({node.id, *_only_for(graph, node, node.inputs[index])})
    if not _is_block(graph, region, node, shortcut):
        return None
    return _passed(graph, Region.of({*region.nodes, *_tail(graph, node, _HIDDEN)}), shortcut)


def _is_block(graph: Graph, region: Region, join: Node, shortcut: Value) -> bool:
    """Whether the region computes all it does from ``shortcut``, and ``join`` adds that to it."""
    entering, _ = region.boundary(graph)
    readers = {user.id for user in graph.users[shortcut]}
    return join.op == "add" and entering == (shortcut,) and bool(readers & region.nodes - {join.id})


def _layer(graph: Graph, node: Node, _: None) -> _Swapped | None:
    """A layer that keeps its input's shape goes, with the batch norm and activation that belong to it."""
    if node.op in ("max_pool2d", "avg_pool2d"):
        return _passed(graph, Region.of([node.id]), node.inputs[0])
    if node.op in ("conv2d", "linear"):
        return _passed(graph, Region.of([node.id, *_tail(graph, node, {"batch_norm"}, _HIDDEN)]), node.inputs[0])
    return None


KINDS: Final[Mapping[str, tuple[tuple[Any, ...], Callable[[Graph, Node, Any], _Swapped | None]]]] = {
    "kernel": ((1, 3, 5), _kernel),
    "activation": (("relu", "relu6", "leaky_relu", "hardswish", "silu", "gelu"), _activation),
    "pool": (("max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d"), _pool),
    "branch": ((0, 1, 2, 3), _branch),
    "block": ((0, 1), _block),
    "layer": ((None,), _layer),
}
"""The kinds of swaps: the variants of each, and what makes one of them at a node."""


def _changed(
    graph: Graph, node: Node, op: str, attrs: Mapping[str, Any], carry: Mapping[str, Carry], *, exact: bool = False
) -> _Swapped:
    """One node replaced by one with the same inputs and weight keys. ``carry`` goes by role; other weights are kept."""
    builder, inputs = _opened(graph, node.inputs)
    weights = node.weights if op == node.op else None
    replacement = builder.build(builder.add(op, *inputs, id=node.id, weights=weights, **attrs))
    carried = {key: carry.get(role, Keep(key)) for role, key in replacement[node.id].weights.items()}
    return _Swapped(Region.of([node.id]), replacement, carried, exact)


def _passed(graph: Graph, region: Region, value: Value) -> _Swapped | None:
    """The region gone, ``value`` in place of its only output; None where it has others, or another type."""
    entering, _ = region.boundary(graph)
    builder, inputs = _opened(graph, entering)
    replacement = builder.build(inputs[entering.index(value)])
    return _Swapped(region, replacement, {}) if replacement.signature == region.signature(graph) else None


def _opened(graph: Graph, values: Sequence[Value]) -> tuple[Builder, list[Value]]:
    """A new graph that takes ``values`` as its inputs."""
    builder = Builder()
    inputs = []
    for i, value in enumerate(values):
        name = f"in{i}"
        while name in graph:
            name += "'"
        inputs.append(builder.input(name, graph.types[value]))
    return builder, inputs


def _only_for(graph: Graph, reader: Node, value: Value) -> set[str]:
    """Nodes that nothing needs once ``reader`` no longer reads ``value``."""
    idle: set[str] = set()
    for node in reversed(graph.nodes):
        outputs = [node.value(i) for i in range(len(graph.output_types(node)))]
        uses = [(user.id, out) for out in outputs for user in graph.users.get(out, ())]
        needless = all(user in idle or (user, out) == (reader.id, value) for user, out in uses)
        if uses and needless and not set(outputs) & set(graph.outputs):
            idle.add(node.id)
    return idle


def _tail(graph: Graph, node: Node, *steps: Collection[str]) -> list[str]:
    """The nodes that follow on the output of ``node`` and are its only readers: at most one of each set of ops."""
    ids = []
    for ops in steps:
        users = graph.users.get(node.value(), ())
        if len(users) == 1 and users[0].op in ops and node.value() not in graph.outputs:
            node = users[0]
            ids.append(node.id)
    return ids


def _centre(kernel: Carry, old: int, new: int) -> Carry:
    """The middle ``new`` by ``new`` taps of square windows of size ``old``."""
    taps = tuple(range((old - new) // 2, (old + new) // 2))
    return Slice(Slice(kernel, 2, taps), 3, taps)
