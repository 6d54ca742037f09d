"""ONNX's pointwise operations, joins, reductions and changes of layout in our words, or else in PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import prod
from typing import Any, Final

import numpy as np

from netgraft.convert.onnx_foreign import DTYPES
from netgraft.convert.onnx_known import is_symbolic
from netgraft.convert.onnx_reading import Call, Rule, Untranslatable
from netgraft.ir import Batch, DType, Value
from netgraft.ir.shapes import reshape
from netgraft.ir.types import Dim


def _simple(op: str, **attrs: tuple[str, Any]) -> Rule:
    """One op of ours; ``attrs`` gives, for each of its attributes, ONNX's name and default."""
    return lambda call: call.emit(
        op, call.value(0), **{ours: call.attrs.get(theirs, default) for ours, (theirs, default) in attrs.items()}
    )


def _torch(target: str, inputs: int = 1, *rest: Any) -> Rule:
    """One of PyTorch's operations, of the first ``inputs`` inputs and fixed arguments."""

    def rule(call: Call) -> Value:
        args = (*(("input", i) for i in range(inputs)), *rest)
        return call.torch(target, *args, inputs=[call.value(i) for i in range(inputs)])

    return rule


def _floats(call: Call, value: Value) -> bool:
    return call.type(value).dtype.startswith(("f", "bf"))


def _short(number: float | int) -> float | int:
    """A number as it was before it became one of single precision."""
    return float(str(np.float32(number))) if isinstance(number, float) else number


def _scalar(call: Call, index: int, other: int) -> float | int | None:
    """An input that is one number, which the result's shape does not depend on."""
    if not call.is_known(index) or call.is_known(other) or is_symbolic(call.known(index)):
        return None
    found = call.constant(index)
    if found.size != 1 or found.ndim > call.type(call.value(other)).rank or found.dtype == np.bool_:
        return None
    number = call.number(index)
    return _short(number) if np.isfinite(number) else None


def _add(call: Call) -> Value:
    for index, other in ((1, 0), (0, 1)):
        if (number := _scalar(call, index, other)) is not None:
            return call.emit("add_scalar", call.value(other), value=number)
    return call.emit("add", call.value(0), call.value(1))


def _mul(call: Call) -> Value:
    for index, other in ((1, 0), (0, 1)):
        if (number := _scalar(call, index, other)) is not None:
            return call.emit("mul_scalar", call.value(other), value=number)
    return call.emit("mul", call.value(0), call.value(1))


def _sub(call: Call) -> Value:
    if (number := _scalar(call, 1, 0)) is not None:
        return call.emit("add_scalar", call.value(0), value=-number)
    if (number := _scalar(call, 0, 1)) is not None:
        return call.emit("add_scalar", call.emit("mul_scalar", call.value(1), at="negative", value=-1), value=number)
    return call.emit("sub", call.value(0), call.value(1))


def _div(call: Call) -> Value:
    if not _floats(call, call.value(0)):
        raise Untranslatable("a division of whole numbers")
    if (number := _scalar(call, 1, 0)) is not None and number:
        return call.emit("mul_scalar", call.value(0), value=_reciprocal(float(number)))
    if (number := _scalar(call, 0, 1)) is not None:
        x = call.emit("pow", call.value(1), at="reciprocal" if number != 1 else "", exponent=-1)
        return x if number == 1 else call.emit("mul_scalar", x, value=number)
    return call.emit("div", call.value(0), call.value(1))


def _reciprocal(number: float) -> float:
    return 1 / number


def _pow(call: Call) -> Value:
    if not _floats(call, call.value(0)) or not _floats(call, call.value(1)):
        raise Untranslatable("a power of whole numbers")
    if (number := _scalar(call, 1, 0)) is None:
        return call.torch("aten.pow.Tensor_Tensor", ("input", 0), ("input", 1), inputs=[call.value(0), call.value(1)])
    return call.emit("pow", call.value(0), exponent=int(number) if number == int(number) else number)


