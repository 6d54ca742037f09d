"""Sums of products: products of matrices, and layers where one operand is a weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from reading import IMAGE, assert_same, only, ops, read
from torch import Tensor, nn

from netgraft.channels import channels
from netgraft.convert.einsum import as_layer
from netgraft.convert.from_onnx import load_onnx
from netgraft.convert.onnx import to_onnx, verify


class Mixed(nn.Module):
    """A sum of products of what comes in with a matrix."""

    def __init__(self, equation: str, turned: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.equation, self.turned = equation, turned
        self.weight, self.head = nn.Parameter(torch.randn(6, 4)), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        operands = (x, self.turned(self.weight) if self.turned else self.weight)
        return self.head(torch.einsum(self.equation, *(operands[::-1] if self.equation[0] == "o" else operands)))


AS_IT_IS = ["bchw,oc->bohw", "oc, bchw -> bohw", "bc...,oc->bo...", "oc,bc...->bo..."]


@pytest.mark.parametrize(
    ("equation", "turned"), [*((equation, None) for equation in AS_IT_IS), ("bchw,co->bohw", Tensor.t)]
)
def test_a_sum_of_products_with_a_weight_is_a_linear_layer(
    equation: str, turned: Callable[[Tensor], Tensor] | None
) -> None:
    module = Mixed(equation, turned)
    model = read(module, torch.randn(IMAGE))
    assert only(model, "linear").weights == {"weight": "weight"}
    assert {"matmul", "constant", "frozen"}.isdisjoint(ops(model))
    assert any("head" not in group.makers and len(group.units) == 6 for group in channels(model.graph).groups)
    assert_same(module, model, torch.randn(IMAGE))


@pytest.mark.parametrize(
    "equation", ["bchw,ch->bchw", "bchw,cc->bhw", "b...,...->b...", "bchw,o->bchwo", "bch,oc->boh"]
)
def test_what_is_no_layer_is_none(equation: str) -> None:
    assert as_layer(equation, (4, 2), 1) is None
    assert as_layer("bc,oc", (2, 2), 1) is not None


def test_a_matrix_the_other_way_round_keeps_its_name() -> None:
    module = Mixed("bchw,co->bohw")
    module.weight = nn.Parameter(torch.randn(4, 6))
    model = read(module, torch.randn(IMAGE))
    assert only(model, "constant").weights == {"value": "weight"} and "matmul" in ops(model)
    assert_same(module, model, torch.randn(IMAGE))


ONNX = [("bchw,oc->bohw", (6, 4)), ("co,bchw->bohw", (4, 6)), ("...c,cd", (8, 6)), ("bchw,chw->b", (4, 8, 8))]


@pytest.mark.parametrize(("equation", "shape"), ONNX)
def test_onnx_reads_them_as_torch_does(equation: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    first = equation.startswith("co")
    node = helper.make_node("Einsum", ["weight", "x"] if first else ["x", "weight"], ["y"], equation=equation)
    graph = helper.make_graph(
        [node],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "sum.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    model = load_onnx(path)
    assert "frozen" not in ops(model) and ("linear" in ops(model)) == (len(shape) == 2)
    assert verify(path.read_bytes(), model) < 1e-5 and verify(to_onnx(model), model) < 1e-5


@pytest.mark.parametrize("equation", ["bcij->bcji", "bcii->bci", "bcij->bci"])
def test_a_sum_over_one_operand_is_carried_as_it_is(equation: str) -> None:
    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(equation, torch.relu(x))

    model = read(Alone(), torch.randn(IMAGE))
    assert ops(model) == ["relu", "frozen"]
    assert_same(Alone(), model, torch.randn(IMAGE))
