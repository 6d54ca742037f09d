"""Narrow: fewer channels where a group of layers has to agree on them, with the weights of the channels that stay.

Channels are *coupled* when removing one from a tensor means removing it from others too: what is added together, what
a depthwise convolution or a batch norm hands on. :func:`channel_groups` finds such groups on any graph; the ends of a
group are the dense layers that make its channels and the dense layers that read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from netgraft.ir import Carry, Edit, Graph, Keep, Node, Region, Slice, Value, Weights
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

_RESAMPLING = frozenset(f"{kind}_pool{sides}d" for kind in ("max", "avg") for sides in (1, 2, 3))
_RESAMPLING |= {"adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "interpolate_like"}


class _Axis(NamedTuple):
    """Where a tensor holds the channels: along ``dim``, ``inner`` entries of each channel beside one another."""

    dim: int
    inner: int


class _Member(NamedTuple):
    """A node that changes with the group, and how its weights hold the channels."""

    node: str
    part: Literal["makes", "reads", "passes"]
    inner: int


@dataclass(frozen=True)
class ChannelGroup:
    """Nodes that have to agree on a number of ``channels``: some make them, some read them, the others pass them on."""

    channels: int
    members: frozenset[_Member]
    axes: tuple[tuple[Value, _Axis], ...]

    @property
    def makers(self) -> tuple[str, ...]:
        """Ids of the dense layers whose outputs are the channels, sorted."""
        return tuple(sorted(member.node for member in self.members if member.part == "makes"))


@dataclass(frozen=True)
class Narrow:
    """Narrows one group of coupled channels: the inside of a block (``narrow.inner``), or a width that several layers
    share, such as a residual stage's (``narrow.stage``).

    One edit a group and ratio, as the steps of NetAdapt (Yang et al., ECCV 2018, section 3). The channels stay from
    which the layers that read them take most, by the L1 norm of their weights, each layer's divided by its mean.
    (NetAdapt and others rank by the norm of the filters that make a channel, which says little when a batch norm
    follows: ``docs/results.md`` has both.)

    ``ratios`` are the shares of channels to keep; widths of at least ``2 * multiple`` become multiples of ``multiple``.
    """

    ratios: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875)
    multiple: int = 8
    name: str = "narrow"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """One edit for every group and every width that a ratio gives it."""
        sites = [(group, kept) for group in channel_groups(graph) for kept in self._widths(group.channels)]
        for i in rng.permutation(len(sites)):
            group, kept = sites[i]
            best = np.argsort(-_importance(graph, group, weights), kind="stable")[:kept]
            yield narrow(graph, group, sorted(best.tolist()), f"{self.name}.{_extent(group)}")

    def _widths(self, channels: int) -> list[int]:
        step = self.multiple if channels >= 2 * self.multiple else 1
        widths = {max(step, round(channels * ratio / step) * step) for ratio in self.ratios}
        return sorted(width for width in widths if width < channels)


def _extent(group: ChannelGroup) -> str:
    return "inner" if len(group.makers) == 1 else "stage"


def channel_groups(graph: Graph) -> list[ChannelGroup]:
    """Every group of coupled channels that can be narrowed, in graph order of its first maker.

    A group that touches something opaque is left out: a frozen node, an input or output of the graph, a concatenation
    of its channels, a grouped convolution that is not depthwise, a weight shared with another node.
    """
    uses = Counter(key for node in graph for key in node.weights.values())
    shared = {key for key, count in uses.items() if count > 1}
    groups: list[ChannelGroup] = []
    for node in graph:
        if _makes(node) and not any(node.id in group.makers for group in groups):
            group = _group(graph, node)
            if group is not None and not any(shared & set(graph[m.node].weights.values()) for m in group.members):
                groups.append(group)
    return groups


def narrow(graph: Graph, group: ChannelGroup, kept: Iterable[int], origin: str = "narrow") -> Edit:
    """The edit that leaves the channels ``kept`` of a group, in the given order."""
    indices = tuple(kept)
    region = convex_hull(graph, (member.node for member in group.members))
    segment = region.extract(graph)
    carry: dict[str, Carry] = {key: Keep(key) for node in segment for key in node.weights.values()}
    attrs: dict[str, dict[str, Any]] = {node.id: dict(node.attrs) for node in segment}
    for member in sorted(group.members):
        node = graph[member.node]
        entries = tuple(c * member.inner + i for c in indices for i in range(member.inner))
        for role, axis in _cuts(node, member.part).items():
            carry[node.weights[role]] = Slice(carry[node.weights[role]], axis, entries)
        attrs[node.id] |= _new_attrs(node, member, dict(group.axes), len(indices))
    nodes = tuple(replace(node, attrs=attrs[node.id]) for node in segment)
    return Edit(region, Graph(segment.inputs, nodes, segment.outputs), carry, origin)


def convex_hull(graph: Graph, ids: Iterable[str]) -> Region:
    """The smallest convex region that holds the given nodes: they and all that lies on a path between two of them."""
    seeds = frozenset(ids)
    below, above = set(seeds), set(seeds)
    for node in graph:
        if any(value.node in below for value in node.inputs):
            below.add(node.id)
    for node in reversed(graph.nodes):
        if node.id in above:
            above.update(value.node for value in node.inputs)
    return Region.of(below & above)


def _group(graph: Graph, maker: Node) -> ChannelGroup | None:
    """The group of a dense layer's output channels, or None where it cannot be narrowed."""
    start = maker.value()
    first = _Axis(_channel_dim(graph, maker, start), 1)
    channels = graph.types[start].concrete()[first.dim]
    axes: dict[Value, _Axis] = {}
    members: set[_Member] = set()
    waiting = [(start, first)]
    while waiting:
        value, axis = waiting.pop()
        if value in axes:
            if axes[value] != axis:
                return None
            continue
        if value.node not in graph or value in graph.outputs:
            return None
        axes[value] = axis
        source = graph[value.node]
        if _makes(source) and axis == (_channel_dim(graph, source, value), 1):
            members.add(_Member(source.id, "makes", 1))
        else:
            tied = _ties(graph, source, axis, channels)
            if not tied:
                return None
            waiting.extend(tied)
        for user in graph.users.get(value, ()):
            if user.op == "interpolate_like" and value != user.inputs[0]:
                continue  # it looks at the image's size only
            if (
                _makes(user)
                and axis.dim == _channel_dim(graph, user, value)
                and (user.op == "linear" or axis.inner == 1)
            ):
                members.add(_Member(user.id, "reads", axis.inner))
                continue
            out = next((_after(graph, user, i, axis) for i, v in enumerate(user.inputs) if v == value), None)
            if out is None:
                return None
            members.add(_Member(user.id, "passes", axis.inner))
            waiting.extend((user.value(i), out) for i in range(len(graph.output_types(user))))
    read = channels > 1 and any(member.part == "reads" for member in members)
    return ChannelGroup(channels, frozenset(members), tuple(axes.items())) if read else None


