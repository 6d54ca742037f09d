"""Small graphs for the tests of everything that writes networks out: one for each op, some with awkward weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netgraft.ir import Batch, Builder, DType, Graph, Model, TensorType, Value

N = Batch()
IMAGE = (N, 4, 6, 8)
TOKENS = (N, 5, 6)
SIGNAL = (N, 4, 9)
VOLUME = (N, 4, 5, 6, 7)


def randomised(graph: Graph, seed: int = 0, name: str = "network") -> Model:
    """The graph with random weights in which every tensor matters: no scale of one, no bias or mean of zero."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {}
    for key, type_ in graph.weight_types.items():
        shape = type_.concrete()
        if type_.dtype is DType.I64:
            weights[key] = np.zeros(shape, np.int64)
        elif len(shape) > 1:
            weights[key] = (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        else:
            weights[key] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return Model(graph, weights, name)


@dataclass(frozen=True)
class Case:
    """One node ``op`` on inputs of ``shapes``, and what it should compute from inputs and weights (by role)."""

    op: str
    expected: Callable[..., Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[Any, ...], ...] = (IMAGE,)
    positive: bool = False

    def graph(self) -> Graph:
        b = Builder()
        values = [b.input(f"x{i}", TensorType(shape)) for i, shape in enumerate(self.shapes)]
        out = b.add(self.op, *values, id="block.node", **self.attrs)
        count = len(b.build(out).output_types(b.build(out)["block.node"]))
        if not values:
            out = b.add("add", out, b.input("x", TensorType(IMAGE)))
        return b.build(*(type(out)(out.node, i) for i in range(count)))

    def inputs(self, batch: int = 3) -> tuple[Tensor, ...]:
        inputs = [torch.randn(given.type.concrete(batch)) for given in self.graph().inputs]
        return tuple(x.abs() + 0.1 if self.positive else x for x in inputs)


WINDOW = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)}

