"""Convolutions as loop nests: the nest, a few rewrites, the forms composed of them, and the way back to the graph.

.. code-block:: python

    node = graph["layer3.0.conv2"]
    nest = nest_of(graph, node)
    program, exact = rewritten(nest, FORMS["group"].compose(nest, 4))
    edit = edit_of(graph, node, program, "by hand", exact=exact)
"""

from __future__ import annotations

from .forms import FORMS, Form
from .lower import edit_of
from .nest import Chain, Nest, Parts, Program, Sum, nest_of
from .rewrites import (
    Activate,
    Factor,
    Fuse,
    Group,
    Interchange,
    Rewrite,
    Shrink,
    Split,
    Step,
    Unroll,
    parts,
    rewritten,
    work,
)

__all__ = [
    "FORMS",
    "Activate",
    "Chain",
    "Factor",
    "Form",
    "Fuse",
    "Group",
    "Interchange",
    "Nest",
    "Parts",
    "Program",
    "Rewrite",
    "Shrink",
    "Split",
    "Step",
    "Sum",
    "Unroll",
    "edit_of",
    "nest_of",
    "parts",
    "rewritten",
    "work",
]
