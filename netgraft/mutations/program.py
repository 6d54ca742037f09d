"""Program: a convolution in another form, composed of rewrites of its loops (:mod:`netgraft.loops`).

By hand::

    node = model.graph["layer3.0.conv2"]
    edit = transformed(model.graph, node, "spatial_bottleneck", 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from netgraft.errors import GraphError
from netgraft.ir import Edit, Graph, Model, Node, Weights
from netgraft.ir.ops import CONVOLUTIONS
from netgraft.loops import FORMS, edit_of, nest_of, rewritten, work

from .mutation import Mix

Legal = Callable[[Model, Edit], bool]
"""Whether an edit may be made: a training-free score of the network before and after it, say
(:mod:`netgraft.proxies.legality`).
"""

SMALLEST = 8
"""Channels in a group: with fewer a convolution is slow on every processor, unless each channel is one."""


@dataclass(frozen=True)
class Program:
    """Convolutions in other forms (``program.group``, ``program.separable``, ...: those of ``forms``, or all of
    :data:`~netgraft.loops.FORMS`), every form equally likely. Only what saves work is proposed, and what is ``legal``
    where that is given: Turner et al. (ASPLOS 2021) ask for the Fisher potential, at a forward and a backward run an
    edit.
    """

    forms: tuple[str, ...] = ()
    legal: Legal | None = None
    name: str = "program"

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        """One edit for every convolution, form and parameter that its sizes allow; what two forms have in common comes
        once.
        """
        kinds = [_Kind(f"{self.name}.{form}", form) for form in self.forms or FORMS]
        found: set[tuple[str, str]] = set()
        for edit in Mix(kinds).edits(graph, weights, rng):
            (at,) = edit.region.nodes
            mark = at, edit.replacement.digest
            if mark in found or (self.legal is not None and not self.legal(Model(graph, weights), edit)):
                continue
            found.add(mark)
            yield edit


@dataclass(frozen=True)
class _Kind:
    """All edits of one form."""

    name: str
    form: str

    def edits(self, graph: Graph, weights: Weights, rng: np.random.Generator) -> Iterator[Edit]:
        nodes = [node for node in graph if node.op in CONVOLUTIONS]
        sites = [(node, parameter) for node in nodes for parameter in FORMS[self.form].parameters]
        for i in rng.permutation(len(sites)):
            edit = transformed(graph, sites[i][0], self.form, sites[i][1], self.name)
            if edit is not None:
                yield edit


def transformed(graph: Graph, node: Node, form: str, parameter: Any, origin: str = "") -> Edit | None:
    """The edit that gives a convolution one of the :data:`~netgraft.loops.FORMS`; None where its sizes do not allow it,
    where no work is saved, or where groups would have fewer than :data:`SMALLEST` channels.
    """
    nest = nest_of(graph, node)
    try:
        program, exact = rewritten(nest, FORMS[form].compose(nest, parameter))
        edit = edit_of(graph, node, program, origin or f"program.{form}", exact=exact)
    except GraphError:
        return None
    quick = all(_is_quick(edit.replacement, made) for made in edit.replacement if made.op in CONVOLUTIONS)
    return edit if quick and work(program) < nest.work else None


def _is_quick(graph: Graph, node: Node) -> bool:
    groups: int = node.attrs["groups"]
    inputs = graph.input_types(node)[0].concrete()[1] // groups
    filters: int = node.attrs["out_channels"] // groups
    return groups == 1 or inputs == 1 or min(inputs, filters) >= SMALLEST
