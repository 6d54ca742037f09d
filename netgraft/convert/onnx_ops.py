"""The one table from our ops to ONNX's, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np

from netgraft.convert.onnx_foreign import is_foreign
from netgraft.convert.onnx_frozen import write_foreign, write_frozen
from netgraft.convert.onnx_writer import NUMPY, ONNX_DTYPES, Writer
from netgraft.ir import Batch, DType, Graph, Node, TensorType
from netgraft.ir.shapes import axis, window

OPSET: Final = 18
"""Files are of this opset, unless they hold one of :data:`NEWER`: from 19 on onnxruntime takes several times as long
for means over windows in the plain layout, and torch's exporter writes this one without converting.
"""
NEWER: Final = {"gelu": 20}
"""Operations that came later."""


@dataclass(frozen=True, slots=True)
class Site:
    """A node to be written: the ONNX names and types of its inputs ``x``, and the types of its outputs."""

    node: Node
    x: tuple[str, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]

    def __getitem__(self, attr: str) -> Any:
        return self.node.attrs[attr]


Rule = Callable[[Writer, Site], str | list[str]]
"""Writes a node and returns the names of its outputs."""


def write(writer: Writer, node: Node, graph: Graph) -> None:
    """Writes one node of the graph, whose inputs are written already."""
    writer.begin(node)
    since = len(writer.nodes)
    names = tuple(writer.values[value] for value in node.inputs)
    site = Site(node, names, graph.input_types(node), graph.output_types(node))
    results = RULES[node.op](writer, site)
    writer.finish(node, [results] if isinstance(results, str) else results, since)


def _simple(op_type: str, **attrs: str) -> Rule:
    """One ONNX operation of the inputs; ``attrs`` gives our attribute's name for ONNX's."""
    return lambda w, s: w.add(op_type, *s.x, **{theirs: s[ours] for theirs, ours in attrs.items()})


def _whole(dims: Sequence[int | Batch]) -> list[int]:
    """Sizes that the shape rules promise not to be the batch's."""
    return [d for d in dims if isinstance(d, int)]


def _same(w: Writer, s: Site) -> str:
    return s.x[0]


# Layers


def _bias(w: Writer, s: Site) -> list[str]:
    return [w.weight(s.node, "bias")] if "bias" in s.node.weights else []


def _windows(s: Site, *names: str) -> dict[str, Any]:
    return {_WINDOW_NAMES[name]: list(s[name]) for name in names}


_WINDOW_NAMES = {"kernel": "kernel_shape", "stride": "strides", "dilation": "dilations"}


def _convolution(op_type: str) -> Rule:
    def build(w: Writer, s: Site) -> str:
        attrs = _windows(s, "kernel", "stride", "dilation") | {"group": s["groups"], "pads": [*s["padding"]] * 2}
        if "output_padding" in s.node.attrs:
            attrs["output_padding"] = list(s["output_padding"])
        return str(w.add(op_type, s.x[0], w.weight(s.node, "weight"), *_bias(w, s), **attrs))

    return build


def _linear(w: Writer, s: Site) -> str:
    x, bias = s.x[0], _bias(w, s)
    if s.inputs[0].rank == 2:
        return str(w.add("Gemm", x, w.weight(s.node, "weight"), *bias, transB=1))
    product = str(w.add("MatMul", x, w.weight(s.node, "weight", transposed=True)))
    return str(w.add("Add", product, *bias)) if bias else product


def _batch_norm(w: Writer, s: Site) -> str:
    channels = s.inputs[0].shape[1]
    scale, shift = _affine(w, s, (channels,))
    kept = [w.weight(s.node, role) for role in ("running_mean", "running_var")]
    return str(w.add("BatchNormalization", s.x[0], scale, shift, *kept, epsilon=s["eps"]))


def _affine(w: Writer, s: Site, shape: tuple[Any, ...]) -> tuple[str, str]:
    """The weight and bias of a normalisation, or ones and zeros."""
    kind = NUMPY[s.inputs[0].dtype]
    scale = w.weight(s.node, "weight") if "weight" in s.node.weights else w.constant(np.ones(shape), kind)
    return scale, w.weight(s.node, "bias") if "bias" in s.node.weights else w.constant(np.zeros(shape), kind)


def _group_norm(w: Writer, s: Site) -> str:
    # GroupNormalization of these opsets has a scale a group, and is deprecated.
    (x,), groups, kind = s.inputs, s["groups"], NUMPY[s.inputs[0].dtype]
    grouped = w.add("Reshape", s.x[0], w.constant([0, groups, -1]))
    ones, zeros = w.constant(np.ones(groups), kind), w.constant(np.zeros(groups), kind)
    normal = w.add("InstanceNormalization", grouped, ones, zeros, epsilon=s["eps"])
    y = w.add("Reshape", normal, w.shape(x.shape))
    if s["affine"]:
        shape = (*_whole(x.shape[1:2]), *[1] * (x.rank - 2))
        y = w.add("Mul", y, w.weight(s.node, "weight", shape))
        y = w.add("Add", y, w.weight(s.node, "bias", shape))
    return str(y)


