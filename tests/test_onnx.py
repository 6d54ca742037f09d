from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import CASES, IMAGE, everything, randomised, residual, tokens
from test_ir_ops import EXAMPLES, one_op, pairs

from netgraft.convert.onnx import example_inputs, to_onnx, verify
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError, ShapeError
from netgraft.ir import OPS, Batch, Builder, Graph, Model, TensorType


def test_every_op_computes_the_same_in_onnxruntime() -> None:
    model = randomised(everything())
    assert verify(to_onnx(model), model) < 1e-4


@pytest.mark.parametrize("op", [op for op in OPS if op != "sqrt"])  # of no negative number
def test_every_example_of_an_op_computes_the_same(op: str) -> None:
    shapes, attrs = EXAMPLES[op]
    model = randomised(one_op(op, *shapes, **attrs))
    assert verify(to_onnx(model), model) < 1e-5


def test_every_op_is_written_as_a_case() -> None:
    assert {case.op for case in CASES.values()} == OPS.keys()


@settings(max_examples=40)
@given(
    op=st.sampled_from(["max_pool2d", "avg_pool2d"]),
    size=pairs(3, 9),
    kernel=pairs(1, 4),
    stride=pairs(1, 4),
    padding=pairs(0, 2),
    ceil_mode=st.booleans(),
    include=st.booleans(),
)
def test_pools_of_any_window(op: str, include: bool, size: tuple[int, int], **windows: object) -> None:
    attrs = windows | ({"count_include_pad": include} if op == "avg_pool2d" else {})
    try:
        model = Model(one_op(op, (Batch(), 2, *size), **attrs), {})
    except ShapeError:
        assume(False)
    assert verify(to_onnx(model), model) < 1e-5


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("by", [{"size": (5, 11)}, {"size": (1, 1)}, {"size": (18, 14)}, {"scale": (0.4, 2.3)}])
def test_resizing(mode: str, by: dict[str, object]) -> None:
    corners = [None] if mode.startswith("nearest") else [False, True]
    for align_corners in corners:
        for antialias in [False, True] if align_corners is False else [False]:
            attrs = by | {"mode": mode, "align_corners": align_corners, "antialias": antialias}
            model = Model(one_op("interpolate", (Batch(), 3, 9, 7), **attrs), {})
            assert verify(to_onnx(model), model) < 1e-5


def opset(proto: onnx.ModelProto) -> int:
    (version,) = [entry.version for entry in proto.opset_import if entry.domain == ""]
    return int(version)


def test_the_opset_is_as_old_as_the_operations_allow() -> None:
    """From opset 19 on onnxruntime takes six times as long for means over windows of 24 channels."""
    pooled = Model(one_op("avg_pool2d", (Batch(), 24, 9, 9), kernel=(3, 3), stride=(1, 1), padding=(1, 1)), {})
    curved = Model(one_op("gelu", (Batch(), 24)), {})
    assert opset(onnx.load_from_string(to_onnx(pooled))) == 18
    assert opset(onnx.load_from_string(to_onnx(curved))) == 20


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert to_onnx(randomised(residual()), path) == path.read_bytes()
    return path


def test_the_file_is_whole_and_its_batch_axis_has_a_name(written: Path) -> None:
    proto = onnx.load(written, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert opset(proto) == 18
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"x": ["batch", 3, 8, 8], "output": ["batch", 5]}


def test_the_file_says_nothing_of_the_machine(written: Path) -> None:
    assert str(Path(__file__).parents[1]).encode() not in written.read_bytes()
    assert b"site-packages" not in written.read_bytes()


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_outputs_at_any_batch_size(written: Path, batch: int) -> None:
    model = randomised(residual())
    inputs = example_inputs(model.graph, batch)
    (returned,) = onnxruntime.InferenceSession(written).run(None, {"x": inputs[0].numpy()})
    expected = to_module(model).eval()(*inputs).detach().numpy()
    np.testing.assert_allclose(returned, expected, atol=1e-4)


def test_the_check_sees_a_small_change(written: Path) -> None:
    model = randomised(residual())
    weights = dict(model.weights)
    weights["stages.1.0.bn1.running_var"] = weights["stages.1.0.bn1.running_var"] * 1.01
    assert verify(written.read_bytes(), model) < 1e-4
    with pytest.raises(ConversionError, match=r"differ by .* at batch 1 .*the ONNX file is wrong"):
        verify(written.read_bytes(), Model(model.graph, weights))


def test_the_batch_size_is_read_when_the_network_runs() -> None:
    model = randomised(tokens())
    assert verify(to_onnx(model), model, batches=(1, 5)) < 1e-4


def test_a_graph_without_a_batch_axis() -> None:
    b = Builder()
    graph = b.build(b.add("relu", b.input("x", TensorType((2, 3)))))
    assert verify(to_onnx(Model(graph, {})), Model(graph, {})) == 0


def unknown_to_the_exporter() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(IMAGE))
    target = {"target": "aten._cdist_forward.default", "args": (("input", 0), ("input", 0), 2.0, None)}
    return b.build(b.add("frozen", x, id="odd.one", types=(TensorType((Batch(), 4, 6, 6)),), **target))


def test_a_refusal_names_the_node() -> None:
    with pytest.raises(
        ConversionError, match=r"tiny cannot be written as ONNX: .*aten._cdist_forward.default.*odd\.one"
    ):
        to_onnx(Model(unknown_to_the_exporter(), {}, "tiny"))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    b = Builder()
    to_onnx(Model(b.build(b.add("relu", b.input("x", TensorType(IMAGE)))), {}))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