CASES = {
    "conv2d": Case(
        "conv2d",
        lambda x, weight, bias: F.conv2d(x, weight, bias, (2, 1), (1, 0), (1, 2), 2),
        WINDOW | {"out_channels": 6, "dilation": (1, 2), "groups": 2},
    ),
    "conv2d without bias": Case(
        "conv2d",
        lambda x, weight: F.conv2d(x, weight, None, 1, 2),
        {"out_channels": 3, "kernel": (5, 5), "padding": (2, 2), "bias": False},
    ),
    "conv_transpose2d": Case(
        "conv_transpose2d",
        lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, (2, 2), (1, 1), (1, 0), 2, (1, 1)),
        {
            "out_channels": 6,
            "kernel": (3, 3),
            "stride": (2, 2),
            "padding": (1, 1),
            "output_padding": (1, 0),
            "groups": 2,
        },
    ),
    "conv1d": Case(
        "conv1d",
        lambda x, weight, bias: F.conv1d(x, weight, bias, 2, 1, 2, 2),
        {"out_channels": 6, "kernel": (3,), "stride": (2,), "padding": (1,), "dilation": (2,), "groups": 2},
        (SIGNAL,),
    ),
    "conv3d": Case(
        "conv3d",
        lambda x, weight: F.conv3d(x, weight, None, (1, 2, 1), (1, 0, 2)),
        {"out_channels": 3, "kernel": (3, 1, 2), "stride": (1, 2, 1), "padding": (1, 0, 2), "bias": False},
        (VOLUME,),
    ),
    "conv_transpose1d": Case(
        "conv_transpose1d",
        lambda x, weight, bias: F.conv_transpose1d(x, weight, bias, 2, 1, 1),
        {"out_channels": 6, "kernel": (3,), "stride": (2,), "padding": (1,), "output_padding": (1,)},
        (SIGNAL,),
    ),
    "conv_transpose3d": Case(
        "conv_transpose3d",
        lambda x, weight, bias: F.conv_transpose3d(x, weight, bias, (1, 2, 1), (1, 0, 0), (0, 1, 0), 2),
        {
            **{"out_channels": 6, "kernel": (3, 1, 2), "stride": (1, 2, 1), "padding": (1, 0, 0)},
            **{"output_padding": (0, 1, 0), "groups": 2},
        },
        (VOLUME,),
    ),
    "max_pool1d": Case(
        "max_pool1d",
        lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True),
        {"kernel": (3,), "stride": (2,), "padding": (1,), "ceil_mode": True},
        (SIGNAL,),
    ),
    "max_pool3d": Case(
        "max_pool3d",
        lambda x: F.max_pool3d(x, (3, 2, 1), (2, 1, 3), (1, 1, 0)),
        {"kernel": (3, 2, 1), "stride": (2, 1, 3), "padding": (1, 1, 0)},
        (VOLUME,),
    ),
    "avg_pool1d": Case(
        "avg_pool1d",
        lambda x: F.avg_pool1d(x, 3, 2, 1, True),
        {"kernel": (3,), "stride": (2,), "padding": (1,), "ceil_mode": True},
        (SIGNAL,),
    ),
    "avg_pool3d": Case(
        "avg_pool3d",
        lambda x: F.avg_pool3d(x, (3, 2, 1), (2, 1, 3), (1, 1, 0), True, False),
        {
            **{"kernel": (3, 2, 1), "stride": (2, 1, 3), "padding": (1, 1, 0)},
            **{"ceil_mode": True, "count_include_pad": False},
        },
        (VOLUME,),
    ),
    "linear": Case("linear", F.linear, {"out_features": 3}, (TOKENS,)),
    "batch_norm": Case(
        "batch_norm",
        lambda x, weight, bias, running_mean, running_var, num_batches_tracked: F.batch_norm(
            x, running_mean, running_var, weight, bias, False, 0.1, 1e-3
        ),
        {"eps": 1e-3},
    ),
    "batch_norm without affine, of vectors": Case(
        "batch_norm",
        lambda x, running_mean, running_var, num_batches_tracked: F.batch_norm(x, running_mean, running_var),
        {"affine": False},
        ((N, 5),),
    ),
    "group_norm": Case("group_norm", lambda x, weight, bias: F.group_norm(x, 2, weight, bias), {"groups": 2}),
    "group_norm without affine": Case("group_norm", lambda x: F.group_norm(x, 4), {"groups": 4, "affine": False}),
    "layer_norm": Case("layer_norm", lambda x, weight, bias: F.layer_norm(x, (6, 8), weight, bias), {"shape": (6, 8)}),
    "layer_norm with bias only": Case(
        "layer_norm",
        lambda x, bias: F.layer_norm(x, (6,), None, bias),
        {"shape": (6,), "affine": False},
        (TOKENS,),
    ),
    "prelu": Case("prelu", lambda x, weight: F.prelu(x, weight), {"parameters": 4}),
    "constant": Case("constant", lambda x, value: x + value, {"type": TensorType((1, 4, 1, 8))}, ()),
    "identity": Case("identity", lambda x: x),
    "relu": Case("relu", lambda x: x.clamp(min=0)),
    "relu6": Case("relu6", lambda x: x.clamp(0, 6)),
    "leaky_relu": Case("leaky_relu", lambda x: torch.where(x > 0, x, 0.2 * x), {"slope": 0.2}),
    "elu": Case("elu", lambda x: torch.where(x > 0, x, 0.5 * (x.exp() - 1)), {"alpha": 0.5}),
    "gelu": Case("gelu", lambda x: x * torch.special.ndtr(x)),
    "gelu, tanh": Case("gelu", lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    "silu": Case("silu", lambda x: x * x.sigmoid()),
    "mish": Case("mish", lambda x: x * torch.tanh(torch.log1p(x.exp()))),
    "sigmoid": Case("sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
    "tanh": Case("tanh", lambda x: x.tanh()),
    "hardswish": Case("hardswish", lambda x: x * (x + 3).clamp(0, 6) / 6),
    "hardsigmoid": Case("hardsigmoid", lambda x: (x + 3).clamp(0, 6) / 6),
    "softplus": Case("softplus", lambda x: F.softplus(x, 2.0, 5.0), {"beta": 2.0, "threshold": 5.0}),
    "clamp": Case("clamp", lambda x: x.clamp(max=0.5), {"max": 0.5}),
    "clamp to nothing": Case("clamp", lambda x: x),
    "sqrt": Case("sqrt", lambda x: x**0.5, positive=True),
    "pow": Case("pow", lambda x: 1 / (x * x), {"exponent": -2}),
    "exp": Case("exp", lambda x: x.exp()),
    "add_scalar": Case("add_scalar", lambda x: x - 1.5, {"value": -1.5}),
    "mul_scalar": Case("mul_scalar", lambda x: x / 4, {"value": 0.25}),
    "softmax": Case("softmax", lambda x: x.exp() / x.exp().sum(1, True), {"dim": 1}),
    "log_softmax": Case("log_softmax", lambda x: x - x.exp().sum(-1, True).log(), {"dim": -1}),
    "dropout": Case("dropout", lambda x: x, {"p": 0.3}),
    "dropout2d": Case("dropout2d", lambda x: x, {"p": 0.3}),
    "drop_path": Case("drop_path", lambda x: x, {"p": 0.3}),
    "add": Case("add", lambda x, y, z: x + y + z, shapes=(IMAGE, (N, 1, 6, 8), (4, 1, 1))),
    "mul": Case("mul", lambda x, y: x * y, shapes=(IMAGE, (N, 4, 1, 1))),
    "sub": Case("sub", lambda x, y: x - y, shapes=(IMAGE, IMAGE)),
    "div": Case("div", lambda x, y: x / y, shapes=(IMAGE, IMAGE), positive=True),
    "concat": Case("concat", lambda x, y: torch.cat([x, y], 1), shapes=(IMAGE, (N, 3, 6, 8))),
    "matmul": Case("matmul", lambda x, y: x @ y, shapes=(TOKENS, (N, 6, 2))),
    "attention": Case(
        "attention",
        lambda q, k, v, mask: torch.softmax(q @ k.mT * 0.3 + mask, -1) @ v,
        {"scale": 0.3},
        ((N, 2, 5, 6), (N, 2, 7, 6), (N, 2, 7, 3), (5, 7)),
    ),
    "attention, causal": Case(
        "attention",
        lambda q, k, v: (
            torch.softmax((q @ k.mT / 6**0.5).masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf), -1) @ v
        ),
        {"causal": True, "p": 0.2},
        ((N, 2, 5, 6), (N, 2, 5, 6), (N, 2, 5, 3)),
    ),
    "attention without heads": Case(
        "attention",
        lambda q, k, v, mask: torch.softmax(q @ k.mT / 6**0.5 + mask, -1) @ v,
        {},
        ((N, 5, 6), (N, 7, 6), (N, 7, 3), (N, 5, 7)),
    ),
    "max_pool2d": Case(
        "max_pool2d",
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2), True),
        WINDOW | {"dilation": (1, 2), "ceil_mode": True},
    ),
    "avg_pool2d": Case(
        "avg_pool2d",
        lambda x: F.avg_pool2d(x, 3, 2, 1, False, False),
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False},
    ),
    "adaptive_avg_pool2d": Case("adaptive_avg_pool2d", lambda x: x.mean((2, 3), True)),
    "adaptive_max_pool2d": Case("adaptive_max_pool2d", lambda x: x.amax((2, 3), True)),
    "adaptive_avg_pool2d to a size": Case("adaptive_avg_pool2d", lambda x: F.avg_pool2d(x, (3, 4)), {"size": (2, 2)}),
    "mean": Case("mean", lambda x: x.mean(3).mean(2), {"dims": (2, 3)}),
    "mean over nothing": Case("mean", lambda x: x, {"dims": ()}),
    "sum": Case("sum", lambda x: x.sum(1, True), {"dims": (1,), "keepdim": True}),
    "flatten": Case("flatten", lambda x: x.reshape(len(x), -1)),
    "flatten in the middle": Case("flatten", lambda x: x.reshape(len(x), 24, 8), {"start": 1, "end": 2}),
    "reshape": Case("reshape", lambda x: x.reshape(len(x), 2, 2, 48), {"shape": (N, 2, 2, -1)}),
    "reshape into the batch": Case("reshape", lambda x: x.reshape(len(x) * 4, 48), {"shape": (Batch(4), 48)}),
    "permute": Case("permute", lambda x: x.permute(0, 2, 3, 1), {"dims": (0, 2, 3, 1)}),
    "expand": Case("expand", lambda x: torch.stack([x] * 3), {"shape": (3, *IMAGE)}),
    "split": Case("split", lambda x: (x[:, :1], x[:, 1:]), {"sizes": (1, 3)}),
    "split into one": Case("split", lambda x: x, {"sizes": (4,)}),
    "slice": Case("slice", lambda x: x[:, :, 1:6:2], {"dim": 2, "start": 1, "stop": 6, "step": 2}),
    "pad": Case("pad", lambda x: F.pad(x, (1, 0, 2, 1), value=0.5), {"pads": (1, 0, 2, 1), "value": 0.5}),
    "pad by reflection": Case(
        "pad", lambda x: F.pad(x, (1, 2, 0, 1), "reflect"), {"pads": (1, 2, 0, 1), "mode": "reflect"}
    ),
    "interpolate": Case(
        "interpolate", lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3), {"scale": (2.0, 3.0)}
    ),
    "interpolate_like": Case(
        "interpolate_like",
        lambda x, like: F.interpolate(x, (9, 5), mode="bilinear", align_corners=True),
        {"mode": "bilinear", "align_corners": True},
        (IMAGE, (N, 2, 9, 5)),
    ),
    "unflatten_like": Case(
        "unflatten_like", lambda x, like: x.reshape(-1, 3, 9, 5), {"dim": -1}, ((N, 3, 45), (N, 2, 9, 5))
    ),
    "interpolate to a size": Case(
        "interpolate",
        lambda x: F.interpolate(x, (9, 9), mode="bilinear", align_corners=True),
        {"size": (9, 9), "mode": "bilinear", "align_corners": True},
    ),
    "pixel_shuffle": Case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), {"factor": 2}),
    "pixel_unshuffle": Case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), {"factor": 2}),
    "frozen": Case(
        "frozen",
        lambda x: torch.roll(x, (1, 2), (2, 3)),
        {
            "target": "aten.roll.default",
            "args": (("input", 0), (1, 2), (2, 3)),
            "types": (TensorType(IMAGE),),
        },
    ),
    "frozen, several outputs": Case(
        "frozen",
        lambda x: torch.var_mean(x, 1),
        {
            "target": "aten.var_mean.correction",
            "args": (("input", 0), (1,)),
            "kwargs": (("correction", 1), ("keepdim", False)),
            "types": (TensorType((N, 6, 8)), TensorType((N, 6, 8))),
        },
    ),
    "frozen, the batch size and an element type": Case(
        "frozen",
        lambda x: torch.full((len(x), 2), 0.5, dtype=torch.float64),
        {
            "target": "aten.new_full.default",
            "args": (("input", 0), (N, 2), 0.5),
            "kwargs": (("dtype", DType.F64), ("device", ("device", "cpu"))),
            "types": (TensorType((N, 2), DType.F64),),
        },
    ),
}