def _makes(node: Node) -> bool:
    """Whether every output channel of the node has its own filter over all input channels."""
    return node.op == "linear" or (node.op in CONVOLUTIONS | TRANSPOSED and node.attrs["groups"] == 1)


def _channel_dim(graph: Graph, node: Node, value: Value) -> int:
    """The dimension of ``value`` that a dense layer takes as channels."""
    return graph.types[value].rank - 1 if node.op == "linear" else 1


def _ties(graph: Graph, node: Node, out: _Axis, channels: int) -> list[tuple[Value, _Axis]]:
    """The inputs of a node that hold the same channels as its output does along ``out``, and where they hold them."""
    tied = []
    for i, value in enumerate(node.inputs):
        shape = graph.types[value].shape
        for axis in (_Axis(dim, inner) for dim in range(len(shape)) for inner in dict.fromkeys((out.inner, 1))):
            if shape[axis.dim] == channels * axis.inner and _after(graph, node, i, axis) == out:
                tied.append((value, axis))
                break
    return tied


def _after(graph: Graph, node: Node, index: int, axis: _Axis) -> _Axis | None:
    """Where a node's outputs hold the channels that its input ``index`` holds along ``axis``; None if it mixes them."""
    x, out = graph.types[node.inputs[index]], graph.output_types(node)[0]
    dim, inner = axis

    def other(name: str) -> bool:
        return bool(node.attrs[name] % x.rank != dim)

    match node.op:
        case "group_norm" | "frozen":
            return None
        case "softmax" | "log_softmax":
            return axis if other("dim") else None
        case "layer_norm":
            return axis if dim < x.rank - len(node.attrs["shape"]) else None
        case "prelu":
            return axis if node.attrs["parameters"] == 1 or dim == 1 else None
        case _ if node.definition.pointwise:
            return axis
        case op if op in CONVOLUTIONS:
            depthwise = node.attrs["groups"] == x.shape[1] == out.shape[1]
            return axis if depthwise and axis == (1, 1) else None
        case op if op in _RESAMPLING:
            return axis if dim == 1 else None
        case "add" | "mul" | "sub" | "div":
            return _Axis(dim + out.rank - x.rank, inner)
        case "concat" | "split" | "slice":
            return axis if other("dim") else None
        case "pad":
            untouched = not any(node.attrs["pads"][2 * (x.rank - 1 - dim) :][:2])
            return axis if untouched else None
        case "permute":
            return _Axis([d % x.rank for d in node.attrs["dims"]].index(dim), inner)
        case "mean" | "sum":
            dims = {d % x.rank for d in node.attrs["dims"]}
            gone = 0 if node.attrs["keepdim"] else sum(d < dim for d in dims)
            return None if dim in dims else _Axis(dim - gone, inner)
        case "flatten":
            first, last = node.attrs["start"] % x.rank, node.attrs["end"] % x.rank
            if dim == first:
                return _Axis(dim, inner * prod(x.concrete()[first + 1 : last + 1]))
            return axis if dim < first else _Axis(dim - (last - first), inner) if dim > last else None
        case "reshape" if dim == 1 and out.rank == 2 and out.shape[0] == x.shape[0]:
            return _Axis(1, inner * prod(x.concrete()[2:]))
        case _:
            return None


