"""The op table: every operation netgraft understands, with its arity, attributes, weights and shape rule.

Attribute names and meanings follow PyTorch where it has them; windows (``kernel``, ``stride``, ``padding``,
``dilation``) are (height, width) pairs, or have one or three numbers where the op's name does. What is not in the table
is carried as a ``frozen`` node: the framework's own operation by name, with its arguments as data, which mutations
leave alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from netgraft.errors import GraphError

from . import shapes
from .types import Batch, DType, TensorType

AttrValue = None | bool | int | float | str | Batch | TensorType | DType | tuple["AttrValue", ...]
Attrs = Mapping[str, Any]
WeightTypes = dict[str, TensorType]


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()


def _no_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    return {}


@dataclass(frozen=True, slots=True)
class OpDef:
    """One operation.

    ``arity`` is the least and greatest number of inputs (None: any number). ``attrs`` maps every attribute to its
    default, or to ``REQUIRED``. ``weights(inputs, attrs)`` gives the type of every weight by role. ``commutative``: the
    order of inputs does not matter. ``pointwise``: one input whose shape is kept. ``buffers`` are the weight roles that
    are not trained.
    """

    name: str
    arity: tuple[int, int | None]
    infer: Callable[[Sequence[TensorType], Attrs], tuple[TensorType, ...]]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weights: Callable[[Sequence[TensorType], Attrs], WeightTypes] = _no_weights
    commutative: bool = False
    pointwise: bool = False
    buffers: frozenset[str] = frozenset()

    def complete(self, attrs: Attrs) -> dict[str, Any]:
        """``attrs`` with the defaults filled in, in the table's order; GraphError for unknown or missing ones."""
        unknown = attrs.keys() - self.attrs.keys()
        if unknown:
            raise GraphError(f"{self.name} has no attribute {sorted(unknown)[0]!r}; it has {sorted(self.attrs)}")
        full = {name: attrs.get(name, default) for name, default in self.attrs.items()}
        missing = [name for name, value in full.items() if value is REQUIRED]
        if missing:
            raise GraphError(f"{self.name} needs the attribute {missing[0]!r}")
        return full


