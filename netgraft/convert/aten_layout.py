"""Rules for operations of PyTorch's (ATen) that pool, resample, cut and rearrange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from netgraft.convert.calls import Call, Operand, Result, Rule, Rules, Untranslatable, windows
from netgraft.ir import Batch, Value

RULES: Final = Rules()


# Pooling, reductions and resampling


def _max_pool(sides: int) -> Rule:
    def translate(call: Call) -> Result:
        kernel = windows(call["kernel_size"], sides)
        y = call.emit(
            f"max_pool{sides}d",
            call.batched("self", sides),
            kernel=kernel,
            stride=windows(call["stride"] or kernel, sides),
            padding=windows(call["padding"], sides),
            dilation=windows(call["dilation"], sides),
            ceil_mode=call["ceil_mode"],
        )
        return y if len(call.outputs) == 1 else (y, None)

    return translate


def _avg_pool(sides: int) -> Rule:
    def translate(call: Call) -> Value:
        if call.arguments.get("divisor_override") is not None:
            raise Untranslatable("an average with a divisor of its own")
        kernel = windows(call["kernel_size"], sides)
        attrs = {name: call[name] for name in ("ceil_mode", "count_include_pad")}
        attrs |= {"stride": windows(call["stride"] or kernel, sides), "padding": windows(call["padding"], sides)}
        return call.emit(f"avg_pool{sides}d", call.batched("self", sides), kernel=kernel, **attrs)

    return translate


for _sides in (1, 2, 3):
    RULES[f"max_pool{_sides}d.default"] = RULES[f"max_pool{_sides}d_with_indices.default"] = _max_pool(_sides)
    RULES[f"avg_pool{_sides}d.default"] = _avg_pool(_sides)


@RULES.add("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(call: Call) -> Value:
    return call.emit("adaptive_avg_pool2d", call.image("self"), size=windows(call["output_size"], 2))


@RULES.add("adaptive_avg_pool1d.default")
def _adaptive_avg_pool1d(call: Call) -> Value:
    if list(call["output_size"]) != [1]:
        raise Untranslatable("an average along one dimension that leaves more than one entry")
    return call.emit("mean", call["self"], dims=(call.type("self").rank - 1,), keepdim=True)


@RULES.add("adaptive_max_pool2d.default")
def _adaptive_max_pool2d(call: Call) -> Result:
    return call.emit("adaptive_max_pool2d", call.image("self"), size=windows(call["output_size"], 2)), None


def _reduce(op: str) -> Rule:
    def translate(call: Call) -> Value:
        rank = call.type("self").rank
        dims = call.arguments.get("dim") or range(rank)
        keepdim = call.arguments.get("keepdim", False)
        return call.emit(op, call["self"], dims=tuple(sorted(int(d) % rank for d in dims)), keepdim=keepdim)

    return translate


RULES.update(dict.fromkeys(["mean.dim", "mean.default"], _reduce("mean")))
RULES.update(dict.fromkeys(["sum.dim_IntList", "sum.default"], _reduce("sum")))


def _interpolate(mode: str, antialias: bool) -> Rule:
    def translate(call: Call) -> Value:
        given = call.arguments
        x = call.image("self" if "self" in given else "input")
        scale = given.get("scale_factors") or (given.get("scales_h"), given.get("scales_w"))
        # Scales that do not give the size are noticed by the shape.
        factors = tuple(float(s) for s in scale if s is not None)
        attrs: dict[str, Any] = {"scale": factors} if factors else {"size": call.outputs[0].shape[2:]}
        corners = given.get("align_corners")
        return call.emit("interpolate", x, mode=mode, align_corners=corners, antialias=antialias, **attrs)

    return translate


for _name, _meaning in {
    "upsample_nearest2d": ("nearest", False),
    "_upsample_nearest_exact2d": ("nearest-exact", False),
    "upsample_bilinear2d": ("bilinear", False),
    "upsample_bicubic2d": ("bicubic", False),
    "_upsample_bilinear2d_aa": ("bilinear", True),
    "_upsample_bicubic2d_aa": ("bicubic", True),
}.items():
    RULES[f"{_name}.vec"] = RULES[f"{_name}.default"] = _interpolate(*_meaning)


@RULES.add("pixel_shuffle.default")
def _pixel_shuffle(call: Call) -> Value:
    return call.emit("pixel_shuffle", call.image("self"), factor=call["upscale_factor"])


@RULES.add("pixel_unshuffle.default")
def _pixel_unshuffle(call: Call) -> Value:
    return call.emit("pixel_unshuffle", call.image("self"), factor=call["downscale_factor"])


@RULES.add("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(call: Call) -> Operand:
    n, c, *size = call.type("self").shape
    assert isinstance(c, int)
    groups = call["groups"]
    apart = call.reshape(call["self"], (n, groups, c // groups, *size))
    swapped = call.emit("permute", apart, dims=(0, 2, 1, *range(3, 3 + len(size))))
    return call.reshape(swapped, (n, c, *size))


def _pad(call: Call, pads: Sequence[int], mode: str, value: float | None) -> Operand:
    x: Operand = call["self"]
    if not any(pads):
        return x
    return call.emit("pad", x, pads=tuple(pads), mode=mode, value=float(value or 0.0))


@RULES.add("pad.default")
def _pad_default(call: Call) -> Operand:
    return _pad(call, call["pad"], call["mode"], call["value"])


@RULES.add("constant_pad_nd.default")
def _constant_pad(call: Call) -> Operand:
    return _pad(call, call["pad"], "constant", call["value"])


@RULES.add("reflection_pad1d.default", "reflection_pad2d.default")
def _reflection_pad(call: Call) -> Operand:
    return _pad(call, call["padding"], "reflect", None)


@RULES.add("replication_pad1d.default", "replication_pad2d.default")
def _replication_pad(call: Call) -> Operand:
    return _pad(call, call["padding"], "replicate", None)


# Layout


@RULES.add(
    *("view.default", "reshape.default", "_unsafe_view.default", "view_as.default", "reshape_as.default"),
    *("unsqueeze.default", "squeeze.default", "squeeze.dim", "squeeze.dims", "unflatten.int"),
)
def _reshape(call: Call) -> Operand:
    return call.reshape(call["self"], call.outputs[0].shape)


@RULES.add("flatten.using_ints")
def _flatten(call: Call) -> Operand:
    x: Operand = call["self"]
    rank = call.type("self").rank
    if call.type("self") == call.outputs[0]:
        return x
    start, end = call.dim("start_dim"), call.dim("end_dim")
    return call.emit("flatten", x, start=start, end=-1 if end == rank - 1 else end)


def _permute(order: Callable[[Call, Any], Any]) -> Rule:
    """A rule from what the operation does to the axes of an array of shape (0, 1, 2, ...)."""

    def translate(call: Call) -> Operand:
        axes = np.empty(tuple(range(call.type("self").rank)))
        dims = order(call, axes).shape
        x: Operand = call["self"]
        return x if dims == axes.shape else call.emit("permute", x, dims=dims)

    return translate


def _transposed(call: Call, axes: Any) -> Any:
    return np.swapaxes(axes, *(call[name] for name in call.arguments if name != "self"))


RULES["permute.default"] = _permute(lambda call, axes: np.transpose(axes, call["dims"]))
RULES.update(dict.fromkeys(["transpose.int", "swapaxes.default", "swapdims.default"], _permute(_transposed)))
RULES.update(dict.fromkeys(["t.default", "numpy_T.default"], _permute(lambda call, axes: axes.T)))
RULES["mT.default"] = _permute(lambda call, axes: np.swapaxes(axes, -1, -2))
RULES.update(
    dict.fromkeys(
        ["movedim.int", "movedim.intlist", "moveaxis.int", "moveaxis.intlist"],
        _permute(lambda call, axes: np.moveaxis(axes, call["source"], call["destination"])),
    )
)


@RULES.add("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(call: Call) -> Operand:
    x: Operand = call["self"]
    return x if call.type("self") == call.outputs[0] else call.emit("expand", x, shape=call.outputs[0].shape)


@RULES.add(
    *("split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default", "unsafe_chunk.default"),
    *("tensor_split.sections", "tensor_split.indices", "unsafe_split.Tensor", "unsafe_split_with_sizes.default"),
)
def _split(call: Call) -> Result:
    dim = call.dim()
    sizes = tuple(piece.shape[dim] for piece in call.outputs)
    if any(isinstance(size, Batch) for size in sizes):
        raise Untranslatable("a split along the batch")
    if len(sizes) == 1:
        return (call["self"],)
    first = call.emit("split", call["self"], sizes=sizes, dim=dim)
    return tuple(Value(first.node, i) for i in range(len(sizes)))


@RULES.add("unbind.int")
def _unbind(call: Call) -> Result:
    dim = call.dim()
    if isinstance(call.type("self").shape[dim], Batch):
        raise Untranslatable("a split along the batch")
    if len(call.outputs) == 1:
        return (call.reshape(call["self"], call.outputs[0].shape),)
    first = call.emit("split", call["self"], sizes=(1,) * len(call.outputs), dim=dim)
    pieces = [Value(first.node, i) for i in range(len(call.outputs))]
    shapes = [piece.shape for piece in call.outputs]
    return tuple(
        call.reshape(x, shape) if i in call.used else None
        for i, (x, shape) in enumerate(zip(pieces, shapes, strict=True))
    )


def _cut(call: Call, x: Operand, dim: int, start: int, stop: int, step: int = 1) -> Operand:
    size = call.emitter.type(x).shape[dim]
    if isinstance(size, Batch):
        raise Untranslatable("a slice of the batch")
    if (start, stop, step) == (0, size, 1):
        return x
    return call.emit("slice", x, dim=dim, start=start, stop=stop, step=step)


@RULES.add("slice.Tensor")
def _slice(call: Call) -> Operand:
    x: Operand = call["self"]
    before, after = call.type("self"), call.outputs[0]
    if before == after:
        return x
    dim = call.dim()
    size = before.shape[dim]
    bounds = (call["start"], call["end"], call["step"])
    if isinstance(size, Batch) or any(isinstance(b, Batch) for b in bounds):
        raise Untranslatable("a slice that depends on the batch")
    start, stop, step = slice(*bounds).indices(size)
    return _cut(call, x, dim, start, stop, step)


@RULES.add("narrow.default")
def _narrow(call: Call) -> Operand:
    if not isinstance(call["start"], int):
        raise Untranslatable("a slice whose start is computed")
    return _cut(call, call["self"], call.dim(), call["start"], call["start"] + call["length"])


@RULES.add("select.int")
def _select(call: Call) -> Operand:
    dim = call.dim()
    size = call.type("self").shape[dim]
    if isinstance(size, Batch):
        raise Untranslatable("one element of the batch")
    index = int(call["index"]) % size
    return call.reshape(_cut(call, call["self"], dim, index, index + 1), call.outputs[0].shape)


def _written(call: Call, part: Operand, dim: int, start: int) -> Operand:
    """``self`` with a part of it, along one axis from ``start`` on, overwritten."""
    size, length = call.type("self").shape[dim], call.emitter.type(part).shape[dim]
    if size == length:
        return part
    if isinstance(size, Batch) or isinstance(length, Batch):
        raise Untranslatable("it writes into a part of the batch")
    pieces = [part]
    if start:
        pieces.insert(0, _cut(call, call["self"], dim, 0, start))
    if start + length < size:
        pieces.append(_cut(call, call["self"], dim, start + length, size))
    return call.emit("concat", *pieces, dim=dim)


@RULES.add("slice_scatter.default")
def _slice_scatter(call: Call) -> Operand:
    dim = call.dim()
    size = call.type("self").shape[dim]
    if call["step"] != 1:
        raise Untranslatable("it writes in steps")
    start = 0 if isinstance(size, Batch) else slice(call["start"], call["end"]).indices(size)[0]
    return _written(call, call["src"], dim, start)


@RULES.add("select_scatter.default")
def _select_scatter(call: Call) -> Operand:
    dim = call.dim()
    size, shape = call.type("self").shape[dim], call.type("src").shape
    if isinstance(size, Batch):
        raise Untranslatable("it writes into one element of the batch")
    return _written(call, call.reshape(call["src"], (*shape[:dim], 1, *shape[dim:])), dim, int(call["index"]) % size)


@RULES.add("copy.default")
def _copy(call: Call) -> Operand:
    source: Operand = call["src"]
    if call.type("src").dtype != call.outputs[0].dtype:
        raise Untranslatable("a change of the element type")
    return source if call.type("src") == call.outputs[0] else call.emit("expand", source, shape=call.outputs[0].shape)


@RULES.add(
    *("clone.default", "contiguous.default", "alias.default", "lift.default", "lift_fresh.default"),
    *("lift_fresh_copy.default", "_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other"),
    *("type_as.default", "to.prim_Device", "to.prim_dtype", "resolve_conj.default"),
)
def _identity(call: Call) -> Operand:
    if call.type("self").dtype != call.outputs[0].dtype:
        raise Untranslatable("a change of the element type")
    operand: Operand = call["self"]
    return operand


@RULES.add("detach.default")
def _detach(call: Call) -> Operand:
    if isinstance(call["self"], Value):
        raise Untranslatable("it stops the gradient")
    return _identity(call)