def _clip(call: Call) -> Value:
    low, high = (
        _short(call.number(index)) if call.has(index) else call.attrs.get(name)
        for index, name in ((1, "min"), (2, "max"))
    )
    if (low, high) == (0, 6):
        return call.emit("relu6", call.value(0))
    if (low, high) == (0, None):
        return call.emit("relu", call.value(0))
    return call.emit("clamp", call.value(0), min=low, max=high)


def _hardsigmoid(call: Call) -> Value:
    alpha, beta = float(call.attrs.get("alpha", 0.2)), float(call.attrs.get("beta", 0.5))
    x = call.value(0)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        return call.emit("hardsigmoid", x)
    x = call.emit("mul_scalar", x, at="scaled", value=_short(alpha))
    x = call.emit("add_scalar", x, at="shifted", value=_short(beta))
    return call.emit("clamp", x, min=0.0, max=1.0)


def _short_of(op: str, **attrs: tuple[str, float]) -> Rule:
    """As :func:`_simple`, of numbers in single precision."""

    def rule(call: Call) -> Value:
        given: dict[str, Any] = {o: _short(float(call.attrs.get(t, default))) for o, (t, default) in attrs.items()}
        return call.emit(op, call.value(0), **given)

    return rule


def _swish(call: Call) -> Value:
    if call.attrs.get("alpha", 1.0) != 1:
        raise Untranslatable("a swish with a factor inside")
    return call.emit("silu", call.value(0))


def _dropout(call: Call) -> Value:
    if call.has(2) and not (call.is_known(2) and not call.number(2)):
        raise Untranslatable("a dropout that may be in training mode")
    ratio = _short(float(call.number(1))) if call.has(1) else 0.5
    return call.emit("dropout", call.value(0), p=ratio)


def _softmax(op: str) -> Rule:
    return _simple(op, dim=("axis", -1))


def _many(op: str) -> Rule:
    return lambda call: call.emit(op, *call.values()) if len(call.node.input) > 1 else call.value(0)


def _pairs(target: str) -> Rule:
    """A join of PyTorch's of two inputs, one after the other."""

    def rule(call: Call) -> Value:
        def join(a: Value, b: Value) -> Value:
            return call.torch(target, ("input", 0), ("input", 1), inputs=[a, b])

        return reduce(join, call.values())

    return rule


def _mean(call: Call) -> Value:
    values = call.values()
    total = call.emit("add", *values, at="sum") if len(values) > 1 else values[0]
    return call.emit("mul_scalar", total, value=1 / len(values))


def _cast(call: Call) -> Value:
    x, to = call.value(0), DTYPES.get(int(call.attrs["to"]))
    if to is None:
        raise Untranslatable("a cast to a type that a graph does not have")
    if call.type(x).dtype is to:
        return x
    return call.torch("aten.to.dtype", ("input", 0), to, inputs=[x])


def _where(call: Call) -> Value:
    values = [call.value(i) for i in range(3)]
    return call.torch("aten.where.self", ("input", 0), ("input", 1), ("input", 2), inputs=values)


# Reductions


def _axes(call: Call) -> tuple[int, ...]:
    """The axes that are reduced, counted from the front."""
    found, rank = call.ints("axes", 1), call.type(call.value(0)).rank
    if not found:
        return () if call.attrs.get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(a % rank for a in found)


def _reduction(op: str) -> Rule:
    return lambda call: call.emit(op, call.value(0), dims=_axes(call), keepdim=bool(call.attrs.get("keepdims", 1)))


def _extreme(target: str) -> Rule:
    return lambda call: call.torch(
        target, ("input", 0), _axes(call), bool(call.attrs.get("keepdims", 1)), inputs=[call.value(0)]
    )


def _norm(order: int) -> Rule:
    return lambda call: call.torch(
        "aten.linalg_vector_norm.default",
        ("input", 0),
        order,
        _axes(call),
        bool(call.attrs.get("keepdims", 1)),
        inputs=[call.value(0)],
    )


def _argument(target: str) -> Rule:
    def rule(call: Call) -> Value:
        if call.attrs.get("select_last_index"):
            raise Untranslatable("the last of equal ones")
        keep = bool(call.attrs.get("keepdims", 1))
        return call.torch(target, ("input", 0), call.attrs.get("axis", 0), keep, inputs=[call.value(0)])

    return rule


