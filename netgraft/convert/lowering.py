"""The one table from ops to torch, for everything that writes a network out.

A node becomes a :class:`Layer` (a ``torch.nn`` class with constructor arguments) where there is one, and always an
expression (:mod:`netgraft.convert.expressions`): a :class:`Call` of a torch function whose arguments may hold further
expressions. :mod:`netgraft.convert.to_torch` runs them, :mod:`netgraft.convert.source` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from netgraft.convert import onnx_foreign
from netgraft.convert.expressions import (
    FOREIGN,
    BatchSize,
    Call,
    Constant,
    Data,
    Device,
    Expression,
    Layer,
    Operand,
    Training,
    Weight,
    X,
    dtype,
)
from netgraft.convert.frozen import constant
from netgraft.convert.operations import operation, public_name
from netgraft.ir import Batch, DType, Graph, Node, TensorType


def layer(node: Node, inputs: Sequence[TensorType]) -> Layer | None:
    """The ``torch.nn`` class that computes ``node``, holding its weights if it has any; None if there is none."""
    rule = _LAYERS.get(node.op)
    return rule(node.attrs, inputs[0]) if rule else None


def expression(node: Node, graph: Graph) -> Expression:
    """What computes ``node`` from its inputs and weights: a tensor, or a sequence of them if it has several outputs."""
    return _EXPRESSIONS[node.op](node, graph.input_types(node), graph.output_types(node))


def _square(window: Sequence[Any]) -> Any:
    """``3`` for ``(3, 3)``: torch takes either."""
    return window[0] if len(set(window)) == 1 else tuple(window)


def _unless(defaults: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """The arguments that differ from torch's defaults."""
    return {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}


# Layers


def _dtype(x: TensorType) -> dict[str, Any]:
    return {} if x.dtype is DType.F32 else {"dtype": dtype(x.dtype)}


_WINDOW_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, "bias": True}


def _windows(attrs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: _square(attrs[name]) for name in names}


def _conv_arguments(attrs: Mapping[str, Any], *windows: str) -> dict[str, Any]:
    return _unless(_WINDOW_DEFAULTS, **_windows(attrs, *windows), groups=attrs["groups"])


def _conv_layer(cls: str, *windows: str) -> Callable[[Mapping[str, Any], TensorType], Layer]:
    def build(attrs: Mapping[str, Any], x: TensorType) -> Layer:
        kwargs = _conv_arguments(attrs, *windows) | _unless(_WINDOW_DEFAULTS, bias=attrs["bias"]) | _dtype(x)
        return Layer(cls, (x.shape[1], attrs["out_channels"], _square(attrs["kernel"])), kwargs)

    return build


def _linear_layer(attrs: Mapping[str, Any], x: TensorType) -> Layer:
    kwargs = _unless(_WINDOW_DEFAULTS, bias=attrs["bias"])
    return Layer("Linear", (x.shape[-1], attrs["out_features"]), kwargs | _dtype(x))


def _batch_norm_layer(attrs: Mapping[str, Any], x: TensorType) -> Layer | None:
    cls = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}.get(x.rank)
    return Layer(cls, (x.shape[1],), _unless({"eps": 1e-5, "momentum": 0.1, "affine": True}, **attrs)) if cls else None


def _group_norm_layer(attrs: Mapping[str, Any], x: TensorType) -> Layer | None:
    kwargs = _unless({"eps": 1e-5}, eps=attrs["eps"]) | _dtype(x)
    return Layer("GroupNorm", (attrs["groups"], x.shape[1]), kwargs) if attrs["affine"] else None


def _layer_norm_layer(attrs: Mapping[str, Any], x: TensorType) -> Layer | None:
    shape = attrs["shape"][0] if len(attrs["shape"]) == 1 else attrs["shape"]
    kwargs = _unless({"eps": 1e-5, "bias": True}, eps=attrs["eps"], bias=attrs["bias"]) | _dtype(x)
    return Layer("LayerNorm", (shape,), kwargs) if attrs["affine"] else None


def _prelu_layer(attrs: Mapping[str, Any], x: TensorType) -> Layer:
    return Layer("PReLU", (), _unless({"num_parameters": 1}, num_parameters=attrs["parameters"]) | _dtype(x))