def _layer_norm(w: Writer, s: Site) -> str:
    scale, shift = _affine(w, s, s["shape"])
    given = (scale, shift) if s["bias"] else (scale,)
    return str(w.add("LayerNormalization", s.x[0], *given, axis=-len(s["shape"]), epsilon=s["eps"]))


def _prelu(w: Writer, s: Site) -> str:
    shape = (s["parameters"], *[1] * max(0, s.inputs[0].rank - 2))
    return str(w.add("PRelu", s.x[0], w.weight(s.node, "weight", shape if s["parameters"] > 1 else (1,))))


# Pointwise


def _relu6(w: Writer, s: Site) -> str:
    return str(w.add("Clip", s.x[0], w.scalar(0, s.inputs[0]), w.scalar(6, s.inputs[0])))


def _clamp(w: Writer, s: Site) -> str:
    low, high = ("" if s[b] is None else w.scalar(s[b], s.inputs[0]) for b in ("min", "max"))
    if not low and not high:
        return s.x[0]
    return str(w.add("Clip", s.x[0], low, high) if high else w.add("Clip", s.x[0], low))


def _silu(w: Writer, s: Site) -> str:
    return str(w.add("Mul", s.x[0], w.add("Sigmoid", s.x[0])))


def _hardsigmoid(w: Writer, s: Site) -> str:
    return str(w.add("HardSigmoid", s.x[0], alpha=1 / 6, beta=0.5))


def _softplus(w: Writer, s: Site) -> str:
    x, beta, threshold = s.x[0], s["beta"], s["threshold"]
    scaled = x if beta == 1 else w.add("Mul", x, w.scalar(beta, s.inputs[0]))
    y = w.add("Softplus", scaled)
    y = y if beta == 1 else w.add("Div", y, w.scalar(beta, s.inputs[0]))
    # From 20 on, softplus and its argument are the same number in single precision.
    if threshold >= 20 and s.inputs[0].dtype is not DType.F64:
        return str(y)
    return str(w.add("Where", w.add("Greater", scaled, w.scalar(threshold, s.inputs[0])), x, y))


def _with_number(op_type: str, attr: str) -> Rule:
    return lambda w, s: w.add(op_type, s.x[0], w.scalar(s[attr], s.inputs[0]))


def _join(op_type: str) -> Rule:
    def build(w: Writer, s: Site) -> str:
        names = [
            x if type_.dtype is s.outputs[0].dtype else w.add("Cast", x, to=ONNX_DTYPES[s.outputs[0].dtype])
            for x, type_ in zip(s.x, s.inputs, strict=True)
        ]
        return reduce(lambda a, b: str(w.add(op_type, a, b)), names)

    return build


def _attention(w: Writer, s: Site) -> str:
    query, key, _ = s.inputs[:3]
    (wide,) = _whole(query.shape[-1:])
    scale = s["scale"] if s["scale"] is not None else wide**-0.5
    turned = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
    scores = w.add("MatMul", w.add("Mul", s.x[0], w.scalar(scale, query)), w.add("Transpose", s.x[1], perm=turned))
    never = w.scalar(-np.inf, query)
    if s["causal"]:
        seen = np.tri(*_whole((query.shape[-2], key.shape[-2])), dtype=np.bool_)
        scores = w.add("Where", w.constant(seen, np.bool_), scores, never)
    if len(s.x) == 4:
        boolean = s.inputs[3].dtype is DType.BOOL
        scores = w.add("Where", s.x[3], scores, never) if boolean else w.add("Add", scores, s.x[3])
    return str(w.add("MatMul", w.add("Softmax", scores, axis=-1), s.x[2]))


# Pooling and reductions


def _pool_pads(s: Site) -> tuple[list[int], list[int]]:
    """The padding of a pool, before and after, and how much the last window of ``ceil_mode`` reaches beyond it."""
    extra = []
    for i, size in enumerate(_whole(s.inputs[0].shape[2:])):
        k, stride, pad = s["kernel"][i], s["stride"][i], s["padding"][i]
        dilation = s["dilation"][i] if "dilation" in s.node.attrs else 1
        count = window(size, k, stride, pad, dilation, s["ceil_mode"])
        extra.append(max(0, (count - 1) * stride + dilation * (k - 1) + 1 - size - 2 * pad))
    return [*s["padding"], *s["padding"]], extra


def _with_rest(pads: list[int], extra: list[int]) -> list[int]:
    """Paddings before and after, with what the last window needs beyond them."""
    half = len(extra)
    return [*pads[:half], *(p + e for p, e in zip(pads[half:], extra, strict=True))]


