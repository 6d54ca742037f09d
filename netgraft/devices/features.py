"""What decides how long an architecture takes: numbers that follow from its arch, so networks need not be measured.

A device that runs what it is told to runs dead operations as well, one that optimises graphs first does not: features
count both. Scales are chosen so that a common prior on all weights makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from netgraft.spaces.families.fbnet import LAYERS, STAGES, layers_of
from netgraft.spaces.families.nasbench201 import EDGES, OPERATIONS, operations

Array = npt.NDArray[np.float64]

_DEPTHS: Final = {"none": 0.0, "skip_connect": 0.1, "nor_conv_1x1": 1.0, "nor_conv_3x3": 2.0, "avg_pool_3x3": 1.0}


@lru_cache(maxsize=1 << 16)
def _cell(arch: str) -> Array:
    """Operations by edge (all, and those that matter), their numbers and products, pairs of edges, the longest path."""
    ops = operations(arch)
    edges = [(source, target, op) for (source, target), op in zip(EDGES, ops, strict=True) if op != "none"]
    reached, read, depth = {0}, {3}, {0: 0.0}
    for source, target, op in sorted(edges, key=lambda edge: edge[1]):
        if source in reached:
            reached.add(target)
            depth[target] = max(depth.get(target, 0.0), depth[source] + _DEPTHS[op])
    for source, target, _ in sorted(edges, key=lambda edge: -edge[1]):
        if target in read:
            read.add(source)
    live = [
        op if source in reached and target in read else "none" for (source, target), op in zip(EDGES, ops, strict=True)
    ]
    kinds = OPERATIONS[1:]
    every, lively = (np.array([[op == kind for kind in kinds] for op in row], dtype=np.float64) for row in (ops, live))
    counts = every.sum(0)
    products = [counts[i] * counts[j] / 4 for i in range(len(kinds)) for j in range(i + 1)]
    pairs = [0.3 * np.outer(every[e], every[f]).ravel() for f, e in combinations(range(len(EDGES)), 2)]
    longest = [depth.get(3, 0.0), float(3 in reached)]
    return np.concatenate([every.ravel(), counts, lively.ravel(), lively.sum(0), longest, products, *pairs])


@lru_cache(maxsize=1 << 16)
def _layers(arch: str) -> Array:
    """Kinds of layers by position, by stage and in all."""
    chosen = np.array([[layer == kind for kind in LAYERS] for layer in layers_of(arch)], dtype=np.float64)
    ends = np.cumsum([depth for _, depth, _ in STAGES])
    stages = [part.sum(0) for part in np.split(chosen, ends[:-1])]
    return np.concatenate([0.7 * chosen.ravel(), *stages, chosen.sum(0)])


FEATURES: Final[Mapping[str, Callable[[str], Array]]] = {"nats-tss": _cell, "fbnet": _layers}
"""The features of an arch, by space."""


def features(space: str, archs: Sequence[str]) -> Array:
    """A row for each arch of a space; SourceError for what is no arch of it."""
    return np.array([FEATURES[space](arch) for arch in archs])
