"""Which kernels a graph becomes: the rules against what onnxruntime's own optimiser makes of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from networks import randomised

from netgraft import sources
from netgraft.convert.onnx import to_onnx
from netgraft.costs.analytic import _MULTIPLYING, flops
from netgraft.costs.measured.flags import has_avx512
from netgraft.costs.measured.profile import Profiler, _nodes
from netgraft.costs.tables.attribution import attribute
from netgraft.costs.tables.kernels import NAMES, kernels
from netgraft.costs.tables.prior import _weights, features, guess
from netgraft.ir import Batch, Builder, Graph, TensorType, Value
from netgraft.ir.ops import OPS

Add = Callable[..., Value]


def graph_of(channels: int, build: Callable[[Add, Value], Value]) -> Graph:
    """A graph of images of 8x8, built with ``add``."""
    builder = Builder()
    x = builder.input("x", TensorType((Batch(), channels, 8, 8)))
    return builder.build(build(builder.add, x))


def conv(add: Add, x: Value, filters: int = 16, size: int = 3, groups: int = 1) -> Value:
    window = {"kernel": (size, size), "padding": (size // 2, size // 2)}
    return add("conv2d", x, out_channels=filters, groups=groups, **window)


def residual(add: Add, x: Value) -> Value:
    y = add("relu", add("batch_norm", conv(add, x)))
    return add("relu", add("add", y, add("batch_norm", conv(add, y))))


def squeeze(add: Add, x: Value) -> Value:
    y = add("hardswish", conv(add, x))
    gate = add("sigmoid", conv(add, add("adaptive_avg_pool2d", y, size=(1, 1)), 16, 1))
    return conv(add, add("mul", y, gate), 20, 1)


def joined(filters: int) -> Callable[[Add, Value], Value]:
    def build(add: Add, x: Value) -> Value:
        return conv(add, add("concat", conv(add, x, filters), conv(add, x, filters, 1), dim=1))

    return build


def grouped(groups: int) -> Callable[[Add, Value], Value]:
    return lambda add, x: conv(add, add("silu", conv(add, x, 32, groups=groups)), 16, 1)


def pre_activated(add: Add, x: Value) -> Value:
    y = conv(add, x)
    return add("add", y, conv(add, add("relu", add("batch_norm", y))))


def padded(add: Add, x: Value) -> Value:
    return add("max_pool2d", conv(add, add("pad", conv(add, x), pads=(1, 1, 1, 1))), kernel=(2, 2), stride=(2, 2))


def branches(add: Add, x: Value) -> Value:
    """A pool and convolutions read a value in the plain layout, each behind an activation of its own."""
    y = add("concat", conv(add, x, 20), conv(add, x, 12), dim=1)
    window = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
    pooled = [add("max_pool2d", y, **window), add("avg_pool2d", add("identity", y), **window)]
    convolved = [conv(add, add("relu", y), 16, size) for size in (1, 3)]
    return conv(add, add("concat", *pooled, *convolved, dim=1), 16, 1)


def both(add: Add, x: Value) -> Value:
    """Two activated convolutions: the addition stays a kernel of its own."""
    return conv(add, add("relu", add("add", add("relu6", conv(add, x)), add("leaky_relu", conv(add, x)))))


def over(sides: int) -> Graph:
    """Convolutions, pools and a transposed convolution over so many sides."""
    window = {"kernel": (3,) * sides, "padding": (1,) * sides}
    halving = {"kernel": (2,) * sides, "stride": (2,) * sides}
    builder = Builder()
    add = builder.add
    x = builder.input("x", TensorType((Batch(), 16, *(8,) * sides)))
    y = add("relu", add("batch_norm", add(f"conv{sides}d", x, out_channels=16, **window)))
    y = add("relu", add("add", add(f"conv{sides}d", y, out_channels=16, **window), y))
    y = add(f"conv{sides}d", add(f"max_pool{sides}d", y, **halving), out_channels=32, groups=16, **window)
    y = add(f"avg_pool{sides}d", add("sigmoid", y), **halving)
    return builder.build(add("relu", add(f"conv_transpose{sides}d", y, out_channels=8, **halving)))


CASES = {
    "residual": graph_of(16, residual),
    "residual of 18 channels": graph_of(18, lambda add, x: conv(add, residual(add, conv(add, x, 18)), 18)),
    "squeeze and excite": graph_of(3, squeeze),
    "concat of whole blocks": graph_of(16, joined(16)),
    "concat of parts of blocks": graph_of(16, joined(12)),
    "two groups": graph_of(32, grouped(2)),
    "eight groups": graph_of(32, grouped(8)),
    "depthwise": graph_of(32, grouped(32)),
    "pre-activation": graph_of(16, pre_activated),
    "padding": graph_of(16, padded),
    "both activated": graph_of(16, both),
    "branches that begin alike": graph_of(16, branches),
    **{f"over {sides} sides": over(sides) for sides in (1, 2, 3)},
}


as_with_avx512 = pytest.mark.skipif(
    not has_avx512(), reason="the rules are those of AVX-512's kernels, which this processor lacks"
)


@as_with_avx512
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_those_that_onnxruntime_runs(name: str) -> None:
    agree(CASES[name])


@as_with_avx512
@pytest.mark.parametrize(
    "source", ["zoo:resnet20?input=3x16x16", "zoo:shufflenet_v2?input=3x32x32", "zoo:densenet40?input=3x16x16"]
)
def test_the_kernels_of_networks_are_those_that_onnxruntime_runs(source: str) -> None:
    agree(sources.load(source).graph)


def agree(graph: Graph) -> None:
    """Every kernel is one that onnxruntime runs, and there are no others; transposes and copies it moves at will."""
    profiler = Profiler(to_onnx(randomised(graph)))
    profiler.session(runs=1)
    parts = profiler.parts()
    found = attribute(graph, parts)
    assert [part for part in found.strange if part.operation != "Transpose"] == []
    assert [row for row in found.rows if not row.runs and not row.kind.startswith("copy.")] == []
    assert sum(row.runs for row in found.rows) == len(parts) - len(found.strange)
    in_blocks = [n.op_type for nodes in optimised(graph) for n in nodes if n.domain == "com.microsoft.nchwc"]
    kinds = [kernel.kind for kernel in kernels(graph)]
    assert in_blocks.count("Conv") == sum(k.startswith("conv.") and k not in PLAIN for k in kinds)
    assert sum("Pool" in op for op in in_blocks) == sum(k.startswith("pool.blocked") for k in kinds)


PLAIN = ("conv.plain", "conv.transposed")


def optimised(graph: Graph) -> Iterator[Any]:
    """The nodes of the graph that onnxruntime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with TemporaryDirectory() as folder:
        path = Path(folder, "optimised.onnx")
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(to_onnx(randomised(graph)), options, providers=["CPUExecutionProvider"])
        yield (nodes := onnx.load(path).graph.node)
        # What the profiler reads without the package onnx.
        tensors = [((tuple(n.input), tuple(n.output)), (n.name, n.op_type)) for n in nodes]
        assert _nodes(path) == {
            key: [found for found, other in tensors if other == key] for key in dict.fromkeys(key for _, key in tensors)
        }