def _max_pool(w: Writer, s: Site) -> str:
    # Written out, because engines differ in what ceil_mode means.
    pads, extra = _pool_pads(s)
    pads = _with_rest(pads, extra)
    return str(w.add("MaxPool", s.x[0], pads=pads, **_windows(s, "kernel", "stride", "dilation")))


def _avg_pool(w: Writer, s: Site) -> str:
    pads, extra = _pool_pads(s)
    x, counts = s.x[0], s["count_include_pad"]
    if any(extra) and counts and any(pads):
        # The padding counts, what ceil_mode adds to it does not.
        around = w.constant([0, 0, *s["padding"], 0, 0, *s["padding"]])
        x, pads, counts = w.add("Pad", x, around, w.scalar(0, s.inputs[0])), [0] * len(pads), False
    pads = _with_rest(pads, extra)
    counted = int(counts and not any(extra))
    return str(w.add("AveragePool", x, pads=pads, count_include_pad=counted, **_windows(s, "kernel", "stride")))


def _adaptive_pool(mean: bool) -> Rule:
    def build(w: Writer, s: Site) -> str:
        x, size, have = s.x[0], s["size"], _whole(s.inputs[0].shape[2:])
        if tuple(size) == (1, 1):
            return str(w.add("GlobalAveragePool" if mean else "GlobalMaxPool", x))
        if all(h % n == 0 for h, n in zip(have, size, strict=True)):
            kernel = [h // n for h, n in zip(have, size, strict=True)]
            return str(w.add("AveragePool" if mean else "MaxPool", x, kernel_shape=kernel, strides=kernel))
        for at, (h, n) in enumerate(zip(have, size, strict=True), 2):
            x = _uneven_pool(w, s, x, at, h, n, mean)
        return x

    return build


def _uneven_pool(w: Writer, s: Site, x: str, at: int, have: int, size: int, mean: bool) -> str:
    """Along the dimension ``at``, windows of different lengths: i*h//n to the ceiling of (i+1)*h/n, as torch has it."""
    bounds = [(i * have // size, -(-(i + 1) * have // size)) for i in range(size)]
    parts = []
    for start, stop in bounds:
        part = w.add("Slice", x, w.constant([start]), w.constant([stop]), w.constant([at]))
        parts.append(w.add("ReduceMean" if mean else "ReduceMax", part, w.constant([at]), keepdims=1))
    return str(w.add("Concat", *parts, axis=at))


def _reduction(op_type: str) -> Rule:
    def build(w: Writer, s: Site) -> str:
        if not s["dims"]:
            return s.x[0]
        dims = [axis(d, s.inputs[0].rank) for d in s["dims"]]
        return str(w.add(op_type, s.x[0], w.constant(dims), keepdims=int(s["keepdim"])))

    return build


# Layout


def _reshape(w: Writer, s: Site) -> str:
    empty = 1 if 0 in s.outputs[0].shape else None
    return str(w.add("Reshape", s.x[0], w.shape(s.outputs[0].shape), allowzero=empty))


def _flatten(w: Writer, s: Site) -> str:
    whole = s.inputs[0].rank > 1 and s["start"] == 1 and axis(s["end"], s.inputs[0].rank) == s.inputs[0].rank - 1
    return str(w.add("Flatten", s.x[0], axis=1)) if whole else _reshape(w, s)


def _permute(w: Writer, s: Site) -> str:
    return str(w.add("Transpose", s.x[0], perm=[axis(d, s.inputs[0].rank) for d in s["dims"]]))


def _expand(w: Writer, s: Site) -> str:
    return str(w.add("Expand", s.x[0], w.size(s.outputs[0].shape)))


def _split(w: Writer, s: Site) -> str | list[str]:
    if len(s.outputs) == 1:
        return s.x[0]
    found = w.add("Split", s.x[0], w.constant(s["sizes"]), outputs=len(s.outputs), axis=s["dim"])
    return list(found)


def _slice(w: Writer, s: Site) -> str:
    bounds = (w.constant([s[name]]) for name in ("start", "stop", "dim", "step"))
    return str(w.add("Slice", s.x[0], *bounds))


def _pad(w: Writer, s: Site) -> str:
    rank, pads = s.inputs[0].rank, s["pads"]
    before, after = [0] * rank, [0] * rank
    for i in range(len(pads) // 2):
        before[-1 - i], after[-1 - i] = pads[2 * i : 2 * i + 2]
    mode = {"replicate": "edge", "circular": "wrap"}.get(s["mode"], s["mode"])
    value = (w.scalar(s["value"], s.inputs[0]),) if mode == "constant" else ()
    return str(w.add("Pad", s.x[0], w.constant(before + after), *value, mode=mode))


def _interpolate(w: Writer, s: Site) -> str:
    mode: str = s["mode"]
    attrs: dict[str, Any]
    if mode.startswith("nearest"):
        exact = mode == "nearest-exact"
        attrs = {"mode": "nearest", "nearest_mode": "round_prefer_ceil" if exact else "floor"}
        attrs["coordinate_transformation_mode"] = "half_pixel" if exact else "asymmetric"
    else:
        attrs = {"mode": {"bilinear": "linear", "bicubic": "cubic"}[mode]}
        attrs["coordinate_transformation_mode"] = "align_corners" if s["align_corners"] else "half_pixel"
        if mode == "bicubic":
            attrs["cubic_coeff_a"] = -0.5 if s["antialias"] else -0.75
        if s["antialias"]:
            attrs |= {"antialias": 1, "exclude_outside": 1}
    if s.node.attrs.get("scale") is not None:
        return str(w.add("Resize", s.x[0], "", w.constant([1, 1, *s["scale"]], np.float32), **attrs))
    have, want = _whole(s.inputs[0].shape[2:]), _whole(s.outputs[0].shape[2:])
    factors = [n / h for h, n in zip(have, want, strict=True)]
    if all(f == int(f) for f in factors):
        return str(w.add("Resize", s.x[0], "", w.constant([1, 1, *factors], np.float32), **attrs))
    return str(w.add("Resize", s.x[0], "", "", w.constant(want), axes=[2, 3], **attrs))


def _pixel_shuffle(w: Writer, s: Site) -> str:
    return str(w.add("DepthToSpace", s.x[0], blocksize=s["factor"], mode="CRD"))


def _pixel_unshuffle(w: Writer, s: Site) -> str:
    # SpaceToDepth orders the channels otherwise.
    (n, *rest), r = s.inputs[0].shape, s["factor"]
    c, h, wide = _whole(rest)
    blocks = (n, c, h // r, r, wide // r, r)
    apart = w.add("Transpose", w.add("Reshape", s.x[0], w.shape(blocks)), perm=[0, 1, 3, 5, 2, 4])
    return str(w.add("Reshape", apart, w.shape(s.outputs[0].shape)))


def _constant(w: Writer, s: Site) -> str:
    return w.weight(s.node, "value")


def _frozen(w: Writer, s: Site) -> list[str]:
    if is_foreign(s.node.attrs):
        return write_foreign(w, s.node, s.x)
    return list(write_frozen(w, s.node, s.x, s.inputs, opset_of(w.graph)))


def opset_of(graph: Graph) -> int:
    """The lowest opset, from :data:`OPSET` on, that has all operations of a graph that are none of ONNX's already."""
    return max([OPSET, *(NEWER.get(node.op, OPSET) for node in graph)])


def _concat(w: Writer, s: Site) -> str:
    return str(w.add("Concat", *s.x, axis=s["dim"]))


RULES: Final[Mapping[str, Rule]] = {
    **{f"conv{n}d": _convolution("Conv") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution("ConvTranspose") for n in (1, 2, 3)},
    "linear": _linear,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
    "constant": _constant,
    "identity": _same,
    "relu": _simple("Relu"),
    "relu6": _relu6,
    "leaky_relu": _simple("LeakyRelu", alpha="slope"),
    "elu": _simple("Elu", alpha="alpha"),
    "gelu": _simple("Gelu", approximate="approximate"),
    "silu": _silu,
    "mish": _simple("Mish"),
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
    "hardswish": _simple("HardSwish"),
    "hardsigmoid": _hardsigmoid,
    "softplus": _softplus,
    "clamp": _clamp,
    "sqrt": _simple("Sqrt"),
    "pow": _with_number("Pow", "exponent"),
    "exp": _simple("Exp"),
    "add_scalar": _with_number("Add", "value"),
    "mul_scalar": _with_number("Mul", "value"),
    "softmax": _simple("Softmax", axis="dim"),
    "log_softmax": _simple("LogSoftmax", axis="dim"),
    "dropout": _same,
    "dropout2d": _same,
    "drop_path": _same,
    "add": _join("Add"),
    "mul": _join("Mul"),
    "sub": _join("Sub"),
    "div": _join("Div"),
    "concat": _concat,
    "matmul": _simple("MatMul"),
    "attention": _attention,
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    "adaptive_avg_pool2d": _adaptive_pool(mean=True),
    "adaptive_max_pool2d": _adaptive_pool(mean=False),
    "mean": _reduction("ReduceMean"),
    "sum": _reduction("ReduceSum"),
    "flatten": _flatten,
    "reshape": _reshape,
    "unflatten_like": _reshape,
    "permute": _permute,
    "expand": _expand,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "interpolate": _interpolate,
    "interpolate_like": _interpolate,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "frozen": _frozen,
}