def _without_weights(cls: str, *positional: str, **keywords: str) -> Callable[[Mapping[str, Any], TensorType], Layer]:
    """A class whose arguments are attributes; ``keywords`` gives the argument's name for the attribute's."""

    def build(attrs: Mapping[str, Any], x: TensorType) -> Layer:
        args = tuple(_square(attrs[name]) if isinstance(attrs[name], tuple) else attrs[name] for name in positional)
        return Layer(cls, args, {keyword: attrs[name] for name, keyword in keywords.items()})

    return build


def _pool_layer(cls: str, *windows: str) -> Callable[[Mapping[str, Any], TensorType], Layer]:
    return lambda attrs, x: Layer(cls, (_square(attrs["kernel"]),), _pool_arguments(attrs, *windows))


_LAYERS: Final[Mapping[str, Callable[[Mapping[str, Any], TensorType], Layer | None]]] = {
    **{f"conv{n}d": _conv_layer(f"Conv{n}d", "stride", "padding", "dilation") for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": _conv_layer(f"ConvTranspose{n}d", "stride", "padding", "output_padding", "dilation")
        for n in (1, 2, 3)
    },
    "linear": _linear_layer,
    "batch_norm": _batch_norm_layer,
    "group_norm": _group_norm_layer,
    "layer_norm": _layer_norm_layer,
    "prelu": _prelu_layer,
    "relu": _without_weights("ReLU"),
    "relu6": _without_weights("ReLU6"),
    "leaky_relu": _without_weights("LeakyReLU", "slope"),
    "elu": _without_weights("ELU", "alpha"),
    "gelu": _without_weights("GELU", approximate="approximate"),
    "silu": _without_weights("SiLU"),
    "mish": _without_weights("Mish"),
    "sigmoid": _without_weights("Sigmoid"),
    "tanh": _without_weights("Tanh"),
    "hardswish": _without_weights("Hardswish"),
    "hardsigmoid": _without_weights("Hardsigmoid"),
    "softplus": _without_weights("Softplus", beta="beta", threshold="threshold"),
    "softmax": _without_weights("Softmax", dim="dim"),
    "log_softmax": _without_weights("LogSoftmax", dim="dim"),
    "dropout": _without_weights("Dropout", "p"),
    "dropout2d": _without_weights("Dropout2d", "p"),
    **{f"max_pool{n}d": _pool_layer(f"MaxPool{n}d", "stride", "padding", "dilation") for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _pool_layer(f"AvgPool{n}d", "stride", "padding") for n in (1, 2, 3)},
    "adaptive_avg_pool2d": _without_weights("AdaptiveAvgPool2d", "size"),
    "adaptive_max_pool2d": _without_weights("AdaptiveMaxPool2d", "size"),
    "flatten": _without_weights("Flatten", start="start_dim", end="end_dim"),
    "pixel_shuffle": _without_weights("PixelShuffle", "factor"),
    "pixel_unshuffle": _without_weights("PixelUnshuffle", "factor"),
}


# Expressions

_Types = Sequence[TensorType]
_Rule = Callable[[Node, _Types, _Types], Expression]


def _role(node: Node, role: str) -> Weight | None:
    return Weight(role) if role in node.weights else None


def _conv(target: str, *windows: str) -> _Rule:
    def build(node: Node, inputs: _Types, outputs: _Types) -> Expression:
        kwargs = _conv_arguments(node.attrs, *windows)
        return Call(target, (X, Weight("weight")), _unless({"bias": None}, bias=_role(node, "bias")) | kwargs)

    return build


