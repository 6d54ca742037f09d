"""Sizes of images that torch.export has written down as numbers: what follows from the image's size follows it again.

A network that enlarges a map to the size of another one, or pools over a whole map, is traced with the sizes of the
example. Whether these numbers were meant is found out by asking the network: it is run on images twice as large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from netgraft.convert.to_torch import skeleton, to_module
from netgraft.ir import Batch, Graph, Model, Node, Value
from netgraft.ir.ops import definition

_CLOSE = 1e-4
_ARITHMETIC = frozenset(["add", "mul", "sub", "div"])


Run = Callable[..., Sequence[Tensor]]


def with_image_sizes(model: Model, run: Run, sketch: Run, inputs: Sequence[Tensor]) -> Model:
    """The model with sizes that follow the image's, if ``run``, the original in evaluation, computes the same as that
    for images twice as large; the model as it is, if not, or where it holds no such size.

    ``sketch`` is the original on the meta device: where shapes say enough, nothing is computed. ``inputs`` are those of
    which the model was read. Sizes that are a whole multiple become a scale, others those of the map that they were
    taken from; a pool over the whole map becomes an adaptive one, poolings are undone to a multiple of their size,
    channels of zeros behind others become a padding, and expansions that arithmetic does anyway vanish.
    """
    # In a small image a pool of a fixed window may happen to be one over the whole map.
    first, second = (_following(model.graph, pools=pools) for pools in (True, False))
    graphs = [graph for graph in (first, second if second != first else None) if graph is not None]
    if not graphs or not all(x.ndim == 4 and x.is_floating_point() for x in inputs):
        return model
    if any(isinstance(dim, Batch) for given in model.graph.inputs for dim in given.type.shape):
        inputs = [x[:1] for x in inputs]
    larger = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in inputs]
    small, large = ([x.to("meta") for x in xs] for xs in (inputs, larger))
    shapes = _shapes(sketch, large)
    if shapes is None and _shapes(sketch, small) is not None:
        return model  # the network is for images of this size
    if shapes is not None:
        sketches = {graph: skeleton(graph).eval() for graph in graphs}
        graphs = [g for g, net in sketches.items() if _shapes(net, large) == shapes or _shapes(net, small) is None]
    expected = _ran(run, larger) if graphs else None
    for graph in graphs:
        changed = replace(model, graph=graph)
        if expected is not None and _agree(_ran(to_module(changed).eval(), larger), expected):
            return changed
    return model


def _shapes(run: Callable[..., Any], inputs: Sequence[Tensor]) -> list[torch.Size] | None:
    """The shapes of what a network on the meta device gives; None where it does not run there."""
    found = _ran(run, inputs)
    return None if found is None else [y.shape for y in found]


def _ran(run: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """What a network gives; None where it does not take such images."""
    try:
        with torch.no_grad():
            found = run(*inputs)
    except Exception:  # whatever it is, a size does not fit
        return None
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _agree(found: Sequence[Tensor] | None, expected: Sequence[Tensor]) -> bool:
    return (
        found is not None
        and len(found) == len(expected)
        and all(
            a.shape == b.shape and torch.allclose(a, b, _CLOSE, _CLOSE, equal_nan=True)
            for a, b in zip(expected, found, strict=True)
        )
    )


def _following(graph: Graph, *, pools: bool) -> Graph | None:
    """The graph with sizes that follow the image's, those of ``pools`` too or not; None where nothing is to change."""
    nodes = []
    follows = _follows(graph)
    unexpanded = {node.value(): node.inputs[0] for node in graph if _is_needless(graph, node)}
    for position, node in enumerate(graph):
        if node.value() in unexpanded:
            continue
        node = node.reading(unexpanded)
        if node.op == "interpolate" and node.attrs["size"] is not None:
            node = _scaled(graph, node, follows) or _like(graph, node, position, follows) or node
        elif pools and node.op == "avg_pool2d" and _is_global(graph, node):
            node = replace(node, op="adaptive_avg_pool2d", attrs={"size": (1, 1)})
        elif node.op == "frozen" and node.attrs["target"] == "aten.max_unpool2d.default":
            node = _unpooled(graph, node, follows) or node
        elif node.op == "concat" and node.attrs["dim"] == 1:
            node = _padded(graph, node, follows) or node
        nodes.append(node)
    if tuple(nodes) == graph.nodes:
        return None
    read = {value for node in nodes for value in node.inputs} | set(graph.outputs)
    return Graph(graph.inputs, tuple(n for n in nodes if not _is_zero(n) or n.value() in read), graph.outputs)


