"""Channels: which entries of a network's tensors can be dropped, and which of them only together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netgraft.errors import GraphError
from netgraft.ir import Batch, Graph, TensorType, Value

from .atoms import Atoms, Ints, Label
from .rules import Labels, Reading

Site = tuple[Value, int]
"""A dimension of a tensor."""
Axis = tuple[str, int]
"""An axis of a weight, by its key."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are alike: any of them may be dropped, as long as every dimension they lie in keeps an entry.

    Each of the ``units`` is one decision: all entries of tensors and weights that come and go with it. ``makers`` are
    the nodes that compute its channels and ``readers`` those that sum over them, in the graph's order; ``sites`` and
    ``axes`` say where its entries lie. ``normalised`` are norms that share out statistics over its channels: with some
    of them gone the others change. ``repeats`` says that units may also be there several times.
    """

    units: tuple[int, ...]
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    normalised: tuple[str, ...]
    sites: tuple[Site, ...]
    axes: tuple[Axis, ...]
    repeats: bool

    @property
    def channels(self) -> int:
        """How many units there are."""
        return len(self.units)


@dataclass(frozen=True, eq=False)
class Channels:
    """What :func:`channels` finds out about a graph.

    ``values`` and ``weights`` hold for each dimension of each tensor an array of shape (entries, columns): the units on
    which each entry depends, with zeros for none; or None where nothing can be dropped. A dimension of 12 times the
    batch size has 12 entries. ``reads`` are the axes of weights over which a layer sums; ``groupings`` has the labels
    of the groups of convolutions and group norms, by node; ``held`` says of the nodes that make channels of which none
    can be dropped why that is. Units are numbers below ``count``.
    """

    values: Mapping[Value, Labels]
    weights: Mapping[str, Labels]
    reads: frozenset[Axis]
    groupings: Mapping[str, Label]
    groups: tuple[ChannelGroup, ...]
    held: Mapping[str, str]
    count: int

    @cached_property
    def group_of(self) -> Ints:
        """For every number below ``count`` which of the groups it is a unit of, or -1 for none."""
        numbers = np.full(self.count, -1)
        for number, group in enumerate(self.groups):
            numbers[list(group.units)] = number
        return numbers

    def groups_of(self, units: Iterable[int]) -> tuple[ChannelGroup, ...]:
        """The groups of some units. GraphError where one of them is no unit of any."""
        numbers = set()
        for unit in units:
            if not (0 <= unit < self.count and self.group_of[unit] >= 0):
                raise GraphError(f"{unit} is no channel that can be dropped")
            numbers.add(int(self.group_of[unit]))
        return tuple(self.groups[number] for number in sorted(numbers))


def channels(graph: Graph) -> Channels:
    """The channels of a graph; found once for each graph."""
    if channels not in graph.notes:
        graph.notes[channels] = _analyse(graph)
    found: Channels = graph.notes[channels]
    return found


def droppable(graph: Graph, units: Sequence[int]) -> list[int]:
    """Those of ``units`` that can go together: all but the last ones (in their order) of which every dimension needs
    some to stay.
    """
    found = channels(graph)
    groups, gone = found.groups_of(units), np.zeros(found.count, np.int64)
    gone[list(units)] = np.arange(len(units), 0, -1)  # the least for the last
    labels = [found.values[value][dim] for group in groups for value, dim in group.sites]
    labels += [found.weights[key][axis] for group in groups for key, axis in group.axes]
    for label in {id(label): label for label in [*labels, *found.groupings.values()]}.values():
        if label is not None:
            cost = gone[label].max(axis=1)
            if cost.all():
                gone[label[cost.argmin()]] = 0
    return [unit for unit in units if gone[unit]]


def entries(x: TensorType) -> tuple[int, ...]:
    """How many entries each dimension of a tensor has."""
    return tuple(d.times if isinstance(d, Batch) else d for d in x.shape)


def _analyse(graph: Graph) -> Channels:
    reading = Reading(graph)
    final = _Final(reading.atoms)
    tensors = [*reading.values.values(), *reading.weights.values(), tuple(reading.groups.values())]
    while vital := final.vital(label for labels in tensors for label in labels):
        reading.atoms.pin(np.array(sorted(vital)), "nothing would be left of a dimension")
        final = _Final(reading.atoms)
    values = {value: final.labels(given) for value, given in reading.values.items()}
    weights = {key: final.labels(given) for key, given in reading.weights.items()}
    return Channels(
        values,
        weights,
        frozenset(reading.reads),
        {id: final.label(label) for id, label in reading.groups.items()},
        tuple(_groups(reading, final)),
        {id: reading.atoms.why(label) for id, label in reading.makers if final.label(label) is None},
        len(final.is_unit),
    )


class _Final:
    """Labels in units instead of atoms. Many tensors share a label, so each is translated, and looked at, once."""

    def __init__(self, atoms: Atoms) -> None:
        self.standing, self.is_unit = atoms.units()
        self.family = atoms.families(self.is_unit)
        self._known: dict[int, tuple[Label, Label, tuple[int, ...], bool]] = {}

    def together(self) -> list[Ints]:
        """The units of each family, in the order of their first ones."""
        units = np.flatnonzero(self.is_unit)
        units = units[np.argsort(self.family[units], kind="stable")]
        starts = np.flatnonzero(np.diff(self.family[units])) + 1
        return sorted(np.split(units, starts), key=lambda found: int(found[0])) if len(units) else []

    def labels(self, labels: Labels) -> Labels:
        return tuple([None if label is None else self._lookup(label)[1] for label in labels])

    def label(self, label: Label) -> Label:
        return None if label is None else self._lookup(label)[1]

    def vital(self, labels: Iterable[Label]) -> set[int]:
        """The units without which nothing is left of some dimension."""
        found: set[int] = set()
        looked_at: set[int] = set()
        for given in labels:
            label = self.label(given)
            if label is not None and id(label) not in looked_at:
                looked_at.add(id(label))
                found.update(unit for unit in label[0].tolist() if unit and (label == unit).any(axis=1).all())
        return found

    def families(self, label: Label) -> tuple[int, ...]:
        """The families whose units a label has."""
        return () if label is None else self._lookup(label)[2]

    def in_runs(self, label: Label) -> bool:
        """Whether the entries of each unit stand beside one another, as many for each of them."""
        return True if label is None else self._lookup(label)[3]

    def _lookup(self, label: Ints) -> tuple[Label, Label, tuple[int, ...], bool]:
        known = self._known.get(id(label))
        if known is None:
            units = self.standing[label].reshape(len(label), -1)
            used = units.any(axis=0)
            final = None if not used.any() else units if used.all() else np.ascontiguousarray(units[:, used])
            held = self.family[final[final > 0]] if final is not None else np.zeros(0, np.int64)
            families = tuple(np.flatnonzero(np.bincount(held)).tolist())
            # With the label itself, so that no other one is given its id.
            known = self._known[id(label)] = label, final, families, _in_runs(final)
        return known


def _groups(reading: Reading, final: _Final) -> Iterator[ChannelGroup]:
    """The groups in the order in which their channels appear in the graph."""
    makers, readers = _owners(final, reading.makers), _owners(final, reading.readers)
    normalised = _owners(final, reading.normalised)
    sites: defaultdict[int, list[Site]] = defaultdict(list)
    axes: defaultdict[int, list[Axis]] = defaultdict(list)
    uneven = {family for label in reading.uneven for family in final.families(label)}
    for value, labels in reading.values.items():
        for dim, label in enumerate(labels):
            for family in final.families(label):
                sites[family].append((value, dim))
                if not final.in_runs(label):
                    uneven.add(family)
    for _, label in reading.makers:
        if not _once(final.label(label)):
            uneven.update(final.families(label))
    for key, labels in reading.weights.items():
        for axis, label in enumerate(labels):
            for family in final.families(label):
                axes[family].append((key, axis))
    for found in final.together():
        family = int(final.family[found[0]])
        if len(found) > 1 and sites[family] and axes[family]:
            yield ChannelGroup(
                tuple(found.tolist()),
                tuple(makers.get(family, ())),
                tuple(readers.get(family, ())),
                tuple(normalised.get(family, ())),
                tuple(sites[family]),
                tuple(axes[family]),
                family not in uneven,
            )


def _owners(final: _Final, found: Iterable[tuple[str, Label]]) -> dict[int, dict[str, None]]:
    """Nodes by family, each once."""
    owners: defaultdict[int, dict[str, None]] = defaultdict(dict)
    for id, label in found:
        for family in final.families(label):
            owners[family][id] = None
    return owners


def _once(label: Label) -> bool:
    """Whether every unit has one entry, and every entry one unit or none."""
    if label is None:
        return True
    held = np.sort(label[label > 0])
    return label.shape[1] == 1 and bool((held[1:] > held[:-1]).all())


def _in_runs(label: Label) -> bool:
    if label is None:
        return True
    if label.shape[1] > 1:
        return False
    column = label[:, 0]
    ends = np.flatnonzero(np.append(column[1:] != column[:-1], True))
    lengths = (ends - np.append(-1, ends[:-1]))[column[ends] > 0]
    return bool((lengths == lengths[0]).all())
