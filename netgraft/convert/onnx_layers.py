"""ONNX's layers in our words: convolutions, products with weights, normalisations, pools and resizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from netgraft.convert.einsum import Layer, Shape, as_layer, einsum, permuted, product
from netgraft.convert.onnx_known import Array
from netgraft.convert.onnx_reading import Call, Rule, Untranslatable
from netgraft.ir import Value
from netgraft.ir.shapes import window

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Before and after, of height and width."""


def sizes(call: Call, value: Value) -> tuple[int, int]:
    """Height and width of an image."""
    shape = call.type(value).shape
    if len(shape) != 4 or not all(isinstance(d, int) for d in shape[1:]):
        raise Untranslatable(f"{call.node.op_type} of {call.type(value)}, which is no image")
    _, _, h, w = shape
    assert isinstance(h, int) and isinstance(w, int)
    return h, w


def _pair(call: Call, name: str, default: int = 1) -> tuple[int, int]:
    found = call.attrs.get(name, [default, default])
    if len(found) != 2:
        raise Untranslatable(f"{name} {found} in two dimensions")
    return int(found[0]), int(found[1])


def _pads(
    call: Call, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pads:
    auto = call.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            less, more = total // 2, total - total // 2
            found.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return found[0], found[1]
    given = call.attrs.get("pads", [0, 0, 0, 0]) if auto == "NOTSET" else [0, 0, 0, 0]
    if len(given) != 4:
        raise Untranslatable(f"pads {given} in two dimensions")
    return (given[0], given[2]), (given[1], given[3])


def _padded(call: Call, x: Value, pads: Pads, value: float = 0.0) -> tuple[Value, tuple[int, int]]:
    """What a layer reads, and the padding that it does itself; padding that differs before and after comes first."""
    (top, bottom), (left, right) = pads
    if top == bottom >= 0 and left == right >= 0:
        return x, (top, left)
    return call.emit("pad", x, at="pad", pads=(left, right, top, bottom), value=value), (0, 0)


def _floating(array: Array) -> Array:
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise Untranslatable(f"weights of type {array.dtype}")
    return array


def _bias(call: Call, index: int, channels: int, weights: dict[str, str]) -> bool:
    """Adds the bias that an input gives to ``weights``, if there is one."""
    if not call.has(index):
        return False
    if call.constant(index).shape != (channels,):
        raise Untranslatable(f"a bias of shape {call.constant(index).shape}")
    weights["bias"] = call.weight(index)
    return True


def _kernel(call: Call) -> Array:
    kernel = _floating(call.constant(1))
    if kernel.ndim != 4:
        raise Untranslatable(f"a kernel of shape {kernel.shape}")
    return kernel


def _conv(call: Call) -> Value:
    x = call.value(0)
    if call.type(x).rank in (3, 5):
        return _conv_otherwise(call, x)
    kernel, size = _kernel(call), sizes(call, x)
    out, _, *window_ = kernel.shape
    stride, dilation = _pair(call, "strides"), _pair(call, "dilations")
    pads = _pads(call, size, window_, stride, dilation)
    weights: dict[str, str] = {"weight": ""}
    bias = _bias(call, 2, out, weights)
    weights["weight"] = call.weight(1)
    x, padding = _padded(call, x, pads)
    return call.emit(
        "conv2d",
        x,
        weights=weights,
        out_channels=out,
        kernel=tuple(window_),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=call.attrs.get("group", 1),
        bias=bias,
    )


def _conv_otherwise(call: Call, x: Value) -> Value:
    """In one or three dimensions; by PyTorch's operation, with the weights as inputs, where these are computed."""
    n = call.type(x).rank - 2
    pads = call.attrs.get("pads", [0] * 2 * n)
    if pads[:n] != pads[n:] or call.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        raise Untranslatable("a convolution whose padding differs before and after")
    if call.is_known(1):
        kernel, weights = _floating(call.constant(1)), {"weight": ""}
        has_bias = _bias(call, 2, len(kernel), weights)
        weights["weight"] = call.weight(1)
        return call.emit(
            f"conv{n}d",
            x,
            weights=weights,
            out_channels=len(kernel),
            kernel=kernel.shape[2:],
            stride=tuple(call.attrs.get("strides", [1] * n)),
            padding=tuple(pads[:n]),
            dilation=tuple(call.attrs.get("dilations", [1] * n)),
            groups=call.attrs.get("group", 1),
            bias=has_bias,
        )
    values = [x, call.value(1), *([call.value(2)] if call.has(2) else [])]
    windows = [tuple(call.attrs.get("strides", [1] * n)), tuple(pads[:n]), tuple(call.attrs.get("dilations", [1] * n))]
    bias = ("input", 2) if call.has(2) else None
    group = call.attrs.get("group", 1)
    return call.torch(f"aten.conv{n}d.default", ("input", 0), ("input", 1), bias, *windows, group, inputs=values)


def _conv_transpose(call: Call) -> Value:
    x, kernel = call.value(0), _kernel(call)
    size, groups = sizes(call, x), call.attrs.get("group", 1)
    _, out, *k = kernel.shape
    stride, dilation, extra = _pair(call, "strides"), _pair(call, "dilations"), _pair(call, "output_padding", 0)
    auto = call.attrs.get("auto_pad", "NOTSET")
    full = [(n - 1) * s + d * (w - 1) + 1 for n, s, d, w in zip(size, stride, dilation, k, strict=True)]
    if auto.startswith("SAME") or "output_shape" in call.attrs:
        wanted = call.attrs.get("output_shape", [n * s for n, s in zip(size, stride, strict=True)])[-2:]
        totals = [f + e - w for f, e, w in zip(full, extra, wanted, strict=True)]
        less = [(t // 2, t - t // 2) for t in totals]
        pads = [(b, a) if auto == "SAME_LOWER" else (a, b) for a, b in less]
        # Where it is larger than the full result, that is padded at the end.
        extra = tuple(e + max(0, -t) for e, t in zip(extra, totals, strict=True))
        pads = [(0, 0) if t < 0 else p for p, t in zip(pads, totals, strict=True)]
    else:
        pads = list(_pads(call, size, k, stride, dilation))
    padding = tuple(min(p) for p in pads)
    if min(padding) < 0:
        raise Untranslatable(f"negative padding {pads}")
    weights = {"weight": ""}
    bias = _bias(call, 2, out * groups, weights)
    weights["weight"] = call.weight(1)
    y = call.emit(
        "conv_transpose2d",
        x,
        weights=weights,
        out_channels=out * groups,
        kernel=tuple(k),
        stride=stride,
        padding=padding,
        output_padding=extra,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )
    for dim, (p, (before, after)) in enumerate(zip(padding, pads, strict=True), 2):
        have = sizes(call, y)[dim - 2]
        if before > p or after > p:
            y = call.emit("slice", y, at="crop", dim=dim, start=before - p, stop=have - (after - p))
    return y


def _gemm(call: Call) -> Value:
    alpha, beta = call.attrs.get("alpha", 1.0), call.attrs.get("beta", 1.0)
    x = call.value(0)
    if call.attrs.get("transA"):
        x = call.emit("permute", x, at="turned", dims=(1, 0))
    if not call.is_known(1):
        return _gemm_of_values(call, x, alpha, beta)
    turned = bool(call.attrs.get("transB"))

    def stored(w: Array) -> Array:
        w = _floating(w) if turned else _floating(w).T
        return w if alpha == 1 else (w * w.dtype.type(alpha))

    out = stored(call.constant(1)).shape[0]
    weights = {"weight": call.weight(1, stored)}
    if call.has(2) and not call.is_known(2):
        y = call.emit("linear", x, weights=weights, out_features=out, bias=False)
        return call.emit("add", y, _times(call, call.value(2), beta), at="sum")
    if call.has(2):
        given = call.constant(2)
        if given.ndim == 2 and given.shape[0] != 1:
            raise Untranslatable(f"a bias of shape {given.shape}")
        weights["bias"] = call.weight(2, lambda b: np.broadcast_to(b.reshape(-1) * b.dtype.type(beta), (out,)))
    return call.emit("linear", x, weights=weights, out_features=out, bias=call.has(2))


def _gemm_of_values(call: Call, x: Value, alpha: float, beta: float) -> Value:
    other = call.value(1)
    if call.attrs.get("transB"):
        other = call.emit("permute", other, at="other", dims=(1, 0))
    y = _times(call, call.emit("matmul", x, other, at="product" if call.has(2) or alpha != 1 else ""), alpha)
    return call.emit("add", y, _times(call, call.value(2), beta)) if call.has(2) else y


def _times(call: Call, x: Value, factor: float) -> Value:
    return x if factor == 1 else call.emit("mul_scalar", x, at="scaled", value=float(factor))


def _matmul(call: Call) -> Value:
    if call.is_known(1) and not call.is_known(0) and call.constant(1).ndim == 2 and call.type(call.value(0)).rank >= 2:
        weight = call.constant(1)
        key = call.weight(1, lambda w: _floating(w).T)
        return call.emit("linear", call.value(0), weights={"weight": key}, out_features=weight.shape[1], bias=False)
    a, b = call.value(0), call.value(1)
    if call.type(a).rank < 2 or call.type(b).rank < 2:
        return call.torch("aten.matmul.default", ("input", 0), ("input", 1), inputs=[a, b])
    return call.emit("matmul", a, b)


def _fits(call: Call, x: Value, layer: Layer, index: int) -> bool:
    """Whether the weight sums over as much as there is: a size of 1 would be stretched."""
    summed = [call.type(x).shape[d] for d in layer.dims][-1] if layer.dims else call.type(x).shape[-1]
    return bool(summed == call.constant(index).shape[0 if layer.turned else 1])


def _layer(call: Call, x: Value, layer: Layer, index: int) -> Value:
    """The linear layer that a sum of products of ``x`` and the ``index``-th input, its weight, is."""
    weight = call.weight(index, lambda w: _floating(w).T if layer.turned else _floating(w))
    out = call.constant(index).shape[1 if layer.turned else 0]
    y = permuted(x, layer.dims, call.emit)
    y = call.emit("linear", y, weights={"weight": weight}, out_features=out, bias=False)
    return permuted(y, layer.order, call.emit)


def _einsum(call: Call) -> Value:
    equation, count = call.attrs["equation"], len(call.node.input)
    for i in range(2):
        if count == 2 and call.is_known(i) and not call.is_known(1 - i):
            x = call.value(1 - i)
            ranks = call.type(x).rank, call.constant(i).ndim
            layer = as_layer(equation, ranks if i else ranks[::-1], i)
            if layer is not None and _fits(call, x, layer, i):
                return _layer(call, x, layer, i)
    values = call.values()

    def shape_of(x: Value) -> Shape:
        return call.type(x).shape

    found = einsum(equation, values, shape_of, partial(product, shape_of=shape_of, emit=call.emit))
    if found is not None:
        return found
    return call.torch("aten.einsum.default", equation, tuple(("input", i) for i in range(count)), inputs=values)


def _batch_norm(call: Call) -> Value:
    if call.attrs.get("training_mode"):
        raise Untranslatable("a batch norm that is always in training mode")
    roles = {"weight": 1, "bias": 2, "running_mean": 3, "running_var": 4}
    shape = (call.type(call.value(0)).shape[1],)
    if any(call.constant(index).shape != shape for index in roles.values()):
        raise Untranslatable("statistics of another shape than the channels'")
    weights = {role: call.weight(index) for role, index in roles.items()}
    prefix, _, last = weights["running_mean"].rpartition(".")
    count = f"{prefix}.num_batches_tracked" if prefix and last == "running_mean" else f"{weights['running_mean']}_count"
    weights["num_batches_tracked"] = call.reader.key(count, np.zeros((), np.int64))
    momentum = round(1 - float(call.attrs.get("momentum", 0.9)), 6)
    eps = _rounded(call.attrs.get("epsilon", 1e-5))
    return call.emit("batch_norm", call.value(0), weights=weights, eps=eps, momentum=momentum)


def _rounded(number: float) -> float:
    """A number as it was before it became one of single precision: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _affine(call: Call, scale: int, bias: int, shape: tuple[int, ...]) -> dict[str, str]:
    weights = {}
    for role, index in (("weight", scale), ("bias", bias)):
        if call.has(index):
            if call.constant(index).size != np.prod(shape):
                raise Untranslatable(f"a {role} of shape {call.constant(index).shape}")
            weights[role] = call.weight(index, lambda w: w.reshape(shape))
    return weights


def _layer_norm(call: Call) -> Value:
    x = call.value(0)
    rank, at = call.type(x).rank, call.attrs.get("axis", -1)
    tail = call.type(x).shape[at % rank :]
    shape = tuple(d for d in tail if isinstance(d, int))
    if len(shape) != len(tail):
        raise Untranslatable("it normalises over the batch")
    weights = _affine(call, 1, 2, shape)
    eps = _rounded(call.attrs.get("epsilon", 1e-5))
    return call.emit("layer_norm", x, weights=weights, shape=shape, eps=eps, affine=True, bias="bias" in weights)


def _instance_norm(call: Call) -> Value:
    return _grouped(call, call.constant(1).size)


def _group_norm(call: Call) -> Value:
    return _grouped(call, int(call.attrs["num_groups"]))


def _grouped(call: Call, groups: int) -> Value:
    x = call.value(0)
    channels = call.type(x).shape[1]
    assert isinstance(channels, int)
    weights = _affine(call, 1, 2, (channels,))
    eps = _rounded(call.attrs.get("epsilon", 1e-5))
    return call.emit("group_norm", x, weights=weights, groups=groups, eps=eps)


def _prelu(call: Call) -> Value:
    x, slope = call.value(0), call.constant(1)
    shape = call.type(x).shape
    # One slope, or one a channel: everything else of the shape must be one.
    lined = (1,) * (len(shape) - slope.ndim) + slope.shape
    if slope.size != 1 and (len(shape) < 2 or any(d != 1 for i, d in enumerate(lined) if i != 1)):
        raise Untranslatable(f"slopes of shape {slope.shape}")
    key = call.weight(1, lambda w: w.reshape(-1))
    return call.emit("prelu", x, weights={"weight": key}, parameters=slope.size)


# Pools


def _pool(call: Call, mean: bool) -> Value:
    x = call.value(0)
    size, kernel = sizes(call, x), _pair(call, "kernel_shape")
    stride, dilation = _pair(call, "strides"), _pair(call, "dilations")
    pads = _pads(call, size, kernel, stride, dilation)
    attrs: dict[str, Any] = {"kernel": kernel, "stride": stride}
    if mean and dilation != (1, 1):
        raise Untranslatable("an average pool with gaps")
    if not mean:
        attrs["dilation"] = dilation
    counted = bool(call.attrs.get("count_include_pad", 0))
    before = (pads[0][0], pads[1][0])
    fits = all(0 <= 2 * p <= k for p, k in zip(before, kernel, strict=True))
    want = [
        _count(n, k, s, d, p, bool(call.attrs.get("ceil_mode", 0)))
        for n, k, s, d, p in zip(size, kernel, stride, dilation, pads, strict=True)
    ]
    for up in (False, True):
        ours = (
            [window(n, k, s, p, d, up) for n, k, s, p, d in zip(size, kernel, stride, before, dilation, strict=True)]
            if fits
            else []
        )
        even = all(a == b for a, b in pads)
        # What ceil_mode adds does not count in an average; padding after the image that is counted, does.
        if ours == want and (not mean or (even or not counted)):
            if mean:
                attrs["count_include_pad"] = counted and even
            if mean and not counted and not any(before):
                attrs["count_include_pad"] = True  # the same, and what everybody writes
            return call.emit("avg_pool2d" if mean else "max_pool2d", x, **attrs, padding=before, ceil_mode=up)
    if call.attrs.get("ceil_mode") or (mean and not counted):
        raise Untranslatable(f"a pool padded by {pads}")
    x = call.emit("pad", x, at="pad", pads=(*pads[1], *pads[0]), value=0.0 if mean else -np.inf)
    return call.emit("avg_pool2d" if mean else "max_pool2d", x, **attrs)


def _count(n: int, k: int, s: int, d: int, pads: tuple[int, int], up: bool) -> int:
    """How many windows ONNX's pools have along an axis."""
    span = n + sum(pads) - d * (k - 1) - 1
    count = (-(-span // s) if up else span // s) + 1
    return count - 1 if up and (count - 1) * s >= n + pads[0] else count


def _global_pool(mean: bool) -> Rule:
    def rule(call: Call) -> Value:
        x = call.value(0)
        if call.type(x).rank == 4:
            return call.emit("adaptive_avg_pool2d" if mean else "adaptive_max_pool2d", x, size=(1, 1))
        over = tuple(range(2, call.type(x).rank))
        if mean:
            return call.emit("mean", x, dims=over, keepdim=True)
        return call.torch("aten.amax.default", ("input", 0), over, True, inputs=[x])

    return rule


# Images


def _resize(call: Call) -> Value:
    x = call.value(0)
    have = sizes(call, x)
    mode, how = call.attrs.get("mode", "nearest"), call.attrs.get("coordinate_transformation_mode", "half_pixel")
    if call.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Untranslatable("a size that keeps the aspect ratio")
    axes = [a % 4 for a in call.attrs.get("axes", range(4))]
    if call.has(3):
        shape = dict(zip(axes, call.shape(3), strict=True))
        wanted = tuple(shape.get(i, n) for i, n in enumerate(have, 2))
        scale = None
    else:
        factors = dict(zip(axes, call.constant(2).reshape(-1), strict=True))
        if any(factors.get(i, 1) != 1 for i in (0, 1)):
            raise Untranslatable("a resize of the batch or the channels")
        pair = (factors.get(2, np.float32(1)), factors.get(3, np.float32(1)))
        wanted = tuple(int(np.floor(np.float32(n) * f)) for n, f in zip(have, pair, strict=True))
        scale = (float(pair[0]), float(pair[1]))
        if tuple(int(np.floor(n * f)) for n, f in zip(have, scale, strict=True)) != wanted:
            scale = None
    if not all(isinstance(n, int) and n > 0 for n in wanted):
        raise Untranslatable(f"a size of {wanted}")
    by = {"scale": scale} if scale else {"size": wanted}
    if wanted == have:
        return x
    whole = all(w % h == 0 for w, h in zip(wanted, have, strict=True))
    attrs = _sampling(call, mode, how, whole, min(wanted))
    return call.emit("interpolate", x, **attrs, **by)


def _sampling(call: Call, mode: str, how: str, whole: bool, least: int) -> dict[str, Any]:
    """How PyTorch calls a way of sampling; Untranslatable for one that it does not have."""
    if mode == "nearest":
        rounding = call.attrs.get("nearest_mode", "round_prefer_floor")
        if (how, rounding) == ("asymmetric", "floor") or (whole and how == "half_pixel" and "round" in rounding):
            return {"mode": "nearest"}
        if (how, rounding) in (("half_pixel", "round_prefer_ceil"), ("tf_half_pixel_for_nn", "floor")):
            return {"mode": "nearest-exact"}
    elif mode in ("linear", "cubic"):
        name = {"linear": "bilinear", "cubic": "bicubic"}[mode]
        corners = how == "align_corners"
        smooth, outside = bool(call.attrs.get("antialias")), bool(call.attrs.get("exclude_outside"))
        right = mode == "linear" or np.isclose(call.attrs.get("cubic_coeff_a", -0.75), -0.5 if smooth else -0.75)
        known = corners or how == "half_pixel" or (how == "pytorch_half_pixel" and least > 1)
        if known and right and (outside == smooth) and not (corners and smooth):
            return {"mode": name, "align_corners": corners, "antialias": smooth}
    raise Untranslatable(f"PyTorch does not resize by {mode}, {how}, {call.attrs.get('nearest_mode', '')}".rstrip(", "))


def _depth_to_space(call: Call) -> Value:
    x, r = call.value(0), int(call.attrs["blocksize"])
    n, c, h, w = call.type(x).shape
    if call.attrs.get("mode", "DCR") == "CRD" or c == r * r:
        return call.emit("pixel_shuffle", x, factor=r)
    assert isinstance(c, int) and isinstance(h, int) and isinstance(w, int)
    x = call.emit("reshape", x, at="blocks", shape=(n, r, r, c // (r * r), h, w))
    x = call.emit("permute", x, at="turned", dims=(0, 3, 4, 1, 5, 2))
    return call.emit("reshape", x, shape=(n, c // (r * r), h * r, w * r))


def _space_to_depth(call: Call) -> Value:
    x, r = call.value(0), int(call.attrs["blocksize"])
    (n, c), (h, w) = call.type(x).shape[:2], sizes(call, x)
    assert isinstance(c, int)
    x = call.emit("reshape", x, at="blocks", shape=(n, c, h // r, r, w // r, r))
    x = call.emit("permute", x, at="turned", dims=(0, 3, 5, 1, 2, 4))
    return call.emit("reshape", x, shape=(n, c * r * r, h // r, w // r))


LAYERS: Final[Mapping[str, Rule]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "PRelu": _prelu,
    "MaxPool": lambda call: _pool(call, mean=False),
    "AveragePool": lambda call: _pool(call, mean=True),
    "GlobalAveragePool": _global_pool(mean=True),
    "GlobalMaxPool": _global_pool(mean=False),
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
"""How each is read."""
