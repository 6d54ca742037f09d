from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import CASES, NETWORKS, randomised, residual
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import netgraft as ng
from netgraft.convert.from_onnx import load_onnx
from netgraft.convert.onnx import example_inputs, to_onnx, verify
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError, SourceError
from netgraft.export import export
from netgraft.ir import Batch, Model

N = Batch()
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def written(path: Path, model: Model) -> Path:
    to_onnx(model, path)
    return path


def made(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: list[str],
    tensors: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    domains: tuple[str, ...] = (),
    **more: Any,
) -> Path:
    """A file of these nodes; outputs have no shape."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(tensor), name) for name, tensor in (tensors or {}).items()],
        **more,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def session(file: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def agrees(path: Path, model: Model, batch: int = 3) -> None:
    """The file, what is written of it, and torch compute the same."""
    inputs = example_inputs(model.graph, batch)
    feeds = {given.id: x.numpy() for given, x in zip(model.graph.inputs, inputs, strict=True)}
    expected = session(path).run(None, feeds)
    again = session(to_onnx(model)).run(None, feeds)
    with torch.no_grad():
        returned = to_module(model).eval()(*inputs)
    ours = returned if isinstance(returned, tuple) else (returned,)
    for theirs, back, mine in zip(expected, again, ours, strict=True):
        assert np.ptp(theirs) > 0
        np.testing.assert_allclose(back, theirs, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-4, rtol=1e-4)


# What netgraft writes


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.op not in ("dropout", "dropout2d", "drop_path")]
)
def test_every_op_comes_back(name: str, tmp_path: Path) -> None:
    model = randomised(CASES[name].graph())
    path = written(tmp_path / "model.onnx", model)
    read = load_onnx(path)
    assert read.graph.signature == model.graph.signature
    if not CASES[name].positive:
        assert verify(path.read_bytes(), read) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_back_with_their_names(name: str, tmp_path: Path) -> None:
    model = randomised(NETWORKS[name]())
    read = load_onnx(written(tmp_path / "model.onnx", model))
    assert verify(to_onnx(read), model) < 1e-5
    if name == "residual":
        assert [node.id for node in read.graph] == [node.id for node in model.graph if node.op != "dropout"]
        assert read.graph.weight_types == model.graph.weight_types


def test_what_is_exported_loads_again_as_it_was(tmp_path: Path) -> None:
    first = load_onnx(written(tmp_path / "first.onnx", randomised(residual())))
    second = load_onnx(written(tmp_path / "second.onnx", first))
    assert second.graph == first.graph
    assert all(np.array_equal(first.weights[key], second.weights[key]) for key in first.graph.weight_types)


# What PyTorch writes


class Block(nn.Module):
    """What exporters take apart in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, 1)
        self.norm, self.group = nn.LayerNorm(8), nn.GroupNorm(2, 8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.group(self.up(self.stem(x)))
        x = torch.nn.functional.hardswish(x) + torch.nn.functional.gelu(x)
        x = torch.nn.functional.interpolate(x, scale_factor=0.5)
        x = self.norm(x.flatten(2).transpose(1, 2))
        x = x + self.mix(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.fixture(scope="module", params=[False, True], ids=["torchscript", "dynamo"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "block.onnx"
    torch.manual_seed(0)
    net = Block().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if request.param:
            axes = ({0: torch.export.Dim.DYNAMIC},)
            torch.onnx.export(net, (torch.randn(2, 3, 16, 16),), path, dynamo=True, dynamic_shapes=axes, verbose=False)
        else:
            names = {"input_names": ["image"], "output_names": ["scores"], "dynamic_axes": {"image": {0: "n"}}}
            torch.onnx.export(net, (torch.randn(2, 3, 16, 16),), path, dynamo=False, opset_version=14, **names)
    return path


def test_a_network_that_pytorch_exported(exported: Path) -> None:
    model = load_onnx(exported)
    agrees(exported, model)
    assert {"stem.0", "up", "head"} <= {node.id for node in model.graph}
    assert "head.weight" in model.graph.trainable
    together = {"silu", "hardswish", "gelu", "group_norm", "layer_norm", "attention", "interpolate", "linear"}
    assert together <= {node.op for node in model.graph}
    assert not {"frozen", "sigmoid", "softmax", "div"} & {node.op for node in model.graph}


def test_outputs_keep_their_names(exported: Path, tmp_path: Path) -> None:
    model = load_onnx(exported)
    names = [value.name for value in onnx.load(exported).graph.output]
    again = onnx.load(written(tmp_path / "again.onnx", model))
    assert [value.name for value in again.graph.output] == names


def test_external_data(exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported)
    (tmp_path / "data").mkdir()
    onnx.save(proto, tmp_path / "apart.onnx", save_as_external_data=True, location="data/w.bin", size_threshold=0)
    apart, whole = load_onnx(tmp_path / "apart.onnx"), load_onnx(exported)
    assert apart.graph == whole.graph
    assert all(np.array_equal(apart.weights[key], whole.weights[key]) for key in whole.weights)


# Single operations


X = {"x": ["n", 4, 9, 8]}


def conv(**attrs: Any) -> list[onnx.NodeProto]:
    return [helper.make_node("Conv", ["x", "w"], ["y"], name="c", **attrs)]


W = {"w": np.random.default_rng(0).standard_normal((6, 4, 3, 2)).astype(np.float32)}
SHAPE = [
    helper.make_node("Shape", ["x"], ["s"]),
    helper.make_node("Gather", ["s", "zero"], ["n"]),
    helper.make_node("Unsqueeze", ["n", "first"], ["n1"]),
    helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
]
NUMBERS = {"zero": np.int64(0), "first": np.int64([0]), "rest": np.int64([36, -1])}
SINGLE: dict[str, Callable[[], tuple[list[onnx.NodeProto], dict[str, Any]]]] = {
    "same upper": lambda: (conv(auto_pad="SAME_UPPER", strides=[2, 2]), W),
    "same lower": lambda: (conv(auto_pad="SAME_LOWER", strides=[2, 2]), W),
    "asymmetric": lambda: (conv(pads=[0, 1, 2, 0], dilations=[2, 1]), W),
    "average, padded after": lambda: (
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
        {},
    ),
    "greatest, padded after": lambda: (
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
        {},
    ),
    "transposed, cropped": lambda: (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")],
        {"w": np.random.default_rng(0).standard_normal((4, 5, 3, 3)).astype(np.float32)},
    ),
    "depth to space": lambda: ([helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2)], {}),
    "a shape computed from the batch": lambda: ([*SHAPE, helper.make_node("Reshape", ["x", "shape"], ["y"])], NUMBERS),
    "sizes of halves": lambda: (
        [helper.make_node("Resize", ["x", "", "r"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel")],
        {"r": np.float32([1, 1, 0.5, 1.5])},
    ),
    "backwards": lambda: (
        [helper.make_node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        {"a": np.int64([-1]), "b": np.int64([-(2**31)]), "c": np.int64([2]), "d": np.int64([-1])},
    ),
    "an operation of PyTorch's": lambda: ([helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)], {}),
    "an operation of ONNX's": lambda: ([helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.5)], {}),
    "one that newer opsets changed": lambda: ([helper.make_node("ReduceLogSumExp", ["x"], ["y"], axes=[1])], {}),
    "a constant condition": lambda: (
        [helper.make_node("If", ["yes"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))],
        {"yes": np.bool_(True)},
    ),
}


def branch(op: str) -> onnx.GraphProto:
    inner = [helper.make_node(op, ["x"], [f"{op}_out"])]
    return helper.make_graph(inner, op, [], [helper.make_tensor_value_info(f"{op}_out", FLOAT, None)])


@pytest.mark.parametrize("name", SINGLE)
def test_single_operations(name: str, tmp_path: Path) -> None:
    nodes, tensors = SINGLE[name]()
    path = made(tmp_path / "one.onnx", nodes, X, ["y"], tensors)
    agrees(path, load_onnx(path))


def test_layouts_that_come_and_go_vanish(tmp_path: Path) -> None:
    """As TensorFlow's exporter leaves them: images with the channels last, turned around every convolution."""
    to, back = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], **to),
        helper.make_node("Conv", ["a", "w"], ["b"], name="conv", auto_pad="SAME_UPPER"),
        helper.make_node("Transpose", ["b"], ["c"], **back),
        helper.make_node("Add", ["c", "bias"], ["d"], name="bias_add"),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("Concat", ["e", "d"], ["f"], axis=3, name="join"),
        helper.make_node("Pad", ["f", "pads"], ["g"], name="pad"),
        helper.make_node("Transpose", ["g"], ["h"], **to),
        helper.make_node("MaxPool", ["h"], ["i"], kernel_shape=[2, 2]),
        helper.make_node("Transpose", ["i"], ["j"], **back),
        helper.make_node("ReduceMean", ["j"], ["y"], axes=[1, 2], keepdims=0),
    ]
    tensors = {**W, "bias": np.float32([[[[1, -1, 0.5, 0, 2, 3]]]]), "pads": np.int64([0, 0, 1, 0, 0, 2, 0, 0])}
    path = made(tmp_path / "last.onnx", nodes, {"x": ["n", 9, 8, 4]}, ["y"], tensors)
    model = load_onnx(path)
    agrees(path, model)
    assert [node.op for node in model.graph].count("permute") == 1  # of the network's input
    assert model.graph["conv"].attrs["bias"]


# What nobody knows


def custom(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 0, 1, 1]),
        helper.make_node("Warp", ["c", "grid"], ["d"], name="warp", domain="my.company", strength=0.3, mode="far"),
        helper.make_node("Relu", ["d"], ["y"], name="last"),
    ]
    shown = helper.make_tensor_value_info("d", FLOAT, ["n", 6, 9, 8])
    tensors = {**W, "grid": np.float32([[1, 2]])}
    return made(path, nodes, X, ["y"], tensors, domains=("my.company",), value_info=[shown])


