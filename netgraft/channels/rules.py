"""How labels pass through each operation: what it hands on, what it makes, what it reads, and what it holds fast.

A rule takes the labels of what a node reads, one for each dimension, and gives those of what it returns; to add an
operation, write its line in :data:`RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Final

from netgraft.ir import Batch, Graph, Node, TensorType, Value
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED
from netgraft.ir.shapes import axis as counted

from .atoms import Atoms, Label, join, merge, part

Labels = tuple[Label, ...]
"""The labels of a tensor, one for each dimension. A dimension of 12 times the batch size has 12 entries."""

_BATCH: Final = 1_000_003
"""A prime that stands for the batch size where dimensions are taken apart and put together."""


class Reading:
    """The labels of a graph, found by going through it once.

    ``values`` and ``weights`` hold the labels of tensors; ``reads`` the axes of weights along which a layer sums over
    what it reads; ``makers`` and ``readers`` who makes and sums over labels, by node. ``groups`` has the labels of the
    groups of convolutions and group norms. ``uneven`` are labels that may lose entries but not repeat them: those that
    are summed over without weights or normalised together. ``normalised`` has the latter, by node.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.atoms = Atoms()
        self.values: dict[Value, Labels] = {}
        self.weights: dict[str, Labels] = {}
        self.reads: set[tuple[str, int]] = set()
        self.makers: list[tuple[str, Label]] = []
        self.readers: list[tuple[str, Label]] = []
        self.groups: dict[str, Label] = {}
        self.uneven: list[Label] = []
        self.normalised: list[tuple[str, Label]] = []
        for given in graph.inputs:
            self.values[Value(given.id)] = (None,) * given.type.rank
        for node in graph:
            labels = [self.values[value] for value in node.inputs]
            rule = RULES.get(node.op, _same if node.definition.pointwise else _opaque)
            for index, out in enumerate(rule(self, node, labels)):
                self.values[node.value(index)] = out
        for value in graph.outputs:
            for label in self.values[value]:
                self.atoms.pin(label, "the network's output")

    def inputs(self, node: Node) -> tuple[TensorType, ...]:
        """The types of what a node reads."""
        return self.graph.input_types(node)

    def output(self, node: Node) -> TensorType:
        """The type of what a node returns."""
        return self.graph.output_types(node)[0]

    def make(self, node: Node, size: int) -> Label:
        """The label of a dimension whose entries the node makes; a single one is never dropped."""
        if size < 2:
            return None
        label = self.atoms.fresh(size)
        self.makers.append((node.id, label))
        return label

    def read(self, node: Node, label: Label) -> None:
        """The node sums over a dimension."""
        if label is not None:
            self.readers.append((node.id, label))

    def hold(self, node: Node, role: str, *labels: Label, reads: int | None = None) -> None:
        """The labels of the weight of a role; ``reads`` is the axis that is summed over."""
        key = node.weights.get(role)
        if key is None:
            return
        if key in self.weights:
            labels = tuple(
                self.atoms.same(a, b, f"shares {key}") for a, b in zip(self.weights[key], labels, strict=True)
            )
        self.weights[key] = labels
        if reads is not None:
            self.reads.add((key, reads))

    def pin(self, node: Node, *labels: Label) -> None:
        """The node needs all entries of some dimensions."""
        for label in labels:
            self.atoms.pin(label, f"{node.id} ({node.attrs['target'] if node.op == 'frozen' else node.op})")

    def together(self, node: Node, labels: Sequence[Label]) -> Label:
        """The label of dimensions that the node takes entry by entry."""
        first, *others = labels
        for other in others:
            first = self.atoms.same(first, other, node.id)
        return first


Rule = Callable[[Reading, Node, Sequence[Labels]], Sequence[Labels]]


