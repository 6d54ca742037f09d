"""Shape fitting: make a segment map given types onto given types by choosing its strides and widths.

The "resolution propagation" of AutoGO (Salameh et al., NeurIPS 2023, section 3.3), solved as two small integer programs
in process: first the image sizes, then the widths. Deviations from the paper: sizes are the ones that the ops' own
shape rules give, so odd maps, 1x1 maps and padded or ceiled windows are right; widths may be any integers;
concatenations, splits, groups, depthwise and transposed convolutions, pixel shuffles and reshapes have their rules; the
objective asks for the segment's own widths scaled to the new input, so that a small tensor is no better than a faithful
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, log2
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from netgraft.errors import GraphError, ShapeError
from netgraft.ir import Batch, Graph, Input, Node, Signature, TensorType, Value


@dataclass(frozen=True)
class NoFit:
    """Why a segment cannot be given a signature."""

    reason: str


def fit(segment: Graph, signature: Signature, *, multiple: int = 1) -> Graph | NoFit:
    """The segment with strides and widths chosen so that its signature is ``signature``, or why there is no such one.

    Freely chosen are the output channels of convolutions and linear layers (multiples of ``multiple`` where the
    surroundings leave it open), as near as possible to the segment's own, scaled by how much wider the new input is;
    and, as few as possible, the strides of convolutions and poolings (1, 2 or 4, never above the kernel) and the
    factors of interpolations. Everything else follows or stays.
    """
    if (len(segment.inputs), len(segment.outputs)) != (len(signature.inputs), len(signature.outputs)):
        return NoFit(f"a segment {segment.signature} has not as many inputs and outputs as {signature}")
    for own, wanted in zip(_ends(segment.signature), _ends(signature), strict=True):
        if (own.rank, own.dtype) != (wanted.rank, wanted.dtype):
            return NoFit(f"{own} has another rank or element type than {wanted}")
    try:
        attrs = _fit_sizes(segment, signature)
        fitted = _fit_widths(segment, attrs, signature, multiple)
    except (_Misfit, GraphError) as error:
        return NoFit(str(error))
    if fitted.signature != signature:
        return NoFit(f"the nearest fit is {fitted.signature} instead of {signature}")
    return fitted


class _Misfit(Exception):
    """No choice exists; becomes a NoFit."""


def _ends(signature: Signature) -> tuple[TensorType, ...]:
    return signature.inputs + signature.outputs


# ------------------------------------------------------------------------------------------------------- image sizes

_Image = tuple[int, int]
_Attrs = Mapping[str, Any]
_POOLS = frozenset(["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"])
_RESIZING = _POOLS | {"conv2d", "conv_transpose2d", "interpolate", "pixel_shuffle", "pixel_unshuffle", "pad"}
_RESIZING |= {"mean", "sum", "slice"}  # where they leave an image
_JOINS = frozenset(["add", "mul", "sub", "div", "concat"])
_STRIDES = (1, 2, 4)
_MOST_SIZES = 64


def _image(type: TensorType) -> _Image | None:
    """Height and width of an image type."""
    if type.rank != 4:
        return None
    h, w = type.shape[2:]
    return None if isinstance(h, Batch) or isinstance(w, Batch) else (h, w)


def _resize(own: TensorType, node: Node, attrs: _Attrs, size: _Image) -> _Image | None:
    """What the node makes of an image of this size, by its own shape rule; None where it cannot take it."""
    try:
        (out,) = node.definition.infer([own.with_shape((*own.shape[:2], *size))], attrs)
    except ShapeError:
        return None
    return _image(out)


def _unchanged(own: TensorType, program: _Program) -> dict[_Image, list[int]]:
    size = _image(own)
    return {size: [program.add(low=1, high=1)]} if size else {}


def _options(node: Node, signature: Signature) -> Iterator[tuple[float, _Attrs]]:
    """The attributes that a resizing node may take, with the price of each; its own come first and are free."""
    attrs = node.attrs
    yield 0.0, attrs
    match node.op:
        case "conv2d" | "max_pool2d" | "avg_pool2d":
            kernel, dilation = attrs["kernel"], attrs.get("dilation", (1, 1))
            # An even pooling window cannot keep the size; a 3x3 one does.
            even = node.op != "conv2d" and (kernel[0] % 2 == 0 or kernel[1] % 2 == 0)
            same_kernel = (3, 3) if even else kernel
            same = tuple(d * (k - 1) // 2 for k, d in zip(same_kernel, dilation, strict=True))
            for stride in _STRIDES:
                if stride > min(kernel):
                    continue
                price = abs(log2(stride / max(attrs["stride"])))
                yield price, {**attrs, "stride": (stride, stride)}
                yield price + 0.5, {**attrs, "stride": (stride, stride), "kernel": same_kernel, "padding": same}
        case "conv_transpose2d":
            kernel, dilation = attrs["kernel"], attrs["dilation"]
            for stride in (1, 2):
                # H' = sH: 2p = d(k-1) + output_padding + 1 - s.
                spans = [d * (k - 1) + 1 - stride for k, d in zip(kernel, dilation, strict=True)]
                extra = tuple(span % 2 for span in spans)
                if min(spans) + max(extra) >= 0 and max(extra) < stride:
                    padding = tuple((span + e) // 2 for span, e in zip(spans, extra, strict=True))
                    price = abs(log2(stride / max(attrs["stride"]))) + 0.5
                    yield (
                        price,
                        {**attrs, "stride": (stride, stride), "padding": padding, "output_padding": extra},
                    )
        case "interpolate":
            for scale in (1.0, 2.0, 4.0):
                yield 1.0, {**attrs, "size": None, "scale": (scale, scale)}
            for size in dict.fromkeys(_image(t) for t in _ends(signature)):
                if size is not None:
                    yield 0.5 if attrs["scale"] is None else 1.5, {**attrs, "size": size, "scale": None}


def _spatial_sources(segment: Graph, node: Node) -> tuple[Value, ...]:
    """The inputs whose image size a node's output shares: all but those that a join stretches."""
    if node.op not in _JOINS:
        return node.inputs[:1]
    own = _image(segment.types[node.value()])
    return tuple(v for v in node.inputs if own is not None and _image(segment.types[v]) == own) or node.inputs[:1]