def test_a_custom_domain_is_written_back_untouched(tmp_path: Path) -> None:
    path = custom(tmp_path / "custom.onnx")
    model = ng.load(path)
    before, after = onnx.load(path), onnx.load_from_string(to_onnx(model))
    theirs, ours = (next(n for n in proto.graph.node if n.op_type == "Warp") for proto in (before, after))
    assert list(ours.attribute) == list(theirs.attribute) and ours.domain == theirs.domain
    assert ours.input[1] == "grid"
    assert [(o.domain, o.version) for o in after.opset_import if o.domain] == [("my.company", 1)]
    with pytest.raises(ConversionError, match=r"warp is the ONNX operation Warp of the domain my\.company"):
        to_module(model)


def test_what_torch_cannot_run_is_exported_as_onnx_only(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"model\.onnx only; no model\.py: warp is onnx::my\.company::Warp:1"):
        paths = export(ng.load(custom(tmp_path / "custom.onnx")), tmp_path / "out")
    assert [path.name for path in paths] == ["model.onnx", "netgraft.json"]
    assert json.loads(paths[1].read_text())["greatest_difference"] == {"model.onnx": None}
    assert ng.load(paths[0]).graph.digest == ng.load(tmp_path / "custom.onnx").graph.digest


def test_no_gradient_comes_through_an_operation_of_onnx(tmp_path: Path) -> None:
    nodes, tensors = SINGLE["an operation of ONNX's"]()
    conv_ = helper.make_node("Conv", ["x", "w"], ["z"], name="before")
    nodes[0].input[0] = "z"
    module = to_module(load_onnx(made(tmp_path / "one.onnx", [conv_, *nodes], X, ["y"], tensors | W)))
    with torch.autocast("cpu", torch.bfloat16):  # as training runs
        out = module(torch.randn(2, 4, 9, 8))
    with pytest.raises(ConversionError, match="no gradient comes through it"):
        out.sum().backward()


