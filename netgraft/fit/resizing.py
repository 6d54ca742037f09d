"""What a node that resizes images may do with one: its own attributes first, then others, each with a price.

A price says how far the node departs from itself: a doubled or halved stride costs 1, another padding at least 0.5.
Strides stay integers, and never exceed the kernel unless the node's own did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import log2
from typing import Any

from netgraft.errors import ShapeError
from netgraft.ir import Batch, Graph, Node, TensorType, Value
from netgraft.ir.shapes import window

Image = tuple[int, int]
"""Height and width."""
Attrs = Mapping[str, Any]

WINDOWS = frozenset(["conv2d", "max_pool2d", "avg_pool2d"])
ENLARGING = frozenset(["conv_transpose2d", "interpolate", "pixel_shuffle"])
RESIZING = WINDOWS | ENLARGING | {"adaptive_avg_pool2d", "adaptive_max_pool2d", "pixel_unshuffle", "pad"}
RESIZING |= {"mean", "sum", "slice"}  # where they leave an image
LEAST = 0.5
"""No departure is cheaper than this."""

_STRIDES = (1, 2, 4)
_FACTORS = (1, 2, 3, 4)
_OTHER_PADDING, _OTHER_KERNEL, _OFF_BY_ONE, _GIVEN_SIZE = 0.5, 0.25, 0.25, 1.5


def image(type: TensorType) -> Image | None:
    """Height and width of an image type, None for any other."""
    if len(type.shape) != 4:
        return None
    _, _, h, w = type.shape
    return None if isinstance(h, Batch) or isinstance(w, Batch) else (h, w)


def channels_last(segment: Graph, value: Value) -> bool:
    """Whether an image that enters or leaves the segment has its channels behind it, as what is next to it shows."""
    for node in segment.users.get(value, ()):
        if node.op in ("linear", "layer_norm") or (node.op == "permute" and node.attrs["dims"] == (0, 3, 1, 2)):
            return True
    while value.node in segment:
        node = segment[value.node]
        if node.op in ("linear", "layer_norm") or (node.op == "permute" and node.attrs["dims"] == (0, 2, 3, 1)):
            return True
        if not node.definition.pointwise:
            return False
        value = node.inputs[0]
    return False


def resized(node: Node, attrs: Attrs, own: TensorType, size: Image) -> Image | None:
    """What the node makes of an image of this size, by the op's shape rule; None where it cannot take it.

    ``own`` is the type that the node reads in its segment: only its image size counts.
    """
    try:
        if node.op in WINDOWS:
            if node.op != "conv2d" and any(2 * p > k for p, k in zip(attrs["padding"], attrs["kernel"], strict=True)):
                return None  # torch pads a pooling by half of its window at most
            return _windows(attrs, size)
        (out,) = node.definition.infer([own.with_shape((*own.shape[:2], *size))], attrs)
    except ShapeError:
        return None
    return image(out)


def _windows(attrs: Attrs, size: Image) -> Image:
    ceil_mode = attrs.get("ceil_mode", False)
    sides = zip(size, attrs["kernel"], attrs["stride"], attrs["padding"], attrs.get("dilation", (1, 1)), strict=True)
    height, width = (window(*side, ceil_mode) for side in sides)
    return height, width


def faithful(node: Node, before: Image, after: Image, size: Image) -> Attrs:
    """The attributes that do to an image of ``size`` what the node's own do to its own (``before`` to ``after``): the
    same ones, but for absolute sizes and bounds, which keep their proportion or their margins.
    """
    attrs = node.attrs
    if size == before:
        return attrs
    if node.op == "interpolate" and attrs["size"] is not None:
        height, width = (max(1, round(s * a / b)) for s, a, b in zip(size, after, before, strict=True))
        return {**attrs, "size": (height, width)}
    if node.op == "slice" and attrs["dim"] % 4 > 1:
        side = attrs["dim"] % 4 - 2
        return {**attrs, "stop": size[side] - (before[side] - attrs["stop"])}
    return attrs


def departures(
    node: Node, before: Image, after: Image, size: Image, ends: Iterable[Image]
) -> Iterator[tuple[float, Attrs]]:
    """The other attributes that the node may take, with the price of each; ``ends`` are the images of the signature."""
    attrs = node.attrs
    match node.op:
        case "conv2d" | "max_pool2d" | "avg_pool2d":
            yield from _strided(attrs, any(height != width for height, width in ends))
        case "conv_transpose2d":
            yield from _transposed(attrs)
        case "interpolate":
            yield from _interpolated(attrs, before, after, size, ends)
        case "pixel_shuffle" | "pixel_unshuffle":
            for factor in _FACTORS:
                if factor != attrs["factor"]:
                    yield max(LEAST, abs(log2(factor / attrs["factor"]))), {**attrs, "factor": factor}
        case "adaptive_avg_pool2d" | "adaptive_max_pool2d" if attrs["size"] != (1, 1):
            # Pooling to a single pixel is a summary of the image, and stays one.
            for end in ends:
                yield _GIVEN_SIZE, {**attrs, "size": end}


def _strided(attrs: Attrs, oblong: bool) -> Iterator[tuple[float, Attrs]]:
    kernel, own, dilation = attrs["kernel"], attrs["stride"], attrs.get("dilation", (1, 1))
    # "same" padding gives ceil(size / stride), which takes an odd window.
    odd = _odd(kernel)
    same = tuple(d * (k - 1) // 2 for k, d in zip(odd, dilation, strict=True))
    plain = {"ceil_mode": False} if "ceil_mode" in attrs else {}
    paddings: list[tuple[float, dict[str, Any]]] = [
        (0.0, {}),
        (_OTHER_PADDING + _OTHER_KERNEL * (odd != kernel), {"kernel": odd, "padding": same, **plain}),
        (_OTHER_PADDING + _OFF_BY_ONE, {"padding": (0, 0), **plain}),
    ]
    # Height and width go together, unless something about the window or the images is oblong.
    oblong = oblong or kernel[0] != kernel[1] or own[0] != own[1]
    strides = product(_STRIDES, repeat=2) if oblong else ((s, s) for s in _STRIDES)
    allowed = [
        own,
        *(stride for stride in strides if stride != own and stride[0] <= kernel[0] and stride[1] <= kernel[1]),
    ]
    for stride in allowed:
        price = max(abs(log2(new / old)) for new, old in zip(stride, own, strict=True))
        for extra, changes in paddings:
            changed = {**attrs, "stride": stride, **changes}
            exceeds = any(s > now and s <= k for s, now, k in zip(stride, changed["kernel"], kernel, strict=True))
            if changed != attrs and not exceeds:
                yield max(LEAST, price + extra), changed


def _odd(kernel: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k if k % 2 else max(3, k - 1) for k in kernel)


def _transposed(attrs: Attrs) -> Iterator[tuple[float, Attrs]]:
    """H' = sH, or one pixel more or less on a side, which is what an odd map needs that was halved before."""
    kernel, own, dilation = attrs["kernel"], attrs["stride"], attrs["dilation"]
    # Without a stride only an odd kernel can keep the size.
    for stride, taps in product(_STRIDES, dict.fromkeys((kernel, _odd(kernel)))):
        if stride > min(taps) and (taps != kernel or (stride, stride) != own):
            continue
        for off in product((0, 1, -1), repeat=2):
            # H' = (H-1)s - 2p + d(k-1) + e + 1 = sH + off, so 2p = d(k-1) + e + 1 - s - off with 0 <= e < s.
            spans = [d * (k - 1) + 1 - stride - o for k, d, o in zip(taps, dilation, off, strict=True)]
            extra = tuple(max(-span, span % 2) for span in spans)
            if max(extra) < stride and all((span + e) % 2 == 0 for span, e in zip(spans, extra, strict=True)):
                padding = tuple((span + e) // 2 for span, e in zip(spans, extra, strict=True))
                price = max(abs(log2(stride / old)) for old in own) + _OTHER_PADDING
                price += _OTHER_KERNEL * (taps != kernel) + _OFF_BY_ONE * (off != (0, 0))
                changed = {"kernel": taps, "stride": (stride, stride), "padding": padding, "output_padding": extra}
                yield price, {**attrs, **changed}


def _interpolated(
    attrs: Attrs, before: Image, after: Image, size: Image, ends: Iterable[Image]
) -> Iterator[tuple[float, Attrs]]:
    if attrs["scale"] is not None:
        for factor in _FACTORS:
            scale = (float(factor), float(factor))
            if scale != attrs["scale"]:
                yield max(LEAST, abs(log2(factor / max(attrs["scale"])))), {**attrs, "scale": scale}
    price = 0.0 if attrs["scale"] is None else _GIVEN_SIZE
    for end in ends:
        yield price + LEAST, {**attrs, "size": end, "scale": None}
    for off in product((0, 1, -1), repeat=2):
        height, width = (round(s * a / b) + o for s, a, b, o in zip(size, after, before, off, strict=True))
        if min(height, width) > 0:
            yield price + LEAST + _OFF_BY_ONE, {**attrs, "size": (height, width), "scale": None}
