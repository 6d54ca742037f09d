"""The predictor: scores of whole networks and of replacements of a region, which are the same numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from netgraft.errors import DataError
from netgraft.ir import Graph, Region

from . import beyond
from .beyond import Beyond
from .cut import Boundary
from .heads import HEADS, LAYERS, Estimates, Fitted, Heads, fit
from .labels import Label
from .paths import Encoder, Encoding, drawn, encode, read
from .traits import Floats

FIGURES = ("networks", "least", "greatest", "rank_correlation", "error", "within_two_deviations")
"""What the model card says of each group of labels."""
_KEPT = 8
"""Encodings of whole networks that are kept, about 4 kB a node each."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """Scores networks; fulfils :class:`netgraft.search.Predictor`. ``card`` says what it learned from and how well."""

    encoder: Encoder
    heads: Heads
    beyond: Beyond
    card: Mapping[str, Any] = field(default_factory=dict)
    _encodings: OrderedDict[int, Encoding] = field(default_factory=OrderedDict, repr=False)

    @cached_property
    def digest(self) -> str:
        """Names it by content."""
        digest = sha256()
        for name, array in self.arrays().items():
            digest.update(name.encode() + str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def arrays(self) -> dict[str, Any]:
        """Everything that it is made of, by name."""
        layers = {name: getattr(self.heads, name) for name in LAYERS}
        around = {f"beyond.{name}": getattr(self.beyond, name) for name in beyond.ARRAYS}
        return {"encoder.node": self.encoder.node, "encoder.turn": self.encoder.turn} | around | layers

    def estimate(self, features: Floats) -> Estimates:
        """Estimates for networks of these features [n, features]: the heads' near what they learned from, and the less
        of theirs and the more of the size's the further away.
        """
        shares = self.beyond.shares(self.beyond.places(features))
        learned, size = self.heads.estimate(features), self.beyond.estimate(features)
        variance = (shares * learned.deviation) ** 2 + (1 - shares) * size.deviation**2
        return Estimates(shares * learned.mean + (1 - shares) * size.mean, np.sqrt(variance))

    def gains(self, features: Floats) -> Estimates:
        """How much better the networks from the second on are than the first."""
        places = self.beyond.places(features)
        shares = self.beyond.shares(places)
        learned, size = self.heads.gains(features, shares), self.beyond.gains(features, places, shares)
        return Estimates(learned.mean + size.mean, np.hypot(learned.deviation, size.deviation))

    def scores(self, graphs: Iterable[Graph]) -> Estimates:
        """One entry for each network."""
        described = [read(self.encoder, graph) for graph in graphs]
        return self.estimate(np.array(described).reshape(-1, self.encoder.features))

    def region(self, graph: Graph, region: Region) -> Cut:
        """The graph, cut at a region; GraphError where that is not convex."""
        return Cut(self, graph, region, Boundary(self.encoder, self._encoding(graph), region))

    def _encoding(self, graph: Graph) -> Encoding:
        found = self._encodings.get(id(graph))
        if found is None or found.graph is not graph:
            found = self._encodings[id(graph)] = encode(self.encoder, graph)
            while len(self._encodings) > _KEPT:
                self._encodings.popitem(last=False)
        self._encodings.move_to_end(id(graph))
        return found


@dataclass(frozen=True, eq=False)
class Cut:
    """A network cut at one region."""

    predictor: Predictor
    graph: Graph
    region: Region
    boundary: Boundary

    def unchanged(self) -> Estimates:
        """The region's own segment: one entry, that of the whole network."""
        return self.replacements([self.region.extract(self.graph)])

    def replacements(self, segments: Sequence[Graph]) -> Estimates:
        """One entry for each segment in the region's place; GraphError for one that does not fit there."""
        return self.predictor.estimate(self.boundary.describe(segments))

    def gains(self, segments: Sequence[Graph]) -> Estimates:
        """By how much each segment in the region's place betters the network: the difference of two scores, with the
        deviation of that; an unchanged network gains 0 for certain.
        """
        return self.predictor.gains(self.boundary.describe([self.region.extract(self.graph), *segments]))


def train(
    labels: Iterable[Label],
    seed: int = 0,
    heads: int = HEADS,
    tell: Callable[[str, int, int | None], None] = lambda what, done, total: None,
) -> Predictor:
    """A predictor that learned from labelled networks: seconds for thousands, beside reading and encoding them.

    ``tell(what, done, total)`` hears how far it is. DataError where there is too little to learn from.
    """
    encoder = drawn()
    groups, scores, features = [], [], []
    for number, label in enumerate(labels, 1):
        groups.append(label.group)
        scores.append(label.score)
        features.append(read(encoder, label.graph))
        tell("reading labels", number, None)
    if not groups:
        raise DataError("there are no labels to train on")
    return trained(encoder, np.array(features), groups, np.array(scores), seed, heads, tell)


def trained(
    encoder: Encoder,
    features: Floats,
    groups: Sequence[str],
    scores: Floats,
    seed: int = 0,
    heads: int = HEADS,
    tell: Callable[[str, int, int | None], None] = lambda what, done, total: None,
) -> Predictor:
    """As :func:`train`, from networks that are encoded already [n, features]."""
    fitted = fit(features, groups, scores, seed, heads, lambda done, total: tell("training", done, total))
    around = beyond.fit(features, fitted.targets, groups, fitted.weight, fitted.folds)
    return Predictor(encoder, fitted.heads, around, {"seed": seed, "groups": _figures(fitted, groups, scores)})


def _figures(fitted: Fitted, groups: Sequence[str], scores: Floats) -> dict[str, Any]:
    """What the heads that did not see a label said of it, for each group."""
    found, names = {}, np.array(groups)
    for name in dict.fromkeys(groups):
        mine = names == name
        target, said = fitted.targets[mine], fitted.left_out[mine]
        found[name] = {
            "networks": int(mine.sum()),
            "least": float(scores[mine].min()),
            "greatest": float(scores[mine].max()),
            "rank_correlation": rank_correlation(target, said),
            "error": float(np.sqrt(np.mean((target - said) ** 2))),
            "within_two_deviations": float(np.mean(np.abs(target - said) <= 2 * fitted.deviation[mine])),
        }
    return found


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's, with equal values sharing their ranks; 0 where one of the two does not vary."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0
