"""The table of translations: from operations of PyTorch's (ATen) to operations of the graph.

A rule reads a :class:`Call` and returns what it computes, having emitted the nodes for it; where the op table cannot
say what the call does, it raises :class:`Untranslatable` with the reason, and the call becomes a frozen node. Rules
need not check the shape of their result: whoever applies them compares it with the shape that PyTorch computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from torch import Tensor

from netgraft.ir import Batch, TensorType, Value


class Untranslatable(Exception):
    """Why a call has no counterpart in the op table; a frozen node's ``reason``."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor that does not depend on the input: a parameter, a buffer or a folded constant."""

    key: str
    tensor: Tensor
    trainable: bool


Operand = Value | Stored
Result = Operand | tuple[Operand | None, ...]


class Emitter(Protocol):
    """Where rules put nodes."""

    def emit(self, op: str, *inputs: Value, weights: Mapping[str, Stored], attrs: Mapping[str, Any]) -> Value:
        """Adds a node."""

    def value(self, operand: Operand) -> Value:
        """The operand as a value; a stored tensor becomes a constant node."""

    def type(self, operand: Operand) -> TensorType:
        """The operand's type."""

    def follows(self, arguments: Mapping[str, Any], name: str) -> bool:
        """Whether an argument that switches to training follows the mode of the network."""

    def tracked(self, running_mean: Stored) -> Stored:
        """The count of batches that belongs to a batch norm's running mean."""

    def transposed(self, operand: Operand) -> Stored | None:
        """The stored matrix whose transpose the operand is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation: its arguments by the names of its schema, and the types of what it returns."""

    arguments: Mapping[str, Any]
    outputs: tuple[TensorType, ...]
    used: frozenset[int]
    emitter: Emitter

    def __getitem__(self, name: str) -> Any:
        """An argument: numbers, strings, lists of them, :class:`Batch`, operands, None."""
        return self.arguments[name]

    def emit(
        self, op: str, *inputs: Operand, weights: Mapping[str, Stored | None] | None = None, **attrs: Any
    ) -> Value:
        """Adds a node; weights that are None are left out."""
        held = {role: stored for role, stored in (weights or {}).items() if stored is not None}
        return self.emitter.emit(op, *(self.emitter.value(x) for x in inputs), weights=held, attrs=attrs)

    def type(self, name: str) -> TensorType:
        """The type of a tensor argument."""
        return self.emitter.type(self[name])

    def dim(self, name: str = "dim", of: str = "self") -> int:
        """An axis argument, counted from the front of the tensor ``of``."""
        return int(self[name]) % max(self.type(of).rank, 1)

    def stored(self, name: str) -> Stored | None:
        """A weight argument; Untranslatable where the network computes it."""
        operand = self[name]
        if operand is None or isinstance(operand, Stored):
            return operand
        raise Untranslatable(f"its {name} is computed by the network")

    def image(self, name: str) -> Operand:
        """A tensor argument that must be N, C, H, W."""
        operand: Operand = self[name]
        if self.type(name).rank != 4:
            raise Untranslatable(f"the input {self.type(name)} is no batch of images")
        return operand

    def reshape(self, x: Operand, shape: Sequence[int | Batch]) -> Operand:
        """``x`` in another shape; what leaves the batch alone and flattens the rest is a flatten."""
        before, after = self.emitter.type(x).shape, tuple(shape)
        if before == after:
            return x
        if len(after) == 2 < len(before) and before[0] == after[0]:
            return self.emit("flatten", x)
        return self.emit("reshape", x, shape=after)


Rule = Callable[[Call], Result]

RULES: Final[dict[str, Rule]] = {}
"""Rules by the name of the operation without its namespace (``conv2d.default``)."""


_R = TypeVar("_R", bound=Rule)


def _rule(*targets: str) -> Callable[[_R], _R]:
    def register(rule: _R) -> _R:
        RULES.update(dict.fromkeys(targets, rule))
        return rule

    return register


def _pair(numbers: Any) -> tuple[Any, Any]:
    """ATen's lists of one or two numbers, as (height, width)."""
    items = list(numbers) if isinstance(numbers, list | tuple) else [numbers]
    return (items[0], items[-1])


# Convolutions and matrix products


