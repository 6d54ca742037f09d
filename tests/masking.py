"""What dropping channels promises, written without dropping any: the network with masks.

``masked`` gives the original network in which, at the dropped channels, everything that is summed over is zero: what
convolutions, linear layers, products of matrices, attention and sums read is multiplied by a mask of zeros and ones.
Norms over channels (layer and group norms) take their statistics over the channels that are left. Nothing else is
changed: every weight is the original's. The child must compute the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import torch

from netgraft.channels import channels, drop, droppable
from netgraft.convert.to_torch import to_module
from netgraft.ir import Builder, Edit, Graph, Model, Node, TensorType, Value, apply, inherit
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

CLOSE = 1e-5
"""How far apart results may be, relative to the largest."""
SUMMING = CONVOLUTIONS | TRANSPOSED | {"linear", "matmul", "attention", "sum"}


class _Masking:
    def __init__(self, model: Model, gone: Iterable[int]) -> None:
        self.graph, self.found = model.graph, channels(model.graph)
        self.gone = np.zeros(self.found.count, bool)
        self.gone[list(gone)] = True
        self.weights = dict(model.weights)
        self.builder = Builder()
        self.values = {Value(i.id): self.builder.input(i.id, i.type) for i in self.graph.inputs}

    def model(self) -> Model:
        for node in self.graph:
            inputs = [self.values[value] for value in node.inputs]
            if node.op in SUMMING:
                inputs = [self.times(x, self.mask(v)) for x, v in zip(inputs, node.inputs, strict=True)]
            mask = self.mask(node.inputs[0]) if node.inputs else None
            if node.op in ("layer_norm", "group_norm") and mask is not None:
                self.values[node.value()] = (self.layer_norm if node.op == "layer_norm" else self.group_norm)(
                    node, inputs[0], mask
                )
                continue
            out = self.builder.add(node.op, *inputs, id=node.id, weights=node.weights, **node.attrs)
            for i in range(len(self.graph.output_types(node))):
                self.values[node.value(i)] = Value(out.node, i)
        graph = self.builder.build(*(self.values[value] for value in self.graph.outputs))
        return Model(graph, self.weights)

    def mask(self, value: Value) -> np.ndarray | None:
        """1 where an element stays, to be broadcast; None where all of them do. The batch is left out."""
        shape = self.graph.types[value].shape
        mask = np.ones((1,) * len(shape), np.float32)
        for dim, label in enumerate(self.found.values[value]):
            if label is not None and isinstance(shape[dim], int):
                kept = ~self.gone[label].any(axis=1)
                mask = mask * kept.reshape([-1 if d == dim else 1 for d in range(len(shape))])
        return None if mask.all() else mask.astype(np.float32)

    def add(self, op: str, *inputs: Value, **attrs: object) -> Value:
        """A node of the masks' own."""
        return self.builder.add(op, *inputs, id=self.builder.fresh_id(f"masks.{op}"), **attrs)

    def constant(self, array: np.ndarray) -> Value:
        out = self.add("constant", type=TensorType(array.shape))
        self.weights[f"{out.node}.value"] = array.astype(np.float32)
        return out

    def times(self, x: Value, mask: np.ndarray | None) -> Value:
        return x if mask is None else self.add("mul", x, self.constant(mask))

    def normalised(self, x: Value, mask: np.ndarray, dims: tuple[int, ...], eps: float) -> Value:
        """``x`` less its mean, over its deviation, both along ``dims`` and over what ``mask`` leaves."""
        add, shape = self.add, self.builder.type(x).concrete()
        whole = np.broadcast_to(mask, (1, *shape[1:]))
        counts = self.constant(np.maximum(whole.sum(axis=dims, keepdims=True), 1))
        mean = add("div", add("sum", self.times(x, mask), dims=dims, keepdim=True), counts)
        off = add("sub", x, mean)
        squares = self.times(add("mul", off, off), mask)
        variance = add("div", add("sum", squares, dims=dims, keepdim=True), counts)
        return add("mul", off, add("pow", add("add_scalar", variance, value=eps), exponent=-0.5))

    def scaled(self, node: Node, x: Value, shape: tuple[int, ...]) -> Value:
        for role, op in (("weight", "mul"), ("bias", "add")):
            if role in node.weights:
                x = self.add(op, x, self.constant(self.weights[node.weights[role]].reshape(shape)))
        return x

    def layer_norm(self, node: Node, x: Value, mask: np.ndarray) -> Value:
        tail = node.attrs["shape"]
        rank = self.builder.type(x).rank
        out = self.normalised(x, mask, tuple(range(rank - len(tail), rank)), node.attrs["eps"])
        return self.scaled(node, out, tail)

    def group_norm(self, node: Node, x: Value, mask: np.ndarray) -> Value:
        n, c, *rest = self.builder.type(x).shape
        groups = node.attrs["groups"]
        apart = self.add("reshape", x, shape=(n, groups, c // groups, prod(rest)))
        out = self.normalised(apart, mask.reshape(1, groups, -1, 1), (2, 3), node.attrs["eps"])
        return self.scaled(node, self.add("reshape", out, shape=(n, c, *rest)), (c, *(1 for _ in rest)))


def masked(model: Model, gone: Iterable[int]) -> Model:
    """The network that the child without the units ``gone`` must agree with."""
    return _Masking(model, gone).model()


def exactly(model: Model, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the network gives in eval mode, computed in double precision."""
    with torch.no_grad():
        result = to_module(model).eval().double()(*[x.double() if x.is_floating_point() else x for x in inputs])
    return list(result) if isinstance(result, tuple) else [result]


def some_units(graph: Graph, rng: np.random.Generator) -> list[int]:
    """A random choice of units of one group, of some or of all, that can go together."""
    groups = channels(graph).groups
    many = int(rng.choice([1, 2, len(groups)]))
    units: list[int] = []
    for i in rng.permutation(len(groups))[:many]:
        units += rng.permutation(groups[i].units)[: int(rng.integers(1, groups[i].channels))].tolist()
    return droppable(graph, units)


def off(model: Model, gone: Iterable[int], inputs: list[torch.Tensor], edit: Edit | None = None) -> float:
    """How far the child without the units ``gone`` is from the network with masks, relative to the largest output."""
    edit = edit or drop(model.graph, gone)
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    child = apply(model.graph, edit)
    assert child.signature == model.graph.signature
    got, wanted = exactly(Model(child, weights), inputs), exactly(masked(model, gone), inputs)
    assert all(torch.isfinite(x).all() for x in wanted)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in zip(got, wanted, strict=True))
