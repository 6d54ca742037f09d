"""Values, inputs and nodes: what a graph consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .ops import OpDef, definition
from .types import TensorType


@dataclass(frozen=True, slots=True, order=True)
class Value:
    """One output of a node, or a graph input (``index`` 0)."""

    node: str
    index: int = 0

    def __hash__(self) -> int:
        # Values are looked up all the time, and most nodes have one.
        return hash(self.node)

    def __str__(self) -> str:
        return self.node if self.index == 0 else f"{self.node}:{self.index}"


@dataclass(frozen=True, slots=True)
class Input:
    """A graph input: its id shares the nodes' namespace."""

    id: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    ``id`` is dotted like a module path and names the layer when the graph is written out. ``attrs`` holds every
    attribute of the op. ``weights`` maps each role of the op to a key of :data:`~netgraft.ir.Weights`; two nodes with
    the same key share that tensor. Never change ``attrs`` or ``weights`` in place: use :func:`dataclasses.replace`.
    """

    id: str
    op: str
    inputs: tuple[Value, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def definition(self) -> OpDef:
        """The op's entry in the table."""
        return definition(self.op)

    def value(self, index: int = 0) -> Value:
        """One of the node's outputs."""
        return Value(self.id, index)

    def reading(self, instead: Mapping[Value, Value]) -> Node:
        """The node with other values in place of those that it reads; itself where it reads none of them."""
        inputs = tuple([instead.get(v, v) for v in self.inputs])
        return self if inputs == self.inputs else Node(self.id, self.op, inputs, self.attrs, self.weights)

    def trains(self, role: str) -> bool:
        """Whether training changes the weight of this role."""
        return role not in self.definition.buffers and (self.op != "constant" or bool(self.attrs["trainable"]))
