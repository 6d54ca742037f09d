"""The op table against torch: shapes, and the weights that the ops hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts import outputs, random_inputs, sane_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netgraft.errors import GraphError, ShapeError
from netgraft.ir import OPS, Batch, Builder, DType, Graph, TensorType
from netgraft.ir.ops import ACTIVATIONS, definition
from netgraft.ir.shapes import window

N = Batch()
IMAGE = (N, 8, 9, 7)
TOKENS = (N, 5, 12)
SIGNAL = (N, 8, 9)
VOLUME = (N, 4, 5, 6, 7)
ROLL = {"target": "aten.roll.default", "args": (("input", 0), (1,), (1,)), "types": (TensorType(IMAGE),)}

# For every op: the shapes that it is given, and its attributes.
EXAMPLES: dict[str, tuple[tuple[tuple[Any, ...], ...], dict[str, Any]]] = {
    "conv2d": ((IMAGE,), {"out_channels": 6, "kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "groups": 2}),
    "conv_transpose2d": ((IMAGE,), {"out_channels": 6, "kernel": (3, 2), "stride": (2, 1), "output_padding": (1, 0)}),
    "conv1d": ((SIGNAL,), {"out_channels": 6, "kernel": (3,), "stride": (2,), "padding": (1,), "groups": 2}),
    "conv_transpose1d": ((SIGNAL,), {"out_channels": 6, "kernel": (3,), "stride": (2,), "output_padding": (1,)}),
    "max_pool1d": ((SIGNAL,), {"kernel": (3,), "stride": (2,), "padding": (1,), "ceil_mode": True}),
    "avg_pool1d": ((SIGNAL,), {"kernel": (3,), "stride": (2,), "padding": (1,), "ceil_mode": True}),
    "conv3d": ((VOLUME,), {"out_channels": 6, "kernel": (3, 2, 1), "stride": (2, 1, 1), "padding": (1, 0, 0)}),
    "conv_transpose3d": ((VOLUME,), {"out_channels": 6, "kernel": (3, 2, 1), "stride": (2, 1, 3), "groups": 2}),
    "max_pool3d": ((VOLUME,), {"kernel": (3, 2, 1), "stride": (2, 2, 1), "padding": (1, 1, 0), "ceil_mode": True}),
    "avg_pool3d": ((VOLUME,), {"kernel": (3, 2, 1), "stride": (2, 2, 1), "padding": (1, 1, 0), "ceil_mode": True}),
    "linear": ((TOKENS,), {"out_features": 7}),
    "batch_norm": ((IMAGE,), {}),
    "group_norm": ((IMAGE,), {"groups": 4}),
    "layer_norm": ((TOKENS,), {"shape": (5, 12)}),
    "prelu": ((IMAGE,), {"parameters": 8}),
    "constant": ((), {"type": TensorType((3, 4))}),
    "identity": ((IMAGE,), {}),
    "relu": ((IMAGE,), {}),
    "relu6": ((IMAGE,), {}),
    "leaky_relu": ((IMAGE,), {"slope": 0.2}),
    "elu": ((IMAGE,), {}),
    "gelu": ((IMAGE,), {"approximate": "tanh"}),
    "silu": ((IMAGE,), {}),
    "mish": ((IMAGE,), {}),
    "sigmoid": ((IMAGE,), {}),
    "tanh": ((IMAGE,), {}),
    "hardswish": ((IMAGE,), {}),
    "hardsigmoid": ((IMAGE,), {}),
    "softplus": ((IMAGE,), {}),
    "clamp": ((IMAGE,), {"min": 0.0, "max": 6.0}),
    "sqrt": ((IMAGE,), {}),
    "pow": ((IMAGE,), {"exponent": 2}),
    "exp": ((IMAGE,), {}),
    "add_scalar": ((IMAGE,), {"value": 2.5}),
    "mul_scalar": ((IMAGE,), {"value": 2.5}),
    "softmax": ((IMAGE,), {"dim": 1}),
    "log_softmax": ((IMAGE,), {"dim": -1}),
    "dropout": ((IMAGE,), {}),
    "dropout2d": ((IMAGE,), {}),
    "drop_path": ((IMAGE,), {}),
    "add": ((IMAGE, (N, 8, 1, 1), (7,)), {}),
    "mul": (((N, 1, 9, 1), IMAGE), {}),
    "sub": ((IMAGE, IMAGE), {}),
    "div": ((IMAGE, IMAGE), {}),
    "concat": ((IMAGE, (N, 3, 9, 7)), {}),
    "matmul": (((N, 3, 5, 4), (N, 3, 4, 6)), {}),
    "attention": (((N, 2, 5, 4), (N, 2, 6, 4), (N, 2, 6, 3), (N, 1, 5, 6)), {}),
    "max_pool2d": ((IMAGE,), {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}),
    "avg_pool2d": ((IMAGE,), {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True}),
    "adaptive_avg_pool2d": ((IMAGE,), {"size": (2, 3)}),
    "adaptive_max_pool2d": ((IMAGE,), {"size": (2, 3)}),
    "mean": ((IMAGE,), {"dims": (1, -1)}),
    "sum": ((IMAGE,), {"dims": (2,), "keepdim": True}),
    "flatten": ((IMAGE,), {"start": 1, "end": 2}),
    "reshape": ((IMAGE,), {"shape": (N, 4, -1)}),
    "unflatten_like": (((N, 20, 7), (N, 3, 4, 5)), {"dim": 1}),
    "permute": ((IMAGE,), {"dims": (0, 2, -1, 1)}),
    "expand": (((N, 1, 7),), {"shape": (N, 9, 7)}),
    "split": ((IMAGE,), {"sizes": (3, 5)}),
    "slice": ((IMAGE,), {"dim": 1, "start": 1, "stop": 8, "step": 3}),
    "pad": ((IMAGE,), {"pads": (1, 2, 0, 3)}),
    "interpolate": ((IMAGE,), {"scale": (1.5, 2.0)}),
    "interpolate_like": ((IMAGE, (N, 3, 4, 5)), {"mode": "bilinear"}),
    "pixel_shuffle": ((IMAGE,), {"factor": 2}),
    "pixel_unshuffle": (((N, 3, 6, 9),), {"factor": 3}),
    "frozen": ((IMAGE,), ROLL),
}


def one_op(op: str, *shapes: tuple[Any, ...], **attrs: Any) -> Graph:
    """A graph of one node, with all its outputs."""
    b = Builder()
    inputs = [b.input(f"x{i}", TensorType(shape)) for i, shape in enumerate(shapes)]
    node = b.add(op, *inputs, id="node", **attrs)
    graph = b.build(node)
    return b.build(*(graph["node"].value(i) for i in range(len(graph.output_types(graph["node"])))))


def runs_as_inferred(graph: Graph, batch: int) -> None:
    got = outputs(sane_model(graph), random_inputs(graph, batch))
    assert [tuple(o.shape) for o in got] == [type_.concrete(batch) for type_ in graph.signature.outputs]


def test_every_op_has_an_example() -> None:
    assert EXAMPLES.keys() == OPS.keys()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_op_gives_the_shape_that_is_inferred(op: str, batch: int) -> None:
    shapes, attrs = EXAMPLES[op]
    runs_as_inferred(one_op(op, *shapes, **attrs), batch)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def agree(op: str, shape: tuple[Any, ...], attrs: dict[str, Any]) -> None:
    """The rule and torch give the same shape, or both refuse."""
    try:
        graph = one_op(op, shape, **attrs)
    except ShapeError:
        # Build with a shape that fits, then run with the one that does not.
        call = getattr(torch.nn.functional, op)
        x = torch.zeros([2 if isinstance(d, Batch) else d for d in shape])
        kernel = torch.zeros(attrs["kernel"]).expand(4, shape[1], *attrs["kernel"]) if "conv" in op else None
        rest = {name: attrs[name] for name in ("stride", "padding", "dilation") if name in attrs}
        with pytest.raises(RuntimeError):
            call(x, kernel, **rest) if kernel is not None else call(
                x, attrs["kernel"], ceil_mode=attrs["ceil_mode"], **rest
            )
    else:
        runs_as_inferred(graph, 2)


@settings(max_examples=60)
@given(size=pairs(1, 9), kernel=pairs(1, 4), stride=pairs(1, 3), padding=pairs(0, 3), dilation=pairs(1, 2))
def test_convolutions_of_any_window(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    agree("conv2d", (N, 3, *size), attrs | {"out_channels": 4})


@settings(max_examples=60)
@given(size=pairs(1, 9), kernel=pairs(1, 4), stride=pairs(1, 4), padding=pairs(0, 2), ceil_mode=st.booleans())
def test_pooling_of_any_window(size: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
    for op in ("max_pool2d", "avg_pool2d"):
        attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        agree(op, (N, 3, *size), attrs)


@settings(max_examples=40)
@given(
    size=pairs(1, 6),
    kernel=pairs(1, 4),
    stride=pairs(1, 3),
    padding=pairs(0, 2),
    dilation=pairs(1, 2),
    extra=pairs(0, 2),
)
def test_transposed_convolutions(size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, extra: Any) -> None:
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    try:
        graph = one_op("conv_transpose2d", (N, 3, *size), out_channels=4, **attrs)
    except ShapeError:
        assume(False)
    runs_as_inferred(graph, 2)


@settings(max_examples=40)
@given(
    size=pairs(1, 9),
    scale=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0)),
    mode=st.sampled_from(["nearest", "bilinear"]),
)
def test_interpolation_by_any_factor(size: Any, scale: Any, mode: str) -> None:
    assume(all(int(s * f) >= 1 for s, f in zip(size, scale, strict=True)))
    runs_as_inferred(one_op("interpolate", (N, 2, *size), scale=scale, mode=mode), 2)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("attention", ((N, 3, 16, 8), (N, 16, 3, 8), (N, 16, 3, 8)), {}, "do not broadcast"),
        ("attention", ((N, 16, 8), (N, 1, 16, 8), (N, 1, 16, 8)), {}, "do not fit"),
        ("attention", ((N, 5, 4), (N, 6, 4), (N, 6, 4), (3, N, 5, 6)), {}, "a mask"),
        ("prelu", (IMAGE,), {"parameters": 4}, "4 slopes do not fit"),
        ("group_norm", ((N, 8, 1, 1),), {"groups": 8}, "a single value"),
        ("conv_transpose2d", (IMAGE,), {"out_channels": 2, "kernel": (3, 3), "output_padding": (1, 0)}, "less than"),
    ],
)
def test_what_torch_cannot_run_is_no_graph(op: str, shapes: Any, attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        one_op(op, *shapes, **attrs)


def test_keys_and_values_may_be_shared_by_heads() -> None:
    graph = one_op("attention", (N, 3, 5, 4), (N, 1, 6, 4), (N, 1, 6, 2))
    assert graph.signature.outputs == (TensorType((N, 3, 5, 2)),)
    runs_as_inferred(graph, 2)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=4).filter(lambda pads: len(pads) % 2 == 0))
def test_padding(pads: list[int]) -> None:
    runs_as_inferred(one_op("pad", (N, 2, 4, 5), pads=tuple(pads)), 2)


@given(st.data())
def test_broadcasting(data: st.DataObject) -> None:
    full = (N, 3, 4, 5)
    shapes = [
        tuple(data.draw(st.sampled_from([d, 1])) for d in full[4 - data.draw(st.integers(1, 4)) :]) for _ in range(3)
    ]
    runs_as_inferred(one_op("add", *shapes), 2)


@pytest.mark.parametrize("op", sorted(ACTIVATIONS))
def test_activations_take_their_defaults(op: str) -> None:
    assert definition(op).pointwise
    runs_as_inferred(one_op(op, IMAGE), 1)


@pytest.mark.parametrize("op", [op for op, definition_ in OPS.items() if definition_.commutative])
def test_commutative_ops_commute(op: str) -> None:
    graph = one_op(op, IMAGE, IMAGE)
    x, y = random_inputs(graph)[0], 2 * random_inputs(graph)[1] + 1
    model = sane_model(graph)
    torch.testing.assert_close(outputs(model, [x, y]), outputs(model, [y, x]))


def test_the_batch_stays_a_symbol() -> None:
    windows = one_op("reshape", (N, 4, 6, 8), shape=(-1, 2, 8))
    assert windows.signature.outputs == (TensorType((Batch(12), 2, 8)),)
    back = one_op("reshape", (Batch(12), 2, 8), shape=(N, -1))
    assert back.signature.outputs == (TensorType((N, 192)),)
    with pytest.raises(ShapeError, match="cannot reshape"):
        one_op("reshape", (N, 4), shape=(2, 2))


def test_sizes_and_names() -> None:
    type_ = TensorType((Batch(2), 3), DType.F16)
    assert (str(type_), type_.numel(5), type_.concrete(5), type_.dtype.bytes) == ("f16[2N,3]", 30, (10, 3), 2)
    assert window(7, 3, 2, 1) == 4
    with pytest.raises(GraphError, match="must be a frozen node"):
        definition("warp")