def residual() -> Graph:
    """Two stages of residual blocks, of which the first of the second stage has a projection."""
    b = Builder()

    def conv_bn(x: Any, channels: int, kernel: int, stride: int, names: tuple[str, str]) -> Any:
        windows = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (kernel // 2, kernel // 2)}
        x = b.add("conv2d", x, id=names[0], out_channels=channels, bias=False, **windows)
        return b.add("batch_norm", x, id=names[1])

    x = b.input("x", TensorType((N, 3, 8, 8)))
    x = b.add("relu", conv_bn(x, 4, 3, 1, ("stem.0", "stem.1")), id="stem.2")
    for stage, channels in enumerate((4, 8)):
        for block in range(3):
            at = f"stages.{stage}.{block}"
            down = stage == 1 and block == 0
            y = b.add("relu", conv_bn(x, channels, 3, 2 if down else 1, (f"{at}.conv1", f"{at}.bn1")), id=f"{at}.relu")
            y = conv_bn(y, channels, 3, 1, (f"{at}.conv2", f"{at}.bn2"))
            if down:
                x = conv_bn(x, channels, 1, 2, (f"{at}.shortcut.0", f"{at}.shortcut.1"))
            x = b.add("relu", b.add("add", y, x, id=f"{at}.add"), id=f"{at}.relu_1")
    x = b.add("dropout", b.add("mean", x, dims=(2, 3)), p=0.5)
    return b.build(b.add("linear", x, id="head", out_features=5))


def shared() -> Graph:
    """A convolution applied twice, and a weight that two different convolutions share."""
    b = Builder()
    x = b.input("x", TensorType(IMAGE))
    twice = {"weight": "same.weight", "bias": "same.bias"}
    arguments = {"out_channels": 4, "kernel": (3, 3), "padding": (1, 1)}
    x = b.add("relu", b.add("conv2d", x, id="first", weights=twice, **arguments))
    x = b.add("relu", b.add("conv2d", x, id="second", weights=twice, **arguments))
    x = b.add("conv2d", x, id="tied.a", bias=False, **arguments)
    x = b.add("conv2d", x, id="b", weights={"weight": "tied.a.weight"}, bias=False, **(arguments | {"stride": (2, 2)}))
    return b.build(x)


def mixed_batch_norm() -> Graph:
    """A batch norm that shares its scale with another one, so that no layer holds its weights."""
    b = Builder()
    x = b.add("batch_norm", b.input("x", TensorType(IMAGE)), id="one")
    roles = ("bias", "running_mean", "running_var", "num_batches_tracked")
    weights = {"weight": "one.weight"} | {role: f"two.{role}" for role in roles}
    return b.build(b.add("batch_norm", b.add("relu", x), id="two", momentum=None, weights=weights))


def tokens() -> Graph:
    """A class token in front of patches, with a position embedding: the batch size is needed as a number."""
    b = Builder()
    x = b.input("image", TensorType((N, 3, 8, 8)))
    x = b.add("conv2d", x, id="embed.patches", out_channels=6, kernel=(4, 4), stride=(4, 4))
    x = b.add("permute", b.add("flatten", x, start=2), dims=(0, 2, 1))
    token = b.add("constant", id="token", type=TensorType((1, 1, 6)), trainable=True, weights={"value": "token"})
    token = b.add("expand", token, shape=(N, 1, 6))
    x = b.add("concat", token, x, dim=1)
    where = b.add("constant", id="where", type=TensorType((1, 5, 6)), weights={"value": "embed.where"})
    x = b.add("layer_norm", b.add("add", x, where), id="norm", shape=(6,))
    q = b.add("linear", x, id="attend.q", out_features=6)
    k = b.add("linear", x, id="attend.k", out_features=6)
    v = b.add("linear", x, id="attend.v", out_features=6)
    x = b.add("add", x, b.add("attention", q, k, v, id="attend.mix"))
    return b.build(b.add("slice", x, dim=1, start=0, stop=1))


def awkward_names() -> Graph:
    """Keys that are no identifiers, a layer below a layer, and an input with a keyword's name."""
    b = Builder()
    x = b.input("class", TensorType(IMAGE))
    arguments = {"out_channels": 4, "kernel": (1, 1)}
    x = b.add("conv2d", x, id="net.0", **arguments)
    x = b.add("conv2d", x, id="net.0.inner", **arguments)
    x = b.add("conv2d", x, id="a\"b'c.3x3", **arguments)
    x = b.add("conv2d", x, id="__private.lambda", **arguments)
    x = b.add("conv2d", x, id="net.7", **arguments)
    return b.build(b.add("relu", x))


def everything() -> Graph:
    """All cases side by side in one graph."""
    b = Builder()
    outputs: list[Value] = []
    for number, case in enumerate(CASES.values()):
        graph = case.graph()
        names = {Value(g.id): b.input(f"case{number}.{g.id}", g.type) for g in graph.inputs}
        for node in graph:
            out = b.add(node.op, *(names[v] for v in node.inputs), id=f"case{number}.{node.id}", **node.attrs)
            names |= {Value(node.id, i): Value(out.node, i) for i in range(len(graph.output_types(node)))}
        outputs += [names[value] for value in graph.outputs]
    return b.build(*outputs)


NETWORKS: dict[str, Callable[[], Graph]] = {
    "residual": residual,
    "shared": shared,
    "mixed_batch_norm": mixed_batch_norm,
    "tokens": tokens,
    "awkward_names": awkward_names,
}
