"""Edits that drop channels, and edits that repeat them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from netgraft.errors import GraphError
from netgraft.ir import Batch, Carry, Edit, Graph, Keep, Node, Region, Repeat, Slice, TensorType, Value
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

from .analysis import Axis, ChannelGroup, Site, channels, entries
from .atoms import Ints, Label


def drop(graph: Graph, units: Iterable[int], origin: str = "drop") -> Edit:
    """The edit that drops some units of any groups (:func:`~netgraft.channels.channels`).

    The child computes what the network does where everything that is summed over (by layers, products of matrices,
    attention, sums) is zero at the dropped channels, and where norms take their statistics over the others. GraphError
    where a unit does not exist, or where nothing would be left of a dimension.
    """
    return _resized(graph, dict.fromkeys(units, 0), origin)


def repeat(graph: Graph, copies: Mapping[int, int], origin: str = "repeat") -> Edit:
    """The edit after which units are there ``copies`` times: Net2Wider (Chen et al., ICLR 2016, section 2.4), with the
    copies beside their originals. Layers that read a channel share its weight among the copies, so that the network
    computes what it did.

    GraphError where a unit's group does not allow it (:attr:`ChannelGroup.repeats`).
    """
    sturdy = {unit for group in channels(graph).groups_of(copies) if group.repeats for unit in group.units}
    for unit, times in copies.items():
        if unit not in sturdy or times < 1:
            raise GraphError(f"channel {unit} cannot be there {times} times: see ChannelGroup.repeats")
    return _resized(graph, dict(copies), origin)


def _resized(graph: Graph, times: Mapping[int, int], origin: str) -> Edit:
    groups = channels(graph).groups_of(times)
    if not groups:
        raise GraphError(f"{origin}: no channels")
    chosen = _Chosen(graph, times)
    region = _region(graph, groups)
    sites = {site for group in groups for site in group.sites}
    types = chosen.types(sites)
    segment = region.extract(graph)
    touched = {value for value, _ in sites}
    nodes = []
    for node, placed in zip((graph.nodes[i] for i in region.positions(graph)), segment, strict=True):
        outputs = [node.value(i) for i in range(len(graph.output_types(node)))]
        if touched.isdisjoint(node.inputs) and touched.isdisjoint(outputs):
            nodes.append(placed)
        else:
            attrs = _attrs(graph, node, chosen, [types.get(value, graph.types[value]) for value in outputs])
            nodes.append(replace(placed, attrs={**node.attrs, **attrs}))
    carry: dict[str, Carry] = {key: Keep(key) for node in nodes for key in node.weights.values()}
    for key, axis in sorted({axis for group in groups for axis in group.axes}):
        if key in carry:
            carry[key] = chosen.cut(carry[key], (key, axis))
    exact = all(count > 0 for count in times.values())
    return Edit(region, Graph(segment.inputs, tuple(nodes), segment.outputs), carry, origin, exact)


def _region(graph: Graph, groups: Sequence[ChannelGroup]) -> Region:
    """All that makes, reads or hands on the channels, and what lies between."""
    key = "channels", tuple(group.units[0] for group in groups)
    if key not in graph.notes:
        nodes: set[str] = set()
        for group in groups:
            for value, _ in group.sites:
                nodes.add(value.node)
                nodes.update([user.id for user in graph.users.get(value, ())])
            for weight, _ in group.axes:
                nodes.update([id for id, _ in graph.weight_users[weight]])
        graph.notes[key] = Region.hull(graph, nodes)
    region: Region = graph.notes[key]
    return region


class _Chosen:
    """Which entries are left, and how often, of the dimensions in which some units change."""

    def __init__(self, graph: Graph, times: Mapping[int, int]) -> None:
        self._graph = graph
        self._found = channels(graph)
        self._times = np.ones(self._found.count, np.int64)
        self._times[list(times)] = list(times.values())
        self._repeats = any(count > 1 for count in times.values())
        self._indices: dict[int, tuple[int, ...] | None] = {}

    def of(self, label: Label, what: object) -> tuple[int, ...] | None:
        """The entries that are left of a dimension; None where all are, once."""
        if label is None:
            return None
        if id(label) not in self._indices:
            self._indices[id(label)] = self._choose(label, what)
        return self._indices[id(label)]

    def _choose(self, label: Ints, what: object) -> tuple[int, ...] | None:
        times = self._times[label]
        if (times == 1).all():
            return None
        indices = _repeated(label[:, 0], times[:, 0]) if self._repeats else np.flatnonzero(times.all(axis=1))
        if not len(indices):
            raise GraphError(f"nothing would be left of {what}")
        return tuple(indices.tolist())

    def site(self, value: Value, dim: int) -> tuple[int, ...] | None:
        """The entries that are left of a dimension of a tensor."""
        return self.of(self._found.values[value][dim], f"dimension {dim} of {value}")

    def groups(self, node: Node) -> int:
        """The groups that are left of a convolution or group norm."""
        left = self.of(self._found.groupings.get(node.id), f"the groups of {node.id}")
        count: int = node.attrs["groups"]
        return count if left is None else len(left)

    def cut(self, carry: Carry, axis: Axis) -> Carry:
        """What is left of a weight along one axis."""
        key, position = axis
        indices = self.of(self._found.weights[key][position], f"axis {position} of {key}")
        if indices is None:
            return carry
        if self._repeats:
            return Repeat(carry, position, indices, divide=axis in self._found.reads)
        return Slice(carry, position, indices)

    def types(self, sites: Iterable[Site]) -> dict[Value, TensorType]:
        """The new types of tensors."""
        types: dict[Value, TensorType] = {}
        for value, dim in sites:
            indices = self.site(value, dim)
            if indices is not None:
                x = types.get(value, self._graph.types[value])
                size = Batch(len(indices)) if isinstance(x.shape[dim], Batch) else len(indices)
                types[value] = x.with_shape((*x.shape[:dim], size, *x.shape[dim + 1 :]))
        return types


def _repeated(column: Ints, times: Ints) -> Ints:
    """The entries in order, each run of those of one unit as often as it says: what lies within a channel stays within
    each of its copies.
    """
    starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
    stops = np.append(starts[1:], len(column))
    runs = [np.tile(np.arange(a, b), int(times[a])) for a, b in zip(starts, stops, strict=True)]
    return np.concatenate(runs)


def _attrs(graph: Graph, node: Node, chosen: _Chosen, outputs: Sequence[TensorType]) -> dict[str, Any]:
    """The attributes that speak of sizes, as they are for ``outputs``."""
    out = outputs[0]
    match node.op:
        case op if op in CONVOLUTIONS | TRANSPOSED:
            return {"out_channels": out.shape[1], "groups": chosen.groups(node)}
        case "linear":
            return {"out_features": out.shape[-1]}
        case "group_norm":
            return {"groups": chosen.groups(node)}
        case "layer_norm":
            return {"shape": out.shape[out.rank - len(node.attrs["shape"]) :]}
        case "prelu":
            return {"parameters": out.shape[1] if node.attrs["parameters"] > 1 else 1}
        case "constant":
            return {"type": out}
        case "attention" if node.attrs["scale"] is None:
            *_, width = entries(graph.input_types(node)[0])
            narrower = chosen.site(node.inputs[0], graph.input_types(node)[0].rank - 1) is not None
            return {"scale": width**-0.5} if narrower else {}
        case "expand":
            return {"shape": out.shape}
        case "reshape":
            old = node.attrs["shape"]
            return {"shape": tuple(-1 if was == -1 else size for was, size in zip(old, out.shape, strict=True))}
        case "split":
            return {"sizes": tuple(piece.shape[node.attrs["dim"]] for piece in outputs)}
        case "slice":
            start, stop = node.attrs["start"], node.attrs["stop"]
            left = chosen.site(node.inputs[0], node.attrs["dim"] % out.rank)
            return {} if left is None else {"start": _before(left, start), "stop": _before(left, stop)}
        case "pad":
            return {"pads": _pads(graph, node, chosen, out.rank)}
        case _:
            return {}


def _before(indices: Sequence[int], limit: int) -> int:
    return sum(index < limit for index in indices)


def _pads(graph: Graph, node: Node, chosen: _Chosen, rank: int) -> tuple[int, ...]:
    pads = list(node.attrs["pads"])
    for i in range(len(pads) // 2):
        dim = rank - 1 - i
        left = chosen.site(node.value(), dim)
        if left is not None and (pads[2 * i] or pads[2 * i + 1]):
            end = pads[2 * i] + entries(graph.input_types(node)[0])[dim]
            pads[2 * i : 2 * i + 2] = _before(left, pads[2 * i]), sum(index >= end for index in left)
    return tuple(pads)