def _linear(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    return Call("F.linear", (X, Weight("weight")), _unless({"bias": None}, bias=_role(node, "bias")))


def _batch_norm(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    stored = [Weight(role) for role in ("running_mean", "running_var", "num_batches_tracked")]
    rest = (_role(node, "weight"), _role(node, "bias"), Training(), node.attrs["momentum"], node.attrs["eps"])
    return Call("batch_norm", (X, *stored, *rest))


def _norm(target: str, of: str) -> _Rule:
    """Group and layer norm: the attribute ``of`` is what the function takes after the input."""

    def build(node: Node, inputs: _Types, outputs: _Types) -> Expression:
        affine = _unless({"weight": None, "bias": None}, weight=_role(node, "weight"), bias=_role(node, "bias"))
        return Call(target, (X, node.attrs[of]), affine | _unless({"eps": 1e-5}, eps=node.attrs["eps"]))

    return build


def _fixed(build: Expression) -> _Rule:
    return lambda node, inputs, outputs: build


def _of(target: str, *positional: str, **defaults: Any) -> _Rule:
    """A function of the input and attributes: ``positional`` ones always, those of ``defaults`` where they differ."""

    def build(node: Node, inputs: _Types, outputs: _Types) -> Expression:
        args = (X, *(node.attrs[name] for name in positional))
        return Call(target, args, _unless(defaults, **{name: node.attrs[name] for name in defaults}))

    return build


def _clamp(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    bounds = _unless({"min": None, "max": None}, min=node.attrs["min"], max=node.attrs["max"])
    return Call("torch.clamp", (X,), bounds) if bounds else X


def _dropout(target: str) -> _Rule:
    return lambda node, inputs, outputs: Call(target, (X, node.attrs["p"], Training()))


def _drop_path(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    draw = _unless({"draw": "uniform"}, draw=node.attrs["draw"])
    return Call("drop_path", (X, node.attrs["p"], Training()), draw)


def _operator(target: str) -> _Rule:
    def build(node: Node, inputs: _Types, outputs: _Types) -> Expression:
        operands: list[Expression] = [Operand(i) for i in range(len(inputs))]
        return reduce(lambda a, b: Call(target, (a, b)), operands)

    return build


def _with_scalar(target: str, attr: str) -> _Rule:
    return lambda node, inputs, outputs: Call(target, (X, node.attrs[attr]))


def _concat(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    return Call("torch.cat", ([Operand(i) for i in range(len(inputs))],), {"dim": node.attrs["dim"]})


def _attention(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    # PyTorch's ONNX exporter takes four dimensions only: three get a dimension of heads.
    heads = inputs[0].rank == 3

    def four(index: int) -> Expression:
        return Call(".unsqueeze", (Operand(index), 1)) if heads and inputs[index].rank == 3 else Operand(index)

    p = node.attrs["p"]
    kwargs = _unless(
        {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None},
        attn_mask=four(3) if len(inputs) == 4 else None,
        dropout_p=Call("*", (p, Training())) if p else 0.0,
        is_causal=node.attrs["causal"],
        scale=node.attrs["scale"],
    )
    mixed = Call("F.scaled_dot_product_attention", (four(0), four(1), four(2)), kwargs)
    return Call(".squeeze", (mixed, 1)) if heads else mixed


def _pool_arguments(attrs: Mapping[str, Any], *windows: str) -> dict[str, Any]:
    """What pooling takes after the kernel."""
    defaults = {
        "stride": _square(attrs["kernel"]),
        "padding": 0,
        "dilation": 1,
        "ceil_mode": False,
        "count_include_pad": True,
    }
    switches = {name: attrs[name] for name in ("ceil_mode", "count_include_pad") if name in attrs}
    return _unless(defaults, **_windows(attrs, *windows), **switches)


def _pool(target: str, *windows: str) -> _Rule:
    def build(node: Node, inputs: _Types, outputs: _Types) -> Expression:
        return Call(target, (X, _square(node.attrs["kernel"])), _pool_arguments(node.attrs, *windows))

    return build


def _adaptive_pool(target: str) -> _Rule:
    return lambda node, inputs, outputs: Call(target, (X, _square(node.attrs["size"])))


def _reduction(target: str) -> _Rule:
    def build(node: Node, inputs: _Types, outputs: _Types) -> Expression:
        dims = tuple(node.attrs["dims"])
        # To torch, no dimensions are all dimensions.
        return Call(target, (X, dims), _unless({"keepdim": False}, keepdim=node.attrs["keepdim"])) if dims else X

    return build


def _flatten(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    start, end = node.attrs["start"], node.attrs["end"]
    return Call(".flatten", (X, start) if end == -1 else (X, start, end))


def _reshape(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    have, want = inputs[0].shape, outputs[0].shape
    if not want:
        return Call(".reshape", (X, []))
    # What is kept is so whatever its size is: the sides of images, the number of tokens.
    before, behind = kept(have, want)
    merged, apart = have[before : len(have) - behind], want[before : len(want) - behind]
    sides = sum(isinstance(d, int) for d in (*have[:before], *have[len(have) - behind :]))
    flat = Call(".flatten", (X, before, before + len(merged) - 1) if behind else (X, before))
    sizes = [-1 if isinstance(d, Batch) else d for d in want]
    if len(merged) > 1 and len(apart) == 1:
        return flat
    if sides and len(merged) == 1 and len(apart) == 2 and 1 in apart:
        return Call(".unsqueeze", (X, before + apart.index(1)))
    if sides and (len(merged) == 1 or sides > 1):
        return Call(".unflatten", (flat if len(merged) > 1 else X, before, sizes[before : len(want) - behind]))
    return Call(".reshape", (X, *sizes))


def kept(have: Sequence[int | Batch], want: Sequence[int | Batch]) -> tuple[int, int]:
    """How many dimensions lie before, and how many behind those that a reshape changes, at least one of each shape."""
    most = max(0, min(len(have), len(want)) - 1)
    start = next((i for i in range(most) if have[i] != want[i]), most)
    return start, next((i for i in range(most - start) if have[-1 - i] != want[-1 - i]), most - start)


def _unflatten_like(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    return Call(".unflatten", (X, node.attrs["dim"], _image_size(Operand(1))))


def _image_size(image: Operand) -> Expression:
    """Height and width of an image as they are when the network runs."""
    return Call("[]", (Call(".size", (image,)), slice(2, None)))


def _expand(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    have, want = inputs[0].shape, outputs[0].shape
    kept = (*[None] * (len(want) - len(have)), *have)
    return Call(".expand", (X, *(-1 if a == b else _size(b) for a, b in zip(kept, want, strict=True))))


def _size(dim: int | Batch) -> int | BatchSize:
    return BatchSize(dim.times) if isinstance(dim, Batch) else dim


def _permute(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    return Call(".permute", (X, *node.attrs["dims"]))


def _split(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    if len(outputs) == 1:
        return X
    return Call("torch.split", (X, [_size(s) for s in node.attrs["sizes"]]), {"dim": node.attrs["dim"]})


def _slice(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    dim = node.attrs["dim"] % inputs[0].rank
    start, stop, step = (node.attrs[name] for name in ("start", "stop", "step"))
    # To the end, or from the beginning, is so whatever the size is.
    bounds = slice(start or None, None if stop == inputs[0].shape[dim] else stop, step if step != 1 else None)
    return Call("[]", (X, (*[slice(None)] * dim, bounds)))


def _pad(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    mode, value = node.attrs["mode"], node.attrs["value"]
    return Call("F.pad", (X, node.attrs["pads"]), _unless({"mode": "constant", "value": 0.0}, mode=mode, value=value))


def _interpolate(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    attrs = node.attrs
    by = {"size": _square(attrs["size"])} if attrs["size"] is not None else {"scale_factor": _square(attrs["scale"])}
    return Call("F.interpolate", (X,), by | _interpolating(node))


def _interpolate_like(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    return Call("F.interpolate", (X,), {"size": _image_size(Operand(1))} | _interpolating(node))


def _interpolating(node: Node) -> dict[str, Any]:
    defaults = {"mode": "nearest", "align_corners": None, "antialias": False}
    return _unless(defaults, **{name: node.attrs[name] for name in defaults})


def _frozen(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    if onnx_foreign.is_foreign(node.attrs):
        return _foreign(node, inputs, outputs)
    target = node.attrs["target"]
    args = tuple(_argument(value, inputs) for value in node.attrs["args"])
    kwargs = {name: _argument(v, inputs) for name, v in node.attrs["kwargs"]}
    if target == "aten.index.Tensor":
        given = tuple(slice(None) if part is None else part for part in args[1])
        return Call("[]", (X, given[0] if len(given) == 1 else given))
    call = Call(public_name(target, node.attrs["args"], node.attrs["kwargs"], tuple(inputs)), args, kwargs)
    returned = [str(value.type) for value in operation(target)._schema.returns]
    return call if len(outputs) > 1 or returned == ["Tensor"] else Call("[]", (call, 0))


def _foreign(node: Node, inputs: _Types, outputs: _Types) -> Expression:
    data = onnx_foreign.frozen(node.attrs)
    onnx_foreign.check_runs(data, outputs, inputs, node.id)
    return Call(FOREIGN, (Data(data), Data(outputs), node.id, *(Operand(i) for i in range(len(inputs)))))


def _argument(value: Any, inputs: _Types) -> Any:
    """The encoding of :mod:`netgraft.convert.frozen` as an expression."""
    match value:
        case DType():
            return dtype(value)
        case ("input", int(index)):
            return Operand(index)
        case ("side", int(index), int(axis), int(times)):
            side = Call(".size", (Operand(index), axis))
            return side if times == 1 else Call("*", (side, times))
        case ("complex", float(real), float(imag)):
            return complex(real, imag)
        case Batch(times):
            return BatchSize(times)
        case ("training",):
            return Training()
        case ("device", str(name)):
            # Where the network is now, not where it was when it was read.
            return Device() if inputs else Constant("device", name)
        case (str(kind), str(name)):
            constant(kind, name)
            return Constant(kind, name)
        case tuple():
            return [_argument(item, inputs) for item in value]
    return value


_EXPRESSIONS: Final[Mapping[str, _Rule]] = {
    **{f"conv{n}d": _conv(f"F.conv{n}d", "stride", "padding", "dilation") for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": _conv(f"F.conv_transpose{n}d", "stride", "padding", "output_padding", "dilation")
        for n in (1, 2, 3)
    },
    "linear": _linear,
    "batch_norm": _batch_norm,
    "group_norm": _norm("F.group_norm", "groups"),
    "layer_norm": _norm("F.layer_norm", "shape"),
    "prelu": _fixed(Call("F.prelu", (X, Weight("weight")))),
    "constant": _fixed(Weight("value")),
    "identity": _fixed(X),
    "relu": _of("torch.relu"),
    "relu6": _of("F.relu6"),
    "leaky_relu": _of("F.leaky_relu", "slope"),
    "elu": _of("F.elu", "alpha"),
    "gelu": _of("F.gelu", approximate="none"),
    "silu": _of("F.silu"),
    "mish": _of("F.mish"),
    "sigmoid": _of("torch.sigmoid"),
    "tanh": _of("torch.tanh"),
    "hardswish": _of("F.hardswish"),
    "hardsigmoid": _of("F.hardsigmoid"),
    "softplus": _of("F.softplus", beta=1.0, threshold=20.0),
    "clamp": _clamp,
    "sqrt": _of("torch.sqrt"),
    "pow": _with_scalar("**", "exponent"),
    "exp": _of("torch.exp"),
    "add_scalar": _with_scalar("+", "value"),
    "mul_scalar": _with_scalar("*", "value"),
    "softmax": _of("torch.softmax", dim=None),
    "log_softmax": _of("torch.log_softmax", dim=None),
    "dropout": _dropout("F.dropout"),
    "dropout2d": _dropout("F.dropout2d"),
    "drop_path": _drop_path,
    "add": _operator("+"),
    "mul": _operator("*"),
    "sub": _operator("-"),
    "div": _operator("/"),
    "concat": _concat,
    "matmul": _fixed(Call("torch.matmul", (Operand(0), Operand(1)))),
    "attention": _attention,
    **{f"max_pool{n}d": _pool(f"F.max_pool{n}d", "stride", "padding", "dilation") for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _pool(f"F.avg_pool{n}d", "stride", "padding") for n in (1, 2, 3)},
    "adaptive_avg_pool2d": _adaptive_pool("F.adaptive_avg_pool2d"),
    "adaptive_max_pool2d": _adaptive_pool("F.adaptive_max_pool2d"),
    "mean": _reduction(".mean"),
    "sum": _reduction(".sum"),
    "flatten": _flatten,
    "reshape": _reshape,
    "unflatten_like": _unflatten_like,
    "permute": _permute,
    "expand": _expand,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "interpolate": _interpolate,
    "interpolate_like": _interpolate_like,
    "pixel_shuffle": _of("F.pixel_shuffle", "factor"),
    "pixel_unshuffle": _of("F.pixel_unshuffle", "factor"),
    "frozen": _frozen,
}

LOWERED: Final = frozenset(_EXPRESSIONS)
"""Names of the ops the table covers."""
