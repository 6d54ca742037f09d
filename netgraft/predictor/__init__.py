"""A learned metric: how good networks become when they are trained, from their graphs alone.

A network is described by sums over its paths and nodes (:mod:`paths`, :mod:`traits`), which an ensemble of small
networks reads (:mod:`heads`). The description of a network factors into predecessor, segment and successor of any cut
(AutoGO's PSC; Salameh et al., NeurIPS 2023, section 4): it is the same number wherever the network is cut, and tens of
thousands of replacements a second are scored (:mod:`cut`). Deviations from AutoGO: its encoder is a graph network that
averages each of the three parts, so that its scores depend on the cut.

>>> predictor = netgraft.predictor.load()  # the shipped one; load("my.predictor") one of your own
>>> cut = predictor.region(graph, region)
>>> gain = cut.replacements(segments).mean - cut.unchanged().mean
"""

from __future__ import annotations

from .file import load, save
from .heads import Estimates
from .labels import Label, read_labels, write_labels
from .predictor import Cut, Predictor, train

__all__ = ["Cut", "Estimates", "Label", "Predictor", "load", "read_labels", "save", "train", "write_labels"]