def _fit_sizes(segment: Graph, signature: Signature) -> dict[str, _Attrs]:
    """The attributes of the resizing nodes, by id, that give the signature's image sizes (widths still their own).

    An integer program over what the shape rules allow: one binary variable for each size that a node may be given and
    each option it then has.
    """
    program = _Program()
    # For every value that comes from an image: the size it has in the segment, and the sizes that it may have now, each
    # with the variables of which exactly one is 1 if it does.
    was: dict[Value, _Image] = {}
    sizes: dict[Value, dict[_Image, list[int]]] = {}
    for given, type in zip(segment.inputs, signature.inputs, strict=True):
        before, size = _image(given.type), _image(type)
        if before and size:
            was[Value(given.id)] = before
            sizes[Value(given.id)] = {size: [program.add(low=1, high=1)]}
    choices: dict[int, tuple[str, _Attrs]] = {}
    for position, node in enumerate(segment):
        sources = [v for v in _spatial_sources(segment, node) if v in sizes]
        own = _image(segment.types[node.value()])
        if node.op in _RESIZING and own:
            # What is made into an image inside the segment has the size it always had.
            images = sizes[sources[0]] if sources else _unchanged(segment.types[node.inputs[0]], program)
            result: dict[_Image, list[int]] = {}
            options = list(_options(node, signature))
            for size, indicators in images.items():
                reached: list[int] = []
                for price, attrs in options:
                    out = _resize(segment.types[node.inputs[0]], node, attrs, size)
                    if out is None:
                        continue
                    # A change early in the segment is a little cheaper: it breaks ties, and saves work.
                    y = program.add(price=price * (1 + 0.01 * position), high=1)
                    choices[y] = (node.id, attrs)
                    reached.append(y)
                    result.setdefault(out, []).append(y)
                program.equate(dict.fromkeys(indicators, 1), dict.fromkeys(reached, 1))
            if not result:
                raise _Misfit(f"{node.id} ({node.op}) can take none of the image sizes {sorted(images)}")
            if len(result) > _MOST_SIZES:
                raise _Misfit(f"{node.id} ({node.op}) could have more than {_MOST_SIZES} image sizes")
            was[node.value()], sizes[node.value()] = own, result
        elif sources:
            for other in sources[1:]:
                for size in sizes[sources[0]].keys() | sizes[other].keys():
                    first, second = (sizes[v].get(size, ()) for v in (sources[0], other))
                    program.equate(dict.fromkeys(first, 1), dict.fromkeys(second, 1))
            for value in map(node.value, range(len(segment.output_types(node)))):
                was[value], sizes[value] = was[sources[0]], sizes[sources[0]]
    for value, type in zip(segment.outputs, signature.outputs, strict=True):
        wanted = _image(type)
        # A tensor of rank 4 that was reshaped or transposed on the way (attention heads, say) is no image.
        if wanted and value in was and was[value] == _image(segment.types[value]):
            if wanted not in sizes[value]:
                raise _Misfit(f"{value} can have the image sizes {sorted(sizes[value])}, not {wanted}")
            program.equate(dict.fromkeys(sizes[value][wanted], 1), {}, 1)
    return dict(choices[y] for y, on in enumerate(program.solve("image sizes")) if on and y in choices)