def _same(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """What works on each element alone."""
    return (labels[0],)


def _opaque(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """Nobody knows: everything stays."""
    for given in labels:
        r.pin(node, *given)
    return [(None,) * type_.rank for type_ in r.graph.output_types(node)]


def _constant(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    made = tuple(r.make(node, size) for size in r.output(node).concrete())
    r.hold(node, "value", *made)
    return (r.weights[node.weights["value"]],)


def _linear(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    *lead, channels = labels[0]
    r.read(node, channels)
    made = r.make(node, node.attrs["out_features"])
    r.hold(node, "weight", made, channels, reads=1)
    r.hold(node, "bias", made)
    return ((*lead, made),)


def _convolution(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    batch, channels, *window = labels[0]
    r.pin(node, *window)
    inputs, outputs = r.inputs(node)[0].concrete()[1], node.attrs["out_channels"]
    count = node.attrs["groups"]
    group, inner = r.atoms.split(channels, (count, inputs // count))
    if count > 1:
        r.groups[node.id] = group
    r.read(node, inner)
    made = r.make(node, outputs // count)
    out = merge((group, made), (count, outputs // count))
    square: Labels = (None,) * len(window)
    if node.op in CONVOLUTIONS:
        r.hold(node, "weight", out, inner, *square, reads=1)
    elif count == 1:
        r.hold(node, "weight", inner, out, *square, reads=0)
    else:  # its kernel lists the inputs of one group after the other
        r.hold(node, "weight", merge((group, inner), (count, inputs // count)), made, *square)
        r.uneven.append(inner)
    r.hold(node, "bias", out)
    return ((batch, out, *(None for _ in window)),)


def _batch_norm(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    for role in node.weights:
        r.hold(node, role, *(() if role == "num_batches_tracked" else (labels[0][1],)))
    return (labels[0],)


def _group_norm(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    batch, channels, *window = labels[0]
    r.pin(node, *window)
    size, count = r.inputs(node)[0].concrete()[1], node.attrs["groups"]
    group, inner = r.atoms.split(channels, (count, size // count))
    r.groups[node.id] = group
    r.normalised.append((node.id, inner))
    r.uneven.append(inner)
    for role in node.weights:
        r.hold(node, role, channels)
    return ((batch, channels, *(None for _ in window)),)


def _layer_norm(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    tail = labels[0][len(labels[0]) - len(node.attrs["shape"]) :]
    r.normalised += [(node.id, label) for label in tail if label is not None]
    r.uneven += tail
    for role in node.weights:
        r.hold(node, role, *tail)
    return (labels[0],)


def _prelu(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    r.hold(node, "weight", labels[0][1] if node.attrs["parameters"] > 1 else None)
    return (labels[0],)


def _softmax(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    return (_without(r, node, labels[0], {counted(node.attrs["dim"], len(labels[0]))}),)


def _without(r: Reading, node: Node, labels: Labels, dims: set[int]) -> Labels:
    """The labels, with nothing dropped along ``dims``."""
    r.pin(node, *(labels[dim] for dim in dims))
    return tuple(None if dim in dims else label for dim, label in enumerate(labels))


def _elementwise(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    return (_broadcast(r, node, [x.shape for x in r.inputs(node)], labels),)


def _broadcast(r: Reading, node: Node, shapes: Sequence[Sequence[Any]], labels: Sequence[Labels]) -> Labels:
    """The labels of tensors that are broadcast together: those of the inputs that are not repeated there."""
    rank = max(map(len, shapes))
    out: list[Label] = []
    for dim in range(-rank, 0):
        here = [(s[dim], given[dim]) for s, given in zip(shapes, labels, strict=True) if len(s) >= -dim]
        whole = [label for size, label in here if size != 1]
        out.append(r.together(node, whole) if whole else None)
    return tuple(out)


def _concat(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    dim = counted(node.attrs["dim"], len(labels[0]))
    sizes = [x.shape[dim] for x in r.inputs(node)]
    out: list[Label] = []
    for d, along in enumerate(zip(*labels, strict=True)):
        if d != dim:
            out.append(r.together(node, along))
        elif any(isinstance(size, Batch) for size in sizes):
            r.pin(node, *along)
            out.append(None)
        else:
            out.append(join(along, [size for size in sizes if isinstance(size, int)]))
    return (tuple(out),)


def _matmul(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    (a, b), (x, y) = labels, r.inputs(node)
    inner = r.together(node, (a[-1], b[-2]))
    r.read(node, inner)
    r.uneven.append(inner)
    lead = _broadcast(r, node, (x.shape[:-2], y.shape[:-2]), (a[:-2], b[:-2])) if max(x.rank, y.rank) > 2 else ()
    return ((*lead, a[-2], b[-1]),)


def _attention(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    q, k, v, *masks = labels
    shapes = [x.shape for x in r.inputs(node)]
    r.pin(node, k[-2], v[-2])
    if node.attrs["causal"]:
        r.pin(node, q[-2])
    inner = r.together(node, (q[-1], k[-1]))
    r.read(node, inner)
    r.uneven.append(inner)
    # Scores, as far as nothing in them is summed over: a row for each query.
    scores = [(*given[:-2], given[-2] if i == 0 else None) for i, given in enumerate((q, k, v))]
    sizes = [(*shape[:-2], shape[-2] if i == 0 else 1) for i, shape in enumerate(shapes[:3])]
    for mask, shape in zip(masks, shapes[3:], strict=True):
        if mask:
            r.pin(node, mask[-1])
            scores.append(mask[:-1])
            sizes.append(shape[:-1])
    rows = _broadcast(r, node, sizes, scores)
    return ((*rows, v[-1]),)


def _window(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """Pooling and resizing of images: each channel alone. Of another image that says how large, any may go."""
    for given in labels:
        r.pin(node, *given[2:])
    return ((*labels[0][:2], *(None for _ in labels[0][2:])),)


def _mean(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    dims = {counted(d, len(labels[0])) for d in node.attrs["dims"]}
    return (_reduced(node, _without(r, node, labels[0], dims), dims),)


def _sum(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    dims = {counted(d, len(labels[0])) for d in node.attrs["dims"]}
    for dim in dims:
        r.read(node, labels[0][dim])
        r.uneven.append(labels[0][dim])
    return (_reduced(node, labels[0], dims),)


def _reduced(node: Node, labels: Labels, dims: set[int]) -> Labels:
    kept = node.attrs["keepdim"]
    return tuple(None if d in dims else label for d, label in enumerate(labels) if kept or d not in dims)


def _permute(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    return (tuple(labels[0][dim] for dim in node.attrs["dims"]),)


def _expand(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """A single entry repeated is as many entries as are needed."""
    x, out = r.inputs(node)[0], r.output(node)
    new = out.rank - x.rank
    return (
        tuple(
            labels[0][dim - new]
            if dim >= new and x.shape[dim - new] == size
            else r.make(node, size)
            if isinstance(size, int)
            else None
            for dim, size in enumerate(out.shape)
        ),
    )


def _split(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    dim = counted(node.attrs["dim"], len(labels[0]))
    given, start, pieces = labels[0], 0, []
    for size in node.attrs["sizes"]:
        if isinstance(size, Batch):
            return _opaque(r, node, labels)
        pieces.append((*given[:dim], _piece(r, node, given[dim], start, start + size), *given[dim + 1 :]))
        start += size
    return pieces


def _piece(r: Reading, node: Node, label: Label, start: int, stop: int) -> Label:
    if stop - start == 1 and label is not None:
        r.pin(node, label[start:stop])  # nothing would be left of the piece
        return None
    return part(label, start, stop)


def _slice(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    given, dim = labels[0], counted(node.attrs["dim"], len(labels[0]))
    if node.attrs["step"] != 1:
        return (_without(r, node, given, {dim}),)
    return ((*given[:dim], _piece(r, node, given[dim], node.attrs["start"], node.attrs["stop"]), *given[dim + 1 :]),)


def _pad(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """Padding with a number makes entries as a layer does; any other mode copies some, which therefore stay."""
    x, pads = r.inputs(node)[0], node.attrs["pads"]
    out = list(labels[0])
    for i in range(len(pads) // 2):
        dim, (before, after) = x.rank - 1 - i, pads[2 * i : 2 * i + 2]
        if not (before or after):
            continue
        if node.attrs["mode"] != "constant" or min(before, after) < 0 or out[dim] is None:
            r.pin(node, out[dim])
            out[dim] = None
            continue
        size = x.shape[dim]
        assert isinstance(size, int), "the batch is not padded"
        ends = [r.atoms.fresh(width) if width else None for width in (before, after)]
        out[dim] = join((ends[0], out[dim], ends[1]), (before, size, after))
    return (tuple(out),)


def _pixel_shuffle(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    batch, channels, *window = labels[0]
    area = node.attrs["factor"] ** 2
    r.pin(node, *window)
    outer, inner = r.atoms.split(channels, (r.inputs(node)[0].concrete()[1] // area, area))
    r.pin(node, inner)
    return ((batch, outer, None, None),)


def _pixel_unshuffle(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    batch, channels, *window = labels[0]
    area = node.attrs["factor"] ** 2
    r.pin(node, *window)
    return ((batch, merge((channels, None), (r.inputs(node)[0].concrete()[1], area)), None, None),)


def _reshape(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """Dimensions are taken apart into factors that both shapes have, and these are put together again."""
    given, wanted = _factors(r.inputs(node)[0]), _factors(r.output(node))
    out: list[Label] = []
    i = j = 0
    while i < len(given) or j < len(wanted):
        # The next dimensions of both sides that hold as much as one another.
        start, stop = i, j
        i, j = i + (i < len(given)), j + (j < len(wanted))
        while prod(given[start:i]) != prod(wanted[stop:j]):
            if prod(given[start:i]) < prod(wanted[stop:j]):
                i += 1
            else:
                j += 1
        out += _regrouped(r, node, given[start:i], wanted[stop:j], _in_factors(labels[0], r.inputs(node)[0])[start:i])
    return (_of_factors(out, r.output(node)),)


def _unflatten_like(r: Reading, node: Node, labels: Sequence[Labels]) -> Sequence[Labels]:
    """Tokens are as many as the map has places; of its channels any may go."""
    given, like = labels
    dim = counted(node.attrs["dim"], len(given))
    r.pin(node, given[dim], *like[2:])
    return ((*given[:dim], None, None, *given[dim + 1 :]),)


def _factors(x: TensorType) -> list[int]:
    """The sizes of dimensions; one of 12 times the batch size is two, the batch and 12."""
    return [f for d in x.shape for f in ((_BATCH, d.times) if isinstance(d, Batch) else (d,))]


def _in_factors(labels: Labels, x: TensorType) -> list[Label]:
    pairs = zip(x.shape, labels, strict=True)
    return [f for d, label in pairs for f in ((None, label) if isinstance(d, Batch) else (label,))]


def _of_factors(labels: Sequence[Label], x: TensorType) -> Labels:
    out, rest = [], list(labels)
    for d in x.shape:
        if isinstance(d, Batch):
            rest.pop(0)
        out.append(rest.pop(0))
    return tuple(out)


def _regrouped(
    r: Reading, node: Node, given: Sequence[int], wanted: Sequence[int], labels: Sequence[Label]
) -> list[Label]:
    """The labels of dimensions of the sizes ``wanted`` that dimensions of the sizes ``given`` are regrouped into."""
    if list(given) == list(wanted):
        return list(labels)
    cuts = sorted({prod(sizes[:n]) for sizes in (given, wanted) for n in range(len(sizes) + 1)})
    if all(label is None for label in labels):
        return [None] * len(wanted)
    if any(after % before for before, after in pairwise(cuts)):
        r.pin(node, *labels)
        return [None] * len(wanted)
    factors: list[tuple[int, Label]] = []
    for n, label in enumerate(labels):
        sizes = _between(cuts, prod(given[:n]), prod(given[: n + 1]))
        factors += zip(sizes, r.atoms.split(label, sizes), strict=True)
    out: list[Label] = []
    for n in range(len(wanted)):
        count = len(_between(cuts, prod(wanted[:n]), prod(wanted[: n + 1])))
        here, factors = factors[:count], factors[count:]
        out.append(merge([label for _, label in here], [size for size, _ in here]))
    return out


def _between(cuts: Sequence[int], start: int, stop: int) -> list[int]:
    """The factors that the cuts from ``start`` to ``stop`` leave."""
    inside = [cut for cut in cuts if start <= cut <= stop]
    return [after // before for before, after in pairwise(inside)]


RULES: Final[Mapping[str, Rule]] = {
    "frozen": _opaque,
    "constant": _constant,
    "linear": _linear,
    **dict.fromkeys(CONVOLUTIONS | TRANSPOSED, _convolution),
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "add": _elementwise,
    "mul": _elementwise,
    "sub": _elementwise,
    "div": _elementwise,
    "concat": _concat,
    "matmul": _matmul,
    "attention": _attention,
    **{f"{kind}_pool{sides}d": _window for kind in ("max", "avg") for sides in (1, 2, 3)},
    "adaptive_avg_pool2d": _window,
    "adaptive_max_pool2d": _window,
    "interpolate": _window,
    "interpolate_like": _window,
    "mean": _mean,
    "sum": _sum,
    "flatten": _reshape,
    "reshape": _reshape,
    "unflatten_like": _unflatten_like,
    "permute": _permute,
    "expand": _expand,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
}
"""The rule of every operation that does more than work on each element alone."""
