"""What an ONNX file computes before it ever sees an input: constants, and the arithmetic of shapes.

A known tensor is a numpy array; one that holds the batch size has dtype object, with a :class:`Size` for every
multiple of it. :data:`FOLDED` computes with both, within bounds: a file cannot make a large tensor out of small ones.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import helper

from netgraft.ir import Batch
from netgraft.ir.types import Dim

Array = npt.NDArray[Any]
MOST: Final = 2**24
"""As many elements may a tensor have that is larger than those it is computed from."""


class NotFoldable(Exception):
    """What only an input can tell."""


@dataclass(frozen=True, slots=True)
class Size:
    """``times`` the batch size. Arithmetic that leads out of such numbers is a TypeError."""

    times: int

    def __mul__(self, other: object) -> Size | int:
        if isinstance(other, int | np.integer | float) and other == int(other):
            return Size(self.times * int(other)) if other else 0
        return NotImplemented

    __rmul__ = __mul__

    def __add__(self, other: object) -> Size | int:
        if isinstance(other, Size):
            total = self.times + other.times
            return Size(total) if total else 0
        return self if isinstance(other, int | float | np.integer) and other == 0 else NotImplemented

    __radd__ = __add__

    def __neg__(self) -> Size:
        return Size(-self.times)

    def __sub__(self, other: object) -> Size | int:
        return self + (-other if isinstance(other, Size | int | float | np.integer) else other)

    def __floordiv__(self, other: object) -> Size | int:
        if isinstance(other, Size) and self.times % other.times == 0:
            return self.times // other.times
        if isinstance(other, int | float | np.integer) and other and self.times % other == 0:
            return Size(int(self.times // other))
        return NotImplemented

    __truediv__ = __floordiv__


def known_shape(shape: Sequence[Dim]) -> Array:
    """A shape as a known tensor."""
    if any(isinstance(d, Batch) for d in shape):
        found = np.empty(len(shape), object)
        found[:] = [Size(d.times) if isinstance(d, Batch) else d for d in shape]
        return found
    return np.array(shape, np.int64)


def dims(known: Array) -> tuple[Dim, ...]:
    """A known tensor as a shape; NotFoldable where it holds anything but sizes."""
    found: list[Dim] = []
    for size in known.reshape(-1).tolist():
        if isinstance(size, Size) and size.times > 0:
            found.append(Batch(size.times))
        elif isinstance(size, int | float) and size == int(size):
            found.append(int(size))
        else:
            raise NotFoldable(f"{size} is no size")
    return tuple(found)


def at_batch(known: Array, size: int) -> Array:
    """A known tensor when the batch has this size."""
    if not is_symbolic(known):
        return known
    numbers = [n.times * size if isinstance(n, Size) else n for n in known.reshape(-1)]
    return np.array(numbers, np.int64).reshape(known.shape)


def is_symbolic(known: Array) -> bool:
    """Whether a known tensor holds the batch size."""
    return known.dtype == object


def fold(op_type: str, inputs: Sequence[Array | None], attrs: Mapping[str, Any]) -> list[Array]:
    """What an ONNX operation makes of known tensors; NotFoldable where that is not computed here."""
    if op_type not in FOLDED:
        raise NotFoldable(op_type)
    try:
        with np.errstate(all="ignore"):
            results = FOLDED[op_type](inputs, attrs)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError, MemoryError):
        raise NotFoldable(op_type) from None
    found = results if isinstance(results, list) else [results]
    return [_tidy(np.asarray(result)) for result in found]


def _tidy(result: Array) -> Array:
    if result.dtype == object and not any(isinstance(x, Size) for x in result.reshape(-1)):
        return np.array(result.tolist()).reshape(result.shape)
    return result


def _within(count: int, *inputs: Array) -> None:
    if count > max(MOST, *(x.size for x in inputs), 0):
        raise NotFoldable(f"{count} elements")


_Attrs = Mapping[str, Any]
_Inputs = Sequence[Any]
_Rule = Callable[[_Inputs, _Attrs], Any]


def _elementwise(function: Callable[..., Any], whole: Callable[..., Any] | None = None) -> _Rule:
    """``function``, or ``whole`` of integers, of tensors that broadcast."""

    def rule(inputs: _Inputs, attrs: _Attrs) -> Any:
        _within(prod(np.broadcast_shapes(*(x.shape for x in inputs))), *inputs)
        chosen = function
        if whole and all(x.dtype.kind in "iuO" for x in inputs):
            chosen = whole
        if any(x.dtype == object for x in inputs):
            return np.asarray(np.frompyfunc(chosen, len(inputs), 1)(*inputs), object)
        return np.asarray(chosen(*inputs)).astype(
            np.bool_ if chosen in _COMPARISONS else np.result_type(*(x.dtype for x in inputs)), copy=False
        )

    return rule


_COMPARISONS: Final = (operator.eq, operator.lt, operator.gt, operator.le, operator.ge, np.logical_not, np.logical_and)


def _truncated(a: Any, b: Any) -> Any:
    """Integer division as ONNX has it, towards zero."""
    if isinstance(a, Size) or isinstance(b, Size):
        return a // b
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _where(inputs: _Inputs, attrs: _Attrs) -> Any:
    _within(prod(np.broadcast_shapes(*(x.shape for x in inputs))), *inputs)
    return np.where(inputs[0].astype(np.bool_), inputs[1], inputs[2])


def _cast(inputs: _Inputs, attrs: _Attrs) -> Any:
    x = inputs[0]
    return x if x.dtype == object else x.astype(helper.tensor_dtype_to_np_dtype(attrs["to"]))


def _round(function: Callable[..., Any]) -> _Rule:
    def rule(inputs: _Inputs, attrs: _Attrs) -> Any:
        if inputs[0].dtype == object:
            return np.asarray(
                np.frompyfunc(lambda x: x if isinstance(x, Size) else int(function(x)), 1, 1)(inputs[0]), object
            )
        return function(inputs[0]).astype(inputs[0].dtype)

    return rule


def axes_of(inputs: _Inputs, attrs: _Attrs) -> tuple[int, ...] | None:
    """The axes of an operation that takes them as an attribute or, later, as its second input."""
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(int(a) for a in inputs[1].reshape(-1))
    return tuple(attrs["axes"]) if "axes" in attrs else None


def _unsqueeze(inputs: _Inputs, attrs: _Attrs) -> Any:
    axes = axes_of(inputs, attrs)
    assert axes is not None
    return np.expand_dims(inputs[0], axes)


def _squeeze(inputs: _Inputs, attrs: _Attrs) -> Any:
    return np.squeeze(inputs[0], axes_of(inputs, attrs))


def _reshape(inputs: _Inputs, attrs: _Attrs) -> Any:
    shape = [int(d) for d in inputs[1]]
    if not attrs.get("allowzero"):
        shape = [inputs[0].shape[i] if d == 0 else d for i, d in enumerate(shape)]
    return inputs[0].reshape(shape)


def _gather(inputs: _Inputs, attrs: _Attrs) -> Any:
    x, index = inputs
    at = attrs.get("axis", 0) % x.ndim
    _within(x.size // max(1, x.shape[at]) * index.size, *inputs)
    return np.take(x, index, axis=at)


def _slice(inputs: _Inputs, attrs: _Attrs) -> Any:
    x, starts, ends = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
    steps = inputs[4] if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for at, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Backwards, the least number stands for what lies before the first element.
        stop = None if step < 0 and end < -x.shape[at] else int(end)
        cut[int(at)] = slice(int(start), stop, int(step))
    return x[tuple(cut)]


def _concat(inputs: _Inputs, attrs: _Attrs) -> Any:
    _within(sum(x.size for x in inputs), *inputs)
    return np.concatenate(inputs, attrs["axis"])


def _split(inputs: _Inputs, attrs: _Attrs) -> Any:
    x, at = inputs[0], attrs.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return np.split(x, np.cumsum(inputs[1])[:-1], at)
    return np.split(x, attrs["outputs"], at)


def _constant_of_shape(inputs: _Inputs, attrs: _Attrs) -> Any:
    shape = tuple(int(d) for d in inputs[0])
    _within(prod(shape))
    value = attrs.get("value", np.zeros(1, np.float32))
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _expand(inputs: _Inputs, attrs: _Attrs) -> Any:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(d) for d in inputs[1]))
    _within(prod(shape), inputs[0])
    return np.broadcast_to(inputs[0], shape)


def _tile(inputs: _Inputs, attrs: _Attrs) -> Any:
    _within(inputs[0].size * prod(int(n) for n in inputs[1]))
    return np.tile(inputs[0], [int(n) for n in inputs[1]])


def _range(inputs: _Inputs, attrs: _Attrs) -> Any:
    start, stop, step = (x.item() for x in inputs)
    _within(int((stop - start) / step))
    return np.arange(start, stop, step, dtype=inputs[0].dtype)


def _reduce(function: Callable[..., Any]) -> _Rule:
    def rule(inputs: _Inputs, attrs: _Attrs) -> Any:
        x, axes, keep = inputs[0], axes_of(inputs, attrs), bool(attrs.get("keepdims", 1))
        if axes is None and attrs.get("noop_with_empty_axes"):
            return x
        if x.dtype == object:
            assert function is np.prod and x.ndim == 1
            product = reduce(operator.mul, x.tolist(), 1)
            found = np.empty((1,) if keep else (), object)
            found[...] = product
            return found
        return np.asarray(function(x, axis=axes, keepdims=keep)).astype(x.dtype)

    return rule


def _trilu(inputs: _Inputs, attrs: _Attrs) -> Any:
    k = int(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else 0
    return np.triu(inputs[0], k) if attrs.get("upper", 1) else np.tril(inputs[0], k)


def _pairs(function: Callable[..., Any]) -> _Rule:
    return lambda inputs, attrs: reduce(lambda a, b: _elementwise(function)((a, b), {}), inputs)


FOLDED: Final[Mapping[str, _Rule]] = {
    "Identity": lambda inputs, attrs: inputs[0],
    "Add": _elementwise(operator.add),
    "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul),
    "Div": _elementwise(operator.truediv, _truncated),
    "Mod": _elementwise(operator.mod),
    "Pow": _elementwise(operator.pow),
    "Neg": _elementwise(operator.neg),
    "Sqrt": _elementwise(np.sqrt),
    "Exp": _elementwise(np.exp),
    "Log": _elementwise(np.log),
    "Abs": _elementwise(np.abs),
    "Reciprocal": _elementwise(np.reciprocal),
    "Min": _pairs(np.minimum),
    "Max": _pairs(np.maximum),
    "Equal": _elementwise(operator.eq),
    "Less": _elementwise(operator.lt),
    "Greater": _elementwise(operator.gt),
    "LessOrEqual": _elementwise(operator.le),
    "GreaterOrEqual": _elementwise(operator.ge),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Where": _where,
    "Cast": _cast,
    "Floor": _round(np.floor),
    "Ceil": _round(np.ceil),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": lambda inputs, attrs: inputs[0].reshape(prod(inputs[0].shape[: attrs.get("axis", 1)]), -1),
    "Transpose": lambda inputs, attrs: np.transpose(inputs[0], attrs.get("perm")),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceMean": _reduce(np.mean),
    "Trilu": _trilu,
}
"""The operations that are computed when a file is read."""