# ------------------------------------------------------------------------------------------------------------ widths


@dataclass(frozen=True)
class _Linear:
    """A dimension as a sum of multiples of unknown widths (by variable of the program) and a constant."""

    terms: tuple[tuple[int, int], ...]
    constant: int = 0

    def __add__(self, other: _Dim) -> _Linear:
        other = _linear(other)
        terms = dict(self.terms)
        for variable, factor in other.terms:
            terms[variable] = terms.get(variable, 0) + factor
        return _Linear(tuple(terms.items()), self.constant + other.constant)

    def __mul__(self, factor: int) -> _Linear:
        return _Linear(tuple((v, factor * f) for v, f in self.terms), factor * self.constant)

    def at(self, solution: Sequence[int]) -> int:
        return sum(factor * solution[variable] for variable, factor in self.terms) + self.constant


_Dim = int | Batch | _Linear
_Shape = tuple[_Dim, ...]


def _linear(dim: _Dim) -> _Linear:
    if isinstance(dim, Batch):
        raise _Misfit("the batch would have to be a width")
    return dim if isinstance(dim, _Linear) else _Linear((), dim)


def _times(dims: Iterable[_Dim]) -> _Dim:
    """The product of dimensions of which at most one is unknown."""
    product: _Dim = 1
    for dim in dims:
        if isinstance(dim, Batch | _Linear) and product == 1:
            product = dim
        elif isinstance(product, Batch) and isinstance(dim, int):
            product = Batch(product.times * dim)
        elif isinstance(product, int | _Linear) and isinstance(dim, int):
            product = product * dim
        elif isinstance(product, int) and isinstance(dim, _Linear):
            product = dim * product
        elif isinstance(product, int) and isinstance(dim, Batch):
            product = Batch(product * dim.times)
        else:
            raise _Misfit("two unknown widths would be multiplied")
    return product


def _fit_widths(segment: Graph, attrs: Mapping[str, _Attrs], signature: Signature, multiple: int) -> Graph:
    """The fitted segment: an integer program over the output channels of convolutions and linear layers."""
    widths = _Widths(segment, _scale(segment, signature), multiple)
    shapes: dict[Value, _Shape] = {Value(i.id): t.shape for i, t in zip(segment.inputs, signature.inputs, strict=True)}
    changed: list[Node] = []
    for node in segment:
        node = replace(node, attrs=attrs.get(node.id, node.attrs))
        node, outputs = widths.rule(node, [shapes[v] for v in node.inputs])
        changed.append(node)
        shapes |= {node.value(i): shape for i, shape in enumerate(outputs)}
    for value, wanted in zip(segment.outputs, signature.outputs, strict=True):
        widths.equate(shapes[value], wanted.shape, f"{value} is returned")
    solution = widths.program.solve("widths")
    nodes = tuple(replace(n, attrs={k: _settled(v, solution) for k, v in n.attrs.items()}) for n in changed)
    inputs = tuple(Input(i.id, t) for i, t in zip(segment.inputs, signature.inputs, strict=True))
    return Graph(inputs, nodes, segment.outputs)


def _settled(attr: Any, solution: Sequence[int]) -> Any:
    if isinstance(attr, _Linear):
        return attr.at(solution)
    return tuple(_settled(item, solution) for item in attr) if isinstance(attr, tuple) else attr


def _scale(segment: Graph, signature: Signature) -> float:
    """How much wider the new inputs are than the segment's own."""

    def width(types: Iterable[TensorType]) -> int:
        dims = [t.shape[-1] if t.rank == 3 else t.shape[1] for t in types if t.rank > 1]
        return sum(d for d in dims if isinstance(d, int))

    own = width(segment.signature.inputs)
    return width(signature.inputs) / own if own else 1.0


