"""Transplanting: which weights of a region a replacement takes over, and how its new ones begin.

Layers are matched in topological order; a narrower one takes the strongest filters, a wider one gets new filters and
reads them with weight zero, a larger kernel is padded, a smaller one is the middle of the old. One choice of channels
holds for every layer that shares them, so that what a layer reads is what it used to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from netgraft.ir import Carry, Concat, Fresh, Graph, Keep, Node, Pad, Slice, TensorType, Value, Weights
from netgraft.ir.carry import Array

_LAYERS = frozenset(["conv2d", "conv_transpose2d", "linear"])
_NEW = -1
"""In a choice of channels: one that the source does not have."""

_Channels = tuple[int, ...]


def transplant(source: Graph, replacement: Graph, weights: Weights) -> tuple[Graph, dict[str, Carry]]:
    """The replacement with the names of the layers it takes over from ``source``, and where its weights come from.

    Both graphs have the same signature; ``weights`` holds the source's, for telling strong filters from weak ones. New
    parts are made to disturb little: a new branch that ends in a sum begins at zero, and a new layer as wide as its
    input begins as the identity unless it lies in such a branch.
    """
    matches = _without_strangers(source, replacement, _match(source, replacement))
    named = _named(source, replacement, matches)
    ids = dict(zip((node.id for node in replacement), (node.id for node in named), strict=True))
    taken = {ids[new]: old for new, old in matches.items()}
    carry = _fresh(named, frozenset(taken))
    channels = _Choice(source, named, taken, weights)
    for node in named:
        if node.id in taken:
            carry |= channels.carry(source[taken[node.id]], node)
    return named, carry


def _match(source: Graph, replacement: Graph) -> dict[str, str]:
    """Source ids by replacement ids: the matching in order that covers most of the weights, by the share of elements in
    common.
    """
    old, new = ([node for node in graph if node.weights] for graph in (source, replacement))
    best = np.zeros((len(old) + 1, len(new) + 1))
    shares = np.array([[_overlap(source, s, replacement, t) for t in new] for s in old]).reshape(len(old), len(new))
    for i in range(1, len(old) + 1):
        for j in range(1, len(new) + 1):
            best[i, j] = max(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1] + shares[i - 1, j - 1])
    matches: dict[str, str] = {}
    i, j = len(old), len(new)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            matches[new[j].id] = old[i].id
    return matches


def _without_strangers(source: Graph, replacement: Graph, matches: Mapping[str, str]) -> dict[str, str]:
    """``matches`` without the normalisations that would read something else than they did: their statistics would be
    wrong.
    """
    return {
        t: s
        for t, s in matches.items()
        if source[s].op in _LAYERS or _feeder(source, source[s], {}) == _feeder(replacement, replacement[t], matches)
    }


def _feeder(graph: Graph, node: Node, names: Mapping[str, str]) -> str | int:
    """What a node reads: the nearest layer or normalisation before it (by its name in ``names``), the position of an
    input of the graph, or the operation that joins several values.
    """
    while True:
        if not node.inputs:
            return node.op
        value = node.inputs[0]
        if value.node not in graph:
            return [given.id for given in graph.inputs].index(value.node)
        node = graph[value.node]
        if node.weights:
            return names.get(node.id, node.id)
        if len(node.inputs) != 1:
            return node.op


def _overlap(source: Graph, s: Node, replacement: Graph, t: Node) -> float:
    """Elements in common, as a share of the larger of two nodes; 0 where they are not of one kind."""
    if s.op != t.op or s.weights.keys() != t.weights.keys() or _grouping(source, s) != _grouping(replacement, t):
        return 0.0
    pairs = [(_shape(source, s, role), _shape(replacement, t, role)) for role in s.weights]
    if any(len(a) != len(b) for a, b in pairs):
        return 0.0
    if s.op == "constant" and any(a != b for a, b in pairs):
        return 0.0  # a table of positions, say, means nothing in another size
    common = sum(prod(map(min, a, b)) for a, b in pairs)
    return common / max(sum(prod(a) for a, _ in pairs), sum(prod(b) for _, b in pairs))


def _grouping(graph: Graph, node: Node) -> int | str:
    groups: int = node.attrs.get("groups", 1)
    return "depthwise" if groups > 1 and groups == _width(graph.types[node.inputs[0]]) else groups


def _shape(graph: Graph, node: Node, role: str) -> tuple[int, ...]:
    return graph.weight_types[node.weights[role]].concrete()


def _named(source: Graph, replacement: Graph, matches: Mapping[str, str]) -> Graph:
    """The replacement with the source's names for matched nodes, and names of the same place for the others."""
    scopes = [node.id.split(".")[:-1] for node in source]
    depth = next(
        (i for i, level in enumerate(zip(*scopes, strict=False)) if len(set(level)) > 1), min(map(len, scopes))
    )
    scope = "".join(f"{part}." for part in scopes[0][:depth])
    used = {given.id for given in replacement.inputs} | set(matches.values())
    used_keys: set[str] = set()
    values: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in replacement:
        if node.id in matches:
            id, keys = matches[node.id], dict(source[matches[node.id]].weights)
        else:
            id, count = scope + node.id, 1
            while id in used:
                count += 1
                id = f"{scope}{node.op}_{count}"
            keys = {}
        used.add(id)
        # A key shared in the source serves only the first; a later one gets its own.
        weights = {
            role: key if (key := keys.get(role, "")) and key not in used_keys else f"{id}.{role}"
            for role in node.weights
        }
        used_keys |= set(weights.values())
        for i in range(len(replacement.output_types(node))):
            values[node.value(i)] = Value(id, i)
        inputs = tuple(values.get(v, v) for v in node.inputs)
        nodes.append(replace(node, id=id, inputs=inputs, weights=weights))
    return Graph(replacement.inputs, tuple(nodes), tuple(values.get(v, v) for v in replacement.outputs))


