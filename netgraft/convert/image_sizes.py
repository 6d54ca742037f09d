"""Sizes of images that torch.export has written down as numbers: what follows from the image's size follows it again.

A network that enlarges a map to the size of another one, or pools over a whole map, is traced with the sizes of the
example. Whether these numbers were meant is found out by asking the network: it is run on images twice as large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from netgraft.convert.lowering import kept
from netgraft.convert.to_torch import skeleton, to_module
from netgraft.errors import GraphError
from netgraft.ir import Batch, Graph, Model, Node, TensorType, Value
from netgraft.ir.ops import definition
from netgraft.ir.types import Dim

_CLOSE = 1e-4
_ARITHMETIC = frozenset(["add", "mul", "sub", "div"])


Run = Callable[..., Sequence[Tensor]]
Shape = tuple[Dim, ...]
_Larger = dict[Value, TensorType | None]
"""The types of values for images twice as large, None where nobody knows."""


def with_image_sizes(model: Model, run: Run, sketch: Run, inputs: Sequence[Tensor]) -> Model:
    """The model with sizes that follow the image's, if ``run``, the original in evaluation, computes the same as that
    for images twice as large; the model as it is, if not, or where it holds no such size.

    ``sketch`` is the original on the meta device: where shapes say enough, nothing is computed. ``inputs`` are those of
    which the model was read. Sizes that are a whole multiple become a scale, others those of the map that they were
    taken from, and so do tokens that become a map again; a pool over the whole map becomes an adaptive one, poolings
    are undone to a multiple of their size, channels of zeros behind others become a padding, and expansions that
    arithmetic does anyway vanish.
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


def step_of_sizes(graph: Graph) -> int | None:
    """The smallest power of two, up to 64, that heights and widths of images may be multiples of for a network from
    images to images, whose outputs then grow as its inputs do; None where it takes those of its own size alone. Shapes
    tell: nothing is computed.
    """
    (given,), outputs = (types.concrete(1) for types in graph.signature.inputs), graph.signature.outputs
    net, grown = skeleton(graph).eval(), outputs[0].concrete(1)
    *front, height, width = given
    for step in (1, 2, 4, 8, 16, 32, 64):
        if height % step or width % step:
            return None
        more = (height + step, width + 3 * step)
        wanted = (*grown[:2], grown[2] * more[0] / height, grown[3] * more[1] / width)
        if _shapes(net, [torch.empty(*front, *more, device="meta")]) == [wanted]:
            return step
    return None


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
    larger: _Larger = {Value(given.id): _twice(given.type) for given in graph.inputs}
    unexpanded = {node.value(): node.inputs[0] for node in graph if _is_needless(graph, node)}
    for node in graph:
        if node.value() in unexpanded:
            continue
        node = node.reading(unexpanded)
        if node.op == "interpolate" and node.attrs["size"] is not None:
            node = _scaled(graph, node, larger) or _like(graph, node, larger) or node
        elif node.op == "reshape":
            node = _unflattened(graph, node, larger) or node
        elif pools and node.op == "avg_pool2d" and _is_global(graph, node):
            node = replace(node, op="adaptive_avg_pool2d", attrs={"size": (1, 1)})
        elif node.op == "frozen" and node.attrs["target"] == "aten.max_unpool2d.default":
            node = _unpooled(graph, node, larger) or node
        elif node.op == "concat" and node.attrs["dim"] == 1:
            node = _padded(graph, node, larger) or node
        nodes.append(node)
        larger.update((node.value(i), type_) for i, type_ in enumerate(_given(graph, node, larger)))
    if tuple(nodes) == graph.nodes:
        return None
    read = {value for node in nodes for value in node.inputs} | set(graph.outputs)
    return Graph(graph.inputs, tuple(n for n in nodes if not _is_zero(n) or n.value() in read), graph.outputs)


def _twice(image: TensorType) -> TensorType:
    return image.with_shape((*image.shape[:2], *(2 * d for d in image.shape[2:] if isinstance(d, int))))


def _given(graph: Graph, node: Node, larger: _Larger) -> Sequence[TensorType | None]:
    """What the node gives for larger images, None where its shape rule does not say."""
    returned = graph.output_types(graph[node.id])
    read = [larger[value] for value in node.inputs]
    if read == [graph.types[value] for value in node.inputs]:
        return returned
    known = [type_ for type_ in read if type_ is not None]
    if len(known) < len(read) or node.op == "frozen":
        return [None] * len(returned)
    try:
        return node.definition.infer(known, _grown(node, graph, known[0].shape))
    except GraphError:
        return [None] * len(returned)