def _cuts(node: Node, part: str) -> dict[str, int]:
    """The weight roles that lose entries, and along which axis."""
    if part == "passes":
        per_channel = node.op in CONVOLUTIONS | {"batch_norm"} or (node.op == "prelu" and node.attrs["parameters"] > 1)
        return {role: 0 for role in node.weights if role != "num_batches_tracked"} if per_channel else {}
    # A transposed convolution holds its kernel as (in, out, height, width).
    makes_first = node.op not in TRANSPOSED
    if part == "reads":
        return {"weight": int(makes_first)}
    return {role: int(role == "weight" and not makes_first) for role in node.weights}


def _new_attrs(node: Node, member: _Member, axes: dict[Value, _Axis], kept: int) -> dict[str, Any]:
    """The attributes of a node that speak of the number of channels."""
    match member.part, node.op:
        case "makes", "linear":
            return {"out_features": kept}
        case "makes", _:
            return {"out_channels": kept}
        case "passes", op if op in CONVOLUTIONS:
            return {"out_channels": kept, "groups": kept}
        case "passes", "prelu" if node.attrs["parameters"] > 1:
            return {"parameters": kept * member.inner}
        case "passes", "reshape":
            first, second = node.attrs["shape"]
            return {"shape": (first, -1 if second == -1 else kept * axes[node.value()].inner)}
        case _:
            return {}


def _importance(graph: Graph, group: ChannelGroup, weights: Weights) -> npt.NDArray[np.float64]:
    """How much each channel of the group matters to those that read it."""
    total = np.zeros(group.channels)
    for member in sorted(group.members):
        if member.part == "reads":
            node = graph[member.node]
            kernel = np.abs(np.asarray(weights[node.weights["weight"]], np.float64))
            by_channel = np.moveaxis(kernel, _cuts(node, member.part)["weight"], 0).reshape(group.channels, -1).sum(1)
            total += by_channel / max(by_channel.mean(), np.finfo(float).tiny)
    return total