# ---------------------------------------------------------------------------------------------------- kept channels


def _width(type: TensorType) -> int | None:
    """The number of channels: dimension 1, or the last one of a sequence [N,T,C]."""
    if type.rank not in (2, 3, 4):
        return None
    width = type.shape[-1 if type.rank == 3 else 1]
    return width if isinstance(width, int) else None


_POOLS = frozenset(
    [
        "max_pool2d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "interpolate",
        "interpolate_like",
        "mean",
        "flatten",
    ]
)
_SUMS = frozenset(["add", "mul", "sub", "div"])


def _spaces(graph: Graph) -> dict[Value, Value]:
    """For every value the first one that has the same channels in the same order."""
    parent: dict[Value, Value] = {value: value for value in graph.types}
    position = {value: i for i, value in enumerate(graph.types)}

    def root(value: Value) -> Value:
        while parent[value] != value:
            value = parent[value]
        return value

    for node in graph:
        keeps = node.definition.pointwise or node.op in _POOLS or node.op in _SUMS
        if not keeps and not (node.op in _LAYERS and _grouping(graph, node) == "depthwise"):
            continue
        width = _width(graph.types[node.value()])
        for value in node.inputs:
            if width is not None and width == _width(graph.types[value]):
                first, second = sorted((root(value), root(node.value())), key=position.__getitem__)
                parent[second] = first
    return {value: root(value) for value in graph.types}


class _Choice:
    """Which channels of the source the replacement's channels are, consistently for all layers that share them."""

    def __init__(self, source: Graph, new: Graph, taken: Mapping[str, str], weights: Weights) -> None:
        self._source, self._new = source, new
        self._old_spaces, self._new_spaces = _spaces(source), _spaces(new)
        self._chosen: dict[Value, tuple[Value, _Channels]] = {}
        # Inputs and outputs mean the same outside, so their channels stay in place.
        ends = zip((Value(i.id) for i in new.inputs), (Value(i.id) for i in source.inputs), strict=True)
        for ours, theirs in [*ends, *zip(new.outputs, source.outputs, strict=True)]:
            width = _width(new.types[ours])
            if width is not None:
                self._choose(ours, theirs, tuple(range(width)))
        for node in new:
            if node.id in taken and node.op in _LAYERS:
                old = source[taken[node.id]]
                have, want = (_width(graph.types[n.value()]) for graph, n in ((source, old), (new, node)))
                assert have is not None and want is not None, "layers return channels"
                kernels = weights.get(old.weights["weight"])
                if _grouping(new, node) not in (1, "depthwise"):
                    kernels = None  # filters must stay in their groups
                elif kernels is not None and node.op == "conv_transpose2d" and node.attrs["groups"] == 1:
                    kernels = np.moveaxis(kernels, 1, 0)
                self._choose(node.value(), old.value(), _strongest(kernels, have, want))

    def _choose(self, ours: Value, theirs: Value, channels: _Channels) -> None:
        self._chosen.setdefault(self._new_spaces[ours], (self._old_spaces[theirs], channels))

    def _channels(self, ours: Value, theirs: Value, have: int, want: int) -> _Channels:
        """The source's channels for an axis of ``want`` entries that had ``have``."""
        space, channels = self._chosen.get(self._new_spaces[ours], (None, ()))
        if space == self._old_spaces[theirs] and len(channels) == want and max(channels) < have:
            return channels
        return _leading(have, want)

    def carry(self, old: Node, node: Node) -> dict[str, Carry]:
        """Where the weights of a node that takes over ``old`` come from."""
        if node.op == "constant":  # as large as it was
            return {key: Keep(old.weights[role]) for role, key in node.weights.items()}
        result: dict[str, Carry] = {}
        for role, key in node.weights.items():
            have, want = _shape(self._source, old, role), _shape(self._new, node, role)
            carry: Carry = Keep(old.weights[role])
            for axis in range(2, len(want)):
                carry = _centred(carry, axis, len(want), have[axis], want[axis])
            shape = [*have[:2], *want[2:]]
            # Which value's channels an axis holds: a layer's are its output's and its input's, the other way round if
            # transposed; a normalisation has its input's only.
            ends = [(node.value(), old.value()), (node.inputs[0], old.inputs[0])]
            if node.op == "conv_transpose2d" and role == "weight":
                ends.reverse()
            reads = 0 if node.op == "conv_transpose2d" else 1
            for axis in reversed(range(min(2, len(want)))):
                channels = self._channels(*ends[axis], have[axis], want[axis])
                new = Fresh("zeros") if len(want) > 1 and axis == reads else Fresh()
                carry = _select(carry, tuple(shape), axis, channels, new)
                shape[axis] = want[axis]
            result[key] = carry
        return result


