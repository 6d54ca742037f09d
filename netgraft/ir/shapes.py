"""Shape rules: from input types and attributes to output types.

Every rule takes ``(inputs, attrs)`` and returns the output types, or raises :class:`~netgraft.errors.ShapeError` with
both shapes in its message (the caller adds the node's id). Images are N, C, H, W; windows are (height, width) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, prod
from typing import Any

from netgraft.errors import ShapeError

from .types import Batch, Dim, TensorType

Inputs = Sequence[TensorType]
Attrs = Mapping[str, Any]
Outputs = tuple[TensorType, ...]


def _image(x: TensorType, what: str) -> tuple[Dim, int, int, int]:
    if x.rank != 4 or any(isinstance(d, Batch) for d in x.shape[1:]):
        raise ShapeError(f"{what} needs an image tensor [N,C,H,W], got {x}")
    n, c, h, w = x.shape
    return n, _fixed(c, x), _fixed(h, x), _fixed(w, x)


def _fixed(d: Dim, x: TensorType) -> int:
    if isinstance(d, Batch):
        raise ShapeError(f"a fixed size is needed where {x} has the batch")
    return d


def axis(dim: int, rank: int) -> int:
    """The axis ``dim`` counted from the front."""
    if not -rank <= dim < rank:
        raise ShapeError(f"dimension {dim} does not exist in a tensor of rank {rank}")
    return dim % rank


def window(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """Output size of a sliding window, as PyTorch counts it (with its rule for ``ceil_mode``)."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    # The last window must start inside the input or its left padding.
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    if out < 1:
        raise ShapeError(f"a window of {dilation * (kernel - 1) + 1} does not fit into {size} with padding {padding}")
    return out