def _is_needless(graph: Graph, node: Node) -> bool:
    """Whether an expansion only says what the arithmetic that reads it would do by itself."""

    def stretches(user: Node) -> bool:
        others = [value for value in user.inputs if value.node != node.id]
        return user.op in _ARITHMETIC and any(
            graph.types[v] == graph.types[node.value()] and (v.node not in graph or graph[v.node].op != "expand")
            for v in others
        )

    users = graph.users.get(node.value(), ())
    return node.op == "expand" and node.value() not in graph.outputs and all(map(stretches, users))


def _is_global(graph: Graph, node: Node) -> bool:
    return node.attrs["kernel"] == _size(graph, node.inputs[0]) and not any(node.attrs["padding"])


def _size(graph: Graph, value: Value) -> tuple[Any, ...] | None:
    """Height and width of an image."""
    shape = graph.types[value].shape
    return shape[2:] if len(shape) == 4 else None


def _follows(graph: Graph) -> frozenset[Value]:
    """The values whose size follows that of the images, as long as no size is written down."""
    found = {Value(given.id) for given in graph.inputs}
    for node in graph:
        if not node.op.startswith("adaptive") and any(value in found for value in node.inputs):
            found.update(node.value(i) for i in range(len(graph.output_types(node))))
    return frozenset(found)


def _scaled(graph: Graph, node: Node, follows: frozenset[Value]) -> Node | None:
    """The node with a scale, where its size is a whole multiple."""
    have, want = _size(graph, node.inputs[0]), node.attrs["size"]
    if have is None or node.inputs[0] not in follows or any(w % h for w, h in zip(want, have, strict=True)):
        return None
    scale = tuple(float(w // h) for w, h in zip(want, have, strict=True))
    return replace(node, attrs={**node.attrs, "size": None, "scale": scale})


def _unpooled(graph: Graph, node: Node, follows: frozenset[Value]) -> Node | None:
    """The undone pooling with a size that is a multiple of its input's, where it is one."""
    have, (x, indices, want) = _size(graph, node.inputs[0]), node.attrs["args"]
    if have is None or node.inputs[0] not in follows or any(w % h for w, h in zip(want, have, strict=True)):
        return None
    sides = tuple(("side", 0, axis, w // h) for axis, w, h in zip((2, 3), want, have, strict=True))
    return replace(node, attrs={**node.attrs, "args": (x, indices, sides)})


def _padded(graph: Graph, node: Node, follows: frozenset[Value]) -> Node | None:
    """The concatenation with channels of zeros behind an image as a padding."""
    x, *others = node.inputs
    if (
        x not in follows
        or _size(graph, x) is None
        or [v.node in graph and _is_zero(graph[v.node]) for v in others] != [True]
    ):
        return None
    width = graph.types[others[0]].shape[1]
    attrs = definition("pad").complete({"pads": (0, 0, 0, 0, 0, width)})
    return replace(node, op="pad", inputs=(x,), attrs=attrs)


def _is_zero(node: Node) -> bool:
    return node.op == "frozen" and node.attrs["target"] == "aten.zeros.default"


def _like(graph: Graph, node: Node, position: int, follows: frozenset[Value]) -> Node | None:
    """The node with a map of its size as second input: the last that it is computed from, if there is one."""
    earlier = [n.value() for n in reversed(graph.nodes[:position])]
    candidates = [*_before(graph, node), *earlier, *(Value(given.id) for given in graph.inputs)]
    size = tuple(node.attrs["size"])
    found = next((value for value in candidates if value in follows and _size(graph, value) == size), None)
    if found is None:
        return None
    attrs = {name: node.attrs[name] for name in ("mode", "align_corners", "antialias")}
    return replace(node, op="interpolate_like", inputs=(node.inputs[0], found), attrs=attrs)


def _before(graph: Graph, node: Node) -> Iterator[Value]:
    """What the node is computed from, the nearest first."""
    waiting, seen = list(node.inputs), set(node.inputs)
    for value in waiting:
        yield value
        if value.node in graph:
            new = [v for v in graph[value.node].inputs if v not in seen]
            seen.update(new)
            waiting += new