def _strongest(kernels: Array | None, have: int, want: int) -> _Channels:
    """The ``want`` filters of largest norm, in their old order (the first ones without kernels to judge by)."""
    if kernels is None or want >= have:
        return _leading(have, want)
    norms = np.linalg.norm(kernels.reshape(have, -1), axis=1)
    return tuple(sorted(np.argsort(-norms, kind="stable")[:want].tolist()))


def _leading(have: int, want: int) -> _Channels:
    return tuple(i if i < have else _NEW for i in range(want))


def _centred(carry: Carry, axis: int, rank: int, have: int, want: int) -> Carry:
    """A window of ``want`` around the middle of one of ``have``."""
    if want < have:
        first = (have - want) // 2
        return Slice(carry, axis, tuple(range(first, first + want)))
    if want > have:
        before = (want - have) // 2
        sides = [(before, want - have - before) if a == axis else (0, 0) for a in range(rank)]
        return Pad(carry, tuple(b for b, _ in sides), tuple(a for _, a in sides))
    return carry


def _select(carry: Carry, shape: tuple[int, ...], axis: int, channels: _Channels, new: Fresh) -> Carry:
    """The given channels of ``carry`` (a tensor of ``shape``) along ``axis``, with ``new`` where there is none."""
    if channels == tuple(range(shape[axis])):
        return carry
    runs: list[list[int]] = []
    for channel in channels:
        if runs and (runs[-1][-1] == _NEW) == (channel == _NEW):
            runs[-1].append(channel)
        else:
            runs.append([channel])
    parts: list[Carry] = []
    for run in runs:
        if run[0] == _NEW:
            parts.append(replace(new, shape=(*shape[:axis], len(run), *shape[axis + 1 :])))
        else:
            whole = run == list(range(shape[axis]))
            parts.append(carry if whole else Slice(carry, axis, tuple(run)))
    return parts[0] if len(parts) == 1 else Concat(tuple(parts), axis)


# ------------------------------------------------------------------------------------------------------- new weights


def _fresh(graph: Graph, taken: frozenset[str]) -> dict[str, Carry]:
    """How the nodes that take nothing over begin."""
    silent = _silent(graph, taken)
    awake = _reached(graph, silent)
    carry: dict[str, Carry] = {}
    for node in graph:
        if node.id in taken:
            continue
        if node.id in silent:
            carry[node.weights["weight"]] = Fresh("zeros")
        elif node.id in awake and _is_square(graph, node):
            carry[node.weights["weight"]] = Fresh("identity")
    return carry


def _silent(graph: Graph, taken: frozenset[str]) -> frozenset[str]:
    """The new nodes that end a branch of a sum and begin at zero, so that the sum begins as its other operands: for a
    batch norm this is Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 5.1.
    """
    depth: dict[str, int] = {}
    silent: set[str] = set()
    for node in graph:
        depth[node.id] = 1 + max((depth.get(v.node, 0) for v in node.inputs), default=0)
        if node.op != "add":
            continue
        ends = [_end(graph, value) for value in node.inputs]
        new = [e if e is not None and "weight" in graph[e].weights and e not in taken else None for e in ends]
        if None not in new:  # somebody has to speak: the shortest branch
            new[min(range(len(new)), key=lambda i: depth[node.inputs[i].node])] = None
        silent |= {end for end in new if end is not None}
    return frozenset(silent)


def _end(graph: Graph, value: Value) -> str | None:
    """The layer that alone decides ``value``, through operations without weights that map zero to zero."""
    while value.node in graph and value not in graph.outputs and len(graph.users[value]) == 1:
        node = graph[value.node]
        if node.op in _LAYERS or node.op in ("batch_norm", "group_norm"):
            return node.id
        if not (
            node.op in _POOLS
            or node.op in ("relu", "relu6", "leaky_relu", "dropout", "dropout2d", "drop_path", "identity")
        ):
            return None
        value = node.inputs[0]
    return None


def _reached(graph: Graph, silent: Iterable[str]) -> frozenset[str]:
    """The nodes that the outputs depend on other than through a silent one."""
    reached: set[str] = set()
    stack = [value.node for value in graph.outputs]
    while stack:
        id = stack.pop()
        if id in graph and id not in reached and id not in silent:
            reached.add(id)
            stack.extend(value.node for value in graph[id].inputs)
    return frozenset(reached)


def _is_square(graph: Graph, node: Node) -> bool:
    """Whether a layer has as many outputs as inputs, in each group and one to one."""
    if node.op not in ("conv2d", "linear"):
        return False
    shape = _shape(graph, node, "weight")
    return (
        shape[0] == shape[1]
        if node.attrs.get("groups", 1) == 1
        else _grouping(graph, node) == "depthwise" and shape[0] == _width(graph.types[node.inputs[0]])
    )
