"""Widths: how they pass through the nodes of a segment, op by op, and the fitted segment put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp, gcd, log
from typing import Any

from netgraft.ir import Batch, Graph, Input, Node, Signature, Value

from .choice import Wish, choose
from .dims import Dim, Equations, Linear, Shape, plus, product
from .outcome import Misfit
from .resizing import RESIZING, Attrs, channels_last, image, resized

_POINTED = frozenset(["group_norm", "layer_norm", "prelu"])
"""Shape-keeping operations with an attribute that follows the width."""

_RAW = 4
"""Channels of an image as a camera gives it, transparency included."""


def fit_widths(segment: Graph, attrs: Mapping[str, Attrs], signature: Signature, multiple: int) -> Graph:
    """The fitted segment; ``attrs`` are those that the image sizes changed.

    Raises Misfit, with the node and the widths at fault, where the widths cannot be had.
    """
    widths = _Widths(segment)
    shapes: dict[Value, Shape] = {Value(i.id): t.shape for i, t in zip(segment.inputs, signature.inputs, strict=True)}
    changed: list[tuple[Node, Attrs]] = []
    keys = _shared_keys(segment)
    for node in segment:
        now = attrs.get(node.id, node.attrs)
        inputs = [shapes[v] for v in node.inputs]
        follow, outputs = widths.rule(node, now, inputs)
        if inputs and not keys.isdisjoint(node.weights.values()):
            widths.share(node, inputs[0], outputs[0])
        changed.append((node, {**now, **follow} if follow else now))
        for index, shape in enumerate(outputs):
            shapes[node.value(index)] = shape
    for value, wanted in zip(segment.outputs, signature.outputs, strict=True):
        widths.equate(shapes[value], wanted.shape, f"the output {value}")
    chosen = choose(widths.equations, widths.wishes, _scale(segment, signature), multiple)
    nodes = tuple(_settled(node, now, widths.equations, chosen) for node, now in changed)
    given = tuple(Input(i.id, t) for i, t in zip(segment.inputs, signature.inputs, strict=True))
    fitted = Graph(given, nodes, segment.outputs)
    if keys:
        # Raises GraphError where a kernel was changed in one place only.
        _ = fitted.weight_types
    return fitted


def _shared_keys(segment: Graph) -> frozenset[str]:
    """The weights that more than one node reads."""
    once: set[str] = set()
    again: set[str] = set()
    for node in segment:
        for key in node.weights.values():
            (again if key in once else once).add(key)
    return frozenset(again)


def _settled(node: Node, attrs: Attrs, equations: Equations, chosen: Mapping[int, int]) -> Node:
    """The node with the chosen widths in its attributes."""

    def value(attr: Any) -> Any:
        if isinstance(attr, Linear):
            dim = equations.value(attr)
            return sum(f * chosen[u] for u, f in dim.terms) + dim.constant if isinstance(dim, Linear) else dim
        return tuple(map(value, attr)) if isinstance(attr, tuple) else attr

    if attrs is node.attrs:
        return node
    settled = {name: value(attr) if isinstance(attr, Linear | tuple) else attr for name, attr in attrs.items()}
    return node if settled == node.attrs else Node(node.id, node.op, node.inputs, settled, node.weights)


def _scale(segment: Graph, signature: Signature) -> float:
    """How much wider the surroundings are than the segment's own: the geometric mean over inputs and outputs.

    An end that is, or was, an image as it is seen (3 channels, say) is no measure of width.
    """
    logarithms = []
    values = [*(Value(given.id) for given in segment.inputs), *segment.outputs]
    for value, now in zip(values, signature.inputs + signature.outputs, strict=True):
        was = segment.types[value]
        if was.rank > 1:
            axis = -1 if was.rank == 3 or (was.rank == 4 and channels_last(segment, value)) else 1
            before, after = was.shape[axis], now.shape[axis]
            if isinstance(before, int) and isinstance(after, int) and min(before, after) > _RAW:
                logarithms.append(log(after / before))
    return exp(sum(logarithms) / len(logarithms)) if logarithms else 1.0


class _Widths:
    """The rules by which widths pass through the nodes of a segment, written as equations between unknowns."""

    def __init__(self, segment: Graph) -> None:
        self.equations = Equations()
        self.wishes: list[Wish] = []
        self._segment = segment
        self._below = _below(segment)
        self._shared: dict[str, tuple[Dim, Dim]] = {}

    def equate(self, a: Shape, b: Shape, where: str) -> None:
        """Makes two shapes equal."""
        if len(a) != len(b):
            raise Misfit(f"{where}: {len(a)} dimensions cannot be {len(b)}")
        for x, y in zip(a, b, strict=True):
            if x is not y:
                self.equations.equate(x, y, where)

    def share(self, node: Node, read: Shape, made: Shape) -> None:
        """Nodes with a weight in common read and make the same widths."""
        axis = -1 if node.op in ("linear", "layer_norm") else 1
        for key in node.weights.values():
            first = self._shared.setdefault(key, (read[axis], made[axis]))
            self.equate((read[axis], made[axis]), first, f"{node.id} ({node.op}) shares the weight {key}")

    def free(self, node: Node, own: int, group: int = 1) -> Dim:
        """A new width, ``group`` times an unknown, that would best be in proportion to ``own``."""
        unknown = self.equations.new(node.id, own // group)
        self.wishes.append(Wish(unknown, group, own, 1 + self._below[node.id]))
        return Linear(((unknown, group),))

    def divided(self, node: Node, dim: Dim, divisor: int, own: int) -> Dim:
        """``dim / divisor``, which must be whole; ``own`` is what it is in the segment."""
        if divisor == 1:
            return dim
        dim = self.equations.value(dim)
        if isinstance(dim, int):
            if dim % divisor:
                raise Misfit(f"{node.id} ({node.op}) needs a multiple of {divisor}, which {dim} is not")
            return dim // divisor
        part = Linear(((self.equations.new(node.id, max(1, own)), 1),))
        self.equations.equate(dim, product((part, divisor)), f"{node.id} ({node.op}) needs a multiple of {divisor}")
        return part

    def rule(self, node: Node, attrs: Attrs, inputs: Sequence[Shape]) -> tuple[Attrs, Sequence[Shape]]:
        """The attributes that follow from widths, and the shapes of the node's outputs."""
        if node.definition.pointwise:
            return (self._pointwise(node, inputs[0]) if node.op in _POINTED else {}), (inputs[0],)
        match node.op:
            case "conv2d" | "conv_transpose2d":
                return self._convolution(node, attrs, inputs[0])
            case "linear":
                width = self.free(node, attrs["out_features"])
                return {"out_features": width}, [(*inputs[0][:-1], width)]
            case "add" | "mul" | "sub" | "div":
                return {}, [self._broadcast(node, inputs)]
            case "concat":
                return {}, [self._concat(node, inputs)]
            case "matmul":
                a, b = inputs
                self.equate((a[-1],), (b[-2],), f"{node.id} (matmul)")
                return {}, [(*a[:-1], b[-1])]
            case "attention":
                q, k, v = inputs[:3]
                self.equate((q[-1], k[-2]), (k[-1], v[-2]), f"{node.id} (attention)")
                return {}, [(*q[:-1], v[-1])]
            case "interpolate_like":
                x, like = inputs
                return {}, [(*x[:2], *like[2:])]
            case "pixel_shuffle" | "pixel_unshuffle":
                return {}, [self._shuffled(node, attrs, inputs[0])]
            case "flatten":
                start, end = (attrs[a] % len(inputs[0]) for a in ("start", "end"))
                x = inputs[0]
                return {}, [(*x[:start], product(x[start : end + 1]), *x[end + 1 :])]
            case "reshape":
                return self._reshape(node, inputs[0])
            case "unflatten_like":
                (x, like), dim = inputs, attrs["dim"] % len(inputs[0])
                self.equate((x[dim],), (product(like[2:]),), f"{node.id} (unflatten_like)")
                return {}, [(*x[:dim], *like[2:], *x[dim + 1 :])]
            case "permute":
                return {}, [tuple(inputs[0][d] for d in attrs["dims"])]
            case "expand":
                return self._expand(node, inputs[0])
            case "split" | "slice":
                return self._parts(node, attrs, inputs[0])
            case "pad":
                return self._pad(node, attrs, inputs[0])
            case "constant":
                return {}, [attrs["type"].shape]
            case "frozen":
                for x, own in zip(inputs, self._segment.input_types(node), strict=True):
                    self.equate(x, own.shape, f"{node.id} (frozen) stays as it is")
                return {}, [type.shape for type in attrs["types"]]
            case "mean" | "sum":
                dims = {d % len(inputs[0]) for d in attrs["dims"]}
                kept: list[Dim] = [1 if d in dims else x for d, x in enumerate(inputs[0])]
                return {}, [tuple(x for d, x in enumerate(kept) if d not in dims or attrs["keepdim"])]
        if node.op in RESIZING:
            return {}, [self._image(node, attrs, inputs[0], inputs[0][1])]
        raise Misfit(f"{node.id}: no rule for the shapes of {node.op}")

    def _pointwise(self, node: Node, x: Shape) -> Attrs:
        own = self._own(node)
        match node.op:
            case "group_norm":
                self.divided(node, x[1], node.attrs["groups"], _count(own[1]) // node.attrs["groups"])
                return {}
            case "layer_norm":
                return {"shape": tuple(x[len(x) - len(node.attrs["shape"]) :])}
            case _:
                return {} if node.attrs["parameters"] == 1 else {"parameters": x[1]}

    def _own(self, node: Node) -> tuple[int | Batch, ...]:
        """The shape that the node reads in its segment."""
        return self._segment.types[node.inputs[0]].shape

    def _image(self, node: Node, attrs: Attrs, x: Shape, channels: Dim) -> Shape:
        h, w = x[2:]
        own = self._segment.types[node.inputs[0]]
        size = resized(node, attrs, own, (h, w)) if isinstance(h, int) and isinstance(w, int) else None
        if size is None:
            raise Misfit(f"{node.id} ({node.op}) cannot take an image of {self._text(h)}x{self._text(w)}")
        return (x[0], channels, *size)

    def _text(self, dim: Dim) -> str:
        return self.equations.text(self.equations.value(dim))

    def _convolution(self, node: Node, attrs: Attrs, x: Shape) -> tuple[Attrs, Sequence[Shape]]:
        groups, out = attrs["groups"], attrs["out_channels"]
        channels = self._own(node)[1]
        if groups > 1 and groups == channels:  # depthwise: as many groups as channels, whatever their number
            width = product((x[1], out // groups))
            return {"out_channels": width, "groups": x[1]}, [self._image(node, attrs, x, width)]
        if groups > 1:
            self.divided(node, x[1], groups, _count(channels) // groups)
        width = self.free(node, out, groups)
        return {"out_channels": width}, [self._image(node, attrs, x, width)]

    def _shuffled(self, node: Node, attrs: Attrs, x: Shape) -> Shape:
        square = attrs["factor"] ** 2
        if node.op == "pixel_unshuffle":
            return self._image(node, attrs, x, product((x[1], square)))
        return self._image(node, attrs, x, self.divided(node, x[1], square, _count(self._own(node)[1]) // square))

    def _broadcast(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        own = [self._segment.types[v].shape for v in node.inputs]
        where = f"{node.id} ({node.op})"
        if own.count(own[0]) == len(own):
            for x in inputs[1:]:
                self.equate(x, inputs[0], where)
            return inputs[0]
        rank = max(map(len, inputs))
        result: list[Dim] = []
        for i in range(-rank, 0):
            there = [(x[i], shape[i]) for x, shape in zip(inputs, own, strict=True) if len(x) >= -i]
            stretched = any(size != 1 for _, size in there)
            dims = [dim for dim, size in there if size != 1 or not stretched]
            for dim, size in there:
                if size == 1:
                    self.equate((dim,), (1 if stretched else dims[0],), where)
            for dim in dims[1:]:
                self.equate((dim,), (dims[0],), where)
            result.append(dims[0])
        return tuple(result)

    def _concat(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        first, dim = inputs[0], node.attrs["dim"] % len(inputs[0])
        total = first[dim]
        for x in inputs[1:]:
            for axis in range(len(first)):
                if axis != dim and x[axis] is not first[axis]:
                    self.equations.equate(x[axis], first[axis], f"{node.id} (concat)")
            total = plus(total, x[dim])
        return (*first[:dim], total, *first[dim + 1 :])

    def _parts(self, node: Node, attrs: Attrs, x: Shape) -> tuple[Attrs, Sequence[Shape]]:
        """Split and slice: bounds grow in proportion to the dimension, unless it kept its size or is an image's side,
        where slices keep their margins.
        """
        dim = attrs["dim"] % len(x)
        size = self._own(node)[dim]
        if node.op == "slice" and dim > 1 and image(self._segment.types[node.inputs[0]]):
            return {}, [self._image(node, attrs, x, x[1])]
        names = ("sizes",) if node.op == "split" else ("start", "stop")
        follow: dict[str, Any] = {}
        if isinstance(size, int) and x[dim] != size:
            marks = list(attrs["sizes"]) if node.op == "split" else [attrs["start"], attrs["stop"]]
            if attrs.get("step", 1) > 1:
                raise Misfit(f"{node.id} (slice) takes steps, so its dimension of {size} cannot change")
            common = gcd(size, *marks)
            unit = self.divided(node, x[dim], size // common, common)
            scaled = [product((unit, m // common)) for m in marks]
            follow = {"sizes": tuple(scaled)} if node.op == "split" else dict(zip(names, scaled, strict=True))
        now = {**attrs, **follow}
        pieces: Sequence[Dim]
        if node.op == "split":
            pieces = now["sizes"]
        else:
            length = plus(now["stop"], now["start"], -1)
            pieces = [-(-length // attrs["step"]) if isinstance(length, int) else length]
        return follow, [(*x[:dim], piece, *x[dim + 1 :]) for piece in pieces]

    def _pad(self, node: Node, attrs: Attrs, x: Shape) -> tuple[Attrs, Sequence[Shape]]:
        """Margins of an image stay; added channels (before, after or both alike) are as free as a convolution's."""
        pads = list(attrs["pads"])
        shape = list(x)
        for i, axis in enumerate(range(len(x) - 1, len(x) - 1 - len(pads) // 2, -1)):
            before, after = pads[2 * i], pads[2 * i + 1]
            if axis == 1 and min(before, after) >= 0 < before + after and (not before or not after or before == after):
                width = self.free(node, max(before, after))
                pads[2 * i : 2 * i + 2] = [width if n else 0 for n in (before, after)]
                shape[axis] = plus(shape[axis], width, (before > 0) + (after > 0))
            elif before or after:
                shape[axis] = plus(shape[axis], before + after)
        if any(isinstance(dim, int) and dim < 1 for dim in shape):
            raise Misfit(f"{node.id} (pad) would leave nothing of {'x'.join(map(self._text, x[1:]))}")
        return {"pads": tuple(pads)}, [tuple(shape)]

    def _expand(self, node: Node, x: Shape) -> tuple[Attrs, Sequence[Shape]]:
        own, target = self._own(node), node.attrs["shape"]
        lead = len(target) - len(own)
        shape = tuple(x[i - lead] if i >= lead and own[i - lead] == size else size for i, size in enumerate(target))
        return {"shape": shape}, [shape]

    def _reshape(self, node: Node, x: Shape) -> tuple[Attrs, Sequence[Shape]]:
        """Dimensions are merged and split in the groups in which the segment's own are; where one splits, the largest
        part (heads' width, channels of a shuffle's group) takes the change.
        """
        own, after = self._own(node), self._segment.types[node.value()].shape
        result: list[Dim] = []
        for before, parts in _groups(node, own, after):
            have = [x[i] for i in before]
            if have == [own[i] for i in before]:
                result += [after[i] for i in parts]
                continue
            total = product(have)
            sizes: list[Dim] = [after[i] for i in parts]
            if any(isinstance(size, Batch) for size in sizes):
                raise Misfit(f"{node.id} (reshape): the batch would have to take in a new width")
            grows = max(range(len(sizes)), key=lambda i: _count(sizes[i]))
            rest = product(size for i, size in enumerate(sizes) if i != grows)
            assert isinstance(rest, int)
            sizes[grows] = self.divided(node, total, rest, _count(sizes[grows]))
            result += sizes
        shape = tuple(-1 if g == -1 else r for g, r in zip(node.attrs["shape"], result, strict=True))
        return {"shape": shape}, [tuple(result)]


def _below(segment: Graph) -> dict[str, int]:
    """How many nodes each node has a say in."""
    sets: dict[str, int] = {}  # as bits, one a node
    for position in range(len(segment) - 1, -1, -1):
        node = segment.nodes[position]
        mine = sets.setdefault(node.id, 0) | 1 << position
        for value in node.inputs:
            sets[value.node] = sets.get(value.node, 0) | mine
    return {id: bits.bit_count() for id, bits in sets.items()}


def _groups(
    node: Node, before: Sequence[int | Batch], after: Sequence[int | Batch]
) -> Iterator[tuple[list[int], list[int]]]:
    """The dimensions of two shapes of one tensor in the smallest groups that hold equally many elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while True:
            a, b = (product(shape[k] for k in part) for shape, part in ((before, left), (after, right)))
            if a == b:
                break
            smaller_left = j == len(after) or (i < len(before) and _count(a) <= _count(b))
            if smaller_left and i < len(before):
                left.append(i)
                i += 1
            elif j < len(after):
                right.append(j)
                j += 1
            else:
                raise Misfit(f"{node.id} (reshape): cannot be followed from {before} to {after}")
        yield left, right


def _count(dim: Dim) -> int:
    """The dimension as a number; a batch counts as many times as it stands for."""
    return dim.times if isinstance(dim, Batch) else dim if isinstance(dim, int) else 1
