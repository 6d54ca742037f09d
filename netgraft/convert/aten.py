"""Rules for operations of PyTorch's (ATen) that compute: layers with weights, activations, arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from netgraft.convert.calls import Call, Operand, Result, Rule, Rules, Stored, Untranslatable, windows
from netgraft.convert.einsum import as_layer, einsum, permuted, product
from netgraft.ir import Batch, DType, Value

RULES: Final = Rules()


# Convolutions and matrix products


def _conv(call: Call, padding: int | Sequence[int], before: tuple[int, ...] = ()) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    assert weight is not None
    out, _, *kernel = weight.tensor.shape
    x = call.batched("input", sides := len(kernel))
    return call.emit(
        f"conv{sides}d",
        call.emit("pad", x, pads=before) if before else x,
        weights={"weight": weight, "bias": bias},
        out_channels=out,
        kernel=tuple(kernel),
        stride=windows(call["stride"], sides),
        padding=windows(padding, sides),
        dilation=windows(call["dilation"], sides),
        groups=call["groups"],
        bias=bias is not None,
    )


@RULES.add("conv1d.default", "conv2d.default", "conv3d.default")
def _convolved(call: Call) -> Value:
    return _conv(call, call["padding"])


@RULES.add("conv1d.padding", "conv2d.padding", "conv3d.padding")
def _conv_padding(call: Call) -> Value:
    if call["padding"] == "valid":
        return _conv(call, 0)
    weight = call.stored("weight")
    assert weight is not None
    kernel = weight.tensor.shape[2:]
    total = [d * (k - 1) for d, k in zip(windows(call["dilation"], len(kernel)), kernel, strict=True)]
    if not any(size % 2 for size in total):
        return _conv(call, [size // 2 for size in total])
    # An even kernel needs one more on the right and below, which a convolution's padding cannot say.
    return _conv(call, 0, tuple(part for size in reversed(total) for part in (size // 2, size - size // 2)))


def _conv_transpose(call: Call) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    assert weight is not None
    _, out, *kernel = weight.tensor.shape
    x = call.batched("input", sides := len(kernel))
    return call.emit(
        f"conv_transpose{sides}d",
        x,
        weights={"weight": weight, "bias": bias},
        out_channels=out * call["groups"],
        kernel=tuple(kernel),
        stride=windows(call["stride"], sides),
        padding=windows(call["padding"], sides),
        output_padding=windows(call["output_padding"], sides),
        dilation=windows(call["dilation"], sides),
        groups=call["groups"],
        bias=bias is not None,
    )


RULES.add("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")(_conv_transpose)


@RULES.add("convolution.default")
def _convolution(call: Call) -> Value:
    return _conv_transpose(call) if call["transposed"] else _convolved(call)


def _linear(call: Call, x: Operand, weight: Stored, bias: Stored | None) -> Value:
    if weight.tensor.ndim != 2 or (bias is not None and bias.tensor.shape != weight.tensor.shape[:1]):
        raise Untranslatable("its weight is no matrix, or its bias no vector of the same length")
    weights = {"weight": weight, "bias": bias}
    return call.emit("linear", x, weights=weights, out_features=weight.tensor.shape[0], bias=bias is not None)


@RULES.add("linear.default")
def _linear_default(call: Call) -> Value:
    weight, bias = call["weight"], call["bias"]
    if not any(isinstance(x, Value) and call.emitter.is_view(x) for x in (weight, bias)):
        weight, bias = call.folded(weight), call.folded(bias)
    assert weight is not None, "a linear layer has one"
    if isinstance(weight, Stored) and not isinstance(bias, Value):
        return _linear(call, call["input"], weight, bias)
    if call.outputs[0].dtype not in (DType.F32, DType.F64):
        raise Untranslatable("its weight or bias is computed from the input, and a sum by itself would round once more")
    # What depends on the input is no weight: such parts of the layer become operations.
    if isinstance(weight, Stored):
        y = _linear(call, call["input"], weight, None)
    else:
        y = call.emit("matmul", call["input"], call.emit("permute", weight, dims=(1, 0)))
    return y if bias is None else call.emit("add", y, bias)


@RULES.add("addmm.default")
def _addmm(call: Call) -> Value:
    weight = call.emitter.transposed(call["mat2"])
    if weight is not None and call["beta"] == call["alpha"] == 1 and isinstance(call["self"], Stored):
        return _linear(call, call["mat1"], weight, call["self"])
    raise Untranslatable("a sum with a scaled or computed matrix product")


@RULES.add("mm.default")
def _mm(call: Call) -> Value:
    weight = call.emitter.transposed(call["mat2"])
    if weight is not None:
        return _linear(call, call["self"], weight, None)
    return call.emit("matmul", call["self"], call["mat2"])


@RULES.add("bmm.default")
def _bmm(call: Call) -> Value:
    return call.emit("matmul", call["self"], call["mat2"])


@RULES.add("matmul.default")
def _matmul(call: Call) -> Value:
    weight = call.emitter.transposed(call["other"])
    if weight is not None:
        return _linear(call, call["self"], weight, None)
    return call.emit("matmul", call["self"], call["other"])


def _matrix(call: Call, operand: Operand, turned: bool) -> Stored | None:
    """The weight of a layer that the operand is, ``turned`` (in, out) or not; None where it is none as it is stored."""
    if turned:
        return call.emitter.transposed(operand)
    folded = operand if isinstance(operand, Stored) or call.emitter.is_view(operand) else call.folded(operand)
    return folded if isinstance(folded, Stored) and folded.trainable else None


@RULES.add("einsum.default")
def _einsum(call: Call) -> Operand:
    def shape_of(x: Operand) -> tuple[int | Batch, ...]:
        return call.emitter.type(x).shape

    def two(equation: str, a: Operand, b: Operand) -> Operand | None:
        ranks = [len(shape_of(a)), len(shape_of(b))]
        for i, (x, operand) in enumerate(((b, a), (a, b))):
            layer = as_layer(equation, ranks, i) if isinstance(x, Value) else None
            weight = _matrix(call, operand, layer.turned) if layer else None
            if layer and weight:
                return permuted(_linear(call, permuted(x, layer.dims, call.emit), weight, None), layer.order, call.emit)
        return product(equation, a, b, shape_of, call.emit)

    operands: list[Operand] = call["tensors"]
    found = einsum(call["equation"], operands, shape_of, two)
    if found is None:
        raise Untranslatable("a sum that is no product of matrices")
    return found


@RULES.add("scaled_dot_product_attention.default", "_scaled_dot_product_flash_attention_for_cpu.default")
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


@RULES.add("batch_norm.default")
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


@RULES.add(
    "_native_batch_norm_legit_no_training.default",
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit_functional.default",
    "native_batch_norm.default",
)
def _native_batch_norm(call: Call) -> Result:
    return (_batch_norm(call), *[None] * (len(call.outputs) - 1))


@RULES.add("layer_norm.default")
def _layer_norm(call: Call) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    attrs = {"eps": call["eps"], "affine": weight is not None, "bias": bias is not None}
    shape = tuple(call["normalized_shape"])
    return call.emit("layer_norm", call["input"], weights={"weight": weight, "bias": bias}, shape=shape, **attrs)


@RULES.add("native_layer_norm.default")
def _native_layer_norm(call: Call) -> Result:
    return (_layer_norm(call), None, None)


def _group(call: Call, groups: int) -> Value:
    weight, bias = call.stored("weight"), call.stored("bias")
    if (weight is None) != (bias is None):
        raise Untranslatable("a normalisation with only one of scale and shift")
    attrs = {"groups": groups, "eps": call["eps"], "affine": weight is not None}
    return call.emit("group_norm", call["input"], weights={"weight": weight, "bias": bias}, **attrs)


@RULES.add("group_norm.default")
def _group_norm(call: Call) -> Value:
    return _group(call, call["num_groups"])


@RULES.add("native_group_norm.default")
def _native_group_norm(call: Call) -> Result:
    return (_group(call, call["group"]), None, None)


@RULES.add("instance_norm.default")
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
        raise Untranslatable(f"{value} is no fixed real number")
    return value


def _pointwise(op: str, attrs: Mapping[str, str]) -> Rule:
    return lambda call: call.emit(op, call["self"], **{name: call[theirs] for name, theirs in attrs.items()})


def _power(exponent: float) -> Rule:
    return lambda call: call.emit("pow", call["self"], exponent=exponent)


RULES.update({f"{name}.default": _pointwise(name, {}) for name in _SAME})
RULES.update({name: _pointwise(*meaning) for name, meaning in _WITH_ATTRS.items()})
RULES.update({f"{name}.default": _power(exponent) for name, exponent in _POWERS.items()})


@RULES.add("hardtanh.default")
def _hardtanh(call: Call) -> Value:
    low, high = call["min_val"], call["max_val"]
    if (low, high) == (0, 6):
        return call.emit("relu6", call["self"])
    return call.emit("clamp", call["self"], min=low, max=high)


@RULES.add("elu.default")
def _elu(call: Call) -> Value:
    if (call["scale"], call["input_scale"]) != (1, 1):
        raise Untranslatable("a scaled elu")
    return call.emit("elu", call["self"], alpha=float(call["alpha"]))


@RULES.add("prelu.default")
def _prelu(call: Call) -> Value:
    weight = call.stored("weight")
    assert weight is not None
    return call.emit("prelu", call["self"], weights={"weight": weight}, parameters=weight.tensor.numel())


@RULES.add("softmax.int", "_softmax.default")
def _softmax(call: Call) -> Value:
    return call.emit("softmax", call["self"], dim=call.dim())


@RULES.add("log_softmax.int", "_log_softmax.default")
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


@RULES.add("dropout.default")
def _dropout(call: Call) -> Operand:
    return _drop(call, "dropout", call["input"])


@RULES.add("native_dropout.default")
def _native_dropout(call: Call) -> Result:
    return _drop(call, "dropout", call["input"]), None


@RULES.add("feature_dropout.default")
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


@RULES.add("add.Tensor", "add.Scalar")
def _add_tensor(call: Call) -> Value:
    other, alpha = _scalar(call, "other", "self"), _number(call["alpha"])
    if other is not None:
        return call.emit("add_scalar", call["self"], value=other * alpha)
    return _add(call, call["self"], call["other"], alpha)


@RULES.add("sub.Tensor", "sub.Scalar")
def _sub(call: Call) -> Value:
    other, alpha = _scalar(call, "other", "self"), _number(call["alpha"])
    if other is not None:
        return call.emit("add_scalar", call["self"], value=-other * alpha)
    if alpha != 1:
        return _add(call, call["self"], call["other"], -alpha)
    return call.emit("sub", call["self"], call["other"])


@RULES.add("rsub.Scalar")
def _rsub(call: Call) -> Value:
    other, alpha = _scalar(call, "other", "self"), _number(call["alpha"])
    assert other is not None
    return call.emit("add_scalar", call.emit("mul_scalar", call["self"], value=-alpha), value=other)


@RULES.add("neg.default")
def _neg(call: Call) -> Value:
    return call.emit("mul_scalar", call["self"], value=-1)


@RULES.add("mul.Tensor", "mul.Scalar")
def _mul(call: Call) -> Value:
    other = _scalar(call, "other", "self")
    if other is not None:
        return call.emit("mul_scalar", call["self"], value=other)
    return call.emit("mul", call["self"], call["other"])


@RULES.add("div.Tensor", "div.Scalar")
def _div(call: Call) -> Value:
    other = _scalar(call, "other", "self")
    if other is None:
        return call.emit("div", call["self"], call["other"])
    if not other:
        raise Untranslatable("a division by zero")
    return call.emit("mul_scalar", call["self"], value=1 / other)


@RULES.add("cat.default", "concat.default")
def _cat(call: Call) -> Operand:
    tensors: list[Operand] = call["tensors"]
    if len(tensors) == 1:
        return tensors[0]
    return call.emit("concat", *tensors, dim=int(call["dim"]) % call.outputs[0].rank)


@RULES.add("stack.default")
def _stack(call: Call) -> Value:
    shape = call.outputs[0].shape
    dim = int(call["dim"]) % len(shape)
    parts = [call.reshape(x, (*shape[:dim], 1, *shape[dim + 1 :])) for x in call["tensors"]]
    return call.emit("concat", *parts, dim=dim)
