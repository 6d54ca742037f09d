"""The graph every part of netgraft works on: standard library and numpy only, never a deep-learning framework.

Read in this order: :mod:`types` (shapes), :mod:`ops` (what exists), :mod:`node` and :mod:`graph` (how it is put
together), :mod:`digest` (what names a graph), :mod:`carry` (where new weights come from), :mod:`edit` (how a graph
changes), :mod:`text` (how it is printed and read).
"""

from __future__ import annotations

from .carry import Carry, Concat, Factor, Fresh, Keep, Pad, Repeat, Slice
from .edit import Edit, Inheritance, Region, apply, inherit
from .graph import Builder, Graph, Weights
from .model import Model, untrained
from .node import Input, Node, Value
from .ops import OPS, OpDef
from .text import parse, render
from .types import Batch, DType, Signature, TensorType

__all__ = [
    "OPS",
    "Batch",
    "Builder",
    "Carry",
    "Concat",
    "DType",
    "Edit",
    "Factor",
    "Fresh",
    "Graph",
    "Inheritance",
    "Input",
    "Keep",
    "Model",
    "Node",
    "OpDef",
    "Pad",
    "Region",
    "Repeat",
    "Signature",
    "Slice",
    "TensorType",
    "Value",
    "Weights",
    "apply",
    "inherit",
    "parse",
    "render",
    "untrained",
]