def _conv_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    x = inputs[0]
    kernel = (attrs["out_channels"], _channels(x) // attrs["groups"], *attrs["kernel"])
    return _with_bias(x, kernel, attrs["out_channels"], attrs["bias"])


def _conv_transpose_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    x = inputs[0]
    kernel = (_channels(x), attrs["out_channels"] // attrs["groups"], *attrs["kernel"])
    return _with_bias(x, kernel, attrs["out_channels"], attrs["bias"])


def _linear_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    x = inputs[0]
    last = x.shape[-1]
    assert isinstance(last, int), "checked by the shape rule"
    return _with_bias(x, (attrs["out_features"], last), attrs["out_features"], attrs["bias"])


def _with_bias(x: TensorType, weight: tuple[int, ...], out: int, bias: bool) -> WeightTypes:
    types = {"weight": TensorType(weight, x.dtype)}
    if bias:
        types["bias"] = TensorType((out,), x.dtype)
    return types


def _channels(x: TensorType) -> int:
    c = x.shape[1]
    assert isinstance(c, int), "checked by the shape rule"
    return c


def _batch_norm_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    per_channel = TensorType((_channels(inputs[0]),), DType.F32)
    roles = ["weight", "bias"] if attrs["affine"] else []
    types = dict.fromkeys([*roles, "running_mean", "running_var"], per_channel)
    return types | {"num_batches_tracked": TensorType((), DType.I64)}


def _group_norm_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    type_ = TensorType((_channels(inputs[0]),), inputs[0].dtype)
    return dict.fromkeys(["weight", "bias"], type_) if attrs["affine"] else {}


def _layer_norm_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    roles = (["weight"] if attrs["affine"] else []) + (["bias"] if attrs["bias"] else [])
    return dict.fromkeys(roles, TensorType(attrs["shape"], inputs[0].dtype))


def _prelu_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    return {"weight": TensorType((attrs["parameters"],), inputs[0].dtype)}


def _constant_weights(inputs: Sequence[TensorType], attrs: Attrs) -> WeightTypes:
    return {"value": attrs["type"]}


def _pointwise(name: str, **attrs: Any) -> OpDef:
    return OpDef(name, (1, 1), shapes.same, attrs, pointwise=True)


def _windowed(sides: int) -> tuple[OpDef, ...]:
    """Convolutions and pools over images of one, two or three sides. max_pool pads with -inf, as PyTorch."""
    once, none = (1,) * sides, (0,) * sides
    kernel = {"out_channels": REQUIRED, "kernel": REQUIRED, "stride": once, "padding": none, "dilation": once}
    convolution = kernel | {"groups": 1, "bias": True}
    transposed = convolution | {"output_padding": none}
    window = {"kernel": REQUIRED, "stride": REQUIRED, "padding": none}
    return (
        OpDef(f"conv{sides}d", (1, 1), shapes.conv, convolution, _conv_weights),
        OpDef(f"conv_transpose{sides}d", (1, 1), shapes.conv_transpose, transposed, _conv_transpose_weights),
        OpDef(f"max_pool{sides}d", (1, 1), shapes.pool, window | {"dilation": once, "ceil_mode": False}),
        OpDef(f"avg_pool{sides}d", (1, 1), shapes.pool, window | {"ceil_mode": False, "count_include_pad": True}),
    )


_DEFINITIONS = (
    *_windowed(1),
    *_windowed(2),
    *_windowed(3),
    # Layers with weights.
    OpDef("linear", (1, 1), shapes.linear, {"out_features": REQUIRED, "bias": True}, _linear_weights),
    # momentum None means a cumulative average, as in PyTorch.
    OpDef(
        "batch_norm",
        (1, 1),
        shapes.channels,
        {"eps": 1e-5, "momentum": 0.1, "affine": True},
        _batch_norm_weights,
        pointwise=True,
        buffers=frozenset({"running_mean", "running_var", "num_batches_tracked"}),
    ),
    OpDef(
        "group_norm",
        (1, 1),
        shapes.channels,
        {"groups": REQUIRED, "eps": 1e-5, "affine": True},
        _group_norm_weights,
        pointwise=True,
    ),
    OpDef(
        "layer_norm",
        (1, 1),
        shapes.trailing,
        {"shape": REQUIRED, "eps": 1e-5, "affine": True, "bias": True},
        _layer_norm_weights,
        pointwise=True,
    ),
    OpDef("prelu", (1, 1), shapes.slopes, {"parameters": 1}, _prelu_weights, pointwise=True),
    # A stored tensor used as a value: a class token, a position embedding, a folded constant. ``trainable`` says
    # whether it is a parameter of the network.
    OpDef("constant", (0, 0), shapes.constant, {"type": REQUIRED, "trainable": False}, _constant_weights),
    # Activations and other shape-keeping operations.
    _pointwise("identity"),
    _pointwise("relu"),
    _pointwise("relu6"),
    _pointwise("leaky_relu", slope=0.01),
    _pointwise("elu", alpha=1.0),
    _pointwise("gelu", approximate="none"),
    _pointwise("silu"),
    _pointwise("mish"),
    _pointwise("sigmoid"),
    _pointwise("tanh"),
    _pointwise("hardswish"),
    _pointwise("hardsigmoid"),
    _pointwise("softplus", beta=1.0, threshold=20.0),
    _pointwise("clamp", min=None, max=None),
    _pointwise("sqrt"),
    _pointwise("pow", exponent=REQUIRED),
    _pointwise("exp"),
    _pointwise("add_scalar", value=REQUIRED),
    _pointwise("mul_scalar", value=REQUIRED),
    _pointwise("softmax", dim=REQUIRED),
    _pointwise("log_softmax", dim=REQUIRED),
    _pointwise("dropout", p=0.5),
    # Channel-wise dropout, torch.nn.Dropout2d.
    _pointwise("dropout2d", p=0.5),
    # Stochastic depth: whole examples are left out. How that is drawn, as a rounded "uniform" number or by "bernoulli",
    # changes nothing but which ones a random state leaves out.
    _pointwise("drop_path", p=0.5, draw="uniform"),
    # Joins.
    OpDef("add", (2, None), shapes.broadcast, commutative=True),
    OpDef("mul", (2, None), shapes.broadcast, commutative=True),
    OpDef("sub", (2, 2), shapes.broadcast),
    OpDef("div", (2, 2), shapes.broadcast),
    OpDef("concat", (1, None), shapes.concat, {"dim": 1}),
    OpDef("matmul", (2, 2), shapes.matmul),
    # Inputs: query, key, value and, optionally, an additive or boolean mask. scale None means 1/sqrt(E).
    OpDef("attention", (3, 4), shapes.attention, {"scale": None, "causal": False, "p": 0.0}),
    # Pooling and reductions.
    OpDef("adaptive_avg_pool2d", (1, 1), shapes.adaptive_pool2d, {"size": (1, 1)}),
    OpDef("adaptive_max_pool2d", (1, 1), shapes.adaptive_pool2d, {"size": (1, 1)}),
    OpDef("mean", (1, 1), shapes.reduce, {"dims": REQUIRED, "keepdim": False}),
    OpDef("sum", (1, 1), shapes.reduce, {"dims": REQUIRED, "keepdim": False}),
    # Layout.
    OpDef("flatten", (1, 1), shapes.flatten, {"start": 1, "end": -1}),
    OpDef("reshape", (1, 1), shapes.reshape, {"shape": REQUIRED}),
    # Tokens as a map again: one dimension becomes the height and width of the second input.
    OpDef("unflatten_like", (2, 2), shapes.unflatten_like, {"dim": REQUIRED}),
    OpDef("permute", (1, 1), shapes.permute, {"dims": REQUIRED}),
    OpDef("expand", (1, 1), shapes.expand, {"shape": REQUIRED}),
    OpDef("split", (1, 1), shapes.split, {"sizes": REQUIRED, "dim": 1}),
    OpDef("slice", (1, 1), shapes.slice_, {"dim": REQUIRED, "start": REQUIRED, "stop": REQUIRED, "step": 1}),
    OpDef("pad", (1, 1), shapes.pad, {"pads": REQUIRED, "mode": "constant", "value": 0.0}),
    OpDef(
        "interpolate",
        (1, 1),
        shapes.interpolate,
        {"size": None, "scale": None, "mode": "nearest", "align_corners": None, "antialias": False},
    ),
    # To the height and width of the second input.
    OpDef(
        "interpolate_like",
        (2, 2),
        shapes.interpolate_like,
        {"mode": "nearest", "align_corners": None, "antialias": False},
    ),
    OpDef("pixel_shuffle", (1, 1), shapes.pixel_shuffle, {"factor": REQUIRED}),
    OpDef("pixel_unshuffle", (1, 1), shapes.pixel_unshuffle, {"factor": REQUIRED}),
    # What the table does not know. ``target`` is the framework's name ("aten.roll.default"), ``args`` and ``kwargs``
    # its arguments as data, in which ("input", i) stands for the i-th input; ``types`` what it returns; ``reason`` why
    # it is frozen, for people.
    OpDef(
        "frozen",
        (0, None),
        shapes.declared,
        {"target": REQUIRED, "args": REQUIRED, "kwargs": (), "types": REQUIRED, "reason": ""},
    ),
)

OPS: Final[Mapping[str, OpDef]] = {d.name: d for d in _DEFINITIONS}

CONVOLUTIONS: Final = frozenset(f"conv{sides}d" for sides in (1, 2, 3))
TRANSPOSED: Final = frozenset(f"conv_transpose{sides}d" for sides in (1, 2, 3))
"""The transposed convolutions."""

ACTIVATIONS: Final = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "elu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "hardswish",
        "hardsigmoid",
    ]
)
"""The operations that one activation function can be swapped for."""


def definition(op: str) -> OpDef:
    """The table's entry; GraphError if there is none."""
    try:
        return OPS[op]
    except KeyError:
        raise GraphError(f"unknown operation {op!r}; an operation outside the table must be a frozen node") from None
