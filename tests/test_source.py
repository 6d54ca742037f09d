from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import CASES, IMAGE, NETWORKS, Case, N, randomised, residual
from torch import nn
from torch.nn import functional as F

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.source import emit
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError
from netgraft.ir import Builder, Graph, Model, TensorType


def made(text: str, name: str = "Network") -> nn.Module:
    """An object of the class that the text defines, made as a user's interpreter would."""
    namespace: dict[str, Any] = {}
    exec(compile(text, "model.py", "exec"), namespace)
    module = namespace[name]()
    assert isinstance(module, nn.Module)
    return module


def assert_same(model: Model, inputs: tuple[torch.Tensor, ...]) -> str:
    """The emitted source loads the model's weights strictly and computes what the graph computes, bit by bit."""
    text = emit(model.graph)
    ours, theirs = to_module(model), made(text)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert {k for k, _ in theirs.named_parameters()} == model.graph.trainable
    for mode in (False, True):
        ours.train(mode), theirs.train(mode)
        for _ in range(2):
            torch.manual_seed(1)
            a = ours(*inputs)
            torch.manual_seed(1)
            b = theirs(*inputs)
            torch.testing.assert_close(b, a, rtol=0, atol=0)
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[key], tensor, rtol=0, atol=0)
    return text


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_op_as_source(case: Case) -> None:
    assert_same(randomised(case.graph()), case.inputs())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_as_source(name: str) -> None:
    model = randomised(NETWORKS[name]())
    inputs = tuple(torch.randn(given.type.concrete(3)) for given in model.graph.inputs)
    text = assert_same(model, inputs)
    assert text == emit(model.graph), "the same graph gives the same text"
    assert max(map(len, text.splitlines())) <= 100


def test_a_block_in_many_places_names_those_that_its_line_has_room_for() -> None:
    b = Builder()
    x = b.input("x", TensorType(IMAGE))
    for i in range(5):
        at = f"trunk_output.a_long_stage.block-{i}"
        y = b.add("conv2d", x, id=f"{at}.conv", out_channels=4, kernel=(1, 1))
        x = b.add("add", x, b.add("relu", y, id=f"{at}.relu"), id=f"{at}.add")
    text = emit(b.build(x))
    assert "a_long_stage.block-0, trunk_output.a_long_stage.block-1 and 3 more" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_long_sum_in_parentheses_is_a_tensor() -> None:
    """Broken into lines, parentheses with a comma at the end would make a tuple of it."""
    b = Builder()
    x = b.input("an_input_with_a_rather_long_name", TensorType(IMAGE))
    y = b.add("add_scalar", b.add("mul_scalar", x, value=-0.123456789012345), value=0.123456789012345)
    total = b.add("add_scalar", b.add("mul_scalar", y, value=-0.123456789012345), value=0.123456789012345)
    text = assert_same(Model(b.build(b.add("flatten", total)), {}), (torch.randn(3, *IMAGE[1:]),))
    assert re.search(r"\(\n(.*\n)+ +\)\.flatten", text), "otherwise this says nothing"


