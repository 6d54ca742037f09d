"""How much each channel of a group matters: what trimming ranks by.

An importance is any function of a graph, a group and the weights that gives a score for each unit of the group, the
larger the more it matters. The ones here look at weights; those that look at data are given what was found there
(:mod:`netgraft.recipes.refit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netgraft.channels import Axis, ChannelGroup, Site, channels
from netgraft.channels.atoms import Label
from netgraft.errors import OptionError
from netgraft.ir import Graph, Weights

Scores = npt.NDArray[np.float64]
Importance = Callable[[Graph, ChannelGroup, Weights], Scores]


def reads(graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
    """What the layers that read a channel take from it: the L1 norm of their weights, each layer's over its mean; what
    no layer reads (attention does, say) is ranked by :class:`Filters`.
    """
    found = channels(graph).reads
    scores = _by_axis(graph, group, weights, [axis for axis in group.axes if axis in found], 1)
    return scores if scores.any() else Filters()(graph, group, weights)


@dataclass(frozen=True)
class Filters:
    """The norm of the filters that make a channel, each layer's over its mean: L1 (Li et al., "Pruning Filters for
    Efficient ConvNets", ICLR 2017, section 3.1) or, with ``norm`` 2, L2 (NetAdapt, Yang et al., ECCV 2018).
    """

    norm: int = 1

    def __call__(self, graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
        """See :data:`Importance`."""
        found = channels(graph).reads
        matrices = [axis for axis in group.axes if axis not in found and weights[axis[0]].ndim > 1]
        return _by_axis(graph, group, weights, matrices or group.axes, self.norm)


def last_slice(graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
    """What CompactNet's published code orders batch norms and readers by: with their sign, the weights of the filters
    at the last place of their window, from the last input, each layer's over its norm. The code orders each other slice
    of the filters by its own values, which mixes filters up; here filters stay whole.
    """
    found, total = channels(graph), np.zeros(group.channels)
    for key, axis in group.axes:
        if (key, axis) not in found.reads and axis == 0 and weights[key].ndim > 1:
            values = weights[key].reshape(len(weights[key]), -1)[:, -1].astype(np.float64)
            total += _to_units(group, found.weights[key][axis], values / max(float(np.linalg.norm(values)), 1e-12))
    return total


def scales(graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
    """The scales of the norms that a channel passes (Liu et al., "Learning Efficient Convolutional Networks through
    Network Slimming", ICCV 2017, section 3); by :class:`Filters` where it passes none.
    """
    roles = {key: (graph[id].op, role) for key, _ in group.axes for id, role in graph.weight_users[key]}
    norms = [(key, axis) for key, axis in group.axes if roles[key][0].endswith("_norm") and roles[key][1] == "weight"]
    return _by_axis(graph, group, weights, norms, 1) if norms else Filters()(graph, group, weights)


@dataclass(frozen=True)
class Taylor:
    """How the loss would change without a channel, to first order: the square of the sum of weight times gradient over
    the filters that make it and the norms that it passes (Molchanov et al., "Importance Estimation for Neural Network
    Pruning", CVPR 2019, equation 8).

    ``gradients`` are those of the loss by the keys of the weights (:func:`netgraft.recipes.refit.gradients`).
    """

    gradients: Mapping[str, npt.NDArray[np.floating]]

    def __call__(self, graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
        """See :data:`Importance`."""
        found, total = channels(graph), np.zeros(group.channels)
        for key, axis in group.axes:
            if key in self.gradients and (key, axis) not in found.reads:
                change = weights[key] * self.gradients[key]
                total += _to_units(group, found.weights[key][axis], _along(change, axis))
        return total**2


@dataclass(frozen=True)
class Activations:
    """The mean magnitude of a channel where it is read, each tensor's over its mean.

    ``magnitudes`` are those of tensors along their dimensions (:func:`netgraft.recipes.refit.magnitudes`).
    """

    magnitudes: Mapping[Site, npt.NDArray[np.floating]]

    def __call__(self, graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
        """See :data:`Importance`."""
        found, total = channels(graph), np.zeros(group.channels)
        read = {value for id in group.readers for value in graph[id].inputs}
        for value, dim in group.sites:
            if value in read and (value, dim) in self.magnitudes:
                total += _even(_to_units(group, found.values[value][dim], self.magnitudes[value, dim]))
        return total


@dataclass(frozen=True)
class Random:
    """By chance: a floor that any other importance should be above. The same group is ranked alike each time."""

    seed: int = 0

    def __call__(self, graph: Graph, group: ChannelGroup, weights: Weights) -> Scores:
        """See :data:`Importance`."""
        return np.random.default_rng([self.seed, group.units[0]]).random(group.channels)


IMPORTANCES: Final[Mapping[str, Importance]] = {
    "reads": reads,
    "l1": Filters(1),
    "l2": Filters(2),
    "scales": scales,
    "last-slice": last_slice,
    "random": Random(),
}
"""Those that look at weights alone, by name."""


def importance_named(name: str) -> Importance:
    """The importance of that name. OptionError for a name that is not known."""
    if name not in IMPORTANCES:
        raise OptionError(f"there is no importance {name!r}; known: {', '.join(IMPORTANCES)}")
    return IMPORTANCES[name]


def _by_axis(graph: Graph, group: ChannelGroup, weights: Weights, axes: Iterable[Axis], norm: int) -> Scores:
    """The norms of what belongs to each unit along some axes, each axis' over its mean, summed up."""
    total = np.zeros(group.channels)
    for (key, axis), label in _labelled(graph, axes):
        powers = np.abs(weights[key]) if norm == 1 else np.abs(weights[key]) ** norm
        total += _even(_to_units(group, label, _along(powers, axis)) ** (1 / norm))
    return total


def _labelled(graph: Graph, axes: Iterable[Axis]) -> Iterator[tuple[Axis, Label]]:
    found = channels(graph)
    return (((key, axis), found.weights[key][axis]) for key, axis in axes)


def _along(tensor: npt.NDArray[Any], axis: int) -> Scores:
    """The sum for each entry along an axis."""
    if axis < 2 < tensor.ndim:  # a window lies together in memory
        tensor = tensor.reshape(*tensor.shape[:2], -1).sum(axis=2)
    others = tuple(other for other in range(tensor.ndim) if other != axis)
    total: Scores = tensor.sum(axis=others).astype(np.float64)
    return total


def _to_units(group: ChannelGroup, label: Label, by_entry: npt.NDArray[np.floating]) -> Scores:
    """What the entries of a dimension have, summed up for each unit of the group."""
    assert label is not None, "a group's dimensions have labels"
    units = np.array(group.units)
    total = np.zeros(len(units))
    for column in label.T:
        place = np.searchsorted(units, column).clip(max=len(units) - 1)
        ours = units[place] == column
        np.add.at(total, place[ours], by_entry[ours])
    return total


def _even(scores: Scores) -> Scores:
    return scores / max(float(scores.mean()), np.finfo(float).tiny)