def test_sizes_are_what_their_names_say() -> None:
    for graph in CASES.values():
        for kernel in kernels(graph):
            names = NAMES[kernel.kind.partition(".")[0]].split()
            assert len(kernel.sizes) == len(names)
            assert np.isfinite(features(kernel.key, 20)).all()
            assert guess(kernel.key) > 0
    (first, *_) = (k for k in kernels(CASES["residual"]) if k.kind == "conv.blocked")
    sizes = dict(zip(NAMES["conv"].split(), first.sizes, strict=True))
    assert (sizes["inputs"], sizes["filters"], sizes["rows"], sizes["out_height"]) == (16, 16, 3, 8)


@pytest.mark.parametrize("sides", [1, 3])
def test_convolutions_over_any_sides_are_counted_whole(sides: int) -> None:
    """Their multiplications, and their weights, are those of the graph."""
    graph = over(sides)
    found = [kernel for kernel in kernels(graph) if kernel.kind.startswith("conv.")]
    sizes = [dict(zip(NAMES["conv"].split(), kernel.sizes, strict=True)) for kernel in found]
    multiplied = sum(
        2 * s["inputs"] * s["filters"] // s["groups"] * s["rows"] * s["columns"] * pixels
        for s, kernel in zip(sizes, found, strict=True)
        for pixels in [s["height"] * s["width"] if "transposed" in kernel.kind else s["out_height"] * s["out_width"]]
    )
    assert multiplied == flops(graph)
    weights = sum(prod(t.shape) for key, t in graph.weight_types.items() if key.endswith("weight") and len(t.shape) > 1)
    assert sum(_weights(kernel.key) for kernel in found) == 4 * weights


def test_nothing_that_multiplies_or_has_weights_is_taken_for_a_copy() -> None:
    x = TensorType((Batch(), 4, 8, 8))
    heavy = {op for op in OPS if op in _MULTIPLYING} | {"prelu", "batch_norm", "group_norm", "layer_norm"}
    assert {"conv1d", "conv3d", "conv_transpose1d", "linear", "matmul", "attention"} <= heavy
    attrs: dict[str, dict[str, Any]] = {"linear": {"out_features": 4}, "group_norm": {"groups": 2}}
    attrs["layer_norm"] = {"shape": (8,)}
    for op in sorted(heavy):
        builder = Builder()
        sides = int(op[-2]) if op.endswith("d") and op[-2].isdigit() else 2
        given = builder.input("x", TensorType((*x.shape[:2], *(8,) * sides)))
        least, _ = OPS[op].arity
        more = {"out_channels": 4, "kernel": (3,) * sides} if op.startswith("conv") else attrs.get(op, {})
        graph = builder.build(builder.add(op, *[given] * least, **more))
        kinds = [kernel.kind.partition(".")[0] for kernel in kernels(graph)]
        assert kinds and "copy" not in kinds, op


def test_what_no_output_needs_is_no_kernel() -> None:
    builder = Builder()
    x = builder.input("x", TensorType((Batch(), 16, 8, 8)))
    y = conv(builder.add, x)
    builder.add("relu", conv(builder.add, x, 32))
    assert [k.kind for k in kernels(builder.build(y))] == ["reorder.in", "conv.blocked", "reorder.out"]


def test_nothing_else_is_imported_for_it() -> None:
    """A search asks thousands of times: no onnx is written or read for that."""
    module = sys.modules["netgraft.costs.tables.kernels"]
    assert not {"onnx", "onnxruntime", "torch"} & set(vars(module))
