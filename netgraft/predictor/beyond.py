"""Beyond what a predictor learned from: how far away a network lies, and what holds of networks wherever they lie.

What heads learned holds near the networks that they learned from. The *share* that they have in an estimate is 1 there
and falls with the distance; the rest is left to the network's *size*, which carries over: FLOPs and depth (how many
activation functions a path meets on the mean), weighed alike rather than fitted one by one, since weights that fit one
family best are the worse for another (Dawes, "The robust beauty of improper linear models in decision making",
American Psychologist 34, 1979); what is fitted is one slope, which is never negative.

The distance is Mahalanobis', from the nearest group of labels, with one covariance within groups for all of them (Lee
et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018,
section 2.1, with groups of labels for classes and the features of networks for those of a layer). A group's unit is the
greatest distance at which one of its networks lay when its fold was left out: what is like them keeps its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from .heads import Estimates, moments
from .traits import TOTALS, Floats

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.float32]

SIZE = (TOTALS["flops"] - len(TOTALS) - 1, -1)
"""The features that say how large a network is: the logarithms of its FLOPs and of its depth."""
_RATE = 1.0
"""By how many variances of the size's estimate the heads' grows, from one unit of squared distance to the next; chosen,
as the ridge, on kinds of NAS-Bench-201's cells that were held out.
"""
_SLACK = 0.5
"""Deviation, elsewhere, of where the labels' mean lies and of what a size counts, in their units: between the two
benchmarks what it counts is threefold.
"""
_LEAST = 0.3
"""A spread of sizes (of logarithms) below which labels do not say what a size counts."""
_SLOPE, _WORTH = 1.0, 8.0
"""What a spread of sizes counts as long as nothing is known, and how many labels that is worth."""
_FLOOR = 0.1
"""Of the spread of a feature: what never differed among the labels is far away soon, not at once."""
_RIDGE = 0.1
"""Added to the variance of every axis, in variances of a feature."""


@dataclass(frozen=True, eq=False)
class Beyond:
    """``centre`` and ``spread`` [features] standardise, ``whiten`` [features, features] turns what that gives to
    axes of equal variance within groups, ``groups`` [groups, features] are their centres there, ``units`` [groups]
    their units of distance. ``size`` (3) holds the offset and the weights of the features :data:`SIZE`, ``variance``
    (1) that of the estimate that they give.
    """

    centre: Floats
    spread: Floats
    whiten: npt.NDArray[np.float32]
    groups: npt.NDArray[np.float32]
    units: Floats
    size: Floats
    variance: Floats

    def estimate(self, features: Floats) -> Estimates:
        """What the size alone says of networks of these features [n, features]."""
        mean = self.size[0] + features[:, SIZE] @ self.size[1:]
        return Estimates(mean, np.sqrt(self.variance[0] + _SLACK**2 * (1 + mean**2)))

    def places(self, features: Floats) -> Places:
        """Where networks lie [n, features], so that Euclid's distance is Mahalanobis'."""
        x = np.nan_to_num((features - self.centre) / self.spread).astype(np.float32)
        placed: Places = x @ self.whiten
        return placed

    def shares(self, places: Places) -> Floats:
        """How much the heads have to say of networks there [n], from 0 to 1."""
        far = np.min([_far(places, *of) for of in zip(self.groups, self.units, strict=True)], 0)
        shares: Floats = 1.0 / (1.0 + _RATE * np.maximum(far - 1.0, 0.0))
        return shares

    def gains(self, features: Floats, places: Places, shares: Floats) -> Estimates:
        """What sizes add to the difference of networks from the second on from the first. What the size gets wrong of
        two networks alike is no error of that.
        """
        mean, left = (1 - shares) * self.estimate(features).mean, np.sqrt(1 - shares)
        gained = mean[1:] - mean[0]
        apart = _far(places[1:], places[0], self.units.mean())
        unlike = (left[1:] - left[0]) ** 2 + 2 * left[1:] * left[0] * -np.expm1(-apart / 2)
        return Estimates(gained, np.sqrt(self.variance[0] * unlike + (_SLACK * gained) ** 2))


def _far(places: Places, place: Places, unit: float) -> Floats:
    """Squared distances [n] from a place."""
    far: Floats = ((places - place) ** 2).sum(1).astype(np.float64) / unit**2
    return far


def fit(features: Floats, targets: Floats, groups: Sequence[str], weight: Floats, folds: Ints) -> Beyond:
    """What lies beyond labelled networks of these features; ``weight`` and ``folds`` are as the heads' training had."""
    names, of = np.unique(groups, return_inverse=True)
    beyond = _placed(features, weight, of, len(names), np.ones(len(of), bool))
    far = np.zeros(len(of))
    for fold in np.unique(folds):
        others, left_out = folds != fold, np.flatnonzero((folds == fold) & np.isin(of, of[folds != fold]))
        if len(left_out):
            known = _placed(features, weight, of, len(names), others)
            places = known.places(features[left_out])
            far[left_out] = np.sqrt(((places - known.groups[of[left_out]]) ** 2).sum(1))
    units = np.array([far[of == number].max() for number in range(len(names))])
    units[units == 0] = units.max() or 1.0
    size, variance = _size(features[:, SIZE], targets, weight, of)
    return replace(beyond, units=units, size=size, variance=np.array([variance]))


def _placed(features: Floats, weight: Floats, of: Ints, count: int, given: npt.NDArray[np.bool_]) -> Beyond:
    """Distances alone, from the networks that are given."""
    features, weight, of = features[given], weight[given], of[given]
    centre, spread = moments(features, weight)
    spread = np.maximum(spread, _FLOOR)
    x = np.nan_to_num((features - centre) / spread)
    shares = np.zeros((count, len(x)))
    shares[of, np.arange(len(x))] = weight
    there = shares.sum(1) > 0
    groups = shares[there] @ x / shares[there].sum(1, keepdims=True)
    within = x - groups[(np.cumsum(there) - 1)[of]]
    variances, axes = np.linalg.eigh(within.T @ (within * weight[:, None]) / weight.sum())
    whiten = (axes / np.sqrt(variances.clip(0) + _RIDGE)).astype(np.float32)
    placed = np.full((count, len(centre)), np.inf, np.float32)
    placed[there] = groups.astype(np.float32) @ whiten
    return Beyond(centre, spread, whiten, placed, np.ones(count), np.zeros(3), np.ones(1))


def _size(sizes: Floats, targets: Floats, weight: Floats, of: Ints) -> tuple[Floats, float]:
    """The offset and the weights of the two sizes, and the variance that they leave."""
    total = np.bincount(of, weight)
    means = np.stack([np.bincount(of, weight * column) / total for column in sizes.T], 1)
    within = sizes - means[of]
    spread = np.maximum(np.sqrt(np.average(within**2, 0, weight)), _LEAST)
    x = (within / spread).mean(1)
    shares = weight / weight.mean()
    slope = max(0.0, (_WORTH * _SLOPE + shares @ (x * targets)) / (_WORTH + shares @ x**2))
    weights = slope / 2 / spread
    left = float(np.average((targets - slope * x) ** 2, weights=shares))
    return np.array([-np.average(sizes, 0, weight) @ weights, *weights]), max(left, 1e-6)


ARRAYS = tuple(field.name for field in fields(Beyond))
"""Names of the arrays that it consists of."""