def test_a_loop_keeps_what_it_reads_from_outside(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["so_far", "step"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("so_far", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["step"], name="step"),
        helper.make_node("Loop", ["three", "", "x"], ["y"], name="loop", body=body),
    ]
    shown = helper.make_tensor_value_info("y", FLOAT, ["n", 4, 9, 8])
    path = made(tmp_path / "loop.onnx", nodes, X, ["y"], {"three": np.int64(3)}, value_info=[shown])
    agrees(path, load_onnx(path))


def test_a_fixed_batch_becomes_any(tmp_path: Path) -> None:
    path = made(tmp_path / "one.onnx", conv(), {"x": [1, 4, 9, 8]}, ["y"], W)
    with pytest.warns(UserWarning, match="exported for a batch of 1; it was read for any"):
        model = load_onnx(path)
    assert model.graph.signature.inputs[0].shape == (N, 4, 9, 8)


def test_other_open_axes_come_from_the_example(tmp_path: Path) -> None:
    path = made(tmp_path / "open.onnx", conv(), {"x": ["n", 4, "h", "w"]}, ["y"], W)
    with pytest.raises(SourceError, match=r"\[n, 4, h, w\] leaves more than the batch open: .*--input 3x224x224"):
        ng.load(path)
    assert ng.load(path, input_shape=(4, 12, 10)).graph.signature.outputs[0].shape == (N, 6, 10, 9)


@pytest.mark.parametrize("case", ["conv1d", "conv3d"])
def test_convolutions_of_one_and_three_sides_are_known(case: str, tmp_path: Path) -> None:
    model = randomised(CASES[case].graph())
    to_onnx(model, tmp_path / "net.onnx")
    again = load_onnx(tmp_path / "net.onnx")
    assert [node.op for node in again.graph] == [case]
    inputs = CASES[case].inputs()
    torch.testing.assert_close(to_module(again)(*inputs), to_module(model)(*inputs))


def test_attention_over_so_many_keys_is_no_plain_attention(tmp_path: Path) -> None:
    tensors = {"q": [2, 3, 4, 8], "k": [2, 3, 6, 8], "v": [2, 3, 6, 8], "y": [2, 3, 4, 8]}
    infos = {name: helper.make_tensor_value_info(name, 1, shape) for name, shape in tensors.items()}
    count = helper.make_tensor_value_info("count", 7, [2])
    node = helper.make_node("Attention", ["q", "k", "v", "", "", "", "count"], ["y"])
    graph = helper.make_graph([node], "g", [infos["q"], infos["k"], infos["v"], count], [infos["y"]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]), tmp_path / "net.onnx")
    assert [node.op for node in load_onnx(tmp_path / "net.onnx").graph] == ["frozen", "identity"]


