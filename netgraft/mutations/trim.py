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

from .importance import Importance, Scores, reads


@dataclass(frozen=True)
class Trim:
    """Trims one group of coupled channels (:mod:`netgraft.channels`): the inside of a block (``trim.inner``), or a
    width that several layers share, such as a residual stage's or the heads of an attention (``trim.stage``).

    One edit a group and ratio, as the steps of NetAdapt (Yang et al., ECCV 2018, section 3). The channels stay that
    matter most by ``importance``; the default is what the layers that read them take (``docs/results.md`` compares).
    ``ratios`` are the shares of channels to keep; one above 1 widens instead, without a change of what the network
    computes (``trim.wider``). Widths of at least ``2 * multiple`` become multiples of ``multiple``.
    """

    ratios: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875)
    multiple: int = 8
    importance: Importance = reads
    name: str = "trim"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """One edit for every group and every width that a ratio gives it."""
        sites = [(group, width) for group in channels(graph).groups for width in self._widths(group)]
        found: set[tuple[Region, str]] = set()
        known: dict[int, Scores] = {}
        for i in rng.permutation(len(sites)):
            group, width = sites[i]
            if width > group.channels:
                yield widen(graph, group, width, rng, f"{self.name}.wider")
                continue
            extent = "inner" if len(group.makers) == 1 else "stage"
            if group.units[0] not in known:
                known[group.units[0]] = self.importance(graph, group, weights)
            edit = trim(graph, group, known[group.units[0]], width, f"{self.name}.{extent}")
            # Where more must stay than a width asks for, another width may say the same.
            if edit is not None and (mark := (edit.region, edit.replacement.digest)) not in found:
                found.add(mark)
                yield edit

    def _widths(self, group: ChannelGroup) -> list[int]:
        count = group.channels
        step = self.multiple if count >= 2 * self.multiple else 1
        widths = {max(step, round(count * ratio / step) * step) for ratio in self.ratios}
        return sorted(width for width in widths if width < count or (width > count and group.repeats))


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
