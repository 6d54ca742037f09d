"""Trim: fewer channels where a group of layers has to agree on them, with the weights of those that stay; or more.

By hand, with the layers that read the channels refitted on data (:mod:`netgraft.recipes.refit`)::

    group = channels(model.graph).groups[0]
    edit = trim(model.graph, group, reads(model.graph, group, model.weights), 24)
    child = refit(model, edit, task, seed=0)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from netgraft.channels import ChannelGroup, channels, drop, droppable, repeat
from netgraft.errors import ShapeError
from netgraft.ir import Edit, Graph, Region, Weights, apply

from .fixed import changed, untouchable
from .importance import Importance, Scores, reads

ALIKE = 0.25
"""How often :class:`Trim` proposes to trim all groups alike instead of one."""


@dataclass(frozen=True)
class Trim:
    """Trims one group of coupled channels (:mod:`netgraft.channels`): the inside of a block (``trim.inner``), or a
    width that several layers share, such as a residual stage's or the heads of an attention (``trim.stage``); and
    sometimes all groups by the same ratio (``trim.all``), which is uniform width scaling (Howard et al., 2017,
    arXiv:1704.04861, section 3.3) with the weights that matter most: the way to limits that are far.

    One edit a group and ratio, as the steps of NetAdapt (Yang et al., ECCV 2018, section 3). The channels stay that
    matter most by ``importance``; the default is what the layers that read them take (``docs/results.md`` compares).
    ``ratios`` are the shares of channels to keep; one above 1 widens instead, without a change of what the network
    computes (``trim.wider``). Widths of at least ``2 * multiple`` become multiples of ``multiple``. Groups with a node
    of ``fixed`` are left alone, beside those that always are (:func:`~netgraft.mutations.fixed.untouchable`).
    """

    ratios: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875)
    multiple: int = 8
    importance: Importance = reads
    fixed: frozenset[str] = frozenset()
    name: str = "trim"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """One edit for every group and every width that a ratio gives it, and one a ratio for all groups."""

        known: dict[int, Scores] = {}

        def scores(group: ChannelGroup) -> Scores:
            if group.units[0] not in known:
                known[group.units[0]] = self.importance(graph, group, weights)
            return known[group.units[0]]

        left = [self._of_one(graph, scores, rng), self._of_all(graph, scores, rng)]
        found: set[tuple[Region, str]] = set()
        while left:
            way = len(left) > 1 and rng.random() < ALIKE
            edit = next(left[way], None)
            if edit is None:
                del left[way]
            # Where more must stay than a width asks for, another width may say the same.
            elif (mark := (edit.region, edit.replacement.digest)) not in found:
                found.add(mark)
                yield edit

    def _of_one(
        self, graph: Graph, scores: Callable[[ChannelGroup], Scores], rng: np.random.Generator
    ) -> Iterator[Edit]:
        stay = self.fixed | untouchable(graph).keys()
        sites = [(group, width) for group in channels(graph).groups for width in self._widths(group)]
        for i in rng.permutation(len(sites)):
            group, width = sites[i]
            edit: Edit | None
            if width > group.channels:
                edit = widen(graph, group, width, rng, f"{self.name}.wider")
            else:
                extent = "inner" if len(group.makers) == 1 else "stage"
                edit = trim(graph, group, scores(group), width, f"{self.name}.{extent}")
            if edit is not None and stay.isdisjoint(changed(graph, edit)):
                yield edit

    def _of_all(
        self, graph: Graph, scores: Callable[[ChannelGroup], Scores], rng: np.random.Generator
    ) -> Iterator[Edit]:
        groups = trimmable(graph, self.fixed)
        if len(groups) < 2:
            return
        ratios = [ratio for ratio in self.ratios if ratio < 1]
        for i in rng.permutation(len(ratios)):
            widths = [(group, scores(group), self._width(group, ratios[i])) for group in groups]
            edit = trim_several(graph, widths, f"{self.name}.all")
            if edit is not None:
                yield edit

    def _widths(self, group: ChannelGroup) -> list[int]:
        count = group.channels
        widths = {self._width(group, ratio) for ratio in self.ratios}
        return sorted(width for width in widths if width < count or (width > count and group.repeats))

    def _width(self, group: ChannelGroup, ratio: float) -> int:
        step = self.multiple if group.channels >= 2 * self.multiple else 1
        return max(step, round(group.channels * ratio / step) * step)


def trimmable(graph: Graph, fixed: frozenset[str] = frozenset()) -> tuple[ChannelGroup, ...]:
    """The groups of which channels can be dropped without a change to the nodes ``fixed`` and to what is
    :func:`~netgraft.mutations.fixed.untouchable`; found once for each graph.
    """
    key = trimmable, fixed
    if key not in graph.notes:
        stay = fixed | untouchable(graph).keys()
        edits = ((g, trim(graph, g, np.arange(float(g.channels)), g.channels - 1)) for g in channels(graph).groups)
        graph.notes[key] = tuple(g for g, edit in edits if edit and stay.isdisjoint(changed(graph, edit)))
    found: tuple[ChannelGroup, ...] = graph.notes[key]
    return found


def trim(graph: Graph, group: ChannelGroup, scores: Scores, width: int, origin: str = "trim") -> Edit | None:
    """The edit that leaves the ``width`` channels of a group with the largest ``scores``; more where some dimension
    would have none of them. None where no channel can go.
    """
    return trim_several(graph, [(group, scores, width)], origin)


def trim_several(graph: Graph, widths: Iterable[tuple[ChannelGroup, Scores, int]], origin: str = "trim") -> Edit | None:
    """The same for several groups by one edit: each with its scores and the width it is to have."""
    units: list[int] = []
    for group, scores, width in widths:
        order = np.argsort(scores, kind="stable")[: max(0, group.channels - width)]
        units += [group.units[i] for i in order]
    units = droppable(graph, units)
    if not units:
        return None
    try:
        return drop(graph, units, origin)
    except ShapeError:  # a norm over a single value, say
        return None


def widen(graph: Graph, group: ChannelGroup, width: int, rng: np.random.Generator, origin: str = "widen") -> Edit:
    """The edit that makes a group ``width`` channels wide: Net2Wider (Chen et al., ICLR 2016, section 2.4), by copies
    of channels drawn at random. Deviations: copies stand beside their originals, and no noise tells them apart, so
    that the network computes exactly what it did.

    GraphError where the group does not allow it (:attr:`~netgraft.channels.ChannelGroup.repeats`).
    """
    more = Counter(rng.integers(group.channels, size=width - group.channels).tolist())
    return repeat(graph, {group.units[i]: 1 + count for i, count in sorted(more.items())}, origin)


def trim_to_latency(
    graph: Graph,
    group: ChannelGroup,
    scores: Scores,
    target: float,
    latency: Callable[[Graph], float],
    multiple: int = 8,
    origin: str = "trim",
) -> Edit | None:
    """The edit that leaves the most channels of a group with which ``latency`` is at most ``target``: one proposal of
    NetAdapt (Yang et al., ECCV 2018, algorithm 1). None where no width meets it.

    Tried are multiples of ``multiple`` from the top, or all widths of a group of fewer than ``2 * multiple`` channels.
    ``latency`` may be an estimate, a table or a measurement, in the unit of ``target``.
    """
    step = multiple if group.channels >= 2 * multiple else 1
    for width in range((group.channels - 1) // step * step, 0, -step):
        edit = trim(graph, group, scores, width, origin)
        if edit is not None and latency(apply(graph, edit)) <= target:
            return edit
    return None