def _grown(node: Node, graph: Graph, read: Shape) -> Mapping[str, Any]:
    """The node's attributes for a larger input, as lowering will have them: what is kept grows with it."""
    have, attrs = graph.types[node.inputs[0]].shape, node.attrs
    if node.op == "reshape":
        want = graph.types[node.value()].shape
        before, behind = kept(have, want)
        apart = want[before : len(want) - behind]
        if len(apart) - apart.count(1) < 2:
            apart = tuple(1 if d == 1 else -1 for d in apart)
        return {"shape": (*read[:before], *apart, *read[len(read) - behind :])}
    if node.op == "expand":
        new, want = len(attrs["shape"]) - len(have), attrs["shape"]
        stays = [i >= new and have[i - new] == size for i, size in enumerate(want)]
        return {"shape": tuple(read[i - new] if stays[i] else size for i, size in enumerate(want))}
    if node.op == "slice" and attrs["stop"] == have[attrs["dim"]]:
        return {**attrs, "stop": read[attrs["dim"]]}
    return attrs


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


def _follows(graph: Graph, value: Value, larger: _Larger) -> bool:
    """Whether a value may be of another size for larger images, as far as is known."""
    return value in larger and larger[value] != graph.types[value]


def _scaled(graph: Graph, node: Node, larger: _Larger) -> Node | None:
    """The node with a scale, where its size is a whole multiple."""
    times = _times(graph, node.inputs[0], node.attrs["size"], larger)
    if times is None:
        return None
    return replace(node, attrs={**node.attrs, "size": None, "scale": tuple(map(float, times))})


def _unpooled(graph: Graph, node: Node, larger: _Larger) -> Node | None:
    """The undone pooling with a size that is a multiple of its input's, where it is one."""
    x, indices, size = node.attrs["args"]
    times = _times(graph, node.inputs[0], size, larger)
    if times is None:
        return None
    sides = tuple(("side", 0, axis, n) for axis, n in zip((2, 3), times, strict=True))
    return replace(node, attrs={**node.attrs, "args": (x, indices, sides)})


def _times(graph: Graph, image: Value, size: Shape, larger: _Larger) -> tuple[int, ...] | None:
    """How many times an image that follows has to be taken for ``size``; None where that is no whole number."""
    have = _size(graph, image)
    if have is None or not _follows(graph, image, larger) or any(w % h for w, h in zip(size, have, strict=True)):
        return None
    return tuple(w // h for w, h in zip(size, have, strict=True))


def _padded(graph: Graph, node: Node, larger: _Larger) -> Node | None:
    """The concatenation with channels of zeros behind an image as a padding."""
    x, *others = node.inputs
    if (
        not _follows(graph, x, larger)
        or _size(graph, x) is None
        or [v.node in graph and _is_zero(graph[v.node]) for v in others] != [True]
    ):
        return None
    width = graph.types[others[0]].shape[1]
    attrs = definition("pad").complete({"pads": (0, 0, 0, 0, 0, width)})
    return replace(node, op="pad", inputs=(x,), attrs=attrs)


def _is_zero(node: Node) -> bool:
    return node.op == "frozen" and node.attrs["target"] == "aten.zeros.default"


def _like(graph: Graph, node: Node, larger: _Larger) -> Node | None:
    """The node with a map of its size as second input: the last that it is computed from, if there is one."""
    found = next(_maps(graph, node, tuple(node.attrs["size"]), larger), None)
    if found is None:
        return None
    attrs = {name: node.attrs[name] for name in ("mode", "align_corners", "antialias")}
    return replace(node, op="interpolate_like", inputs=(node.inputs[0], found), attrs=attrs)


def _unflattened(graph: Graph, node: Node, larger: _Larger) -> Node | None:
    """The reshape of tokens to a map, where their number follows the image's size, with an earlier map of its size as
    second input.
    """
    (x,) = node.inputs
    have, want, tokens = graph.types[x].shape, graph.types[node.value()].shape, larger[x]
    before, behind = kept(have, want)
    count = len(want) - before - behind
    if tokens is None or tokens == graph.types[x] or len(have) - before - behind != 1 or count != 2:
        return None
    for found in _maps(graph, node, want[before : before + 2], larger):
        image = larger[found]
        if image is not None and prod(image.concrete()[2:]) == tokens.shape[before]:
            return replace(node, op="unflatten_like", inputs=(x, found), attrs={"dim": before})
    return None


def _maps(graph: Graph, node: Node, size: Shape, larger: _Larger) -> Iterator[Value]:
    """Earlier maps of a size that follow the image's, those first that the node is computed from, nearest first."""
    for value in (*_before(graph, node), *reversed(larger)):
        if _follows(graph, value, larger) and _size(graph, value) == size:
            yield value


def _before(graph: Graph, node: Node) -> Iterator[Value]:
    """What the node is computed from, the nearest first."""
    waiting, seen = list(node.inputs), set(node.inputs)
    for value in waiting:
        yield value
        if value.node in graph:
            new = [v for v in graph[value.node].inputs if v not in seen]
            seen.update(new)
            waiting += new