class _Widths:
    """The rules by which widths pass through the nodes of a segment, written into an integer program."""

    def __init__(self, segment: Graph, scale: float, multiple: int) -> None:
        self.program = _Program()
        self._segment = segment
        self._scale = scale
        self._multiple = multiple
        # How many nodes a width has a say in, for the objective.
        below: dict[str, set[str]] = {node.id: set() for node in segment}
        for node in reversed(segment.nodes):
            for value in node.inputs:
                if value.node in below:
                    below[value.node] |= {node.id} | below[node.id]
        self._weight = {id: 1 + len(nodes) for id, nodes in below.items()}

    def equate(self, a: _Shape, b: _Shape, where: str) -> None:
        """Makes two shapes equal."""
        if len(a) != len(b):
            raise _Misfit(f"{where}: the ranks differ")
        for x, y in zip(a, b, strict=True):
            if x == y:
                continue
            if not (isinstance(x, _Linear) or isinstance(y, _Linear)):
                raise _Misfit(f"{where}: {x} cannot be {y}")
            left, right = _linear(x), _linear(y)
            self.program.equate(dict(left.terms), dict(right.terms), right.constant - left.constant)

    def free(self, node: Node, own: int, group: int = 1) -> _Linear:
        """A new width, ``group`` times an unknown, that would best be ``own`` scaled to the new inputs."""
        unknown = self.program.add(low=1)
        width = _Linear(((unknown, group),))
        target = max(1.0, own * self._scale)
        weight = self._weight[node.id] / target
        # distance >= |width - target| * weight
        distance = self.program.add(price=1.0, integral=False)
        self.program.at_most({unknown: group * weight, distance: -1}, target * weight)
        self.program.at_most({unknown: -group * weight, distance: -1}, -target * weight)
        if self._multiple > 1:
            # width = multiple * count + rest, and a rest is dear.
            count, rest = self.program.add(), self.program.add(high=self._multiple - 1)
            broken = self.program.add(price=100.0, high=1)
            self.program.equate({unknown: group}, {count: self._multiple, rest: 1})
            self.program.at_most({rest: 1, broken: 1 - self._multiple}, 0)
        return width

    def divided(self, dim: _Dim, divisor: int) -> _Dim:
        """``dim / divisor``, which must be whole."""
        if divisor == 1:
            return dim
        part = _Linear(((self.program.add(low=1), 1),))
        self.equate((dim,), (part * divisor,), f"{dim} must be a multiple of {divisor}")
        return part

    def rule(self, node: Node, inputs: Sequence[_Shape]) -> tuple[Node, list[_Shape]]:
        """The node with the attributes that follow from widths filled in, and the shapes of its outputs."""
        own = self._segment.input_types(node)
        match node.op:
            case "conv2d" | "conv_transpose2d":
                return self._convolution(node, inputs[0], own[0])
            case "linear":
                width = self.free(node, node.attrs["out_features"])
                return _with(node, out_features=width), [(*inputs[0][:-1], width)]
            case "group_norm":
                self.divided(inputs[0][1], node.attrs["groups"])
                return node, [inputs[0]]
            case "layer_norm":
                tail = inputs[0][len(inputs[0]) - len(node.attrs["shape"]) :]
                return _with(node, shape=tail), [inputs[0]]
            case "prelu":
                single = node.attrs["parameters"] == 1
                return _with(node, parameters=1 if single else inputs[0][1]), [inputs[0]]
            case "add" | "mul" | "sub" | "div":
                return node, [self._broadcast(node, inputs, own)]
            case "concat":
                return node, [self._concat(node, inputs)]
            case "matmul":
                a, b = inputs
                self.equate((a[-1],), (b[-2],), f"{node.id} multiplies")
                return node, [(*a[:-1], b[-1])]
            case "attention":
                q, k, v = inputs[:3]
                self.equate((q[-1], k[-2]), (k[-1], v[-2]), f"{node.id} attends")
                return node, [(*q[:-1], v[-1])]
            case "pixel_shuffle":
                return node, [self._image(node, inputs[0], self.divided(inputs[0][1], node.attrs["factor"] ** 2))]
            case "pixel_unshuffle":
                return node, [self._image(node, inputs[0], _times([inputs[0][1], node.attrs["factor"] ** 2]))]
            case "flatten":
                start, end = (node.attrs[a] % len(inputs[0]) for a in ("start", "end"))
                x = inputs[0]
                return node, [(*x[:start], _times(x[start : end + 1]), *x[end + 1 :])]
            case "reshape":
                return self._reshape(node, inputs[0], own[0])
            case "permute":
                return node, [tuple(inputs[0][d] for d in node.attrs["dims"])]
            case "mean" | "sum":
                dims = {d % len(inputs[0]) for d in node.attrs["dims"]}
                kept = [1 if d in dims else x for d, x in enumerate(inputs[0])]
                return node, [tuple(x for d, x in enumerate(kept) if d not in dims or node.attrs["keepdim"])]
            case "split" | "slice":
                return self._parts(node, inputs[0], own[0])
        if node.op in _RESIZING:
            return node, [self._image(node, inputs[0], inputs[0][1])]
        if node.definition.pointwise:
            return node, [inputs[0]]
        raise _Misfit(f"{node.id}: no rule for the shapes of {node.op}")

    def _image(self, node: Node, x: _Shape, channels: _Dim) -> _Shape:
        h, w = x[2:]
        own = self._segment.types[node.inputs[0]]
        size = _resize(own, node, node.attrs, (h, w)) if isinstance(h, int) and isinstance(w, int) else None
        if size is None:
            raise _Misfit(f"{node.id} ({node.op}) cannot take an image of {h}x{w}")
        return (x[0], channels, *size)

    def _convolution(self, node: Node, x: _Shape, own: TensorType) -> tuple[Node, list[_Shape]]:
        groups, channels, out = node.attrs["groups"], own.shape[1], node.attrs["out_channels"]
        width: _Dim
        follows: _Dim = groups
        if groups > 1 and groups == channels:  # depthwise: as many groups as channels, whatever their number
            width, follows = _times([x[1], out // groups]), x[1]
        else:
            self.divided(x[1], groups)
            width = self.free(node, out, groups)
        return _with(node, out_channels=width, groups=follows), [self._image(node, x, width)]

    def _broadcast(self, node: Node, inputs: Sequence[_Shape], own: Sequence[TensorType]) -> _Shape:
        rank = max(map(len, inputs))
        result: list[_Dim] = []
        for i in range(-rank, 0):
            there = [(x[i], t.shape[i]) for x, t in zip(inputs, own, strict=True) if len(x) >= -i]
            stretched = any(size != 1 for _, size in there)
            dims = [dim for dim, size in there if size != 1 or not stretched]
            for dim, size in there:
                if size == 1:
                    self.equate((dim,), (1 if stretched else dims[0],), f"{node.id} stretches")
            for dim in dims[1:]:
                self.equate((dim,), (dims[0],), f"{node.id} joins")
            result.append(dims[0])
        return tuple(result)

    def _concat(self, node: Node, inputs: Sequence[_Shape]) -> _Shape:
        dim = node.attrs["dim"] % len(inputs[0])
        total = _linear(inputs[0][dim])
        for x in inputs[1:]:
            self.equate((*x[:dim], *x[dim + 1 :]), (*inputs[0][:dim], *inputs[0][dim + 1 :]), f"{node.id} joins")
            total = total + x[dim]
        return (*inputs[0][:dim], total if total.terms else total.constant, *inputs[0][dim + 1 :])

    def _parts(self, node: Node, x: _Shape, own: TensorType) -> tuple[Node, list[_Shape]]:
        """Split and slice: bounds grow in proportion to the dimension, unless it kept its size."""
        dim = node.attrs["dim"] % len(x)
        size = own.shape[dim]
        names = ("sizes",) if node.op == "split" else ("start", "stop", "step")
        if isinstance(size, int) and x[dim] != size:
            marks = [m for name in names[:2] for m in np.atleast_1d(node.attrs[name]).tolist()]
            common = gcd(size, *marks)
            if node.attrs.get("step", 1) > 1:
                raise _Misfit(f"{node.id}: a slice with steps keeps its size")
            unit = self.divided(x[dim], size // common)
            scaled = [_times([unit, m // common]) for m in marks]
            bounds = {"sizes": tuple(scaled)} if node.op == "split" else {"start": scaled[0], "stop": scaled[1]}
            node = _with(node, **bounds)
        if node.op == "split":
            pieces: list[_Dim] = list(node.attrs["sizes"])
        else:
            start, stop, step = (node.attrs[name] for name in names)
            length = _linear(stop) + _linear(start) * -1
            pieces = [length if length.terms else -(-length.constant // step)]
        return node, [(*x[:dim], piece, *x[dim + 1 :]) for piece in pieces]

    def _reshape(self, node: Node, x: _Shape, own: TensorType) -> tuple[Node, list[_Shape]]:
        """Dimensions are merged and split in the groups in which the segment's own are; where one splits, the largest
        part (heads' width, channels of a shuffle's group) takes the change.
        """
        after = self._segment.types[node.value()].shape
        result: list[_Dim] = []
        for before, parts in _groups(own.shape, after):
            have = [x[i] for i in before]
            if have == [own.shape[i] for i in before]:
                result += [after[i] for i in parts]
                continue
            total = _times(have)
            sizes: list[_Dim] = [after[i] for i in parts]
            if any(isinstance(size, Batch) for size in sizes):
                raise _Misfit(f"{node.id}: the batch would have to take in a new width")
            grows = max(range(len(sizes)), key=lambda i: _count(sizes[i]))
            rest = _times(size for i, size in enumerate(sizes) if i != grows)
            assert isinstance(rest, int)
            sizes[grows] = self.divided(total, rest)
            result += sizes
        given = node.attrs["shape"]
        shape = tuple(-1 if g == -1 else r for g, r in zip(given, result, strict=True))
        return _with(node, shape=shape), [tuple(result)]


def _with(node: Node, **attrs: Any) -> Node:
    return replace(node, attrs={**node.attrs, **attrs})


def _groups(before: Sequence[int | Batch], after: Sequence[int | Batch]) -> Iterator[tuple[list[int], list[int]]]:
    """The dimensions of two shapes of one tensor in the smallest groups that hold equally many elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while True:
            a, b = (_times(shape[k] for k in part) for shape, part in ((before, left), (after, right)))
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
                raise _Misfit(f"cannot follow the reshape from {before} to {after}")
        yield left, right


def _count(dim: _Dim) -> int:
    return dim.times if isinstance(dim, Batch) else _linear(dim).constant


# --------------------------------------------------------------------------------------------------- integer programs


class _Program:
    """An integer program, put together variable by variable and solved by HiGHS."""

    def __init__(self) -> None:
        self._prices: list[float] = []
        self._bounds: list[tuple[float, float]] = []
        self._integral: list[bool] = []
        self._rows: list[tuple[dict[int, float], float, float]] = []

    def add(self, *, price: float = 0.0, low: float = 0.0, high: float = np.inf, integral: bool = True) -> int:
        """A new variable; returns its number."""
        self._prices.append(price)
        self._bounds.append((low, high))
        self._integral.append(integral)
        return len(self._prices) - 1

    def equate(self, left: Mapping[int, float], right: Mapping[int, float], constant: float = 0.0) -> None:
        """Demands left = right + constant."""
        row = dict(left)
        for variable, factor in right.items():
            row[variable] = row.get(variable, 0.0) - factor
        self._rows.append((row, constant, constant))

    def at_most(self, left: Mapping[int, float], constant: float) -> None:
        """Demands left <= constant."""
        self._rows.append((dict(left), -np.inf, constant))

    def solve(self, what: str) -> list[int]:
        """The variables at the cheapest solution; raises _Misfit where there is none."""
        if not self._prices:
            return []
        entries = [(r, v, f) for r, (row, _, _) in enumerate(self._rows) for v, f in row.items()]
        rows, columns, factors = zip(*entries, strict=True) if entries else ((), (), ())
        matrix = csr_array((factors, (rows, columns)), shape=(len(self._rows), len(self._prices)))
        low, high = np.array(self._bounds).T
        result = milp(
            self._prices,
            integrality=np.array(self._integral, int),
            bounds=Bounds(low, high),
            constraints=LinearConstraint(matrix, [r[1] for r in self._rows], [r[2] for r in self._rows]),
            # Programs of real segments need a few nodes; a limit in seconds would not be deterministic.
            options={"node_limit": 10_000},
        )
        if result.x is None:
            raise _Misfit(f"no choice of {what} gives the signature")
        return [round(x) for x in result.x]