def test_sizes_that_an_input_brings_are_taken_from_the_file_or_refused(tmp_path: Path) -> None:
    given = [helper.make_tensor_value_info("x", 1, [3, 20, 8]), helper.make_tensor_value_info("size", 7, [3])]
    node = helper.make_node("CenterCropPad", ["x", "size"], ["y"])
    for shape in ([3, 10, 9], None):
        graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("y", 1, shape)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.save(model, tmp_path / "net.onnx")
        if shape:
            assert load_onnx(tmp_path / "net.onnx").graph.signature.outputs[0].shape == (3, 10, 9)
        else:
            with pytest.raises(SourceError, match="depends on the values"):
                load_onnx(tmp_path / "net.onnx")


def test_normalisation_in_another_precision(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.layer_norm(x.double(), x.shape[1:])

    file = written(tmp_path / "net.onnx", ng.load(Wide(), example_inputs=torch.randn(2, 3, 4)))
    model = load_onnx(file)
    assert "layer_norm" in {node.op for node in model.graph}
    agrees(file, model)


def test_half_precision_is_held_to_its_own_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "w"], ["conv"]),
        helper.make_node("Cast", ["conv"], ["y"], to=FLOAT),
    ]
    tensors = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float16)}
    model = load_onnx(made(tmp_path / "net.onnx", nodes, {"x": ["N", 3, 8, 8]}, ["y"], tensors))
    assert 0 < verify(to_onnx(model), model) < 4 * 2**-10
    wrong = model.weights | {key: w * 1.02 for key, w in model.weights.items()}
    with pytest.raises(ConversionError, match="differ by"):
        verify(to_onnx(Model(model.graph, wrong)), model)


def test_quantised_networks_are_held_to_what_they_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = {"s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.01), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"]),
        helper.make_node("Conv", ["d", "dw"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["qc"]),
        helper.make_node("DequantizeLinear", ["qc", "s", "z"], ["y"]),
    ]
    tensors = steps | {"w": rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8)}
    file = made(tmp_path / "net.onnx", nodes, {"x": ["N", 3, 8, 8]}, ["y"], tensors)
    model = load_onnx(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert verify(to_onnx(model), model) < 0.051  # a value on the border between two steps goes either way
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(session(to_onnx(model)).run(None, {"x": x})[0], session(file).run(None, {"x": x})[0])


def test_a_list_of_sizes_is_as_long_as_it_is(tmp_path: Path) -> None:
    node = helper.make_node(
        "Resize",
        ["x", "", "", "sizes"],
        ["y"],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="half_pixel",
    )
    file = made(tmp_path / "net.onnx", [node], {"x": [2, 3, 8, 8]}, ["y"], {"sizes": np.array([2, 3, 11, 13])})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_onnx(file)
    agrees(file, model, batch=2)