# Layout


def _concat(call: Call) -> Value:
    values = call.values()
    return call.emit("concat", *values, dim=call.attrs["axis"]) if len(values) > 1 else values[0]


def _split(call: Call) -> list[Value]:
    x, dim = call.value(0), call.attrs.get("axis", 0)
    have = call.type(x).shape[dim]
    if not isinstance(have, int):
        raise Untranslatable("a split of the batch")
    sizes = call.ints("split", 1)
    if sizes is None:
        count = len(call.node.output)
        each = -(-have // count)
        sizes = [min(each, have - i * each) for i in range(count)]
    first = call.emit("split", x, sizes=tuple(sizes), dim=dim)
    return [Value(first.node, i) for i in range(len(sizes))]


def _slice(call: Call) -> Value:
    x = call.value(0)
    rank = call.type(x).rank
    starts, ends = (list(call.known(i).reshape(-1)) for i in (1, 2))
    axes = call.ints("axes", 3) or list(range(len(starts)))
    steps = call.ints("steps", 4) or [1] * len(starts)
    for at, start, end, step in zip(axes, starts, ends, steps, strict=True):
        have = call.type(x).shape[at % rank]
        if isinstance(have, Batch):
            if not (start == 0 and step == 1 and _reaches(end, have)):
                raise Untranslatable("a part of the batch")
            continue
        if step < 1:
            if not (step == -1 and start in (-1, have - 1) and end < -have):
                raise Untranslatable(f"a slice backwards, by {step}")
            x = call.torch("aten.flip.default", ("input", 0), (at % rank,), inputs=[x])
            continue
        low, high, _ = slice(int(start), int(end)).indices(have)
        if (low, high, step) != (0, have, 1):
            x = call.emit("slice", x, dim=at % rank, start=low, stop=high, step=step)
    return x


def _reaches(end: Any, have: Batch) -> bool:
    """Whether a slice's end is that of the batch."""
    return getattr(end, "times", None) == have.times or bool(isinstance(end, int | np.integer) and end >= 2**31 - 1)


def _same_or(call: Call, x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if call.type(x).shape == shape else call.emit("reshape", x, shape=shape)


def _reshape(call: Call) -> Value:
    x = call.value(0)
    shape = list(call.shape(1))
    if not call.attrs.get("allowzero"):
        shape = [call.type(x).shape[i] if d == 0 and isinstance(d, int) else d for i, d in enumerate(shape)]
    (type_,) = reshape([call.type(x)], {"shape": tuple(shape)})
    return _same_or(call, x, type_.shape)


def _flatten(call: Call) -> Value:
    x, at = call.value(0), call.attrs.get("axis", 1)
    shape = call.type(x).shape
    at = at % len(shape) if at < 0 else at
    if at == 1 and len(shape) > 1:
        return call.emit("flatten", x) if len(shape) > 2 else x
    return _same_or(call, x, (_product(shape[:at]), _product(shape[at:])))


def _product(shape: tuple[Dim, ...]) -> Dim:
    count = prod(d.times if isinstance(d, Batch) else d for d in shape)
    return Batch(count) if any(isinstance(d, Batch) for d in shape) else count


def _unsqueeze(call: Call) -> Value:
    x = call.value(0)
    axes = call.ints("axes", 1) or []
    rank = call.type(x).rank + len(axes)
    left, at = list(call.type(x).shape), {a % rank for a in axes}
    return _same_or(call, x, tuple(1 if i in at else left.pop(0) for i in range(rank)))


def _squeeze(call: Call) -> Value:
    x = call.value(0)
    shape, axes = call.type(x).shape, call.ints("axes", 1)
    at = {i for i, d in enumerate(shape) if d == 1} if axes is None else {a % len(shape) for a in axes}
    if any(shape[i] != 1 for i in at):
        raise Untranslatable(f"a squeeze of {call.type(x)}")
    return _same_or(call, x, tuple(d for i, d in enumerate(shape) if i not in at))


def _transpose(call: Call) -> Value:
    x = call.value(0)
    perm = tuple(call.attrs.get("perm", range(call.type(x).rank)[::-1]))
    return x if perm == tuple(range(len(perm))) else call.emit("permute", x, dims=perm)


def _expand(call: Call) -> Value:
    x, wanted = call.value(0), call.shape(1)
    have = (1,) * (len(wanted) - call.type(x).rank) + call.type(x).shape
    wanted = (1,) * (len(have) - len(wanted)) + wanted
    shape = tuple(h if w == 1 else w for h, w in zip(have, wanted, strict=True))
    return x if shape == call.type(x).shape else call.emit("expand", x, shape=shape)


def _constant_of_shape(call: Call) -> Value:
    """A shape with the batch size in it, or a large one, filled with one number."""
    shape, filled = call.shape(0), call.attrs.get("value", np.zeros(1, np.float32)).reshape((1,) * call.known(0).size)
    return call.emit("expand", call.stored(filled, "value"), shape=shape)


def _pad(call: Call) -> Value:
    x, mode = call.value(0), call.attrs.get("mode", "constant")
    rank = call.type(x).rank
    given = call.ints("pads", 1) or []
    axes = call.ints("axes", 3) or list(range(rank))
    pads = [0] * (2 * rank)
    for i, at in enumerate(axes):
        at %= rank
        pads[2 * (rank - 1 - at)], pads[2 * (rank - 1 - at) + 1] = given[i], given[i + len(axes)]
    while pads and not any(pads[-2:]):
        del pads[-2:]
    if not pads:
        return x
    if mode != "constant" and (len(pads) > 4 or rank not in (3, 4) or len(pads) != 2 * (rank - 2)):
        pads += [0] * (2 * (rank - 2) - len(pads))
        if len(pads) > 4 or rank not in (3, 4):
            raise Untranslatable(f"padding by {mode} of {call.type(x)}")
    name = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    value = float(call.number(2)) if call.has(2) and mode == "constant" else 0.0
    return call.emit("pad", x, pads=tuple(pads), mode=name, value=value)


def _gather(call: Call) -> Value:
    at = call.attrs.get("axis", 0)
    if not call.is_known(1):
        values = [call.value(0), call.value(1)]
        before = (None,) * (at % call.type(values[0]).rank)
        return call.torch("aten.index.Tensor", ("input", 0), (*before, ("input", 1)), inputs=values)
    x, index_ = call.value(0), call.constant(1)
    shape = call.type(x).shape
    at %= len(shape)
    have = shape[at]
    if isinstance(have, Batch):
        raise Untranslatable("a part of the batch")
    chosen = [int(i) % have for i in index_.reshape(-1)]
    if index_.ndim == 0:
        x = call.emit("slice", x, at="row", dim=at, start=chosen[0], stop=chosen[0] + 1) if have > 1 else x
        return call.emit("reshape", x, shape=shape[:at] + shape[at + 1 :])
    if index_.ndim == 1 and chosen == list(range(chosen[0], chosen[0] + len(chosen))):
        if len(chosen) == have:
            return x
        return call.emit("slice", x, dim=at, start=chosen[0], stop=chosen[0] + len(chosen))
    rows = call.stored(np.array(chosen, np.int64), "index")
    y = call.torch("aten.index_select.default", ("input", 0), at, ("input", 1), inputs=[x, rows], at="rows")
    return _same_or(call, y, shape[:at] + index_.shape + shape[at + 1 :])


def _gather_elements(call: Call) -> Value:
    if not call.is_known(1) or (call.constant(1) < 0).any():
        raise Untranslatable("indices that may count from the end")
    values = [call.value(0), call.value(1)]
    return call.torch("aten.gather.default", ("input", 0), call.attrs.get("axis", 0), ("input", 1), inputs=values)


def _tile(call: Call) -> Value:
    return call.torch("aten.repeat.default", ("input", 0), tuple(call.shape(1)), inputs=[call.value(0)])


def _cumsum(call: Call) -> Value:
    if call.attrs.get("exclusive") or call.attrs.get("reverse"):
        raise Untranslatable("a sum from the end, or without the last")
    return call.torch("aten.cumsum.default", ("input", 0), int(call.number(1)), inputs=[call.value(0)])


def _trilu(call: Call) -> Value:
    k = int(call.number(1)) if call.has(1) else 0
    upper = call.attrs.get("upper", 1)
    return call.torch(f"aten.{'triu' if upper else 'tril'}.default", ("input", 0), k, inputs=[call.value(0)])


def _attention(call: Call) -> Value:
    if any(call.has(i) for i in (4, 5, 6)) or any(call.node.output[1:]) or call.attrs.get("softcap"):
        raise Untranslatable("an attention with a memory, or with lengths")
    values = [call.value(i) for i in range(4 if call.has(3) else 3)]
    if any(call.type(value).rank != 4 for value in values[:3]):
        raise Untranslatable("an attention that splits heads itself")
    scale, causal = call.attrs.get("scale"), bool(call.attrs.get("is_causal", 0))
    if causal and len(values) == 4:
        raise Untranslatable("a causal attention with a mask")
    return call.emit("attention", *values, scale=scale and _short(float(scale)), causal=causal)


def _identity(call: Call) -> Value:
    return call.value(0)


def _not_a_bool(rule: Callable[[Call], Value]) -> Rule:
    def checked(call: Call) -> Value:
        if call.type(call.value(0)).dtype is DType.BOOL:
            raise Untranslatable("arithmetic of truth values")
        return rule(call)

    return checked


ARITHMETIC: Final[Mapping[str, Rule]] = {
    "Identity": _identity,
    "Relu": _simple("relu"),
    "LeakyRelu": _short_of("leaky_relu", slope=("alpha", 0.01)),
    "Elu": _short_of("elu", alpha=("alpha", 1.0)),
    "Gelu": _simple("gelu", approximate=("approximate", "none")),
    "Swish": _swish,
    "Mish": _simple("mish"),
    "Sigmoid": _simple("sigmoid"),
    "Tanh": _simple("tanh"),
    "HardSwish": _simple("hardswish"),
    "HardSigmoid": _hardsigmoid,
    "Softplus": _simple("softplus"),
    "Clip": _clip,
    "Sqrt": _simple("sqrt"),
    "Exp": _simple("exp"),
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Dropout": _dropout,
    "Add": _not_a_bool(_add),
    "Sub": _sub,
    "Mul": _not_a_bool(_mul),
    "Div": _div,
    "Pow": _pow,
    "Neg": lambda call: call.emit("mul_scalar", call.value(0), value=-1),
    "Reciprocal": lambda call: call.emit("pow", call.value(0), exponent=-1),
    "Sum": _many("add"),
    "Mean": _mean,
    "Max": _pairs("aten.maximum.default"),
    "Min": _pairs("aten.minimum.default"),
    "Cast": _cast,
    "Where": _where,
    "Abs": _torch("aten.abs.default"),
    "Log": _torch("aten.log.default"),
    "Erf": _torch("aten.erf.default"),
    "Sin": _torch("aten.sin.default"),
    "Cos": _torch("aten.cos.default"),
    "Floor": _torch("aten.floor.default"),
    "Ceil": _torch("aten.ceil.default"),
    "Round": _torch("aten.round.default"),
    "Sign": _torch("aten.sign.default"),
    "Not": _torch("aten.logical_not.default"),
    "And": _torch("aten.logical_and.default", 2),
    "Or": _torch("aten.logical_or.default", 2),
    "Equal": _torch("aten.eq.Tensor", 2),
    "Less": _torch("aten.lt.Tensor", 2),
    "LessOrEqual": _torch("aten.le.Tensor", 2),
    "Greater": _torch("aten.gt.Tensor", 2),
    "GreaterOrEqual": _torch("aten.ge.Tensor", 2),
    "ReduceMean": _reduction("mean"),
    "ReduceSum": _reduction("sum"),
    "ReduceMax": _extreme("aten.amax.default"),
    "ReduceMin": _extreme("aten.amin.default"),
    "ReduceL1": _norm(1),
    "ReduceL2": _norm(2),
    "ArgMax": _argument("aten.argmax.default"),
    "ArgMin": _argument("aten.argmin.default"),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Pad": _pad,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Tile": _tile,
    "CumSum": _cumsum,
    "Trilu": _trilu,
    "Attention": _attention,
}
"""How each is read."""
