"""What decides how long an architecture takes: numbers that follow from its arch, so networks need not be measured.

Most devices of the tables ran dead operations as well (a convolution that nobody reads), those whose engine optimises
graphs first do not: to them, an architecture is the one that is left. Scales are chosen so that a common prior on all
weights makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from netgraft.spaces.families.fbnet import LAYERS, STAGES, layers_of
from netgraft.spaces.families.nasbench201 import EDGES, OPERATIONS, arch_of, operations, pruned

Array = npt.NDArray[np.float64]

_DEPTHS: Final = {"none": 0.0, "skip_connect": 0.1, "nor_conv_1x1": 1.0, "nor_conv_3x3": 2.0, "avg_pool_3x3": 1.0}


@lru_cache(maxsize=1 << 16)
def _cell(arch: str) -> Array:
    """Operations by edge (all, and those that matter), their numbers and products, pairs of edges, the longest path."""
    ops, live = operations(arch), operations(live_cell(arch))
    depth = {0: 0.0}
    for (source, target), op in sorted(zip(EDGES, ops, strict=True), key=lambda edge: edge[0][1]):
        if op != "none" and source in depth:
            depth[target] = max(depth.get(target, 0.0), depth[source] + _DEPTHS[op])
    kinds = OPERATIONS[1:]
    every, lively = (np.array([[op == kind for kind in kinds] for op in row], dtype=np.float64) for row in (ops, live))
    counts = every.sum(0)
    products = [counts[i] * counts[j] / 4 for i in range(len(kinds)) for j in range(i + 1)]
    pairs = [0.3 * np.outer(every[e], every[f]).ravel() for f, e in combinations(range(len(EDGES)), 2)]
    longest = [depth.get(3, 0.0), float(3 in depth)]
    return np.concatenate([every.ravel(), counts, lively.ravel(), lively.sum(0), longest, products, *pairs])


@lru_cache(maxsize=1 << 16)
def live_cell(arch: str) -> str:
    """The cell without what its output does not read, and without what does not depend on its input either: what is
    left when unused operations are removed and constants are folded.
    """
    edges = list(zip(EDGES, operations(arch), strict=True))
    reached = {0}
    for (source, target), op in sorted(edges, key=lambda edge: edge[0][1]):
        if op != "none" and source in reached:
            reached.add(target)
    return pruned(arch_of([op if source in reached else "none" for (source, _), op in edges]))


@lru_cache(maxsize=1 << 16)
def _layers(arch: str) -> Array:
    """Kinds of layers by position, by stage and in all."""
    chosen = np.array([[layer == kind for kind in LAYERS] for layer in layers_of(arch)], dtype=np.float64)
    ends = np.cumsum([depth for _, depth, _ in STAGES])
    stages = [part.sum(0) for part in np.split(chosen, ends[:-1])]
    return np.concatenate([0.7 * chosen.ravel(), *stages, chosen.sum(0)])


FEATURES: Final[Mapping[str, Callable[[str], Array]]] = {"nats-tss": _cell, "fbnet": _layers}
"""The features of an arch, by space."""

WAYS: Final[Mapping[str, Mapping[str, Callable[[str], str]]]] = {
    "nats-tss": {"everything": str, "what is read": pruned, "what depends on the input": live_cell},
    "fbnet": {"everything": str},
}
"""What a device may run of an arch, by space, and the arch that is left then."""


def features(space: str, archs: Sequence[str], way: str = "everything") -> Array:
    """A row for each arch of a space, as a device sees it that runs it in one of the :data:`WAYS`; SourceError for what
    is no arch of the space.
    """
    left = WAYS[space][way]
    return np.array([FEATURES[space](left(arch)) for arch in archs])