def _conv(call: Call, padding: tuple[int, int], before: tuple[int, int, int, int] | None = None) -> Value:
    x, weight = call.image("input"), call.stored("weight")
    assert weight is not None
    out, _, *kernel = weight.tensor.shape
    bias = call.stored("bias")
    return call.emit(
        "conv2d",
        call.emit("pad", x, pads=before) if before else x,
        weights={"weight": weight, "bias": bias},
        out_channels=out,
        kernel=_pair(kernel),
        stride=_pair(call["stride"]),
        padding=padding,
        dilation=_pair(call["dilation"]),
        groups=call["groups"],
        bias=bias is not None,
    )


@_rule("conv2d.default")
def _conv2d(call: Call) -> Value:
    return _conv(call, _pair(call["padding"]))


@_rule("conv2d.padding")
def _conv2d_padding(call: Call) -> Value:
    if call["padding"] == "valid":
        return _conv(call, (0, 0))
    weight = call.stored("weight")
    assert weight is not None
    (dh, dw), (kh, kw) = _pair(call["dilation"]), weight.tensor.shape[2:]
    height, width = dh * (kh - 1), dw * (kw - 1)
    if height % 2 == width % 2 == 0:
        return _conv(call, (height // 2, width // 2))
    # An even kernel needs one more on the right and below, which a convolution's padding cannot say.
    return _conv(call, (0, 0), (width // 2, width - width // 2, height // 2, height - height // 2))


def _conv_transpose(call: Call) -> Value:
    x, weight, bias = call.image("input"), call.stored("weight"), call.stored("bias")
    assert weight is not None
    return call.emit(
        "conv_transpose2d",
        x,
        weights={"weight": weight, "bias": bias},
        out_channels=weight.tensor.shape[1] * call["groups"],
        kernel=_pair(list(weight.tensor.shape[2:])),
        stride=_pair(call["stride"]),
        padding=_pair(call["padding"]),
        output_padding=_pair(call["output_padding"]),
        dilation=_pair(call["dilation"]),
        groups=call["groups"],
        bias=bias is not None,
    )


_rule("conv_transpose2d.input")(_conv_transpose)


@_rule("convolution.default")
def _convolution(call: Call) -> Value:
    return _conv_transpose(call) if call["transposed"] else _conv2d(call)


def _linear(call: Call, x: Operand, weight: Stored, bias: Stored | None) -> Value:
    if weight.tensor.ndim != 2 or (bias is not None and bias.tensor.shape != weight.tensor.shape[:1]):
        raise Untranslatable("its weight is no matrix, or its bias no vector of the same length")
    weights = {"weight": weight, "bias": bias}
    return call.emit("linear", x, weights=weights, out_features=weight.tensor.shape[0], bias=bias is not None)


@_rule("linear.default")
def _linear_default(call: Call) -> Value:
    weight = call.stored("weight")
    assert weight is not None
    return _linear(call, call["input"], weight, call.stored("bias"))


@_rule("addmm.default")
def _addmm(call: Call) -> Value:
    weight = call.emitter.transposed(call["mat2"])
    if weight is not None and call["beta"] == call["alpha"] == 1 and isinstance(call["self"], Stored):
        return _linear(call, call["mat1"], weight, call["self"])
    raise Untranslatable("a sum with a scaled or computed matrix product")


@_rule("mm.default")
def _mm(call: Call) -> Value:
    weight = call.emitter.transposed(call["mat2"])
    if weight is not None:
        return _linear(call, call["self"], weight, None)
    return call.emit("matmul", call["self"], call["mat2"])


@_rule("bmm.default")
def _bmm(call: Call) -> Value:
    return call.emit("matmul", call["self"], call["mat2"])


@_rule("matmul.default")
def _matmul(call: Call) -> Value:
    weight = call.emitter.transposed(call["other"])
    if weight is not None:
        return _linear(call, call["self"], weight, None)
    return call.emit("matmul", call["self"], call["other"])


@_rule("scaled_dot_product_attention.default", "_scaled_dot_product_flash_attention_for_cpu.default")
def _attention(call: Call) -> Result:
    if call.arguments.get("enable_gqa"):
        raise Untranslatable("attention of grouped queries")
    if call["dropout_p"] and not call.emitter.follows({"train": True}, "train"):
        raise Untranslatable("dropout in evaluation too")
    operands = [call[name] for name in ("query", "key", "value", "attn_mask") if call[name] is not None]
    attrs = {"scale": call["scale"], "causal": call["is_causal"], "p": float(call["dropout_p"])}
    y = call.emit("attention", *operands, **attrs)
    return y if len(call.outputs) == 1 else (y, *[None] * (len(call.outputs) - 1))


# Normalisation


@_rule("batch_norm.default")
def _batch_norm(call: Call) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    mean, var = call.stored("running_mean"), call.stored("running_var")
    if mean is None or var is None:
        raise Untranslatable("a batch norm without running statistics")
    if (weight is None) != (bias is None):
        raise Untranslatable("a batch norm with only one of scale and shift")
    if "training" in call.arguments and not call.emitter.follows(call.arguments, "training"):
        raise Untranslatable("a batch norm that does not follow the mode of the network")
    weights = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    weights["num_batches_tracked"] = call.emitter.tracked(mean)
    # NaN is how the reader writes a momentum of None (a cumulative average) into a module that it exports.
    momentum = None if call["momentum"] != call["momentum"] else call["momentum"]
    attrs = {"eps": call["eps"], "momentum": momentum, "affine": weight is not None}
    return call.emit("batch_norm", call["input"], weights=weights, **attrs)


@_rule(
    "_native_batch_norm_legit_no_training.default",
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit_functional.default",
    "native_batch_norm.default",
)
def _native_batch_norm(call: Call) -> Result:
    return (_batch_norm(call), *[None] * (len(call.outputs) - 1))


@_rule("layer_norm.default")
def _layer_norm(call: Call) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    attrs = {"eps": call["eps"], "affine": weight is not None, "bias": bias is not None}
    shape = tuple(call["normalized_shape"])
    return call.emit("layer_norm", call["input"], weights={"weight": weight, "bias": bias}, shape=shape, **attrs)


@_rule("native_layer_norm.default")
def _native_layer_norm(call: Call) -> Result:
    return (_layer_norm(call), None, None)


def _group(call: Call, groups: int) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    if (weight is None) != (bias is None):
        raise Untranslatable("a normalisation with only one of scale and shift")
    attrs = {"groups": groups, "eps": call["eps"], "affine": weight is not None}
    return call.emit("group_norm", call["input"], weights={"weight": weight, "bias": bias}, **attrs)


@_rule("group_norm.default")
def _group_norm(call: Call) -> Value:
    return _group(call, call["num_groups"])


@_rule("native_group_norm.default")
def _native_group_norm(call: Call) -> Result:
    return (_group(call, call["group"]), None, None)


@_rule("instance_norm.default")
def _instance_norm(call: Call) -> Value:
    channels = call.type("input").shape[1]
    if not call["use_input_stats"] or call["running_mean"] is not None or isinstance(channels, Batch):
        raise Untranslatable("an instance norm with running statistics")
    return _group(call, channels)


# Activations and scalars

_SAME = ["relu", "relu6", "sigmoid", "tanh", "silu", "mish", "hardswish", "hardsigmoid", "exp", "sqrt"]
_POWERS = {"square": 2, "rsqrt": -0.5, "reciprocal": -1}
_WITH_ATTRS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "gelu.default": ("gelu", {"approximate": "approximate"}),
    "leaky_relu.default": ("leaky_relu", {"slope": "negative_slope"}),
    "softplus.default": ("softplus", {"beta": "beta", "threshold": "threshold"}),
    "clamp.default": ("clamp", {"min": "min", "max": "max"}),
    "clamp_min.default": ("clamp", {"min": "min"}),
    "clamp_max.default": ("clamp", {"max": "max"}),
    "pow.Tensor_Scalar": ("pow", {"exponent": "exponent"}),
}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Untranslatable(f"{value} is no fixed number")
    return value


def _pointwise(op: str, attrs: Mapping[str, str]) -> Rule:
    return lambda call: call.emit(op, call["self"], **{name: call[theirs] for name, theirs in attrs.items()})


def _power(exponent: float) -> Rule:
    return lambda call: call.emit("pow", call["self"], exponent=exponent)


RULES.update({f"{name}.default": _pointwise(name, {}) for name in _SAME})
RULES.update({name: _pointwise(*meaning) for name, meaning in _WITH_ATTRS.items()})
RULES.update({f"{name}.default": _power(exponent) for name, exponent in _POWERS.items()})


@_rule("hardtanh.default")
def _hardtanh(call: Call) -> Value:
    low, high = call["min_val"], call["max_val"]
    if (low, high) == (0, 6):
        return call.emit("relu6", call["self"])
    return call.emit("clamp", call["self"], min=low, max=high)


@_rule("elu.default")
def _elu(call: Call) -> Value:
    if (call["scale"], call["input_scale"]) != (1, 1):
        raise Untranslatable("a scaled elu")
    return call.emit("elu", call["self"], alpha=float(call["alpha"]))


@_rule("prelu.default")
def _prelu(call: Call) -> Value:
    weight = call.stored("weight")
    assert weight is not None
    return call.emit("prelu", call["self"], weights={"weight": weight}, parameters=weight.tensor.numel())


@_rule("softmax.int", "_softmax.default")
def _softmax(call: Call) -> Value:
    return call.emit("softmax", call["self"], dim=call.dim())


@_rule("log_softmax.int", "_log_softmax.default")
def _log_softmax(call: Call) -> Value:
    return call.emit("log_softmax", call["self"], dim=call.dim())


def _drop(call: Call, op: str, x: Operand) -> Operand:
    if not call["p"]:
        return x
    if not call.emitter.follows(call.arguments, "train"):
        if call["train"]:
            raise Untranslatable("dropout in evaluation too")
        return x
    return call.emit(op, x, p=float(call["p"]))


@_rule("dropout.default")
def _dropout(call: Call) -> Operand:
    return _drop(call, "dropout", call["input"])


@_rule("native_dropout.default")
def _native_dropout(call: Call) -> Result:
    return _drop(call, "dropout", call["input"]), None


@_rule("feature_dropout.default")
def _feature_dropout(call: Call) -> Operand:
    return _drop(call, "dropout2d", call.image("input"))


# Arithmetic


def _scalar(call: Call, name: str, of: str) -> float | None:
    """An argument that is a number, or a stored tensor that is one; None for a tensor."""
    given = call[name]
    if isinstance(given, Stored) and not given.trainable and given.tensor.ndim == 0:
        given = given.tensor.item()
    if isinstance(given, Value | Stored):
        return None
    number = _number(given)
    return float(number) if call.type(of).dtype.startswith(("f", "b")) else number


def _add(call: Call, x: Operand, y: Operand, alpha: float) -> Value:
    return call.emit("add", x, y if alpha == 1 else call.emit("mul_scalar", y, value=alpha))


@_rule("add.Tensor", "add.Scalar")
def _add_tensor(call: Call) -> Value:
    other, alpha = _scalar(call, "other", "self"), _number(call["alpha"])
    if other is not None:
        return call.emit("add_scalar", call["self"], value=other * alpha)
    return _add(call, call["self"], call["other"], alpha)


@_rule("sub.Tensor", "sub.Scalar")
def _sub(call: Call) -> Value:
    other, alpha = _scalar(call, "other", "self"), _number(call["alpha"])
    if other is not None:
        return call.emit("add_scalar", call["self"], value=-other * alpha)
    if alpha != 1:
        return _add(call, call["self"], call["other"], -alpha)
    return call.emit("sub", call["self"], call["other"])


@_rule("rsub.Scalar")
def _rsub(call: Call) -> Value:
    other, alpha = _scalar(call, "other", "self"), _number(call["alpha"])
    assert other is not None
    return call.emit("add_scalar", call.emit("mul_scalar", call["self"], value=-alpha), value=other)


@_rule("neg.default")
def _neg(call: Call) -> Value:
    return call.emit("mul_scalar", call["self"], value=-1)


@_rule("mul.Tensor", "mul.Scalar")
def _mul(call: Call) -> Value:
    other = _scalar(call, "other", "self")
    if other is not None:
        return call.emit("mul_scalar", call["self"], value=other)
    return call.emit("mul", call["self"], call["other"])


@_rule("div.Tensor", "div.Scalar")
def _div(call: Call) -> Value:
    other = _scalar(call, "other", "self")
    if other is None:
        return call.emit("div", call["self"], call["other"])
    if not other:
        raise Untranslatable("a division by zero")
    return call.emit("mul_scalar", call["self"], value=1 / other)


@_rule("cat.default", "concat.default")
def _cat(call: Call) -> Operand:
    tensors: list[Operand] = call["tensors"]
    if len(tensors) == 1:
        return tensors[0]
    return call.emit("concat", *tensors, dim=int(call["dim"]) % call.outputs[0].rank)


@_rule("stack.default")
def _stack(call: Call) -> Value:
    shape = call.outputs[0].shape
    dim = int(call["dim"]) % len(shape)
    parts = [call.reshape(x, (*shape[:dim], 1, *shape[dim + 1 :])) for x in call["tensors"]]
    return call.emit("concat", *parts, dim=dim)


# Pooling, reductions and resampling


@_rule("max_pool2d.default", "max_pool2d_with_indices.default")
def _max_pool2d(call: Call) -> Result:
    kernel = _pair(call["kernel_size"])
    y = call.emit(
        "max_pool2d",
        call.image("self"),
        kernel=kernel,
        stride=_pair(call["stride"] or kernel),
        padding=_pair(call["padding"]),
        dilation=_pair(call["dilation"]),
        ceil_mode=call["ceil_mode"],
    )
    return y if len(call.outputs) == 1 else (y, None)


@_rule("avg_pool2d.default")
def _avg_pool2d(call: Call) -> Value:
    if call["divisor_override"] is not None:
        raise Untranslatable("an average with a divisor of its own")
    kernel = _pair(call["kernel_size"])
    attrs = {name: call[name] for name in ("ceil_mode", "count_include_pad")}
    stride, padding = _pair(call["stride"] or kernel), _pair(call["padding"])
    return call.emit("avg_pool2d", call.image("self"), kernel=kernel, stride=stride, padding=padding, **attrs)


@_rule("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(call: Call) -> Value:
    return call.emit("adaptive_avg_pool2d", call.image("self"), size=_pair(call["output_size"]))


@_rule("adaptive_max_pool2d.default")
def _adaptive_max_pool2d(call: Call) -> Result:
    return call.emit("adaptive_max_pool2d", call.image("self"), size=_pair(call["output_size"])), None


def _reduce(op: str) -> Rule:
    def rule(call: Call) -> Value:
        rank = call.type("self").rank
        dims = call.arguments.get("dim") or range(rank)
        keepdim = call.arguments.get("keepdim", False)
        return call.emit(op, call["self"], dims=tuple(sorted(int(d) % rank for d in dims)), keepdim=keepdim)

    return rule


RULES.update(dict.fromkeys(["mean.dim", "mean.default"], _reduce("mean")))
RULES.update(dict.fromkeys(["sum.dim_IntList", "sum.default"], _reduce("sum")))


def _interpolate(mode: str, antialias: bool) -> Rule:
    def rule(call: Call) -> Value:
        given = call.arguments
        x = call.image("self" if "self" in given else "input")
        scale = given.get("scale_factors") or (given.get("scales_h"), given.get("scales_w"))
        # Scales that do not give the size are noticed by the shape.
        factors = tuple(float(s) for s in scale if s is not None)
        attrs: dict[str, Any] = {"scale": factors} if factors else {"size": call.outputs[0].shape[2:]}
        corners = given.get("align_corners")
        return call.emit("interpolate", x, mode=mode, align_corners=corners, antialias=antialias, **attrs)

    return rule


for _name, _meaning in {
    "upsample_nearest2d": ("nearest", False),
    "_upsample_nearest_exact2d": ("nearest-exact", False),
    "upsample_bilinear2d": ("bilinear", False),
    "upsample_bicubic2d": ("bicubic", False),
    "_upsample_bilinear2d_aa": ("bilinear", True),
    "_upsample_bicubic2d_aa": ("bicubic", True),
}.items():
    RULES[f"{_name}.vec"] = RULES[f"{_name}.default"] = _interpolate(*_meaning)


@_rule("pixel_shuffle.default")
def _pixel_shuffle(call: Call) -> Value:
    return call.emit("pixel_shuffle", call.image("self"), factor=call["upscale_factor"])


@_rule("pixel_unshuffle.default")
def _pixel_unshuffle(call: Call) -> Value:
    return call.emit("pixel_unshuffle", call.image("self"), factor=call["downscale_factor"])


@_rule("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(call: Call) -> Operand:
    n, c, *size = call.type("self").shape
    assert isinstance(c, int)
    groups = call["groups"]
    apart = call.reshape(call["self"], (n, groups, c // groups, *size))
    swapped = call.emit("permute", apart, dims=(0, 2, 1, *range(3, 3 + len(size))))
    return call.reshape(swapped, (n, c, *size))


def _pad(call: Call, pads: Sequence[int], mode: str, value: float | None) -> Operand:
    if not any(pads):
        return call["self"]  # type: ignore[no-any-return]  # an operand, which arguments cannot say
    return call.emit("pad", call["self"], pads=tuple(pads), mode=mode, value=float(value or 0.0))


@_rule("pad.default")
def _pad_default(call: Call) -> Operand:
    return _pad(call, call["pad"], call["mode"], call["value"])


@_rule("constant_pad_nd.default")
def _constant_pad(call: Call) -> Operand:
    return _pad(call, call["pad"], "constant", call["value"])


@_rule("reflection_pad1d.default", "reflection_pad2d.default")
def _reflection_pad(call: Call) -> Operand:
    return _pad(call, call["padding"], "reflect", None)


@_rule("replication_pad1d.default", "replication_pad2d.default")
def _replication_pad(call: Call) -> Operand:
    return _pad(call, call["padding"], "replicate", None)


# Layout


@_rule(
    *("view.default", "reshape.default", "_unsafe_view.default", "view_as.default", "reshape_as.default"),
    *("unsqueeze.default", "squeeze.default", "squeeze.dim", "squeeze.dims", "unflatten.int"),
)
def _reshape(call: Call) -> Operand:
    return call.reshape(call["self"], call.outputs[0].shape)


@_rule("flatten.using_ints")
def _flatten(call: Call) -> Operand:
    x, rank = call["self"], call.type("self").rank
    if call.type("self") == call.outputs[0]:
        return x  # type: ignore[no-any-return]  # an operand, which arguments cannot say
    start, end = call.dim("start_dim"), call.dim("end_dim")
    return call.emit("flatten", x, start=start, end=-1 if end == rank - 1 else end)


def _permute(order: Callable[[Call, Any], Any]) -> Rule:
    """A rule from what the operation does to the axes of an array of shape (0, 1, 2, ...)."""

    def rule(call: Call) -> Operand:
        axes = np.empty(tuple(range(call.type("self").rank)))
        dims = order(call, axes).shape
        x: Operand = call["self"]
        return x if dims == axes.shape else call.emit("permute", x, dims=dims)

    return rule


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


@_rule("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(call: Call) -> Operand:
    x: Operand = call["self"]
    return x if call.type("self") == call.outputs[0] else call.emit("expand", x, shape=call.outputs[0].shape)


@_rule(
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


@_rule("unbind.int")
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


@_rule("slice.Tensor")
def _slice(call: Call) -> Operand:
    x, before, after = call["self"], call.type("self"), call.outputs[0]
    if before == after:
        return x  # type: ignore[no-any-return]  # an operand, which arguments cannot say
    dim = call.dim()
    size = before.shape[dim]
    bounds = (call["start"], call["end"], call["step"])
    if isinstance(size, Batch) or any(isinstance(b, Batch) for b in bounds):
        raise Untranslatable("a slice that depends on the batch")
    start, stop, step = slice(*bounds).indices(size)
    return _cut(call, x, dim, start, stop, step)


@_rule("narrow.default")
def _narrow(call: Call) -> Operand:
    if not isinstance(call["start"], int):
        raise Untranslatable("a slice whose start is computed")
    return _cut(call, call["self"], call.dim(), call["start"], call["start"] + call["length"])


@_rule("select.int")
def _select(call: Call) -> Operand:
    dim = call.dim()
    size = call.type("self").shape[dim]
    if isinstance(size, Batch):
        raise Untranslatable("one element of the batch")
    index = int(call["index"]) % size
    return call.reshape(_cut(call, call["self"], dim, index, index + 1), call.outputs[0].shape)


@_rule(
    *("clone.default", "contiguous.default", "alias.default", "lift.default", "lift_fresh.default"),
    *("lift_fresh_copy.default", "_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other"),
    *("type_as.default", "to.prim_Device", "to.prim_dtype", "resolve_conj.default"),
)
def _identity(call: Call) -> Operand:
    if call.type("self").dtype != call.outputs[0].dtype:
        raise Untranslatable("a change of the element type")
    operand: Operand = call["self"]
    return operand


@_rule("detach.default")
def _detach(call: Call) -> Operand:
    if isinstance(call["self"], Value):
        raise Untranslatable("it stops the gradient")
    return _identity(call)