def same(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Shape-keeping operations of one input."""
    return (inputs[0],)


def conv(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,...] -> [N,out_channels,...], over as many sides as the kernel has."""
    x = inputs[0]
    n, c, sides = _sides(x, len(attrs["kernel"]), "a convolution")
    _check_groups(c, attrs)
    windows = zip(sides, *(attrs[name] for name in ("kernel", "stride", "padding", "dilation")), strict=True)
    return (x.with_shape((n, attrs["out_channels"], *(window(*given) for given in windows))),)


def conv_transpose(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,H,...] -> [N,out_channels,H',...], H' = (H-1)s - 2p + d(k-1) + output_padding + 1."""
    x = inputs[0]
    n, c, sides = _sides(x, len(attrs["kernel"]), "a transposed convolution")
    _check_groups(c, attrs)
    for extra, s, d in zip(attrs["output_padding"], attrs["stride"], attrs["dilation"], strict=True):
        if extra >= max(s, d):
            raise ShapeError(
                f"a transposed convolution: output padding {extra} must be less than stride {s} or dilation {d}"
            )
    names = ("kernel", "stride", "padding", "dilation", "output_padding")
    windows = zip(sides, *(attrs[name] for name in names), strict=True)
    sizes = [(i - 1) * s - 2 * p + d * (k - 1) + extra + 1 for i, k, s, p, d, extra in windows]
    if min(sizes) < 1:
        raise ShapeError(f"a transposed convolution: {x} would become {'x'.join(map(str, sizes))}")
    return (x.with_shape((n, attrs["out_channels"], *sizes)),)


def _sides(x: TensorType, count: int, what: str) -> tuple[Dim, int, list[int]]:
    """Batch, channels and the ``count`` sizes behind them."""
    if x.rank != 2 + count or any(isinstance(d, Batch) for d in x.shape[1:]):
        letters = {1: "L", 2: "H,W", 3: "D,H,W"}[count]
        raise ShapeError(f"{what} over {count} sides needs a tensor [N,C,{letters}], got {x}")
    return x.shape[0], _fixed(x.shape[1], x), [_fixed(d, x) for d in x.shape[2:]]


def _check_groups(channels: int, attrs: Attrs) -> None:
    groups, out = attrs["groups"], attrs["out_channels"]
    if channels % groups or out % groups:
        raise ShapeError(f"a convolution: {channels} channels in and {out} out cannot be split into {groups} groups")


def linear(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[..., in] -> [..., out_features]."""
    x = inputs[0]
    if x.rank < 1:
        raise ShapeError(f"linear needs at least one dimension, got {x}")
    _fixed(x.shape[-1], x)
    return (x.with_shape((*x.shape[:-1], attrs["out_features"])),)


def channels(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Per-channel normalisation: [N,C,...] unchanged."""
    x = inputs[0]
    if x.rank < 2:
        raise ShapeError(f"a per-channel operation needs [N,C,...], got {x}")
    c = _fixed(x.shape[1], x)
    groups = attrs.get("groups", 1)
    if c % groups:
        raise ShapeError(f"group_norm: {c} channels cannot be split into {groups} groups")
    if "groups" in attrs and prod(_fixed(d, x) for d in x.shape[1:]) == groups:
        raise ShapeError(f"group_norm: a group of {x} would be a single value")
    return (x,)


def slopes(inputs: Inputs, attrs: Attrs) -> Outputs:
    """PReLU: one slope, or one for each channel."""
    x = inputs[0]
    if attrs["parameters"] != 1 and (x.rank < 2 or attrs["parameters"] != x.shape[1]):
        raise ShapeError(f"prelu: {attrs['parameters']} slopes do not fit {x}")
    return (x,)


def trailing(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Normalisation over trailing dimensions ``shape``."""
    x = inputs[0]
    tail = attrs["shape"]
    if x.shape[x.rank - len(tail) :] != tail:
        raise ShapeError(f"layer_norm over {tail} does not fit {x}")
    return (x,)


def broadcast(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Elementwise operations of two or more inputs under the usual broadcasting."""
    rank = max(x.rank for x in inputs)
    result: list[Dim] = []
    for i in range(rank):
        size: Dim = 1
        for x in inputs:
            j = i - (rank - x.rank)
            d = x.shape[j] if j >= 0 else 1
            if d == 1 or d == size:
                continue
            if size != 1:
                raise ShapeError(f"shapes do not broadcast: {' and '.join(map(str, inputs))}")
            size = d
        result.append(size)
    return (inputs[0].with_shape(tuple(result)),)


def concat(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Joins along ``dim``; all other dimensions equal."""
    first = inputs[0]
    d = axis(attrs["dim"], first.rank)
    rests = {(*x.shape[:d], *x.shape[d + 1 :]) for x in inputs if x.rank == first.rank}
    if len(rests) != 1 or any(x.rank != first.rank for x in inputs):
        raise ShapeError(f"concat along {d}: {', '.join(map(str, inputs))} differ elsewhere")
    sizes = [x.shape[d] for x in inputs]
    total: Dim
    if all(isinstance(s, Batch) for s in sizes):
        total = Batch(sum(s.times for s in sizes if isinstance(s, Batch)))
    else:
        total = sum(_fixed(s, x) for s, x in zip(sizes, inputs, strict=True))
    return (first.with_shape((*first.shape[:d], total, *first.shape[d + 1 :])),)


def split(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Cuts along ``dim`` into pieces of ``sizes``; one output a piece."""
    x = inputs[0]
    d = axis(attrs["dim"], x.rank)
    if sum(attrs["sizes"]) != x.shape[d]:
        raise ShapeError(f"split sizes {attrs['sizes']} do not add up to dimension {d} of {x}")
    return tuple(x.with_shape((*x.shape[:d], s, *x.shape[d + 1 :])) for s in attrs["sizes"])


def slice_(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Elements start, start+step, ... below stop along ``dim``; bounds counted from the front."""
    x = inputs[0]
    d = axis(attrs["dim"], x.rank)
    size = _fixed(x.shape[d], x)
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    if not (0 <= start < stop <= size and step > 0):
        raise ShapeError(f"slice {start}:{stop}:{step} along {d} does not lie within {x}")
    return (x.with_shape((*x.shape[:d], -(-(stop - start) // step), *x.shape[d + 1 :])),)


def pool(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,...] -> [N,C,...], over as many sides as the kernel has."""
    x = inputs[0]
    kernel, stride, padding = attrs["kernel"], attrs["stride"], attrs["padding"]
    n, c, sides = _sides(x, len(kernel), "pooling")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(f"pooling: padding {padding} is more than half of the kernel {kernel}")
    windows = zip(sides, kernel, stride, padding, attrs.get("dilation", (1,) * len(kernel)), strict=True)
    return (x.with_shape((n, c, *(window(*given, attrs["ceil_mode"]) for given in windows))),)


def adaptive_pool2d(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,H,W] -> [N,C,*size]."""
    n, c, _, _ = _image(inputs[0], "adaptive pooling")
    return (inputs[0].with_shape((n, c, *attrs["size"])),)


def reduce(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Reduction over ``dims``, kept as size 1 under ``keepdim``."""
    x = inputs[0]
    dims = {axis(d, x.rank) for d in attrs["dims"]}
    shape = tuple(1 if i in dims else d for i, d in enumerate(x.shape) if attrs["keepdim"] or i not in dims)
    return (x.with_shape(shape),)


def flatten(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Dimensions ``start`` .. ``end`` (inclusive) become one."""
    x = inputs[0]
    start, end = axis(attrs["start"], x.rank), axis(attrs["end"], x.rank)
    if end < start:
        raise ShapeError(f"flatten from {start} to {end} of {x}")
    return (x.with_shape((*x.shape[:start], _product(x.shape[start : end + 1]), *x.shape[end + 1 :])),)


def _product(shape: Sequence[Dim]) -> Dim:
    batches = [d for d in shape if isinstance(d, Batch)]
    if len(batches) > 1:
        raise ShapeError(f"two dimensions of {tuple(map(str, shape))} hold the batch")
    count = prod(d.times if isinstance(d, Batch) else d for d in shape)
    return Batch(count) if batches else count


def reshape(inputs: Inputs, attrs: Attrs) -> Outputs:
    """To ``shape``, in which one entry may be -1."""
    x = inputs[0]
    target = tuple(attrs["shape"])
    known = [d for d in target if d != -1]
    have, want = _product(x.shape), _product(known)
    if len(known) == len(target):
        if have != want:
            raise ShapeError(f"cannot reshape {x} to {tuple(map(str, target))}")
        return (x.with_shape(target),)
    a, b = (d.times if isinstance(d, Batch) else d for d in (have, want))
    if len(target) - len(known) > 1 or b == 0 or a % b or (isinstance(want, Batch) and not isinstance(have, Batch)):
        raise ShapeError(f"cannot reshape {x} to {tuple(map(str, target))}")
    rest: Dim = Batch(a // b) if isinstance(have, Batch) and not isinstance(want, Batch) else a // b
    return (x.with_shape(tuple(rest if d == -1 else d for d in target)),)


def unflatten_like(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[..., H*W, ...] and [N,C,H,W] -> [..., H, W, ...]."""
    x, like = inputs
    d, (height, width) = axis(attrs["dim"], x.rank), _image(like, "unflatten_like")[2:]
    if x.shape[d] != height * width:
        raise ShapeError(f"unflatten_like: dimension {d} of {x} does not hold {height}x{width}")
    return (x.with_shape((*x.shape[:d], height, width, *x.shape[d + 1 :])),)


def permute(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Dimensions in the order ``dims``."""
    x = inputs[0]
    dims = tuple(axis(d, x.rank) for d in attrs["dims"])
    if sorted(dims) != list(range(x.rank)):
        raise ShapeError(f"permute {dims} is no order of the dimensions of {x}")
    return (x.with_shape(tuple(x.shape[d] for d in dims)),)


def expand(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Broadcast to ``shape``."""
    x, shape = inputs[0], tuple(attrs["shape"])
    lead = len(shape) - x.rank
    if lead < 0 or any(d != 1 and d != s for d, s in zip(x.shape, shape[lead:], strict=True)):
        raise ShapeError(f"cannot expand {x} to {tuple(map(str, shape))}")
    return (x.with_shape(shape),)


def interpolate(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,H,W] -> ``size``, or H, W times ``scale`` rounded down."""
    x = inputs[0]
    n, c, h, w = _image(x, "interpolate")
    if (attrs["size"] is None) == (attrs["scale"] is None):
        raise ShapeError("interpolate needs exactly one of size and scale")
    size = attrs["size"] or tuple(floor(s * f) for s, f in zip((h, w), attrs["scale"], strict=True))
    if min(size) < 1:
        raise ShapeError(f"interpolate: {x} would become {size}")
    return (x.with_shape((n, c, *size)),)


def interpolate_like(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,H,W] and [M,D,H',W'] -> [N,C,H',W']."""
    x, like = inputs
    n, c, *_ = _image(x, "interpolate_like")
    return (x.with_shape((n, c, *_image(like, "interpolate_like")[2:])),)


def pixel_shuffle(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,H,W] -> [N,C/r^2,rH,rW]."""
    n, c, h, w = _image(inputs[0], "pixel_shuffle")
    r = attrs["factor"]
    if c % (r * r):
        raise ShapeError(f"pixel_shuffle by {r}: {c} channels are no multiple of {r * r}")
    return (inputs[0].with_shape((n, c // (r * r), h * r, w * r)),)


def pixel_unshuffle(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[N,C,H,W] -> [N,C*r^2,H/r,W/r]."""
    n, c, h, w = _image(inputs[0], "pixel_unshuffle")
    r = attrs["factor"]
    if h % r or w % r:
        raise ShapeError(f"pixel_unshuffle by {r}: {h}x{w} is no multiple")
    return (inputs[0].with_shape((n, c * r * r, h // r, w // r)),)


def pad(inputs: Inputs, attrs: Attrs) -> Outputs:
    """``pads`` as PyTorch has them: (before, after) pairs from the last dimension backwards."""
    x = inputs[0]
    pads = attrs["pads"]
    shape = list(x.shape)
    if len(pads) % 2 or len(pads) > 2 * x.rank:
        raise ShapeError(f"pad: {pads} does not fit {x}")
    for i in range(len(pads) // 2):
        before, after = pads[2 * i], pads[2 * i + 1]
        if before or after:
            size = _fixed(shape[-1 - i], x) + before + after
            if size < 1:
                raise ShapeError(f"pad: {pads} leaves nothing of {x}")
            shape[-1 - i] = size
    return (x.with_shape(tuple(shape)),)


def matmul(inputs: Inputs, attrs: Attrs) -> Outputs:
    """[..., m, k] x [..., k, n] -> [..., m, n]; leading dimensions broadcast."""
    a, b = inputs
    if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"matmul: {a} and {b} do not fit")
    lead = broadcast((a.with_shape(a.shape[:-2]), b.with_shape(b.shape[:-2])), {})[0].shape
    return (a.with_shape((*lead, a.shape[-2], b.shape[-1])),)


def attention(inputs: Inputs, attrs: Attrs) -> Outputs:
    """Query [..., L, E], key [..., S, E], value [..., S, V] (, mask [..., L, S]) -> [..., L, V]; leading dimensions
    broadcast.
    """
    q, k, v, *masks = inputs
    fits = q.rank == k.rank == v.rank >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    if not fits:
        raise ShapeError(f"attention: query {q}, key {k} and value {v} do not fit")
    (lead,) = broadcast([x.with_shape(x.shape[:-2]) for x in (q, k, v)], attrs)
    scores = q.with_shape((*lead.shape, q.shape[-2], k.shape[-2]))
    if broadcast([scores, *masks], attrs) != (scores,):
        raise ShapeError(f"attention: a mask {masks[0]} does not fit scores {scores}")
    return (q.with_shape((*lead.shape, q.shape[-2], v.shape[-1])),)


def constant(inputs: Inputs, attrs: Attrs) -> Outputs:
    """A stored tensor of type ``type``."""
    return (attrs["type"],)


def declared(inputs: Inputs, attrs: Attrs) -> Outputs:
    """A frozen node says itself what it returns (``types``)."""
    return tuple(attrs["types"])
