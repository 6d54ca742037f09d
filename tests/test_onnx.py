from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import IMAGE, everything, randomised, residual, tokens

from netgraft.convert.onnx import OPSET, example_inputs, to_onnx, verify
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError
from netgraft.ir import Batch, Builder, Graph, Model, TensorType


def test_every_op_computes_the_same_in_onnxruntime() -> None:
    model = randomised(everything())
    assert verify(to_onnx(model), model) < 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert to_onnx(randomised(residual()), path) == path.read_bytes()
    return path


def test_the_file_is_whole_and_its_batch_axis_has_a_name(written: Path) -> None:
    proto = onnx.load(written, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [OPSET]
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