class Rolled(nn.Module):
    """Operations without a counterpart in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("index", torch.arange(16) % 9)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-6)
        return torch.roll(x / scale, (1, 2), (2, 3)), self.table[self.index], x[:, [2, 0]], F.unfold(x, 3)


def test_frozen_operations_are_ordinary_code() -> None:
    model = from_module(Rolled(), torch.randn(2, 4, 4, 4))
    text = assert_same(model, (torch.randn(3, 4, 4, 4),))
    for code in ("torch.roll(", "torch.linalg.vector_norm(x, 2, [1], True)", "self.table[self.index]", "x[:, "):
        assert code in text
    assert text.count("torch.ops.") == 2, "the call of what has no other name, and the comment that says so"
    assert "# No public function of torch does quite the same as torch.ops.aten.im2col.default." in text


def test_stored_tensors_are_no_blocks() -> None:
    text = emit(from_module(Rolled(), torch.randn(2, 4, 4, 4)).graph)
    assert text.count("\nclass ") == 1


def test_repeated_blocks_are_written_once() -> None:
    text = emit(residual(), class_name="Small")
    assert re.findall(r"^class (\w+)\((.*)\):", text, re.M) == [
        ("Block", "nn.Module"),
        ("Block2", "nn.Module"),
        ("Small", "nn.Module"),
    ]
    assert "nn.Sequential(Block(4), Block(4), Block(4))" in text
    assert "nn.Sequential(Block2(), Block(8), Block(8))" in text
    assert "self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)" in text
    assert "return torch.relu(self.bn2(self.conv2(y)) + x)" in text


def plain_stack(blocks: int, **attrs: Any) -> Graph:
    """Numbered sequences of convolution, batch norm and activation, one after the other."""
    b = Builder()
    x = b.input("x", TensorType(IMAGE))
    for i in range(blocks):
        arguments = {"out_channels": 4, "kernel": (3, 3), "padding": (1, 1)} | {k: v(i) for k, v in attrs.items()}
        x = b.add("conv2d", x, id=f"blocks.{i}.0", **arguments)
        x = b.add("relu", b.add("batch_norm", x, id=f"blocks.{i}.1"), id=f"blocks.{i}.2")
    return b.build(b.add("flatten", x))


def test_sequences_that_occur_often_have_a_class() -> None:
    text = emit(plain_stack(3, out_channels=lambda i: (8, 4, 12)[i]))
    assert "class ConvBatchNormReLU(nn.Sequential):" in text
    assert re.findall(r"ConvBatchNormReLU\(\d+, \d+\)", text) == [
        "ConvBatchNormReLU(4, 8)",
        "ConvBatchNormReLU(8, 4)",
        "ConvBatchNormReLU(4, 12)",
    ]
    assert "ConvBatchNormReLU" not in emit(plain_stack(2))


def test_equal_objects_in_a_row_are_a_loop() -> None:
    assert "*(ConvBatchNormReLU() for _ in range(4))" in emit(plain_stack(4))
    assert_same(randomised(plain_stack(4)), (torch.randn(2, *IMAGE[1:]),))


def two_blocks(**second: Any) -> Graph:
    """Two blocks of a convolution and an activation, of which the second has other arguments."""
    b = Builder()
    x = b.input("x", TensorType(IMAGE))
    for i, given_ in enumerate(({}, second)):
        arguments = {"out_channels": 4, "kernel": (3, 3), "padding": (1, 1)} | given_
        x = b.add("conv2d", x, id=f"blocks.{i}.conv", **arguments)
        x = b.add("relu", x, id=f"blocks.{i}.relu")
    return b.build(x)


def test_what_differs_between_blocks_is_a_parameter() -> None:
    text = emit(two_blocks(out_channels=8, stride=(2, 2)))
    assert "def __init__(self, out_channels: int, stride: int = 1) -> None:" in text
    assert "self.conv = nn.Conv2d(4, out_channels, 3, stride=stride, padding=1)" in text
    assert "nn.Sequential(Block(4), Block(8, stride=2))" in text


def test_other_bias_is_a_parameter_too() -> None:
    assert_same(randomised(two_blocks(bias=False)), (torch.randn(2, *IMAGE[1:]),))
    assert "bias: bool = True" in emit(two_blocks(bias=False))


def test_a_chain_of_numbered_layers_is_a_sequential() -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", TensorType(IMAGE)), id="0", out_channels=4, kernel=(3, 3))
    x = b.add("max_pool2d", b.add("relu", x), kernel=(2, 2), stride=(2, 2))
    x = b.add("conv2d", x, id="4", out_channels=2, kernel=(1, 1))
    graph = b.build(b.add("flatten", x))
    text = assert_same(randomised(graph), (torch.randn(2, *IMAGE[1:]),))
    assert "class Network(nn.Sequential):" in text
    elements = re.findall(r"^ {12}nn\.(\w+)", text, re.M)
    assert elements == ["Conv2d", "ReLU", "MaxPool2d", "Identity", "Conv2d", "Flatten"]


def test_blocks_that_wait_for_each_other_are_taken_apart() -> None:
    b = Builder()
    x = b.input("x", TensorType(IMAGE))
    a1 = b.add("conv2d", x, id="a.one", out_channels=4, kernel=(1, 1))
    b1 = b.add("conv2d", x, id="b.one", out_channels=4, kernel=(1, 1))
    a2 = b.add("conv2d", b1, id="a.two", out_channels=4, kernel=(1, 1))
    b2 = b.add("conv2d", a1, id="b.two", out_channels=4, kernel=(1, 1))
    graph = b.build(b.add("add", a2, b2))
    assert_same(randomised(graph), (torch.randn(2, *IMAGE[1:]),))


def test_weights_between_the_nodes_of_a_block_stay_outside() -> None:
    b = Builder()
    x = b.add("conv2d", b.input("x", TensorType(IMAGE)), id="a.one", out_channels=4, kernel=(1, 1))
    x = b.add("conv2d", x, id="other", out_channels=4, kernel=(1, 1))
    x = b.add("conv2d", x, id="a.two", out_channels=4, kernel=(1, 1))
    assert_same(randomised(b.build(x)), (torch.randn(2, *IMAGE[1:]),))


def test_several_inputs_and_outputs() -> None:
    b = Builder()
    x, y = b.input("left", TensorType(IMAGE)), b.input("right", TensorType(IMAGE))
    both = b.add("concat", x, y)
    first = b.add("split", both, sizes=(3, 5))
    graph = b.build(type(first)(first.node, 1), x, b.add("relu", type(first)(first.node, 0)))
    text = assert_same(Model(graph, {}), (torch.randn(2, *IMAGE[1:]), torch.randn(2, *IMAGE[1:])))
    assert "def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:" in text


def test_what_is_mentioned_twice_is_computed_once() -> None:
    b = Builder()
    x = b.add("permute", b.input("x", TensorType((N, 4, 2, 6, 6))), dims=(0, 2, 1, 3, 4))
    graph = b.build(b.add("reshape", x, shape=(N, 8, 6, 6)))  # of whatever height and width: it asks for both
    text = assert_same(Model(graph, {}), (torch.randn(2, 4, 2, 6, 6),))
    assert text.count(".permute(") == 1


def test_values_are_not_overwritten_while_they_are_needed() -> None:
    b = Builder()
    values = [b.input("x", TensorType(IMAGE))]
    for _ in range(9):
        values.append(b.add("relu", b.add("add", *values) if len(values) > 1 else values[0]))
    assert_same(Model(b.build(b.add("concat", *values)), {}), (torch.randn(2, *IMAGE[1:]),))


EVIL = '"""\nimport os\nos.system("true")\n"""'


@pytest.mark.parametrize("where", ["id", "key", "input", "mode", "class"])
def test_nothing_in_a_graph_becomes_code(where: str) -> None:
    b = Builder()
    x = b.input(EVIL if where == "input" else "x", TensorType((N, 3, 4, 4)))
    key = f"{EVIL.replace('.', '')}.weight" if where == "key" else "conv.weight"
    node = EVIL if where == "id" else "conv"
    x = b.add("conv2d", x, id=node, out_channels=2, kernel=(1, 1), bias=False, weights={"weight": key})
    x = b.add("interpolate", x, id=f"{EVIL}.up", scale=(2.0, 2.0), mode=EVIL if where == "mode" else "nearest")
    name = EVIL if where == "class" else "Network"
    try:
        text = emit(b.build(x), class_name=name)
    except ConversionError:
        assert where == "class"
        return
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports(text)}
    assert names <= {"__future__", "torch", "torch.nn.functional"}


def imports(text: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("name", ["class", "3x3", "torch", "Tensor", "a b"])
def test_a_class_cannot_be_called_anything(name: str) -> None:
    with pytest.raises(ConversionError, match="cannot be the name of a class"):
        emit(residual(), class_name=name)


UNARY = st.sampled_from(["relu", "sigmoid", "conv2d", "batch_norm", "identity", "dropout"])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random wiring of layers whose names spell nested blocks in no particular way."""
    b = Builder()
    values = [b.input("x", TensorType((N, 2, 3, 3)))]
    for i in range(draw(st.integers(1, 12))):
        place = draw(st.sampled_from(["", "a.", "b.", "a.0.", "a.1.", "a.1.c.", "0."]))
        picked = values[draw(st.integers(0, len(values) - 1))]
        if draw(st.booleans()):
            other = values[draw(st.integers(0, len(values) - 1))]
            values.append(b.add(draw(st.sampled_from(["add", "mul"])), picked, other, id=f"{place}join{i}"))
            continue
        op = draw(UNARY)
        attrs = {"out_channels": 2, "kernel": (1, 1)} if op == "conv2d" else {}
        values.append(b.add(op, picked, id=f"{place}{op}{i}", **attrs))
    return b.build(*draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)))


@given(graphs())
def test_any_wiring_as_source(graph: Graph) -> None:
    model = randomised(graph)
    text = emit(graph)
    ours, theirs = to_module(model).eval(), made(text).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 2, 3, 3)
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "most_lines"), [("squeezenet", 60), ("vit_tiny", 80)])
def test_a_network_of_the_zoo_comes_back(name: str, most_lines: int) -> None:
    network = zoo.build(name)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 1:
            tensor.data.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 32, 32)
    model = from_module(network, x)
    assert model.weights.keys() == network.state_dict().keys()
    text = assert_same(model, (x,))
    assert len(text.splitlines()) <= most_lines
    torch.testing.assert_close(to_module(model).eval()(x), network.eval()(x), atol=1e-5, rtol=1e-5)
