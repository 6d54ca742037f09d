"""The kernels that onnxruntime makes of a graph on a CPU with AVX-512: what is fused, blocked and reordered.

onnxruntime (1.32, full optimisation) folds batch norms and constant factors into the convolution before them, computes
activations and additions inside of it, and keeps images in blocks of 16 channels (NCHWc) as long as operations know
that layout; going into and out of it are kernels of their own. The rules here were read off its optimised graphs
(``tests/test_kernels.py`` compares the two on networks of the zoo): they are followed node by node, without building
anything, so that a search can ask thousands of times. Where a transpose goes that channels-last networks are full of is
not followed.

The blocked layout is one of images: convolutions and pools over one or three sides run in the plain one. They are
described by the sizes of those over two that do the same work: one side is an image of height 1, and of three the
first two are one height, window by window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from netgraft.errors import MeasureError
from netgraft.ir import Graph, Node, TensorType, Value
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED

from .twins import NOTHING, once

BLOCK: Final = 16
"""Channels in a block of the blocked layout."""
ALIGNED: Final = 4
"""Channels must be a multiple of it to be put into that layout."""


@dataclass(frozen=True)
class Kernel:
    """One kernel at batch 1, or the few that one operation becomes.

    ``kind`` and ``sizes`` say everything that its time is taken to depend on; ``nodes`` are the graph's nodes that it
    computes, in order. A reordering belongs to the node whose output it reorders.
    """

    kind: str
    sizes: tuple[int, ...]
    nodes: tuple[str, ...]

    @property
    def key(self) -> Key:
        """What tells kernels of different time apart."""
        return self.kind, self.sizes


Key = tuple[str, tuple[int, ...]]

NAMES: Final = {
    "conv": "inputs filters groups height width out_height out_width rows columns stride dilation added activation",
    "pool": "mean channels height width out_height out_width rows columns stride",
    "reorder": "channels pixels",
    "linear": "rows inputs outputs bias",
    "matmul": "batch rows inner columns",
    "attention": "heads queries keys width returned masked",
    "norm": "rows columns",
    "resize": "channels pixels out_pixels",
    "pointwise": "elements second",
    "copy": "elements_in elements_out parts run",
    "frozen": "elements_in elements_out",
}
"""What ``sizes`` are, by the family of a kind (the part before its first dot)."""

# Activations that a convolution computes itself: by onnxruntime's general fusion, and by that of the blocked layout.
_FUSED: Final = {"relu": 1, "relu6": 1, "clamp": 1, "leaky_relu": 1, "sigmoid": 2, "tanh": 2, "hardsigmoid": 1}
_FUSED_BLOCKED: Final = {"relu": 1, "sigmoid": 2, "tanh": 2, "hardswish": 2}
# What is computed on blocks as they are.
_ANY_LAYOUT: Final = frozenset({"relu", "sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "gelu"})
_GEMM_FUSED: Final = frozenset({"relu", "leaky_relu", "sigmoid", "tanh"})
_POOLS: Final = {
    **{f"max_pool{sides}d": 0 for sides in (1, 2, 3)},
    **{f"avg_pool{sides}d": 1 for sides in (1, 2, 3)},
    **{"adaptive_max_pool2d": 0, "adaptive_avg_pool2d": 1},
}
_COPIES: Final = frozenset(
    [
        *("concat", "flatten", "reshape", "permute", "expand", "split", "slice", "pad"),
        *("interpolate_like", "pixel_shuffle", "pixel_unshuffle"),
    ]
)
_POINTWISE: Final = frozenset(
    [
        *("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid"),
        *("softplus", "clamp", "sqrt", "pow", "exp", "add_scalar", "mul_scalar", "prelu", "add", "mul", "sub", "div"),
    ]
)


def kernels(graph: Graph) -> tuple[Kernel, ...]:
    """The kernels in an order in which they can run; counted once for a graph."""
    if "kernels" not in graph.notes:
        graph_once, twins = once(graph)
        found = _Engine(graph_once).run()
        if twins:  # the engine keeps the name of any of them
            found = [replace(k, nodes=(*(t for node in k.nodes for t in twins.get(node, ())), *k.nodes)) for k in found]
        graph.notes["kernels"] = tuple(found)
    kept: tuple[Kernel, ...] = graph.notes["kernels"]
    return kept


class _Engine:
    """Goes through a graph as onnxruntime's optimiser does, with what is known of every value on the way."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.same: dict[Value, Value] = {}  # an output that is another value under another name
        self.live = _live(graph)
        self.uses = Counter(graph.outputs)
        for node in graph:
            if node.id in self.live:
                self.uses.update(node.inputs)
        self.done: set[str] = set()  # computed inside of another node's kernel
        self.blocked: set[Value] = set()
        self.reordered: set[tuple[str, Value]] = set()
        self.convolution: dict[Value, int] = {}  # the kernel, by its number, whose output a value is
        self.kernels: dict[int, Kernel] = {}  # by their numbers, in the order in which they run
        self.added = 0

    def run(self) -> list[Kernel]:
        for node in self.graph:
            if node.id not in self.live:
                continue
            if node.op in NOTHING:
                if node.inputs:
                    self.rename(node.value(), node.inputs[0])
            elif node.id not in self.done:
                self.enter(node)
        for value in self.graph.outputs:
            self.plain(self.real(value))
        return list(self.kernels.values())

    # --- values ---

    def real(self, value: Value) -> Value:
        return self.same.get(value, value)

    def rename(self, new: Value, old: Value) -> None:
        self.same[new] = self.real(old)
        # Every use of the new name is one of the old.
        self.uses[self.real(old)] += self.uses[new] - 1

    def type(self, value: Value) -> TensorType:
        return self.graph.types[value]

    def only_user(self, value: Value) -> Node | None:
        """The only node that reads a value, if there is one and the value is no output."""
        while True:
            users = [user for user in self.graph.users.get(value, ()) if user.id in self.live]
            if len(users) != 1 or value in self.graph.outputs:
                return None
            if users[0].op not in NOTHING:
                return users[0] if users[0].inputs.count(value) == 1 else None
            value = users[0].value()

    def plain(self, value: Value) -> None:
        """The value is needed in the plain layout."""
        if value in self.blocked:
            self.reorder("out", value)

    def block(self, value: Value) -> None:
        """The value is needed in blocks."""
        if value not in self.blocked:
            self.reorder("in", value)

    def reorder(self, way: str, value: Value) -> None:
        if (way, value) not in self.reordered:
            self.reordered.add((way, value))
            _, channels, *size = self.type(value).concrete()
            self.add(Kernel(f"reorder.{way}", (channels, prod(size)), (str(value),)))

    def add(self, kernel: Kernel) -> int:
        number = self.added
        self.added += 1
        self.kernels[number] = kernel
        return number

    def emit(self, kind: str, sizes: Sequence[int], nodes: Sequence[Node], blocked: bool = False) -> None:
        """A kernel that computes the last of the nodes."""
        for node in nodes:
            self.done.add(node.id)
        out = nodes[-1].value()
        for node in nodes[:-1]:
            self.same[node.value()] = out
        if blocked:
            self.blocked.add(out)
        number = self.add(Kernel(kind, tuple(sizes), tuple(node.id for node in nodes)))
        if kind.startswith("conv."):
            self.convolution[out] = number

    def join(self, value: Value, node: Node, *, added: int = 0, activation: int = 0) -> None:
        """A node is computed within the convolution that gives ``value``, whose last two sizes say so."""
        old = self.kernels.pop(self.convolution[value])
        sizes = (*old.sizes[:-2], old.sizes[-2] or added, old.sizes[-1] or activation)
        # It runs when everything that the node reads is there: now.
        self.convolution[node.value()] = self.add(replace(old, sizes=sizes, nodes=(*old.nodes, node.id)))
        self.done.add(node.id)
        if value in self.blocked:
            self.blocked.add(node.value())

    def open_convolution(self, value: Value, *sizes: int) -> bool:
        """Whether a convolution gives the value, nothing else reads it, and these of its last sizes are still 0."""
        at = self.convolution.get(value)
        return at is not None and self.uses[value] == 1 and not any(self.kernels[at].sizes[size] for size in sizes)

    # --- nodes ---

    def enter(self, node: Node) -> None:
        inputs = [self.real(value) for value in node.inputs]
        match node.op:
            case "conv2d":
                self.convolve(node, inputs[0])
            case op if op in CONVOLUTIONS:
                self.plain(inputs[0])
                group = self.followers(node)
                self.emit("conv.plain", self.convolution_sizes(node, _FUSED.get(group[-1].op, 0)), group)
            case op if op in TRANSPOSED:
                self.plain(inputs[0])
                group = self.followers(node)
                self.emit("conv.transposed", self.convolution_sizes(node, 0), group)
            case "pad" if self.is_padding_of_a_convolution(node):
                self.rename(node.value(), inputs[0])
                self.done.add(node.id)
            case "add" | "mul":
                self.combine(node, inputs)
            case "batch_norm":
                self.normalise(node, inputs[0])
            case op if op in _ANY_LAYOUT and inputs[0] in self.blocked:
                if op in _FUSED_BLOCKED and self.open_convolution(inputs[0], -1):
                    self.join(inputs[0], node, activation=_FUSED_BLOCKED[op])
                else:
                    self.emit(f"pointwise.{op}", (self.elements(node.value()), 0), [node], blocked=True)
            case op if op in _POOLS:
                self.pool(node, inputs[0])
            case "interpolate":
                self.resize(node, inputs[0])
            case "permute" if self.is_last(node, inputs[0]):
                pass
            case "concat" if self.is_blocked_concat(node, inputs):
                self.emit("copy.concat", self.copied(node), [node], blocked=True)
            case _:
                for value in inputs:
                    self.plain(value)
                self.compute(node)

    def is_last(self, node: Node, given: Value) -> bool:
        """Whether the node only puts channels last (or back), and a reordering does it on the way."""
        dims, value = tuple(node.attrs["dims"]), node.value()
        if dims == (0, 2, 3, 1) and given in self.blocked:
            _, height, width, channels = self.type(value).concrete()
            self.add(Kernel("reorder.out", (channels, height * width), (str(value),)))
            return True
        after = self.only_user(value)
        if dims == (0, 3, 1, 2) and after is not None and after.op == "conv2d":
            inputs, filters = (self.graph.types[v].concrete()[1] for v in (value, after.value()))
            if _way(inputs, filters, after.attrs["groups"], after.attrs["kernel"]) not in ("conv.plain", "conv.direct"):
                self.plain(given)
                self.add(Kernel("reorder.in", (inputs, prod(self.type(value).concrete()[2:])), (str(given),)))
                self.blocked.add(value)
                return True
        return False

    def compute(self, node: Node) -> None:
        """Everything that has one layout only."""
        types = self.graph.input_types(node)
        out = self.graph.output_types(node)[0].concrete()
        match node.op:
            case "linear":
                rows, wide = types[0].numel() // types[0].concrete()[-1], types[0].concrete()[-1]
                after = self.only_user(node.value())
                if types[0].rank == 2:
                    group = [node, after] if after is not None and after.op in _GEMM_FUSED else [node]
                    self.emit("linear.gemm", (rows, wide, out[-1], 0), group)
                else:
                    bias = "bias" in node.weights and not (after is not None and after.op == "gelu")
                    self.emit("linear.matmul", (rows, wide, out[-1], int(bias)), [node])
            case "matmul":
                self.emit("matmul", (prod(out[:-2]), out[-2], types[0].concrete()[-1], out[-1]), [node])
            case "attention":
                query, key = types[0].concrete(), types[1].concrete()
                masked = int(bool(node.attrs["causal"]) or len(types) == 4)
                sizes = (prod(query[:-2]), query[-2], key[-2], query[-1], out[-1], masked)
                self.emit("attention", sizes, [node])
            case "layer_norm":
                columns = prod(node.attrs["shape"])
                self.emit("norm.layer", (prod(out) // columns, columns), [node])
            case "group_norm":
                self.emit("norm.group", (node.attrs["groups"], prod(out) // node.attrs["groups"]), [node])
            case "softmax" | "log_softmax":
                columns = out[node.attrs["dim"]]
                last = node.attrs["dim"] in (-1, len(out) - 1)
                self.emit(f"norm.{node.op}{'' if last else '.across'}", (prod(out) // columns, columns), [node])
            case "mean" | "sum":
                self.emit(f"norm.{node.op}", (prod(out), types[0].numel() // max(1, prod(out))), [node])
            case "frozen":
                self.emit(
                    f"frozen.{node.attrs['target']}",
                    (sum(t.numel() for t in types), sum(t.numel() for t in self.graph.output_types(node))),
                    [node],
                )
            case op if op in _POINTWISE:
                self.pointwise(node, node.value())
            case "unflatten_like":  # a reshape: of the map it takes the size, which is known
                self.emit("copy.reshape", (prod(out), prod(out), 1, 0), [node])
            case op if op in _COPIES:
                self.emit(f"copy.{op}", self.copied(node), [node])
            case op:
                raise MeasureError(f"{node.id}: no latency table says what {op} takes; measure the network instead")

    def pointwise(self, node: Node, result: Value) -> None:
        """``second`` is the number of elements of the smallest tensor that goes in, where there are several."""
        sizes = [type_.numel() for type_ in self.graph.input_types(node)]
        total = self.elements(result) * max(1, len(sizes) - 1)
        self.emit(f"pointwise.{node.op}", (total, min(sizes) if len(sizes) > 1 else 0), [node])

    def copied(self, node: Node) -> tuple[int, ...]:
        """Elements read and written, the number of tensors, and how many elements lie together on both sides."""
        types, outs = self.graph.input_types(node), self.graph.output_types(node)
        shape = outs[0].concrete()
        run = prod(shape)
        match node.op:
            case "permute":
                kept = 0
                dims = node.attrs["dims"]
                while kept < len(shape) and dims[len(shape) - 1 - kept] % len(shape) == len(shape) - 1 - kept:
                    kept += 1
                run = prod(shape[len(shape) - kept :])
            case "concat" | "split" | "slice":
                smallest = min(types + outs, key=TensorType.numel).concrete()
                run = prod(smallest[node.attrs["dim"] % len(shape) :])
            case "reshape" | "flatten":
                run = 0  # nothing is moved
            case "pad" | "expand" | "pixel_shuffle" | "pixel_unshuffle":
                run = shape[-1]
        return (
            sum(type_.numel() for type_ in types),
            sum(type_.numel() for type_ in outs),
            max(len(types), len(outs)),
            run,
        )

    def elements(self, value: Value) -> int:
        return self.type(value).numel()

    # --- convolutions ---

    def followers(self, node: Node) -> list[Node]:
        """A convolution, what is folded into its weights, and the activation that is fused to it in any layout."""
        group = [node]
        while (after := self.only_user(group[-1].value())) is not None:
            if after.op == "batch_norm" or (after.op == "mul_scalar" and node.op in CONVOLUTIONS):
                group.append(after)
            elif after.op in _FUSED and node.op in CONVOLUTIONS:
                return [*group, after]
            else:
                break
        return group

    def convolution_sizes(self, node: Node, activation: int) -> tuple[int, ...]:
        _, inputs, *size = self.graph.input_types(node)[0].concrete()
        _, filters, *out = self.graph.output_types(node)[0].concrete()
        stride, dilation = node.attrs["stride"], node.attrs["dilation"]
        return (
            *(inputs, filters, node.attrs["groups"], *_image(size), *_image(out)),
            *(*_image(node.attrs["kernel"]), max(stride), max(dilation), 0, activation),
        )

    def convolve(self, node: Node, given: Value) -> None:
        group = self.followers(node)
        sizes = self.convolution_sizes(node, _FUSED.get(group[-1].op, 0))
        inputs, filters, groups = sizes[:3]
        kind = _way(inputs, filters, groups, sizes[7:9])
        if kind in ("conv.plain", "conv.direct"):
            self.plain(given)
        else:
            self.block(given)
        self.emit(kind, sizes, group, blocked=kind != "conv.plain")

    def normalise(self, node: Node, given: Value) -> None:
        if given not in self.blocked:
            _, channels, *size = self.type(given).concrete()
            self.emit("norm.batch", (channels, prod(size)), [node])
            return
        _, channels, height, width = self.type(given).concrete()
        sizes = (channels, channels, channels, height, width, height, width, 1, 1, 1, 1, 0, 0)
        self.emit("conv.depthwise", sizes, [node], blocked=True)

    def is_padding_of_a_convolution(self, node: Node) -> bool:
        after, pads = self.only_user(node.value()), node.attrs["pads"]
        zeros = node.attrs["mode"] == "constant" and not node.attrs["value"] and min(pads) >= 0 and len(pads) <= 4
        return zeros and after is not None and after.op == "conv2d"

    def combine(self, node: Node, inputs: list[Value]) -> None:
        """Additions and products."""
        first = self.type(inputs[0])
        alike = all(self.type(value) == first for value in inputs)
        if len(inputs) == 2 and alike and all(value in self.blocked for value in inputs):
            fitting = [value for value in inputs if node.op == "add" and self.open_convolution(value, -2, -1)]
            if fitting and inputs[0] != inputs[1]:
                self.join(fitting[0], node, added=1)
            else:
                self.emit(f"pointwise.{node.op}", (first.numel(), first.numel()), [node], blocked=True)
            return
        for value in inputs:
            self.plain(value)
        after = self.only_user(node.value())
        images = first.rank == 4
        if node.op == "add" and len(inputs) == 2 and alike and images and after is not None and after.op == "relu":
            # onnxruntime does this for convolutions in the plain layout only together with the activation.
            for value in inputs:
                if value not in self.blocked and self.open_convolution(value, -2, -1):
                    self.join(value, node, added=1)
                    self.join(node.value(), after, activation=1)
                    return
        self.pointwise(node, node.value())

    # --- pools and the like ---

    def pool(self, node: Node, given: Value) -> None:
        _, channels, *size = self.type(given).concrete()
        out = self.graph.output_types(node)[0].concrete()[2:]
        if node.op.startswith("adaptive"):
            kernel = tuple(-(-have // n) for have, n in zip(size, out, strict=True))
            stride = kernel
            even = all(have % n == 0 for have, n in zip(size, out, strict=True))
        else:
            kernel, stride, even = node.attrs["kernel"], node.attrs["stride"], True
        blocked = len(size) == 2 and channels % BLOCK == 0 and even
        (self.block if blocked else self.plain)(given)
        kind = "pool.blocked" if blocked else "pool.plain" if even else "pool.uneven"
        if even and prod(out) == 1 and kernel == tuple(size):
            kind += ".global"
        sizes = (_POOLS[node.op], channels, *_image(size), *_image(out), *_image(kernel), max(stride))
        self.emit(kind, sizes, [node], blocked=blocked)

    def resize(self, node: Node, given: Value) -> None:
        _, channels, *have = self.type(given).concrete()
        want = self.graph.output_types(node)[0].concrete()[2:]
        whole = all(n % h == 0 for h, n in zip(have, want, strict=True))
        mode: str = node.attrs["mode"]
        blocked = given in self.blocked and whole and mode in ("nearest", "bilinear") and not node.attrs["antialias"]
        if not blocked:
            self.plain(given)
        kind = f"resize.{mode}" + (".blocked" if blocked else "" if whole else ".uneven")
        self.emit(kind, (channels, prod(have), prod(want)), [node], blocked=blocked)

    def is_blocked_concat(self, node: Node, inputs: list[Value]) -> bool:
        if self.graph.output_types(node)[0].rank != 4 or node.attrs["dim"] not in (1, -3):
            return False
        return all(v in self.blocked and self.type(v).concrete()[1] % BLOCK == 0 for v in inputs)


def _image(sizes: Sequence[int]) -> tuple[int, int]:
    """One, two or three sides, or a window over them, as a height and a width."""
    *others, width = sizes
    return prod(others), width


def _way(inputs: int, filters: int, groups: int, window: Sequence[int]) -> str:
    """The kind of a convolution: by what onnxruntime can do in blocks."""
    if groups > 1 and inputs == filters == groups:
        return "conv.plain" if inputs % ALIGNED else "conv.depthwise"
    if groups > 1:
        fits = inputs // groups % BLOCK == 0 and filters // groups % BLOCK == 0
        return "conv.grouped" if fits else "conv.plain"
    if inputs < BLOCK:
        return "conv.direct"
    if inputs % ALIGNED:
        return "conv.plain"
    return "conv.pointwise" if tuple(window) == (1, 1) else "conv.blocked"


def _live(graph: Graph) -> frozenset[str]:
    """The nodes that an output depends on."""
    live = {value.node for value in graph.outputs}
    for node in reversed(graph.nodes):
        if node.id in live:
            live.update(value.node for value in node.inputs)
    return frozenset(live)
